"""What a pass is: a frozen dataclass whose fields are its options, and a function from graph to graph.

    @dataclass(frozen=True)
    class Fold(Pass):
        '''Compute what depends on constants only.'''
        name = "fold"
        max_bytes: int = 1 << 20

        def run(self, graph: Graph) -> bool: ...

`str(Fold(max_bytes=64))` is its spec, "fold{max-bytes=64}", which the command line and reproducers use.
Contract of `run`: valid IR in, valid IR out; True if anything changed; inputs and outputs keep number, types and names.
"""
from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy, Rule, apply
from lepton.ir.types import split_commas

Math = Literal["strict", "default", "fast"]

# Which rewrites a math policy allows, by what they do to the results.
ALLOWED: Mapping[Math, frozenset[Accuracy]] = {
    "strict": frozenset({"exact"}),
    "default": frozenset({"exact", "reassociating"}),
    "fast": frozenset({"exact", "reassociating", "approximate"}),
}

PASSES: dict[str, type[Pass]] = {}  # the passes whose modules are imported; `registry.find` imports on demand

LOADED = "lepton_loaded_"  # what the modules of plug-ins are called, and then their files

_BARE = re.compile(r"[A-Za-z0-9_.:/+-]+")


@dataclasses.dataclass(frozen=True)
class Pass:
    """A step from graph to graph, in place. A subclass that sets `name` can be asked for by it."""

    name: ClassVar[str] = ""
    accuracy: ClassVar[Accuracy] = "reassociating"  # how far self-checks let the results move

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if name := cls.__dict__.get("name"):
            known = PASSES.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"pass {name!r} is defined in {known.__module__} and in {cls.__module__}")
            PASSES[name] = cls

    def run(self, graph: Graph) -> bool:
        """Change the graph in place; whether anything changed."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def __str__(self) -> str:
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                options.append(f"{field.name.replace('_', '-')}={_spell(value)}")
        return f"{self.name}{{{','.join(options)}}}" if options else self.name

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """The pass with options given as text. Raises UsageError."""
        hints = typing.get_type_hints(cls)
        fields = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(cls)}
        if unknown := options.keys() - fields.keys():
            has = ", ".join(fields) or "none"
            raise UsageError(f"pass {cls.name!r} has no option {sorted(unknown)[0]!r}", help=f"its options: {has}")
        values = {}
        for option, text in options.items():
            try:
                values[fields[option]] = read_option(text, hints[fields[option]])
            except ValueError as error:
                raise UsageError(f"pass {cls.name!r}: option {option}={text}: {error}") from error
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that consists of rules; those that the math policy forbids are left out."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    math: Math = "default"

    @property
    def allowed(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.accuracy in ALLOWED[self.math])

    def run(self, graph: Graph) -> bool:
        fired = apply(graph, self.allowed)
        for name, times in fired.items():
            count(name, times)
        return bool(fired)


_counts: ContextVar[Counter[str] | None] = ContextVar("counts", default=None)


def count(what: str, times: int = 1) -> None:
    """Tell the statistics that something was done, such as "folded nodes"."""
    if (counter := _counts.get()) is not None:
        counter[what] += times


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Collect what passes `count` inside the block."""
    counter: Counter[str] = Counter()
    token = _counts.set(counter)
    try:
        yield counter
    finally:
        _counts.reset(token)


def read_option(text: str, hint: Any) -> Any:
    """An option's value: bool, int, float, str, literal, tuple `(a,b)`, or `none` where allowed. Raises ValueError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if text not in args:
            raise ValueError(f"expected one of {', '.join(map(str, args))}")
        return text
    if origin in (typing.Union, types.UnionType):
        if text == "none":
            return None
        return read_option(text, next(a for a in args if a is not type(None)))
    if origin is tuple:
        inner = text.removeprefix("(").removesuffix(")").removesuffix(",")
        return tuple(read_option(part, args[0]) for part in split_commas(inner)) if inner else ()
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if hint is str:
        return json.loads(text) if text.startswith('"') else text
    if hint in (int, float):
        return hint(text)
    raise ValueError(f"options of type {hint} cannot be given as text")


def _spell(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            plain = _BARE.fullmatch(value) and value != "none"
            return value if plain else json.dumps(value)
        case tuple():
            return f"({','.join(map(_spell, value))})"
        case _:
            return str(value)
