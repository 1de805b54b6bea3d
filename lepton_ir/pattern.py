"""Patterns over graphs, written with the ops themselves.

    x, w, b = var("x w b")
    pat(ops.add)(pat(ops.matmul)(x, w).once, b)                 commutative ops match in either order
    pat(ops.transpose, perm=capture("p"))(x)                    the attribute's value becomes the argument `p`
    pat(ops.softmax, axis=lambda a: a >= 0)(x)                  a predicate; any other value must be equal
    pat(ops.mul)(x, const("c", splat(1.0)))                     a constant operand, here of ones
    pat(ops.conv)(x, w, opt("b")).named("y")                    `b` may be absent (None); `y` is the conv's own value
    pat(ops.concat)(rest("xs"))                                 all remaining operands as a tuple; `...` ignores them
    pat(ops.top_k)(x).result(1)                                 a certain result of a node that has several
    pat(ops.relu, ops.tanh)(x), pat(Trait.ELEMENTWISE)(...)     one of several ops, or any with a trait

A name that occurs twice must match the same value (the same data, for attributes).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lepton.ir.core import Node, Value
from lepton.ir.op import Op, Trait
from lepton.ir.printer import same_attribute
from lepton.ir.tensor import Tensor


@dataclass(frozen=True)
class Var:
    """Any value; an operand that is absent does not match."""

    name: str


@dataclass(frozen=True)
class Opt:
    """Any value, or None for an absent operand."""

    name: str


@dataclass(frozen=True)
class Rest:
    """All remaining operands, as a tuple."""

    name: str | None


@dataclass(frozen=True)
class Const:
    """A value that is a constant, and for whose contents `where` holds."""

    name: str | None
    where: Callable[[Tensor], bool] | None


@dataclass(frozen=True)
class Capture:
    """An attribute's value, if `where` holds for it."""

    name: str
    where: Callable[[Any], bool] | None


class Match(NamedTuple):
    """What the names of a pattern stand for, and the nodes it covers, root first."""

    bound: dict[str, Any]
    nodes: tuple[Node, ...] = ()

    def bind(self, name: str | None, value: object) -> Match | None:
        """With `name` bound too; None if it stands for something else already."""
        if name is None:
            return self
        if name not in self.bound:
            return Match({**self.bound, name: value}, self.nodes)
        old = self.bound[name]
        same = old is value or (not isinstance(value, Value) and same_attribute(old, value))
        return self if same else None


