"""Products of bytes, summed in i32: what can be known of weights and zero points is packed into the panels.

    Σ (a - za) (w - zw)  =  Σ a' w' - za' Σ w'      w' = w - zw in signed bytes, a' = a as the machine's dots read it

w' that needs nine bits is the sum of weights of eight; A is then walked for each. The second sum is a row of the panel
where za is known, and an operand of the epilogue where it is not. Zero points of weights that are no constants, rows
that have zero points of their own and the like go to the loop kernels of products.py.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.loops import Apply, Cast, Let, Load, Ref, i64
from lepton.codegen.lower.conv import depthwise, pixels, shape_of
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.lower.grouped import Factor, direct_body, groups, product_body
from lepton.codegen.lower.matmul import grain_of, problem_of
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.products import generic_conv, generic_matmul
from lepton.codegen.lower.tiled import direct_dot, product_dot
from lepton.codegen.templates.dots import bytes_dot, offset_of
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue
from lepton.codegen.templates.fused import Bindings, Fused, constant_array, outer
from lepton.codegen.templates.quads import Quads, Zero
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

MOST_TAPS = 256      # of a depthwise sum in f32: 256 products of nine-bit numbers are exact there


@dataclass(frozen=True, slots=True)
class Zeros:
    """The zero point of the left operand: a number, or a value."""

    number: int
    value: Value | None
    dtype: DType

    @classmethod
    def of(cls, group: Group, zero: Value | None, dtype: DType) -> Zeros | None:
        """None where it is not one number."""
        known = constant_array(group, zero)
        if zero is None or known is not None:
            array = np.zeros(1, np.int64) if known is None else known.reshape(-1).astype(np.int64)
            return cls(int(array[0]), None, dtype) if array.size == 1 else None
        return cls(0, outer(group, zero), dtype) if zero.tensor.size == 1 else None

    def operand(self, bindings: Bindings, extra: int = 0) -> Zero:
        if self.value is None:
            return Zero(self.number + extra)
        return Zero(extra, bindings.buffer(self.value), self.dtype)


@dataclass(frozen=True, slots=True)
class Weights:
    """Constant weights as signed bytes: [K, N] matrices whose sum they are."""

    parts: tuple[Array, ...]

    @classmethod
    def of(cls, weights: Array, zero: Array | None) -> Weights:
        """`zero`: a number, or one per column."""
        rest = weights.astype(np.int32) - (0 if zero is None else zero.astype(np.int32).reshape(-1))
        parts = [rest.clip(-128, 127)]
        while (rest := rest - parts[-1]).any():
            parts.append(rest.clip(-128, 127))
        return cls(tuple(parts))

    @property
    def sums(self) -> Array:
        """Over the rows, per column; i32 wraps."""
        return np.asarray(sum(p.sum(0, dtype=np.int64) for p in self.parts)).astype(np.int32)

    def rows(self, zero: int) -> Array:
        """i32 [1 + groups of four, N]: what the sums start from, then the bytes of all parts."""
        start = (-zero * self.sums.astype(np.int64)).astype(np.int32)
        return np.concatenate([start[None], *(groups(p, np.int8) for p in self.parts)])


# --- matrix products ------------------------------------------------------------------------------


@lowers(ops.matmul_integer)
def lower_matmul_integer(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for a product of bytes and the elementwise ops behind it."""
    assert group.anchor is not None
    a, b, za, zb = (*group.anchor.inputs, None, None)[:4]
    assert a is not None
    assert b is not None
    zeros, right_zero = Zeros.of(group, za, a.tensor.dtype), constant_array(group, zb)
    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    fits = zeros is not None and problem.a[-1] == 1 and isinstance(problem.k, int) and problem.k > 0
    if not fits or (zb is not None and right_zero is None):
        return generic_matmul(group, options)
    assert zeros is not None
    if problem.weights is None:
        middle = 0 if b.tensor.dtype.is_signed else 128
        if any(z != middle for z in ([0] if right_zero is None else right_zero.reshape(-1))):
            return generic_matmul(group, options)
        return product_kernel(group, options, fused, problem, zeros, None, (a, b))
    if right_zero is not None and right_zero.size not in (1, problem.weights.shape[1]):
        return generic_matmul(group, options)
    weights = Weights.of(problem.weights, right_zero)
    if len(weights.parts) > 1 and problem.weights.shape[0] % 4:
        return generic_matmul(group, options)
    return product_kernel(group, options, fused, problem, zeros, weights, (a, b))


