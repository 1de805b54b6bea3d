"""Matrix products: constant weights are packed when the model is compiled, other operands are read where they lie."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Body, Kernel, packed
from lepton.codegen.lower.candidates import gemm_choice
from lepton.codegen.lower.matmul_cost import SMALL_TASK_FLOPS, UNKNOWN_ROWS, Problem, gemm_schedule
from lepton.codegen.lower.stored import halved
from lepton.codegen.schedule import Schedule
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.fused import Bindings, Fused, Strides, collapse, constant_array, narrow_operand, outer
from lepton.codegen.templates.gemm import Gemm, pack_constant
from lepton.codegen.templates.tiles import Tile
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, dim_max, product
from lepton.ir.types import DType, TensorType


@lowers(ops.matmul)
def lower_matmul(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for a product and the elementwise ops behind it."""
    assert group.anchor is not None
    a, b = cast(tuple[Value, Value], group.anchor.inputs)
    dtype = a.tensor.dtype
    if (halves := narrow_operand(a)) is not None:
        from lepton.codegen.lower import halves as of_halves

        return of_halves.matmul(group, options, halves, b)
    if dtype not in (DType.F32, DType.F64):
        from lepton.codegen.lower.products import generic_matmul

        return generic_matmul(group, options)
    from lepton.codegen.lower.sparse import sparse_matmul

    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    kernel = sparse_matmul(group, options, fused, problem, a)
    return kernel or matmul_kernel(group, options, fused, problem, (a, b))


def problem_of(group: Group, fused: Fused, a: Value, b: Value) -> Problem:
    """Bring numpy's rules into matrix form: rows and columns for vectors, merged batch dims, rows of a batch as one."""
    shape = list(fused.shape)
    views = [list(v) for v in fused.views]
    a_shape, a_strides = list(a.tensor.shape), list(group.access(a).strides)
    b_shape, b_strides = list(b.tensor.shape), list(group.access(b).strides)
    if len(b_shape) == 1:
        b_shape, b_strides = [*b_shape, 1], [*b_strides, 0]
        shape.append(1)
        views = [[*v, 0] for v in views]
    if len(a_shape) == 1:
        a_shape, a_strides = [1, *a_shape], [0, *a_strides]
        shape.insert(-1, 1)
        views = [[*v[:-1], 0, v[-1]] for v in views]
    weights = constant_array(group, b)
    matrix = None
    if weights is not None and all(d == 1 for d in b_shape[:-2]):
        matrix = weights.reshape([d for d in b_shape[-2:] if isinstance(d, int)])
    outer_shape = shape[:-2]
    spread = [_spread(outer_shape, s[:-2], t[:-2]) for s, t in ((a_shape, a_strides), (b_shape, b_strides))]
    (m, n), k = shape[-2:], a_shape[-1]
    if matrix is not None or all(s == 0 for s in spread[1]):
        # B is the same for the whole batch: rows of the batch that follow each other are rows of one matrix.
        rows = [(*spread[0], a_strides[-2]), *((*v[:-1],) for v in views)]
        batch, merged = collapse((*outer_shape, m), rows)
        m, batch = (batch[-1], batch[:-1]) if batch else (1, ())
        merged = merged if len(merged[0]) else [(0,)] * len(merged)
        return Problem(batch, m, n, k, (*merged[0], a_strides[-1]), (*(0,) * len(batch), *b_strides[-2:]),
                       [(*r, v[-1]) for r, v in zip(merged[1:], views, strict=True)], matrix)
    batch, merged = collapse(outer_shape, [*spread, *(tuple(v[:-2]) for v in views)])
    return Problem(batch, m, n, k, (*merged[0], *a_strides[-2:]), (*merged[1], *b_strides[-2:]),
                   [(*r, *v[-2:]) for r, v in zip(merged[2:], views, strict=True)], None)


def _spread(to: list[Dim], shape: list[Dim], strides: list[Dim]) -> Strides:
    """Batch strides over the result's batch dims."""
    missing = len(to) - len(shape)
    return (0,) * missing + tuple(0 if n == 1 and t != 1 else s
                                  for n, s, t in zip(shape, strides, to[missing:], strict=True))


