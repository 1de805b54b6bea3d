"""Compute the same thing once."""
from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from lepton.ir.core import Graph, Node
from lepton.ir.op import Trait
from lepton.passes.base import Pass
from lepton.passes.common import graphs, substitute


@dataclass(frozen=True)
class CSE(Pass):
    """exp(x) + exp(x)  ->  e + e, where e = exp(x)

    Nodes with one op, attributes and operands become one; operands of commutative ops compare in either order,
    constants by content. Nodes with regions and random draws are left alone."""

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph) -> bool:
        return any([_merge(part) for part in graphs(graph)])


def _merge(graph: Graph) -> bool:
    seen: dict[Hashable, Node] = {}
    changed = False
    for node in graph.nodes:
        if node.regions or node.op.has(Trait.IMPURE):
            continue
        first = seen.setdefault(_key(node), node)
        if first is node or any(a.type != b.type for a, b in zip(first.results, node.results, strict=True)):
            continue
        first.loc = tuple(dict.fromkeys((*first.loc, *node.loc)))
        for old, new in zip(node.results, first.results, strict=True):
            changed |= bool(old.uses) and substitute(graph, old, new)
    return changed


def _key(node: Node) -> Hashable:
    operands = [id(v) for v in node.inputs]
    if node.op.has(Trait.COMMUTATIVE):
        operands[:2] = sorted(operands[:2])
    return node.op, tuple(operands), _data(tuple(node.attrs.items()))


def _data(value: Any) -> Hashable:
    """The attribute value such that equal keys mean equal data: 1, 1.0 and True differ, as do 0.0 and -0.0."""
    match value:
        case tuple():
            return tuple(map(_data, value))
        case float():
            return "float", value.hex()
    return type(value), value