def product_kernel(group: Group, options: LowerOptions, fused: Fused, problem: Problem, zeros: Zeros,
                   weights: Weights | None, factors: tuple[Value, Value | None]) -> Kernel:
    """The kernel of a product in matrix form; without weights B is packed when it runs."""
    bindings, (a, b) = Bindings(), factors
    if weights is not None:
        from lepton.codegen.lower.sparse_bytes import sparse_product

        if (kernel := sparse_product(group, options, fused, problem, zeros, weights, a)) is not None:
            return kernel
    left = bindings.operand(outer(group, a), a.tensor, problem.a)
    epilogue = fused.epilogue(bindings, problem.views)
    if weights is not None:
        epilogue = less_zero(bindings, epilogue, zeros, weights.sums, len(problem.a))
    right = None
    if weights is None:
        assert b is not None
        right = bindings.operand(outer(group, b), b.tensor, problem.b)
    parts = 1 if weights is None else len(weights.parts)
    dot = product_dot(options.target, problem, left.dtype, parts) or bytes_dot(options.target, left.dtype)
    moved = offset_of(dot, left.dtype)
    if weights is not None:
        factor = Factor(dot, (weights.rows(moved + zeros.number),), parts)
    else:
        assert right is not None
        assert isinstance(problem.k, int)
        factor = Factor(dot, quads=Quads(problem.k, not right.dtype.is_signed, zeros.operand(bindings, moved)))
    made = product_body(bindings, group, options, problem, left, right, epilogue, factor)
    flops = product((*problem.batch, 2, problem.m, problem.n, problem.k))
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(flops if not isinstance(flops, int) else flops // 4, made.tasks), flops, group.outputs)


def less_zero(bindings: Bindings, epilogue: Epilogue, zeros: Zeros, sums: Array, rank: int) -> Epilogue:
    """The epilogue on sums that lack -za Σ w', where za is known only when the model runs."""
    if zeros.value is None:
        return epilogue
    count = len(epilogue.loads)
    zero = bindings.operand(zeros.value, TensorType(zeros.dtype, ()), (0,) * rank)
    column = bindings.operand(packed(sums), TensorType(DType.I32, sums.shape), (*(0,) * (rank - 1), 1))
    correction = Apply("mul", (Cast(Load(f"e{count}", i64(0), zeros.dtype), DType.I32),
                               Load(f"e{count + 1}", i64(0), DType.I32)), DType.I32)
    # All that follows means the corrected sum by the accumulator's name.
    whole = Let(ACCUMULATOR, Apply("sub", (Ref(ACCUMULATOR, DType.I32), correction), DType.I32))
    return replace(epilogue, loads=(*epilogue.loads, zero, column), lets=(whole, *epilogue.lets))


# --- convolutions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Windowed:
    """A convolution of bytes with constant filters."""

    fused: Fused
    shape: Shape
    x: Value
    left: Zeros
    zero: Array              # i32, of the filters: one, or one for each

    @classmethod
    def of(cls, group: Group) -> Windowed | None:
        """None where filters, their zero points or the number of channels are not known."""
        assert group.anchor is not None
        x, w, zx, zw = (*group.anchor.inputs, None, None)[:4]
        assert x is not None
        assert w is not None
        attrs = group.anchor.attrs
        filters, zero = constant_array(group, w), constant_array(group, zw)
        left = Zeros.of(group, zx, x.tensor.dtype)
        known = 3 <= x.tensor.rank <= 5 and isinstance(x.tensor.shape[1 if attrs["layout"] == "nchw" else -1], int)
        if filters is None or left is None or not known or (zw is not None and zero is None) or not filters.size:
            return None
        fused = Fused(group)
        zero = np.zeros(1, np.int32) if zero is None else zero.astype(np.int32).reshape(-1)
        return cls(fused, shape_of(group, fused, x, filters, attrs), x, left, zero)


@lowers(ops.conv_integer)
def lower_conv_integer(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for a convolution of bytes and the elementwise ops behind it."""
    of = Windowed.of(group)
    if of is None:
        return generic_conv(group, options)
    fused, shape, x, zeros, zero = of.fused, of.shape, of.x, of.left, of.zero
    if shape.depthwise and shape.depth <= MOST_TAPS and zeros.value is None:
        taps = shape.weights.astype(np.float32) - zero.astype(np.float32).reshape(-1, 1, 1, 1, 1)
        like = replace(shape, dtype=DType.F32, weights=taps)
        return depthwise(group, options, fused, like, x, zeros.number)
    if shape.pointwise and shape.x[-1] == 1:
        problem = pixels(shape)
        assert problem.weights is not None
        weights = Weights.of(problem.weights, zero)
        if len(weights.parts) == 1 or shape.channels % 4 == 0:
            return product_kernel(group, options, fused, problem, zeros, weights, (x, None))
    return direct(group, options, fused, shape.thinned(), zeros, zero, x)


def direct(group: Group, options: LowerOptions, fused: Fused, shape: Shape, zeros: Zeros, zero: Array,
           x: Value) -> Kernel:
    """The microkernel over windows of pixels."""
    from lepton.codegen.lower.sparse_bytes import sparse_conv

    bindings, target = Bindings(), options.target
    weights = filter_matrices(shape, zero)
    if (kernel := sparse_conv(group, options, fused, shape, zeros, weights[0], x)) is not None:
        return kernel
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    epilogue = fused.epilogue(bindings, shape.views)
    sums = np.concatenate([w.sums for w in weights])
    epilogue = less_zero(bindings, epilogue, zeros, sums, 5)
    dot = direct_dot(target, shape, x.tensor.dtype) or bytes_dot(target, x.tensor.dtype)
    number = offset_of(dot, x.tensor.dtype) + zeros.number
    factor = Factor(dot, tuple(w.rows(number) for w in weights), len(weights[0].parts))
    made = direct_body(bindings, group, options, shape, view, epilogue, factor, zeros.operand(bindings))
    flops = shape.flops
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(flops if not isinstance(flops, int) else flops // 4, made.tasks), flops, group.outputs)


def filter_matrices(shape: Shape, zero: Array) -> list[Weights]:
    """Per group, the filters as [taps * channels rounded up to four, filters]."""
    found = []
    whole = np.broadcast_to(zero, (shape.groups * shape.filters,))
    padded = -shape.channels % 4
    for g in range(shape.groups):
        own = slice(g * shape.filters, (g + 1) * shape.filters)
        w = shape.weights[own].astype(np.int32) - whole[own].reshape(-1, 1, 1, 1, 1)
        w = np.pad(w.transpose(2, 3, 4, 1, 0), [(0, 0)] * 3 + [(0, padded), (0, 0)])
        found.append(Weights.of(w.reshape(-1, shape.filters), None))
    most = max(len(w.parts) for w in found)
    return [Weights((*w.parts, *[np.zeros_like(w.parts[0])] * (most - len(w.parts)))) for w in found]