def matmul_kernel(group: Group, options: LowerOptions, fused: Fused, problem: Problem,
                  factors: tuple[Value, Value]) -> Kernel:
    """The kernel of a product in matrix form."""
    bindings, (a, b) = Bindings(), factors
    left = bindings.operand(outer(group, a), a.tensor, problem.a)
    right = None if problem.weights is not None else bindings.operand(outer(group, b), b.tensor, problem.b)
    target, dtype = options.target, left.dtype
    schedule = options.choose(gemm_choice(group, target, turned(target, problem, dtype), dtype))
    made = product_body(bindings, target, problem, left, right, fused.epilogue(bindings, problem.views), schedule)
    flops = product((*problem.batch, 2, problem.m, problem.n, problem.k))
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(dim_max(flops, product((24, problem.n, problem.k))), made.tasks), flops, group.outputs)


@dataclass(frozen=True, slots=True)
class Made:
    """A body with what its kernel needs to know of it."""

    body: Body
    tasks: Dim
    scratch: Dim


def product_body(bindings: Bindings, target: Target, problem: Problem, left: Operand, right: Operand | None,
                 epilogue: Epilogue, schedule: Schedule | None = None) -> Made:
    """The body of a product: blocks, packing. Without `right` the problem's weights are packed, without a schedule
    (of the problem as `turned` leaves it) it is the cost model's."""
    dtype = left.dtype
    if right is None and problem.weights is not None and narrow(target, problem, dtype):
        right, left = transposed(left), weights_operand(bindings, problem, dtype)
        problem = turned(target, problem, dtype)
        epilogue = replace(epilogue, loads=tuple(map(transposed, epilogue.loads)),
                           stores=tuple(map(transposed, epilogue.stores)))
    schedule = schedule or gemm_schedule(target, problem, dtype)
    tile, (rows, panels) = Tile(*schedule.tile), schedule.block
    assert isinstance(rows, int)
    assert isinstance(panels, int)
    in_place = right is not None and _reads_in_place(problem, tile)
    dot = FMA
    if right is None:
        assert problem.weights is not None
        dot, weights = halved(target, problem.weights)
        source: int | Operand = bindings.buffer(packed(pack_constant(weights, target, tile, dtype)))
    else:
        source = right
    *batch, m, n, k = bindings.sizes((*problem.batch, problem.m, problem.n, problem.k))
    body = Gemm(dtype, tuple(batch), m, n, k, left, source, epilogue, tile, rows, panels,
                schedule.order == "rows", in_place, dot)
    width = tile.vectors * target.lanes(dtype)
    scratch = 0 if right is None or in_place else problem.k * (width * dtype.bytes)
    tasks = product((*problem.batch, ceildiv(problem.m, rows), ceildiv(ceildiv(problem.n, width), panels)))
    return Made(body, tasks, scratch)


def narrow(target: Target, problem: Problem, dtype: DType) -> bool:
    """Whether weights have so few columns that vectors are better filled with rows of A."""
    lanes, rows = target.lanes(dtype), problem.m if isinstance(problem.m, int) else UNKNOWN_ROWS
    return isinstance(problem.n, int) and problem.n * 4 <= lanes and rows >= 2 * lanes


def turned(target: Target, problem: Problem, dtype: DType) -> Problem:
    """The problem as code is made for it: the other way round where weights are narrow."""
    if problem.weights is None or not narrow(target, problem, dtype):
        return problem
    return replace(problem, m=problem.n, n=problem.m, a=(*(0,) * len(problem.batch), problem.k, 1),
                   b=(*problem.a[:-2], problem.a[-1], problem.a[-2]), weights=None)


def transposed(operand: Operand) -> Operand:
    *batch, row, column = operand.strides
    return replace(operand, strides=(*batch, column, row))


def weights_operand(bindings: Bindings, problem: Problem, dtype: DType) -> Operand:
    """Constant weights as the left factor: [N, K] as they are."""
    assert problem.weights is not None
    k, n = problem.weights.shape
    return bindings.operand(packed(problem.weights.T), TensorType(dtype, (n, k)), (*(0,) * len(problem.batch), k, 1))


def grain_of(flops: Dim, tasks: Dim, least: int = SMALL_TASK_FLOPS) -> int:
    """Tasks that make a share worth a thread's waking up."""
    if isinstance(flops, int) and isinstance(tasks, int) and tasks > 0:
        return max(1, min(tasks, least * tasks // max(flops, 1)))
    return 1


def _reads_in_place(problem: Problem, tile: Tile) -> bool:
    """Whether packing B would cost more than it saves: its columns are adjacent, and few rows use it."""
    return problem.b[-1] == 1 and isinstance(problem.m, int) and problem.m <= 2 * tile.rows
