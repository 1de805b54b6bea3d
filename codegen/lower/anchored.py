"""What lowerings with an anchor share: the group's operands, and the epilogue from its element to the stores."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton.codegen.group import Group
from lepton.codegen.loops import Expr, Let, Stmt, Store
from lepton.codegen.lower.nest import Nest, broadcast_strides, index_of, load, offset
from lepton.codegen.lower.scalar import Elements, scalar_constant
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType


class Anchored:
    """A group whose anchor gives one element for each place of its result."""

    def __init__(self, group: Group, *, written: bool = True) -> None:
        """`written`: whether the group's outputs are operands of this kernel."""
        assert group.anchor is not None
        self.group, self.node, self.nest = group, group.anchor, Nest(group.name)
        self.buffers = {v: self.nest.reads(outer, v.tensor.dtype)
                        for v, outer in zip(group.body.inputs, group.inputs, strict=True)}
        self.targets = [self.nest.writes(v, v.tensor.dtype) for v in group.outputs] if written else []

    @property
    def result(self) -> TensorType:
        return self.node.results[0].tensor

    def element(self, value: Value, coords: Sequence[Expr]) -> Expr:
        """The element of the anchor's operand at its own coordinates: of a body input, or a scalar constant inside."""
        if value.producer is not None:
            return scalar_constant(value.producer)
        return load(self.buffers[value], value.tensor.dtype, index_of(coords, self.group.access(value), self.nest))

    def constant(self, value: Value | None) -> Array | None:
        """The elements of the anchor's operand, where they are known."""
        outer = None if value is None else self.group.constants.get(value, value)
        if outer is None or outer.producer is None or outer.producer.op is not ops.constant:
            return None
        found: Array = outer.producer.attrs["value"].array
        return found

    def finish(self, results: Mapping[Value, Expr], point: Sequence[Expr]) -> list[Stmt]:
        """The epilogue at `point` of the anchor's result, given the anchor's elements; ends in the stores."""
        lets: list[Let] = []

        def leaf(v: Value) -> Expr:
            if v in results:
                return results[v]
            strides = broadcast_strides(self.group.access(v), self.result.shape)
            return load(self.buffers[v], v.tensor.dtype, offset(point, strides, self.nest))

        elements = Elements(leaf, lets, self.nest.fresh("e"), self.group.rounded)
        values = [elements.expr(v) for v in self.group.body.outputs]
        stores = [Store(b, offset(point, self.group.accesses[v].strides, self.nest), e)
                  for b, v, e in zip(self.targets, self.group.outputs, values, strict=True)]
        return [*lets, *stores]