@dataclass(frozen=True)
class Pat:
    """A node: its op, operands, attributes. Made by `pat`."""

    heads: tuple[Op | Trait, ...]
    operands: tuple[Operand, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    name: str | None = None
    single_use: bool = False
    index: int | None = None

    @property
    def once(self) -> Pat:
        """Match only a node whose results have one reader: rewriting must not compute things twice."""
        return replace(self, single_use=True)

    def named(self, name: str) -> Pat:
        """Bind the matched value itself; `value.producer` is the node."""
        return replace(self, name=name)

    def result(self, index: int) -> Pat:
        """Match the node through its result `index` (as a root: replace only that one)."""
        return replace(self, index=index)

    def accepts(self, op: Op) -> bool:
        return any(head is op or (isinstance(head, Trait) and op.has(head)) for head in self.heads)

    @property
    def names(self) -> frozenset[str]:
        """All names the pattern binds."""
        found = {self.name} | {v.name for _, v in self.attrs if isinstance(v, Capture)}
        for operand in self.operands:
            found |= operand.names if isinstance(operand, Pat) else {operand.name}
        return frozenset(name for name in found if name is not None)

    @property
    def depth(self) -> int:
        """How many nodes lie on the longest path down."""
        return 1 + max((p.depth for p in self.operands if isinstance(p, Pat)), default=0)

    def matches(self, node: Node) -> Iterator[Match]:
        """All ways in which the pattern matches with `node` as its root."""
        yield from self._node(node, node.results[self.index or 0], Match({}))

    def _value(self, value: Value, so_far: Match) -> Iterator[Match]:
        if value.producer is not None and value.index == (self.index or 0):
            yield from self._node(value.producer, value, so_far)

    def _node(self, node: Node, value: Value, so_far: Match) -> Iterator[Match]:
        if not self.accepts(node.op) or (self.single_use and not read_once(node)):
            return
        found: Match | None = Match(so_far.bound, (*so_far.nodes, node)).bind(self.name, value)
        for key, wanted in self.attrs:
            found = found and _attribute(wanted, node.attrs.get(key), found)
        if found is None:
            return
        yield from _operands(self.operands, node.inputs, found)
        if len(self.operands) >= 2 and len(node.inputs) >= 2 and node.op.has(Trait.COMMUTATIVE):
            first, second, *others = node.inputs
            if first is not second:
                yield from _operands(self.operands, (second, first, *others), found)


Operand: TypeAlias = Pat | Var | Opt | Rest | Const


def var(names: str) -> tuple[Var, ...]:
    """One pattern for each of the names: `x, w = var("x w")`."""
    return tuple(Var(name) for name in names.split())


def opt(name: str) -> Opt:
    """An operand that may be absent."""
    return Opt(name)


def rest(name: str | None = None) -> Rest:
    """All operands from here on."""
    return Rest(name)


def const(name: str | None = None, where: Callable[[Tensor], bool] | None = None) -> Const:
    """A value made by `constant`; `tensor_of` gives its elements."""
    return Const(name, where)


def capture(name: str, where: Callable[[Any], bool] | None = None) -> Capture:
    """The value of an attribute."""
    return Capture(name, where)


def pat(*heads: Op | Trait, **attrs: Any) -> Callable[..., Pat]:
    """A node of one of these ops (or with a trait): call the result with patterns for its operands."""

    def with_operands(*operands: Operand | EllipsisType) -> Pat:
        return Pat(heads, tuple(Rest(None) if isinstance(o, EllipsisType) else o for o in operands),
                   tuple(attrs.items()))

    return with_operands


def splat(number: float) -> Callable[[Tensor], bool]:
    """Whether every element of a constant is `number`; 0.0 does not accept -0.0."""

    def holds(tensor: Tensor) -> bool:
        array = tensor.array
        if array.dtype == object or array.size == 0:
            return False
        first = array.reshape(-1)[0]
        if not (first == number and bool((array == first).all())):
            return False
        return number != 0 or not tensor.type.dtype.is_float or not np.signbit(array.astype(np.float64)).any()

    return holds


def tensor_of(value: Value | None) -> Tensor | None:
    """The contents of a value made by `constant`, else None."""
    node = value.producer if value is not None else None
    if node is None or not node.op.has(Trait.CONSTANT):
        return None
    tensor = node.attrs.get("value")
    return tensor if isinstance(tensor, Tensor) else None


def read_once(node: Node) -> bool:
    """Whether exactly one reader (a node, or the return) reads the node's results."""
    readers = (use.user for result in node.results for use in result.uses)
    first = next(readers, None)
    return first is not None and all(user is first for user in readers)


def _attribute(wanted: Any, value: Any, so_far: Match) -> Match | None:
    match wanted:
        case Capture(name, where):
            return so_far.bind(name, value) if where is None or where(value) else None
        case Op() | type():
            raise TypeError(f"{wanted!r} is no attribute pattern")
        case _ if callable(wanted):
            return so_far if wanted(value) else None
        case _:
            return so_far if same_attribute(wanted, value) else None


def _operands(wanted: tuple[Operand, ...], inputs: tuple[Value | None, ...], so_far: Match) -> Iterator[Match]:
    if not wanted:
        if all(v is None for v in inputs):  # what the pattern does not mention must be absent
            yield so_far
        return
    first, others = wanted[0], wanted[1:]
    if isinstance(first, Rest):
        if found := so_far.bind(first.name, inputs):
            yield found
        return
    value = inputs[0] if inputs else None
    for found in _operand(first, value, so_far):
        yield from _operands(others, inputs[1:], found)


def _operand(wanted: Operand, value: Value | None, so_far: Match) -> Iterator[Match]:
    found: Match | None = None
    match wanted:
        case Opt(name):
            found = so_far.bind(name, value)
        case _ if value is None:
            return
        case Pat():
            yield from wanted._value(value, so_far)
        case Var(name):
            found = so_far.bind(name, value)
        case Const(name, where):
            tensor = tensor_of(value)
            if tensor is not None and (where is None or where(tensor)):
                found = so_far.bind(name, value)
    if found is not None:
        yield found
