"""Products of bytes whose weights have many zeros: the panels of sparse.py, whose rows are groups of four inputs.

A group goes where all four of its weights are zero for a panel of filters, as blocks of 16 outputs by 4 inputs leave
it. Nothing that is left out would change a sum, so the bits are the dense kernels', under strict math too. Where whole
tiles are multiplied (AMX) the dense kernels stay: they do eight times as much in a cycle.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.lower.conv_cost import Shape, known, sweep, tile_of, whole
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.sparse import GAIN, LEAST, Rows, has_zeros, of_problem, product_cost, sparse_kernel
from lepton.codegen.lower.tiled import direct_dot, product_dot
from lepton.codegen.templates.dots import bytes_dot, offset_of
from lepton.codegen.templates.epilogue import Epilogue
from lepton.codegen.templates.fused import Bindings, Fused
from lepton.ir.core import Value
from lepton.ir.types import DType

if TYPE_CHECKING:
    from lepton.codegen.lower.integer import Weights, Zeros


def sparse_conv(group: Group, options: LowerOptions, fused: Fused, shape: Shape, zeros: Zeros, weights: Weights,
                x: Value) -> Kernel | None:
    """The kernel of a convolution, None where the dense one is faster."""
    target, dtype = options.target, x.tensor.dtype
    if shape.groups != 1 or shape.x[4] != 1 or direct_dot(target, shape, dtype) is not None:
        return None
    if (rows := rows_of(options, weights, zeros, dtype)) is None:
        return None
    like = shape.in_groups(rows.dot.group)
    limit = len(weights.parts) * sweep(target, like, tile_of(target, like, rows.dot), whole(target, like))
    return kernel_of(group, options, fused, shape, zeros, weights, x, rows, limit)


def sparse_product(group: Group, options: LowerOptions, fused: Fused, problem: Problem, zeros: Zeros,
                   weights: Weights, x: Value) -> Kernel | None:
    """The kernel of a product with a constant matrix, None where the dense one is faster."""
    target, dtype = options.target, x.tensor.dtype
    shape = of_problem(problem, dtype)
    if shape is None or product_dot(target, problem, dtype, len(weights.parts)) is not None:
        return None
    if (rows := rows_of(options, weights, zeros, dtype)) is None:
        return None
    dense = product_cost(target, problem.in_groups(rows.dot.group), DType.F32, rows.dot)
    limit = len(weights.parts) * dense * known(shape.out[1])
    return kernel_of(group, options, fused, shape, zeros, weights, x, rows, limit)


def rows_of(options: LowerOptions, weights: Weights, zeros: Zeros, dtype: DType) -> Rows | None:
    """The panels' rows, None if few groups are zero."""
    if not has_zeros(weights.parts[0]):
        return None
    dot = bytes_dot(options.target, dtype)
    made = weights.rows(offset_of(dot, dtype) + zeros.number)
    return Rows(made[1:], dot, made[0]) if has_zeros(made[1:], LEAST // dot.group) else None


def kernel_of(group: Group, options: LowerOptions, fused: Fused, shape: Shape, zeros: Zeros, weights: Weights, x: Value,
              rows: Rows, dense: float) -> Kernel | None:
    """The kernel, None if the dense one, of so many cycles, is faster."""
    from lepton.codegen.lower.integer import less_zero

    def epilogue(bindings: Bindings) -> Epilogue:
        return less_zero(bindings, fused.epilogue(bindings, shape.views), zeros, weights.sums, 5)

    return sparse_kernel(group, options, shape, x, rows, GAIN * dense, epilogue, zeros.operand)
