"""Groups without an anchor: elementwise work of any number of outputs, and copies between any two layouts."""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.math import LIBM, VECTOR
from lepton.codegen.llvm.narrow import NARROW
from lepton.codegen.loops import Apply, Expr, Let, Ref, Stmt, Store, walk
from lepton.codegen.lower.interleave import interleave_kernel
from lepton.codegen.lower.nest import (
    Nest,
    Space,
    broadcast_strides,
    collapse,
    cut,
    grain_for,
    guess,
    load,
    nest_loops,
    offset,
)
from lepton.codegen.lower.scalar import Elements
from lepton.codegen.lower.transpose import transpose_kernel
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import product
from lepton.ir.types import DType

RAW: dict[DType, DType] = {
    d: DType.U16 if d.bits == 16 else DType.U8 for d in (DType.F16, DType.BF16, DType.BOOL, *NARROW)}


@lowers(None)
def elementwise(group: Group, options: LowerOptions) -> Kernel:
    """One pass over the elements. Tasks are blocks of the outer dims (or of the vector's, where that is long)."""
    shape = group.outputs[0].tensor.shape
    if any(v.tensor.shape != shape for v in group.outputs):
        raise UnsupportedError(f"a fused map with outputs of several shapes ({group.name})")
    views = [broadcast_strides(group.accesses[v], shape) for v in (*group.inputs, *group.outputs)]
    space, _ = collapse(shape, views)
    if options.target.family == "cpu" and not group.body.nodes:
        copy = transpose_kernel(group, space, options) or interleave_kernel(group, space, options)
        if copy is not None:
            return copy
    return map_kernel(group, _ordered(space, len(group.inputs)))


def map_kernel(group: Group, space: Space) -> Kernel:
    """The kernel over a space whose last dim is the vectors'. `space.views`: of the inputs, then of the outputs."""
    nest = Nest(group.name)
    sizes = space.sizes or (1,)
    views = [v or (0,) for v in space.views]
    # What is only copied is moved as bits.
    def kind(dtype: DType) -> DType:
        return dtype if group.body.nodes else RAW.get(dtype, dtype)

    buffers = {v: nest.reads(outer, kind(v.tensor.dtype))
               for v, outer in zip(group.body.inputs, group.inputs, strict=True)}
    targets = [nest.writes(v, kind(v.tensor.dtype)) for v in group.outputs]
    strides = dict(zip(group.body.inputs, views, strict=False))
    coords: list[Expr] = []
    lets: list[Let] = []
    elements = Elements(lambda v: load(buffers[v], kind(v.tensor.dtype), offset(coords, strides[v], nest)), lets,
                        rounded=group.rounded)
    tasks = cut(sizes, work=_work(group))
    found, shape = nest_loops(sizes, tasks, nest)
    coords += found
    values = [elements.expr(v) for v in group.body.outputs]
    names: list[Expr] = list(values)
    if len(values) > 1:  # all is read before anything is written: a result may lie where an operand did
        names = [Ref(nest.fresh("out"), e.dtype) for e in values]
        lets += [Let(r.name, e) for r, e in zip(names, values, strict=True) if isinstance(r, Ref)]
    stores = [Store(b, offset(coords, s, nest), e)
              for b, s, e in zip(targets, views[len(group.inputs):], names, strict=True)]
    body: list[Stmt] = [*lets, *stores]
    return nest.kernel(shape.around(body), tasks.count, grain=grain_for(tasks), writes=group.outputs,
                       flops=product(sizes) * max(1, sum(_operations(e) for e in values)))


def _ordered(space: Space, inputs: int) -> Space:
    """The vectors' dim last: the one along which most operands, outputs first, are contiguous."""
    if space.rank < 2:
        return space

    def score(axis: int) -> tuple[int, int, int]:
        ones = sum(v[axis] == 1 for v in space.views)
        written = sum(v[axis] == 1 for v in space.views[inputs:])
        still = sum(v[axis] == 0 for v in space.views)
        long = guess(space.sizes[axis]) >= 8
        return (long * (4 * written + 2 * ones + still), ones, axis)

    vector = max(range(space.rank), key=score)
    return space.permuted([*(i for i in range(space.rank) if i != vector), vector])


def _work(group: Group) -> int:
    """Cheap operations that an element is worth: memory traffic counts as one, transcendental functions as four."""
    heavy = sum(n.op.name in VECTOR or n.op.name in LIBM or n.op.name in ("gelu", "mish", "softplus", "swish", "elu")
                for n in group.body.nodes)
    return 1 + 3 * heavy + len(group.body.nodes) // 4


def _operations(e: Expr) -> int:
    return sum(isinstance(x, Apply) for x in walk(e))
