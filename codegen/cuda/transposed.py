"""Transposed convolutions on GPUs: each phase of the strides is a small convolution, and all are one batch of products
(lower/conv_transpose.py tells how phases come about)."""
from __future__ import annotations

from itertools import product as every
from math import prod

import numpy as np

from lepton.codegen.cuda.products import KINDS, PLAIN, TILED_FILTERS, kind_of, tile_of
from lepton.codegen.cuda.templates.product import Matrix
from lepton.codegen.cuda.templates.transposed import PhasedProduct, PhaseWindows
from lepton.codegen.cuda.words import words
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.llvm.convert import widened
from lepton.codegen.lower.conv_transpose import MOST_PHASES, Phase, Transposed, transposed_of
from lepton.codegen.lower.products import generic_conv_transpose
from lepton.codegen.templates.fused import Bindings, Fused, Strides, constant_array, narrow_operand, outer
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType


@lowers(ops.conv_transpose, family="cuda")
def lower_conv_transpose(group: Group, options: LowerOptions) -> Kernel:
    """One with constant filters as products over its windows; others by loops."""
    node = group.anchor
    assert node is not None
    x, w, b = (*node.inputs, None)[:3]
    assert x is not None
    assert w is not None
    attrs, weights, x = node.attrs, constant_array(group, w), narrow_operand(x) or x
    fixed = all(isinstance(p, int) for p in (*attrs["pads_begin"], *attrs["pads_end"]))
    known = fixed and x.tensor.dtype in (*PLAIN, *KINDS) and 3 <= x.tensor.rank <= 5
    if weights is None or not known or weights.size == 0 or prod(attrs["strides"]) > MOST_PHASES:
        return generic_conv_transpose(group, options)
    groups = attrs["group"]
    if groups > 1 and min(weights.shape[1], weights.shape[0] // groups) < TILED_FILTERS:
        return generic_conv_transpose(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    return phased_kernel(group, options, fused, transposed_of(group, fused, x, weights), x)


def phased_kernel(group: Group, options: LowerOptions, fused: Fused, t: Transposed, x: Value) -> Kernel:
    """Rows are the places of a phase, columns a group's filters."""
    bindings, dtype = Bindings(), x.tensor.dtype
    phases = [a.phases() for a in t.axes]
    counts = [len(p) for p in phases]
    out = [ceildiv(a.out, a.stride) for a in t.axes]
    batch, rows = (*counts, t.groups), (t.images, *out)
    taps = filters_of(t, phases, dtype)
    *_, n, k = taps.shape
    kind = kind_of(dtype, options, product(rows), n, k, prod(batch))
    tile = tile_of(product(rows), n, k, prod(batch), dtype, kind)
    left = windows_of(bindings, group, t, phases, x)
    right = Matrix(bindings.operand(packed(taps), TensorType(dtype, taps.shape), tuple(
        int(np.prod(taps.shape[i + 1:])) for i in range(taps.ndim))))
    epilogue = fused.epilogue(bindings, [steps_of(t, v, n) for v in t.views])
    sizes = bindings.sizes
    entries, places, limits = sizes(batch), sizes(rows), sizes([a.out for a in t.axes])
    body = PhasedProduct(
        len(bindings.bound), len(bindings.table.dims), widened(fused.result.tensor.dtype), entries, places, n, k, left,
        right, epilogue, tile, limits=limits, strides=tuple(a.stride for a in t.axes))
    tasks = product((*batch, ceildiv(product(rows), tile.rows), -(-n // tile.columns)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, flops=t.flops,
                  writes=group.outputs)


def steps_of(t: Transposed, view: Strides, filters: int) -> Strides:
    """An operand of the epilogue over (*phases, group, n, *places of a phase, filter)."""
    n, *steps, c = view
    far = (s * a.stride for s, a in zip(steps, t.axes, strict=True))
    return (*steps, c * filters, n, *far, c)


def windows_of(bindings: Bindings, group: Group, t: Transposed, phases: list[list[Phase]], x: Value) -> PhaseWindows:
    n, *steps, c = t.x
    operand = bindings.operand(outer(group, x), x.tensor, (0, 0, 0, c * t.channels, n, *steps, c))
    sizes = bindings.sizes
    spacing = [max((p.spacing for p in each if p.taps), default=1) for each in phases]
    return PhaseWindows(
        operand, sizes([a.size for a in t.axes]), sizes([ceildiv(a.out, a.stride) for a in t.axes]), (1, 1, 1),
        (1, 1, 1), (spacing[0], spacing[1], spacing[2]), (), t.channels,
        taps=tuple(tuple(max(1, len(p.taps)) for p in each) for each in phases),
        starts=tuple(sizes([-p.first for p in each]) for each in phases))


def filters_of(t: Transposed, phases: list[list[Phase]], dtype: DType) -> Array:
    """[*phases, group, filter, (d, h, w, channel)]; behind the taps of a phase nothing is read."""
    most = [max(max(1, len(p.taps)) for p in each) for each in phases]
    split = t.weights.reshape(t.groups, t.channels, *t.weights.shape[1:]).swapaxes(1, 2)  # g, filter, channel, d, h, w
    split = words(np.ascontiguousarray(split.transpose(0, 1, 3, 4, 5, 2)), dtype)
    groups, filters = split.shape[:2]
    made = np.zeros((*(len(p) for p in phases), groups, filters, prod(most) * t.channels), split.dtype)
    for at in every(*(range(len(p)) for p in phases)):
        picked = split
        for axis, (each, i) in enumerate(zip(phases, at, strict=True)):
            picked = np.take(picked, each[i].taps or (0,), axis=2 + axis)
        if all(each[i].taps for each, i in zip(phases, at, strict=True)):
            made[at][:, :, :picked[0, 0].size] = picked.reshape(groups, filters, -1)
    return made
