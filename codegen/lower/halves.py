"""Products in f32 whose factors are known to be bf16 values: pairs of them, summed in f32.

The graph says so: the left operand is the cast of a bf16 value, which fusion puts into the group, and the constant
weights have nothing in the lower halves of their floats. Products of two bf16 are exact in f32, so the meaning is the
same; only half as much is read, and machines with dot products of bf16 do two at once.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.lower.conv import depthwise, pixels, shape_of
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.lower.grouped import Factor, direct_body, groups, product_body
from lepton.codegen.lower.matmul import grain_of, problem_of
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.products import generic_conv, generic_matmul
from lepton.codegen.lower.tiled import direct_dot, product_dot
from lepton.codegen.templates.dots import PAIRS
from lepton.codegen.templates.fused import Bindings, Fused, constant_array, outer
from lepton.ir.core import Value
from lepton.ir.dims import product
from lepton.ir.tensor import Array
from lepton.ir.types import DType


def upper_halves(array: Array) -> Array:
    """f32 numbers that are bf16 ones, as those (u16). Raises ValueError if they are not."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise ValueError("these floats are more than bf16")
    return (bits >> 16).astype(np.uint16)


def matmul(group: Group, options: LowerOptions, a: Value, b: Value) -> Kernel:
    """A product with constant weights; `a` is the bf16 value under the cast."""
    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    if problem.weights is None or problem.a[-1] != 1 or not isinstance(problem.k, int) or problem.k < 1:
        return generic_matmul(group, options)
    return _product(group, options, fused, problem, a)


def _product(group: Group, options: LowerOptions, fused: Fused, problem: Problem, a: Value) -> Kernel:
    bindings = Bindings()
    left = bindings.operand(outer(group, a), a.tensor, problem.a)
    epilogue = fused.epilogue(bindings, problem.views)
    assert problem.weights is not None
    dot = product_dot(options.target, problem, DType.BF16) or PAIRS
    factor = Factor(dot, (groups(upper_halves(problem.weights), np.uint16),))
    made = product_body(bindings, group, options, problem, left, None, epilogue, factor)
    flops = product((*problem.batch, 2, problem.m, problem.n, problem.k))
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(flops // 2 if isinstance(flops, int) else flops, made.tasks), flops, group.outputs)


def conv(group: Group, options: LowerOptions, x: Value) -> Kernel:
    """A convolution with constant filters; `x` is the bf16 value under the cast."""
    assert group.anchor is not None
    _, w, b = (*group.anchor.inputs, None)[:3]
    attrs, weights = group.anchor.attrs, constant_array(group, w)
    known = isinstance(x.tensor.shape[1 if attrs["layout"] == "nchw" else -1], int)
    if weights is None or not 3 <= x.tensor.rank <= 5 or not known:
        return generic_conv(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    shape = replace(shape_of(group, fused, x, weights, attrs), dtype=DType.F32)
    if shape.depthwise:
        return depthwise(group, options, fused, shape, x)
    shape = shape.joined(PAIRS.group)
    if shape.pointwise and shape.x[-1] == 1:
        return _product(group, options, fused, pixels(shape), x)
    return _direct(group, options, fused, shape.thinned(), x)


def _direct(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value) -> Kernel:
    bindings = Bindings()
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    epilogue = fused.epilogue(bindings, shape.views)
    odd = -shape.channels % 2
    rows = []
    for g in range(shape.groups):
        w = shape.weights[g * shape.filters:(g + 1) * shape.filters].transpose(2, 3, 4, 1, 0)
        w = np.pad(w, [(0, 0)] * 3 + [(0, odd), (0, 0)])
        rows.append(groups(upper_halves(w.reshape(-1, shape.filters)), np.uint16))
    dot = direct_dot(options.target, shape, DType.BF16) or PAIRS
    made = direct_body(bindings, group, options, shape, view, epilogue, Factor(dot, tuple(rows)), None)
    flops = shape.flops
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(flops // 2 if isinstance(flops, int) else flops, made.tasks), flops, group.outputs)
