"""What an op is: one record. The frontends, the passes, the verifier, the interpreter and the code
generators all read it; nothing else in the compiler knows an op by its name.

    @op(broadcast, Trait.ELEMENTWISE, Trait.COMMUTATIVE)
    def add(a: Array, b: Array) -> Array:
        '''a + b, with numpy broadcasting. Integers wrap.'''
        return a + b

The decorated function *is* the meaning: positional parameters are the operands (`= None`: may be absent; `*xs`:
any number), keyword-only parameters are the attributes with their defaults. The type rule takes the operands' types and
the same keywords and gives the result's type (a tuple: several results).
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import Any

from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError, Location, TypeRuleError
from lepton.ir.types import Type


class Trait(Enum):
    ELEMENTWISE = auto()   # result[i] depends on operand[i] only, operands broadcast as in numpy
    COMMUTATIVE = auto()   # the first two operands may change places
    IDEMPOTENT = auto()    # f(f(x)) = f(x)
    CONSTANT = auto()      # no operands, the value is an attribute
    VIEW = auto()          # moves no data of its own: reshape, transpose, slice, broadcast
    REDUCTION = auto()     # combines elements along the attribute `axes`
    REGIONS = auto()       # holds sub-graphs; the reference takes them as the keyword `regions`
    SIZES = auto()         # the result's elements are the sizes that the attribute `symbols` names
    IMPURE = auto()        # not a function of the operands alone (random draws): never folded or merged


OPS: dict[str, Op] = {}


@dataclass(frozen=True, eq=False)
class Op:
    """One operator: name, type rule, meaning in numpy, traits, manual page."""

    name: str
    infer: Callable[..., Type | tuple[Type, ...]]
    reference: Callable[..., Any]
    doc: str = ""
    traits: frozenset[Trait] = field(default=frozenset())

    def __post_init__(self) -> None:
        if self.name in OPS:
            raise ValueError(f"op {self.name!r} is defined twice")
        OPS[self.name] = self

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.reference)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attribute names with their defaults (`inspect.Parameter.empty`: required)."""
        parameters = self.signature.parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "regions"}

    @cached_property
    def arity(self) -> tuple[int, int | None]:
        """Fewest and most operands (None: any number)."""
        kinds = [p for p in self.signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        fixed = [p for p in kinds if p.kind is not p.VAR_POSITIONAL]
        least = sum(p.default is p.empty for p in fixed)
        return least, None if len(fixed) < len(kinds) else len(fixed)

    @cached_property
    def required(self) -> tuple[str, ...]:
        """The operands that are always there, from the first one on: those before one that may be absent."""
        kinds = [p for p in self.signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        optional = (i for i, p in enumerate(kinds) if p.default is not p.empty or "None" in str(p.annotation))
        return tuple(p.name for p in kinds[:next(optional, len(kinds))])

    def has(self, trait: Trait) -> bool:
        return trait in self.traits

    def complete(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """`attrs` with the defaults filled in, in the declared order. Raises TypeRuleError for unknown or missing."""
        if unknown := attrs.keys() - self.attributes.keys():
            raise TypeRuleError(f"{self.name} has no attribute {', '.join(map(repr, sorted(unknown)))}")
        full = {name: attrs.get(name, default) for name, default in self.attributes.items()}
        if missing := [name for name, value in full.items() if value is inspect.Parameter.empty]:
            raise TypeRuleError(f"{self.name} needs attribute {', '.join(map(repr, missing))}")
        return full

    def result_types(
        self, operands: tuple[Type | None, ...], attrs: Mapping[str, Any], regions: Sequence[Graph] = ()
    ) -> tuple[Type, ...]:
        """What the type rule says. Raises TypeRuleError."""
        least, most = self.arity
        if len(operands) < least or (most is not None and len(operands) > most):
            expected = str(least) if least == most else f"{least} to {most if most is not None else 'any number'}"
            raise TypeRuleError(f"{self.name}: {len(operands)} operands, expected {expected}")
        if absent := [name for name, given in zip(self.required, operands, strict=False) if given is None]:
            raise TypeRuleError(f"{self.name}: operand '{absent[0]}' is absent")
        extra = {"regions": tuple(regions)} if Trait.REGIONS in self.traits else {}
        result = self.infer(*operands, **self.complete(attrs), **extra)
        return result if isinstance(result, tuple) else (result,)

    def node(
        self, *operands: Value | None, regions: Sequence[Graph] = (), loc: tuple[Location, ...] = (), **attrs: Any
    ) -> Node:
        """Apply the op. Raises TypeRuleError, with `loc` as the place in the model."""
        try:
            return Node(self, operands, self.complete(attrs), regions=regions, loc=loc)
        except LeptonError as error:
            if loc and error.where is None:
                raise type(error)(error.message, where=loc[0], help=error.help) from error
            raise

    def __call__(
        self, *operands: Value | None, regions: Sequence[Graph] = (), loc: tuple[Location, ...] = (), **attrs: Any
    ) -> Value:
        """Apply an op that has one result."""
        return self.node(*operands, regions=regions, loc=loc, **attrs).result

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def op(
    infer: Callable[..., Type | tuple[Type, ...]], *traits: Trait, name: str = ""
) -> Callable[[Callable[..., Any]], Op]:
    """Declare an op from its reference meaning; a trailing underscore in the function's name is dropped."""

    def declare(reference: Callable[..., Any]) -> Op:
        return Op(name or reference.__name__.rstrip("_"), infer, reference, inspect.getdoc(reference) or "",
                  frozenset(traits))

    return declare
