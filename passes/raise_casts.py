"""Rounding to bf16 where values are made, and not where they are read, if what lies between only moves or compares."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from lepton.ir import ops
from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.op import Op
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import graphs, substitute

# Rounding keeps the order of numbers, so it may come before what picks the largest.
RAISES_THROUGH: frozenset[Op] = frozenset({ops.concat, ops.transpose, ops.reshape, ops.slice_, ops.max_pool})


@dataclass(frozen=True)
class RaiseCasts(Pass):
    """cast(concat(a, b), bf16)  ->  concat(cast(a, bf16), cast(b, bf16))

    Where all readers of what moves elements, or picks the largest, round them to bf16. The rounding joins the kernel
    that makes the elements, if nobody else wants them in f32, and half as many bytes are moved."""

    name: ClassVar[str] = "raise-casts"

    def run(self, graph: Graph) -> bool:
        # From the outputs on, so that a cast goes as far up as it can.
        return any([_raised(part, node) for part in graphs(graph) for node in reversed(list(part.nodes))])


def _raised(graph: Graph, node: Node) -> bool:
    if node.op not in RAISES_THROUGH:
        return False
    value = node.results[0]
    casts = [u for u in value.users if _rounds(u)]
    if not casts or len(casts) < len(value.users) or any(c.attrs != casts[0].attrs for c in casts):
        return False
    if not any(x is not None and all(u is node or _rounds(u) for u in x.users) for x in node.inputs):
        return False    # somebody wants the elements as they are: the cast would be a kernel of its own all the same
    attrs = casts[0].attrs
    moved = node.op(*[x and _rounded(x, attrs, node) for x in node.inputs], **node.attrs, loc=node.loc)
    for cast in casts:
        substitute(graph, cast.results[0], moved)
    count("casts raised")
    return True


def _rounds(user: User) -> TypeGuard[Node]:
    return isinstance(user, Node) and user.op is ops.cast and user.attrs["to"] is DType.BF16


def _rounded(x: Value, attrs: Mapping[str, Any], node: Node) -> Value:
    """The cast of a value: one that is there, or a new one."""
    there = (u.results[0] for u in x.users if isinstance(u, Node) and u.op is ops.cast and u.attrs == attrs)
    return next(there, None) or ops.cast(x, **attrs, loc=node.loc)
