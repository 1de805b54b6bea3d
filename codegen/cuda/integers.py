"""Products and convolutions of bytes on tensor cores, summed in i32: Σ (a - za) (b - zb), exact.

Weights are packed with k innermost, their zero points taken off where the differences are bytes. What is left of

    Σ (a - za) (b - zb)  =  Σ a b  -  zb Σ a  -  za Σ (b - zb)

comes in the tile (sums of rows and columns by products with ones) or, where Σ (b - zb) is known, in the epilogue.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lepton.codegen.cuda.products import kernel_of, places, tile_of, windows
from lepton.codegen.cuda.templates.product import Factor, Matrix, Zero, Zeros
from lepton.codegen.cuda.warpgroups import tiles_of, warpgroup_tile
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.loops import Apply, Cast, Expr, Let, Load, Ref, i64
from lepton.codegen.lower import integer
from lepton.codegen.lower.conv import pixels
from lepton.codegen.lower.matmul import problem_of
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.products import generic_conv, generic_matmul
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue
from lepton.codegen.templates.fused import Bindings, Fused, Strides, constant_array, outer
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

RUN = 16  # bytes of weights that are copied as one: their rows are filled up with zeros


@lowers(ops.matmul_integer, family="cuda")
def lower_matmul_integer(group: Group, options: LowerOptions) -> Kernel:
    """A product of bytes and the elementwise ops behind it; rows with zero points of their own by loops."""
    assert group.anchor is not None
    a, b, za, zb = (*group.anchor.inputs, None, None)[:4]
    assert a is not None
    assert b is not None
    left, right = integer.Zeros.of(group, za, a.tensor.dtype), constant_array(group, zb)
    if left is None or (zb is not None and zb.tensor.rank > 1 and zb.tensor.size != 1):
        return generic_matmul(group, options)
    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    if problem.weights is None:
        return _of_values(group, fused, problem, left)
    if problem.weights.size == 0 or (zb is not None and right is None):
        return generic_matmul(group, options)
    return _weighted(group, options, fused, problem, left, np.zeros(1, np.int32) if right is None else right, a)


def _of_values(group: Group, fused: Fused, problem: Problem, left: integer.Zeros) -> Kernel:
    """Neither factor is known."""
    assert group.anchor is not None
    a, b, _, zb = (*group.anchor.inputs, None, None)[:4]
    assert a is not None
    assert b is not None
    bindings = Bindings()
    *batch, k_step, n_step = problem.b
    factors = (Matrix(bindings.operand(outer(group, a), a.tensor, problem.a)),
               Matrix(bindings.operand(outer(group, b), b.tensor, (*batch, n_step, k_step))))
    right = Zero()
    if zb is not None:
        steps = group.access(zb).strides
        step = steps[-1] if steps and zb.tensor.size != 1 else 0
        right = Zero(0, bindings.operand(outer(group, zb), zb.tensor, (*(0,) * len(batch), step)))
    exact = left.value is None and left.number == 0 and zb is None
    zeros = None if exact else Zeros(_zero(bindings, left), right, True)
    epilogue = fused.epilogue(bindings, problem.views)
    kind = _kind(a.tensor.dtype, b.tensor.dtype)
    tile = tile_of(problem.m, problem.n, problem.k, product(problem.batch), DType.I32, kind)
    return kernel_of(group, bindings, DType.I32, problem.batch, (problem.m,), problem.n, problem.k, *factors, epilogue,
                     tile, zeros)


def _zero(bindings: Bindings, zero: integer.Zeros) -> Zero:
    if zero.value is None:
        return Zero(zero.number)
    return Zero(0, bindings.operand(zero.value, TensorType(zero.dtype, ()), ()))


@dataclass(frozen=True, slots=True)
class Weights:
    """A constant right factor: its bytes [group, n, k], the zero points that they still have, Σ (b - zb) per column."""

    bytes: Array
    zero: Array | None
    sums: Array

    @classmethod
    def of(cls, weights: Array, zero: Array) -> Weights:
        """`zero` [group, n] or a number."""
        groups, n, _ = weights.shape
        zero = np.broadcast_to(zero.astype(np.int32).reshape(-1), (groups * n,))
        rest = weights.astype(np.int32) - zero.reshape(groups, n, 1)
        sums = rest.sum(-1).astype(np.int32).reshape(-1)
        if -128 <= rest.min() and rest.max() <= 127:
            return cls(rest.astype(np.int8), None, sums)
        return cls(weights, zero, sums)

    @property
    def dtype(self) -> DType:
        return DType.I8 if self.bytes.dtype == np.int8 else DType.U8

    def zeros(self, bindings: Bindings, before: Strides) -> Zeros | None:
        """What the tile has to take off."""
        if self.zero is None:
            return None
        operand = bindings.operand(packed(self.zero), TensorType(DType.I32, self.zero.shape), (*before, 1))
        return Zeros(Zero(), Zero(0, operand), False)


def filled(bindings: Bindings, weights: Array, dtype: DType, before: Strides) -> Matrix:
    """Bytes [group, n, k] as they lie, filled up; `before`: the strides of the entries of a batch, in columns."""
    padded = np.pad(weights, ((0, 0), (0, 0), (0, -weights.shape[2] % RUN)))
    step = padded.shape[-1]
    steps = (*(s * step for s in before), step, 1)
    return Matrix(bindings.operand(packed(padded), TensorType(dtype, padded.shape), steps), step)


def less_left(bindings: Bindings, epilogue: Epilogue, left: integer.Zeros, sums: Array, steps: Strides) -> Epilogue:
    """The epilogue on sums that lack -za Σ (b - zb); `steps` lead from column to column."""
    count, known = len(epilogue.loads), left.value is None
    if known and left.number == 0:
        return epilogue
    column = (sums.astype(np.int64) * left.number).astype(np.int32) if known else sums
    loads = [bindings.operand(packed(column), TensorType(DType.I32, column.shape), steps)]
    correction: Expr = Load(f"e{count}", i64(0), DType.I32)
    if left.value is not None:
        loads.append(bindings.operand(left.value, TensorType(left.dtype, ()), (0,) * len(steps)))
        correction = Apply("mul", (correction, Cast(Load(f"e{count + 1}", i64(0), left.dtype), DType.I32)), DType.I32)
    # All that follows means the corrected sum by the accumulator's name.
    whole = Let(ACCUMULATOR, Apply("sub", (Ref(ACCUMULATOR, DType.I32), correction), DType.I32))
    return replace(epilogue, loads=(*epilogue.loads, *loads), lets=(whole, *epilogue.lets))


def _weighted(group: Group, options: LowerOptions, fused: Fused, problem: Problem, left: integer.Zeros, zero: Array,
              a: Value) -> Kernel:
    """The product with constant weights in matrix form."""
    assert problem.weights is not None
    bindings, none = Bindings(), (0,) * len(problem.batch)
    factor = Matrix(bindings.operand(outer(group, a), a.tensor, problem.a))
    weights = Weights.of(problem.weights.T[None], zero)
    epilogue = less_left(bindings, fused.epilogue(bindings, problem.views), left, weights.sums, (*none, 0, 1))
    return _kernel(group, options, bindings, problem.batch, (problem.m,), factor, weights, none, epilogue)


def _kernel(group: Group, options: LowerOptions, bindings: Bindings, batch: tuple[Dim, ...], rows: tuple[Dim, ...],
            left: Factor, weights: Weights, before: Strides, epilogue: Epilogue) -> Kernel:
    """`before`: the strides of the entries of a batch, in columns of the weights."""
    m, entries, (_, n, k) = product(rows), product(batch), weights.bytes.shape
    kind = _kind(left.operand.dtype, weights.dtype)
    tile = warpgroup_tile(options.target, kind, weights.bytes, m, entries) if weights.zero is None else None
    if tile is not None:
        tiles = tuple(-(-s // tile.columns) if isinstance(s, int) else s for s in before)
        right = tiles_of(bindings, tile, weights.bytes, weights.dtype, tiles)
        return kernel_of(group, bindings, DType.I32, batch, rows, n, k, left, right, epilogue, tile)
    matrix, zeros = filled(bindings, weights.bytes, weights.dtype, before), weights.zeros(bindings, before)
    return kernel_of(group, bindings, DType.I32, batch, rows, n, k, left, matrix, epilogue,
                     tile_of(m, n, k, entries, DType.I32, kind), zeros)


def _kind(left: DType, right: DType) -> str:
    return "".join("s8" if d.is_signed else "u8" for d in (left, right))


@lowers(ops.conv_integer, family="cuda")
def lower_conv_integer(group: Group, options: LowerOptions) -> Kernel:
    """A convolution of bytes with constant filters and the elementwise ops behind it; others by loops."""
    of = integer.Windowed.of(group)
    if of is None:
        return generic_conv(group, options)
    shape = of.shape
    if shape.groups > 1 and (shape.filters < 8 or shape.depth < 8):
        return generic_conv(group, options)  # a tile would be mostly empty
    if shape.pointwise:
        return _weighted(group, options, of.fused, pixels(shape), of.left, of.zero, of.x)
    return _conv(group, options, of)


def _conv(group: Group, options: LowerOptions, of: integer.Windowed) -> Kernel:
    """Rows are output places, columns a group's filters."""
    shape, bindings, (rows, steps) = of.shape, Bindings(), places(of.shape)
    own = _zero(bindings, of.left)
    factor = replace(windows(bindings, group, shape, of.x), fill=own)
    bytes = shape.weights.transpose(0, 2, 3, 4, 1).reshape(shape.groups, shape.filters, shape.depth)
    weights = Weights.of(bytes, of.zero)
    epilogue = less_left(bindings, of.fused.epilogue(bindings, steps), of.left, weights.sums,
                         (shape.filters, *(0,) * len(rows), 1))
    return _kernel(group, options, bindings, (shape.groups,), rows, factor, weights, (shape.filters,), epilogue)
