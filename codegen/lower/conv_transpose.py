"""Transposed convolutions: one small convolution for each phase of the strides.

Output position q = stride*j + r gets x[(q + pad - tap*dilation) / stride] * w[tap] for the taps where that is whole.
For a fixed r these taps are evenly spaced and so are the inputs they meet: a convolution over j with stride 1, whose
results lie `stride` apart.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as every
from math import gcd
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.lower.conv import direct_body, pixels
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.lower.matmul import Made, grain_of, product_body
from lepton.codegen.lower.products import generic_conv_transpose
from lepton.codegen.templates.fused import Bindings, Fused, Strides, constant_array, outer
from lepton.codegen.templates.phases import Phases
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, dim_max, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

MOST_PHASES = 32


@dataclass(frozen=True, slots=True)
class Phase:
    """One residue of the output positions along one axis."""

    residue: int
    taps: tuple[int, ...]     # in the order of the input positions they meet; none: nothing meets this residue
    first: Dim                # input position of taps[0] for output position `residue`; without taps, one outside
    spacing: int              # of those input positions


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a transposed convolution."""

    size: Dim
    out: Dim
    kernel: int
    stride: int
    dilation: int
    pad: int

    def phase(self, residue: int) -> Phase:
        step = self.stride // gcd(self.stride, self.dilation)
        taps = [t for t in range(self.kernel) if (residue + self.pad - t * self.dilation) % self.stride == 0]
        ordered = tuple(reversed(taps))
        first = (residue + self.pad - ordered[0] * self.dilation) // self.stride if ordered else -self.out
        return Phase(residue, ordered, first, step * self.dilation // self.stride)

    def phases(self) -> list[Phase]:
        """Residues that the output has; one past a known end is none of them."""
        most = min(self.stride, self.out) if isinstance(self.out, int) else self.stride
        return [self.phase(r) for r in range(most)]


@dataclass(frozen=True, slots=True, eq=False)
class Transposed:
    """A transposed convolution with three spatial axes. Strides and views are over (n, d, h, w, channel)."""

    images: Dim
    axes: tuple[Axis, Axis, Axis]
    groups: int
    x: Strides
    views: list[Strides]
    weights: Array            # [C, O/group, d, h, w]

    @property
    def channels(self) -> int:
        """Of the input, of one group."""
        return int(self.weights.shape[0]) // self.groups

    @property
    def flops(self) -> Dim:
        """Every element of the input meets every tap, but for those that fall outside."""
        return product((2, self.images, *(a.size for a in self.axes), *self.weights.shape))


def transposed_of(group: Group, fused: Fused, x: Value, weights: Array) -> Transposed:
    """A group's, with its missing spatial axes filled in."""
    assert group.anchor is not None
    attrs, layout = group.anchor.attrs, layout_of(group, x)
    sizes, out = layout.axes(x.tensor.shape, 1), layout.axes(fused.shape, 1)
    d, h, w = (Axis(*a) for a in zip(
        sizes[1:4], out[1:4], layout.three(weights.shape[2:], 1), layout.three(attrs["strides"], 1),
        layout.three(attrs["dilations"], 1), layout.three(attrs["pads_begin"], 0), strict=True))
    return Transposed(out[0], (d, h, w), attrs["group"], layout.axes(group.access(x).strides, 0),
                      [layout.axes(v, 0) for v in fused.views],
                      weights.reshape(*weights.shape[:2], *layout.three(weights.shape[2:], 1)))


def layout_of(group: Group, x: Value) -> _Layout:
    assert group.anchor is not None
    return _Layout(x.tensor.rank - 2, group.anchor.attrs["layout"] == "nchw")


@lowers(ops.conv_transpose)
def lower_conv_transpose(group: Group, options: LowerOptions) -> Kernel:
    """One kernel, its tasks those of all phases."""
    node = group.anchor
    assert node is not None
    x, w, b = (*node.inputs, None)[:3]
    assert x is not None
    assert w is not None
    attrs, weights = node.attrs, constant_array(group, w)
    fixed = all(isinstance(p, int) for p in (*attrs["pads_begin"], *attrs["pads_end"], _channels(x, attrs)))
    suits = x.tensor.dtype in (DType.F32, DType.F64) and 3 <= x.tensor.rank <= 5 and fixed
    if weights is None or not weights.size or not suits or int(np.prod(attrs["strides"])) > MOST_PHASES:
        return generic_conv_transpose(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    t, bindings = transposed_of(group, fused, x, weights), Bindings()
    view = bindings.operand(outer(group, x), x.tensor, t.x)
    made: list[Made] = []
    for phases in every(*(a.phases() for a in t.axes)):
        shape = phase_shape(x.tensor.dtype, t, phases)
        offsets = [_offset(v, phases) for v in t.views]
        if shape.pointwise:
            problem = pixels(shape)
            rows = bindings.operand(outer(group, x), x.tensor, problem.a)
            made.append(product_body(bindings, options.target, problem, rows, None,
                                     fused.epilogue(bindings, problem.views, offsets)))
            continue
        made.append(direct_body(bindings, options.target, shape, view, fused.epilogue(bindings, shape.views, offsets)))
    return kernel_of(group, bindings, made, t.flops)


def _channels(x: Value, attrs: Any) -> Dim:
    return x.tensor.shape[1 if attrs["layout"] == "nchw" else -1]


def kernel_of(group: Group, bindings: Bindings, made: Sequence[Made], flops: Dim) -> Kernel:
    scratch: Dim = 0
    tasks: Dim = 0
    for part in made:
        scratch, tasks = dim_max(scratch, part.scratch), tasks + part.tasks
    body = Phases(tuple(part.body for part in made), bindings.sizes([part.tasks for part in made]))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, scratch,
                  grain_of(flops, tasks), flops, group.outputs)


def phase_shape(dtype: DType, t: Transposed, phases: Sequence[Phase]) -> Shape:
    """The convolution of one phase of each axis."""
    axes, picked = t.axes, t.weights
    for i, phase in enumerate(phases):
        picked = np.take(picked, phase.taps or (0,), axis=2 + i)
        picked = picked if phase.taps else np.zeros_like(picked)
    filters = t.weights.shape[1]
    split = picked.reshape(t.groups, t.channels, filters, *picked.shape[2:]).swapaxes(1, 2)
    out = [ceildiv(a.out - p.residue, a.stride) for a, p in zip(axes, phases, strict=True)]
    taps = [max(1, len(p.taps)) for p in phases]
    spacing = [p.spacing if p.taps else 1 for p in phases]
    before = [-p.first for p in phases]
    after = [o - 1 + p.first + (k - 1) * s - (a.size - 1)
             for o, p, k, s, a in zip(out, phases, taps, spacing, axes, strict=True)]
    steps = [a.stride for a in axes]
    moved = [(v[0], *(s * step for s, step in zip(v[1:4], steps, strict=True)), v[4]) for v in t.views]
    return Shape(
        dtype, t.images, (out[0], out[1], out[2]), (axes[0].size, axes[1].size, axes[2].size), t.groups, t.channels,
        filters, (taps[0], taps[1], taps[2]), (1, 1, 1), (spacing[0], spacing[1], spacing[2]),
        (before[0], before[1], before[2]), (after[0], after[1], after[2]), t.x, moved,
        split.reshape(t.groups * filters, t.channels, *picked.shape[2:]))


def _offset(view: Strides, phases: Sequence[Phase]) -> Dim:
    total: Dim = 0
    for stride, phase in zip(view[1:4], phases, strict=True):
        total = total + stride * phase.residue
    return total


@dataclass(frozen=True, slots=True)
class _Layout:
    rank: int
    first: bool       # channels first

    def three(self, values: Sequence[Any], missing: Any) -> Any:
        """One entry per spatial axis -> three of them."""
        return (*(missing,) * (3 - self.rank), *values)

    def axes(self, values: Sequence[Any], missing: Any) -> Any:
        """Entries per axis -> (n, d, h, w, channel)."""
        n, *rest = values
        channel, spatial = (rest[0], rest[1:]) if self.first else (rest[-1], rest[:-1])
        return (n, *self.three(spatial, missing), channel)
