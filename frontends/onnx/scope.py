"""Names in force while nodes are imported: of a graph, a function's body, a branch, a region."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx

from lepton.frontends.onnx.bundles import Bundle, Growing
from lepton.frontends.onnx.contents import Contents
from lepton.frontends.onnx.tensors import Store
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim


class Poisoned(Exception):
    """The value depends on a node that could not be imported; that node is reported already."""


@dataclass(slots=True)
class Scope:
    """`captures` is None where the nodes join the graph around them; otherwise they go to a region of its own, and
    values from outside are passed in: `captures` maps them to the region's inputs."""

    store: Store
    opsets: Mapping[str, int]
    values: dict[str, Value | None] = field(default_factory=dict)     # None: poisoned
    constants: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = field(default_factory=dict)  # not used yet
    parent: Scope | None = None
    captures: dict[Value, Value] | None = None
    prefix: str = ""
    depth: int = 0
    definers: list[Value] = field(default_factory=list)  # nodes that find sizes in data, by a result: of the graph
    read: dict[tuple[Value, int], Dim] = field(default_factory=dict)  # elements that were read, and the sizes they are

    def lookup(self, name: str, contents: Contents) -> Value:
        """The value called `name`. Raises Poisoned, or LeptonError where nothing has that name."""
        if name in self.values:
            value = self.values[name]
            if value is None:
                raise Poisoned
            return value
        if (proto := self.constants.pop(name, None)) is not None:
            value = self._constant(proto)
            value.name = self.prefix + name
            self.values[name] = value
            return value
        if self.parent is None:
            raise LeptonError(f"'{name}' is read but nothing computes it")
        outer = self.parent.lookup(name, contents)
        if self.captures is None:
            return outer
        self.values[name] = inner = self._captured(outer, contents)
        return inner

    def _constant(self, proto: onnx.TensorProto | onnx.SparseTensorProto) -> Value:
        if isinstance(proto, onnx.SparseTensorProto):
            return ops.constant(value=self.store.sparse(proto, "sparse initialiser"))
        return ops.constant(value=self.store.tensor(proto, "initialiser"))

    def _captured(self, outer: Value, contents: Contents) -> Value:
        """The region's own view of a value outside: constants and sizes are written again, others passed in."""
        assert self.captures is not None
        if outer in self.captures:
            return self.captures[outer]
        node = outer.producer
        if isinstance(outer, Bundle):
            inside = replace(outer, items=tuple(self._captured(v, contents) for v in outer.items), uses={})
            if isinstance(inside, Growing) and isinstance(outer, Growing):
                inside.origin = outer.origin or outer
            return inside
        if node is not None and node.op in (ops.constant, ops.shape_values):
            inner = node.op(**node.attrs)
        else:
            inner = Value(outer.type)
            self.captures[outer] = inner
            contents.set(inner, contents.of(outer))
        inner.name = outer.name
        return inner
