"""Products in f32 whose factors are known to be 8-bit floats, on tensor cores that multiply those.

The graph says so: the left operand is the cast of such a value, which fusion puts into the group, and the constant
weights are numbers of one such type. Products of two are exact in f32; tensor cores keep fewer bits of their sums, so
that these are taken from them every 32 or 128 products and added in f32.
"""
from __future__ import annotations

import numpy as np

from lepton.codegen.cuda.integers import filled
from lepton.codegen.cuda.products import filters, kernel_of, places, tile_of, windows
from lepton.codegen.cuda.templates.product import Factor, Matrix
from lepton.codegen.cuda.warpgroups import tiles_of, warpgroup_tile
from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.lower.conv import pixels, shape_of
from lepton.codegen.lower.matmul import problem_of
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.products import generic_conv, generic_matmul
from lepton.codegen.templates.epilogue import Epilogue
from lepton.codegen.templates.fused import Bindings, Fused, Strides, constant_array, outer
from lepton.ir.core import Value
from lepton.ir.dims import Dim, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.float8 import format_of

NAMES = {DType.F8E4M3FN: "e4m3", DType.F8E5M2: "e5m2"}
LEAST_FILTERS = 8    # of a group: with fewer most of a tile would be empty


def matmul(group: Group, options: LowerOptions, a: Value, b: Value) -> Kernel:
    """A product and the elementwise ops behind it; `a` is the value under the cast, `b` constant."""
    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    if problem.weights is None or problem.weights.size == 0:
        return generic_matmul(group, options)
    return _matrix(group, options, fused, problem, a)


def conv(group: Group, options: LowerOptions, x: Value) -> Kernel:
    """A convolution with constant filters and the elementwise ops behind it; `x` is the value under the cast."""
    assert group.anchor is not None
    _, w, bias = (*group.anchor.inputs, None)[:3]
    attrs, weights = group.anchor.attrs, constant_array(group, w)
    channels = x.tensor.shape[1 if attrs["layout"] == "nchw" else -1]
    if weights is None or not weights.size or not 3 <= x.tensor.rank <= 5 or not isinstance(channels, int):
        return generic_conv(group, options)
    fused = Fused(group, bias, 1 if attrs["layout"] == "nchw" else -1)
    shape = shape_of(group, fused, x, weights, attrs)
    if shape.groups > 1 and (shape.filters < LEAST_FILTERS or shape.depth < LEAST_FILTERS):
        return generic_conv(group, options)
    if shape.pointwise:
        return _matrix(group, options, fused, pixels(shape), x)
    bindings, (rows, steps) = Bindings(), places(shape)
    left = windows(bindings, group, shape, x)
    return _kernel(group, options, bindings, (shape.groups,), rows, left, filters(shape, DType.F32), (shape.filters,),
                   fused.epilogue(bindings, steps))


def _matrix(group: Group, options: LowerOptions, fused: Fused, problem: Problem, a: Value) -> Kernel:
    """The product with constant weights in matrix form."""
    assert problem.weights is not None
    bindings, none = Bindings(), (0,) * len(problem.batch)
    left = Matrix(bindings.operand(outer(group, a), a.tensor, problem.a))
    return _kernel(group, options, bindings, problem.batch, (problem.m,), left, problem.weights.T[None], none,
                   fused.epilogue(bindings, problem.views))


def _kernel(group: Group, options: LowerOptions, bindings: Bindings, batch: tuple[Dim, ...], rows: tuple[Dim, ...],
            left: Factor, weights: Array, before: Strides, epilogue: Epilogue) -> Kernel:
    """`weights` [group, n, k]; `before`: the strides of the entries of a batch, in columns of those."""
    dtype = format_of(weights)
    assert dtype is not None, "fusion takes casts into products of 8-bit floats only"
    words, kind = weights.astype(dtype.numpy).view(np.uint8), NAMES[left.operand.dtype] + NAMES[dtype]
    m, entries, (_, n, k) = product(rows), product(batch), words.shape
    tile = warpgroup_tile(options.target, kind, words, m, entries)
    if tile is not None:
        tiles = tuple(-(-s // tile.columns) if isinstance(s, int) else s for s in before)
        right = tiles_of(bindings, tile, words, dtype, tiles)
        return kernel_of(group, bindings, DType.F32, batch, rows, n, k, left, right, epilogue, tile)
    return kernel_of(group, bindings, DType.F32, batch, rows, n, k, left, filled(bindings, words, dtype, before),
                     epilogue, tile_of(m, n, k, entries, DType.F32, kind))
