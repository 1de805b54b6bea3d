"""From a group to what a template needs: operands in order, and the epilogue over the template's coordinates."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lepton.codegen.group import Group
from lepton.codegen.kernel import Access, DimTable, Size
from lepton.codegen.kernel import Operand as Bound
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Apply, Expr, Let, Load, Ref, i64
from lepton.codegen.lower.scalar import Elements
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.float8 import FLOAT8

Strides = tuple[Dim, ...]


@dataclass(eq=False, slots=True)
class Bindings:
    """The operands of a kernel and its run-time sizes, as a lowering collects them."""

    table: DimTable = field(default_factory=DimTable)
    bound: list[Bound] = field(default_factory=list)

    def buffer(self, operand: Bound) -> int:
        """The index in `bufs` of an operand; values are passed once."""
        if operand not in self.bound:
            self.bound.append(operand)
        return self.bound.index(operand)

    def sizes(self, dims: Sequence[Dim]) -> tuple[Size, ...]:
        return tuple(self.table.ref(d) for d in dims)

    def operand(self, operand: Bound, type: TensorType, strides: Strides, offset: Dim = 0) -> Operand:
        return Operand(self.buffer(operand), type.dtype, self.sizes(strides), self.table.ref(offset))


def broadcast_strides(access: Access, shape: Sequence[Dim]) -> Strides:
    """The strides of an operand over the dims of `shape`, which it broadcasts to."""
    missing = len(shape) - len(access.shape)
    own = [0 if n == 1 and to != 1 else s
           for n, s, to in zip(access.shape, access.strides, shape[missing:], strict=True)]
    return (0,) * missing + tuple(own)


def outer(group: Group, body_input: Value) -> Value:
    """The program's value that a body input stands for."""
    return group.inputs[group.body.inputs.index(body_input)]


def narrow_operand(value: Value | None) -> Value | None:
    """The bf16, or 8-bit float, body input that an anchor's f32 operand is the cast of, if it is one."""
    node = None if value is None else value.producer
    if node is None or node.op is not ops.cast or node.inputs[0] is None:
        return None
    assert node.inputs[0].tensor.dtype in (DType.BF16, *FLOAT8), "only casts of these are fused before a product"
    return node.inputs[0]


def loaded_values(group: Group) -> tuple[Value, ...]:
    """The body inputs that the ops after the anchor read."""
    assert group.anchor is not None
    after: list[Value] = []
    before = {v.producer for v in group.anchor.inputs if v is not None}
    for node in group.body.nodes:
        if node is not group.anchor and node not in before:
            after += [v for v in node.inputs if v is not None and v.producer is None]
    after += [v for v in group.body.outputs if v.producer is None]
    return tuple(dict.fromkeys(after))


class Fused:
    """The fused part of a group, seen over the shape of its anchor's result.

    `views` are the strides of every value the epilogue reads or writes; a template maps them to its coordinates."""

    def __init__(self, group: Group, bias: Value | None = None, bias_axis: int = -1) -> None:
        assert group.anchor is not None
        self.group, self.result = group, group.anchor.results[0]
        self.shape = self.result.tensor.shape
        self.inputs = loaded_values(group)
        self.bias = bias
        self.views: list[Strides] = [broadcast_strides(group.access(v), self.shape) for v in self.inputs]
        self.views += [group.accesses[v].strides for v in group.outputs]
        if bias is not None:
            (stride,) = group.access(bias).strides
            axis = bias_axis % len(self.shape)
            self.views.append(tuple(stride if i == axis else 0 for i in range(len(self.shape))))

    def epilogue(self, bindings: Bindings, views: Sequence[Strides], offsets: Sequence[Dim] = ()) -> Epilogue:
        """`views`: what became of `self.views` over the template's coordinates, `offsets` where they begin."""
        group, count = self.group, len(self.inputs)
        starts = list(offsets) or [0] * len(views)
        loads = [bindings.operand(outer(group, v), v.tensor, s, o)
                 for v, s, o in zip(self.inputs, views[:count], starts[:count], strict=True)]
        ends = count + len(group.outputs)
        stores = [bindings.operand(v, v.tensor, s, o)
                  for v, s, o in zip(group.outputs, views[count:ends], starts[count:ends], strict=True)]
        accumulator: Expr = Ref(ACCUMULATOR, widened(self.result.tensor.dtype))
        if self.bias is not None:
            loads.append(bindings.operand(outer(group, self.bias), self.bias.tensor, views[-1]))
            addend = Load(f"e{len(loads) - 1}", i64(0), accumulator.dtype)
            accumulator = Apply("add", (accumulator, addend), accumulator.dtype)
        leaves: dict[Value, Expr] = {
            v: Load(f"e{i}", i64(0), widened(v.tensor.dtype)) for i, v in enumerate(self.inputs)}
        leaves[self.result] = accumulator
        lets: list[Let] = []
        elements = Elements(leaves.__getitem__, lets, rounded=group.rounded)
        if len(self.result.uses) > 1:
            leaves[self.result] = elements.name(accumulator)
        values = tuple(elements.expr(v) for v in group.body.outputs)
        return Epilogue(tuple(loads), tuple(stores), values, tuple(lets))


def constant_array(group: Group, value: Value | None) -> Array | None:
    """The elements of a constant body input, None for anything else."""
    if value is None or value not in group.constants:
        return None
    producer = group.constants[value].producer
    assert producer is not None
    tensor: Tensor = producer.attrs["value"]
    return tensor.array


def collapse(shape: Sequence[Dim], views: Sequence[Strides]) -> tuple[tuple[Dim, ...], list[Strides]]:
    """Merge neighbouring dims that every view walks as one; dims of size 1 vanish. Row-major order stays."""
    sizes: list[Dim] = []
    columns: list[list[Dim]] = [[] for _ in views]
    for axis, extent in enumerate(shape):
        if extent == 1:
            continue
        if sizes and all(c[-1] == v[axis] * extent for c, v in zip(columns, views, strict=True)):
            sizes[-1] = sizes[-1] * extent
            for c, v in zip(columns, views, strict=True):
                c[-1] = v[axis]
            continue
        sizes.append(extent)
        for c, v in zip(columns, views, strict=True):
            c.append(v[axis])
    return tuple(sizes), [tuple(c) for c in columns]
