"""`Anchored` for anchors whose operands may be computed by elementwise ops fused before them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton.codegen.group import Group
from lepton.codegen.loops import Expr, Let, Stmt
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import Strides, broadcast_strides, load, offset
from lepton.codegen.lower.scalar import Elements
from lepton.ir.core import Value
from lepton.ir.op import Trait


class Fused(Anchored):
    """Reads the anchor's operands through the ops before it, writes the group's outputs through those after."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.anchor = self.node

    def before_views(self, operand: int) -> dict[Value, Strides]:
        """The body inputs that operand k of the anchor is computed from, as strides over its shape."""
        value = self.anchor.inputs[operand]
        assert value is not None
        return {v: broadcast_strides(self.group.access(v), value.tensor.shape) for v in leaves(value)}

    def before(self, operand: int, at: Sequence[Expr], lets: list[Stmt]) -> Expr:
        """The anchor's operand k at coordinates of its own; statements it needs are appended to `lets`."""
        value = self.anchor.inputs[operand]
        assert value is not None
        shape = value.tensor.shape

        def leaf(v: Value) -> Expr:
            strides = broadcast_strides(self.group.access(v), shape)
            return load(self.buffers[v], v.tensor.dtype, offset(at, strides, self.nest))

        found: list[Let] = []
        e = Elements(leaf, found, self.nest.fresh("e") + "_", self.group.rounded).expr(value)
        lets += found
        return e

    def stores(self, at: Sequence[Expr], result: Expr) -> list[Stmt]:
        """Write the outputs at coordinates of the anchor's only result."""
        return self.finish({self.anchor.results[0]: result}, at)

    def stores_of(self, at: Sequence[Expr], results: Mapping[int, Expr]) -> list[Stmt]:
        """The same for an anchor of several results of one shape."""
        return self.finish({self.anchor.results[i]: e for i, e in results.items()}, at)


def leaves(value: Value) -> list[Value]:
    """The body inputs `value` is computed from."""
    found: dict[Value, None] = {}
    todo = [value]
    while todo:
        v = todo.pop()
        if v.producer is None:
            found[v] = None
        elif v.producer.op.has(Trait.ELEMENTWISE):
            todo += [i for i in v.producer.inputs if i is not None]
    return list(found)
