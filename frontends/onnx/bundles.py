"""Sequences and optionals whose members are known while importing: exporters write them for what is a list in Python.

The graph has no such values. Members are ordinary values; operators on sequences pick, add and join them here.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton.ir.core import Value
from lepton.ir.types import OptionalType, SequenceType, Type


@dataclass(eq=False, slots=True)
class Bundle(Value):
    """A sequence of `items`, or an optional with one item or none. It never reaches a graph."""

    items: tuple[Value, ...] = ()


def sequence(items: Sequence[Value], element: Type) -> Bundle:
    """A sequence; `element` is what an empty one would hold."""
    return Bundle(SequenceType(items[0].type if items else element), items=tuple(items))


def optional(item: Value | None, element: Type) -> Bundle:
    return Bundle(OptionalType(element if item is None else item.type), items=() if item is None else (item,))
