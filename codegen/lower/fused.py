"""The elementwise ops around an anchor, for lowerings that bring their own loops over the anchor's result."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton.codegen.group import Group
from lepton.codegen.loops import Expr, Let, Stmt, Store
from lepton.codegen.lower.nest import Nest, Strides, broadcast_strides, load, offset
from lepton.codegen.lower.scalar import Elements
from lepton.ir.core import Value


class Fused:
    """Reads the anchor's operands (through the ops before it) and writes the group's outputs (through those after)."""

    def __init__(self, group: Group) -> None:
        assert group.anchor is not None
        self.group, self.anchor = group, group.anchor
        self.nest = Nest(group.name)
        self.result = self.anchor.results[0].tensor.shape
        self._inputs: dict[Value, str] = {}
        self._outputs = [self.nest.writes(v, v.tensor.dtype) for v in group.outputs]

    def buffer(self, v: Value) -> str:
        """The buffer of a body input."""
        if v not in self._inputs:
            outer = self.group.inputs[self.group.body.inputs.index(v)]
            self._inputs[v] = self.nest.reads(outer, v.tensor.dtype)
        return self._inputs[v]

    def before_views(self, operand: int) -> dict[Value, Strides]:
        """The body inputs that operand k of the anchor is computed from, as strides over its shape."""
        value = self.anchor.inputs[operand]
        assert value is not None
        return {v: broadcast_strides(self.group.access(v), value.tensor.shape) for v in leaves(value)}

    def before(self, operand: int, at: Sequence[Expr], lets: list[Stmt]) -> Expr:
        """The anchor's operand k at coordinates of its own."""
        value = self.anchor.inputs[operand]
        assert value is not None
        shape = value.tensor.shape

        def leaf(v: Value) -> Expr:
            strides = broadcast_strides(self.group.access(v), shape)
            return load(self.buffer(v), v.tensor.dtype, offset(at, strides, self.nest))

        found: list[Let] = []
        e = Elements(leaf, found, self.nest.fresh("e") + "_").expr(value)
        lets += found
        return e

    def stores(self, at: Sequence[Expr], result: Expr) -> list[Stmt]:
        """Write the outputs at coordinates of the anchor's result."""
        return self.stores_of(at, {0: result})

    def stores_of(self, at: Sequence[Expr], results: Mapping[int, Expr]) -> list[Stmt]:
        """The same for an anchor of several results of one shape; outputs of others are left alone."""
        shape = self.anchor.results[next(iter(results))].tensor.shape
        known = {self.anchor.results[i]: e for i, e in results.items()}

        def leaf(v: Value) -> Expr:
            if v in known:
                return known[v]
            strides = broadcast_strides(self.group.access(v), shape)
            return load(self.buffer(v), v.tensor.dtype, offset(at, strides, self.nest))

        lets: list[Let] = []
        elements = Elements(leaf, lets, self.nest.fresh("s") + "_")
        stores: list[Stmt] = []
        for buffer, inner, outer in zip(self._outputs, self.group.body.outputs, self.group.outputs, strict=True):
            if inner.producer is self.anchor and inner not in known:
                continue
            strides = self.group.accesses[outer].strides
            stores.append(Store(buffer, offset(at, strides, self.nest), elements.expr(inner)))
        return [*lets, *stores]


def leaves(value: Value) -> list[Value]:
    """The body inputs `value` is computed from."""
    found: dict[Value, None] = {}
    todo = [value]
    while todo:
        v = todo.pop()
        if v.producer is None:
            found[v] = None
        else:
            todo += [i for i in v.producer.inputs if i is not None]
    return list(found)
