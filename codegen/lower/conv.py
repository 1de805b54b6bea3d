"""Convolutions: each becomes the cheapest of a matrix product, a direct or a depthwise convolution."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.lower.matmul import MOST_TASKS, TASK_FLOPS, Made, Problem, grain_of, matmul_kernel
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Convolution, Three, Window, pack_filters
from lepton.codegen.templates.depthwise import Depthwise, pack_taps, tile_width
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.fused import Bindings, Fused, Strides, collapse, constant_array, narrow_operand, outer
from lepton.codegen.templates.tiles import WIDTHS, aliases, choose, most_rows, tile_cost
from lepton.codegen.templates.winograd import Winograd, profitable
from lepton.codegen.templates.winograd_filters import pack_taps as pack_winograd
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, dim_max, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

UNKNOWN_OUTPUT = 56       # output rows and columns, where they are run-time sizes
DEPTHWISE_TASK_FLOPS = 400_000
WINOGRAD_TASKS = 8
MOST_TILE_ROWS = 14       # more pixels of a power-of-two pitch evict each other from L1


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution with three spatial axes. Strides and views are over (n, d, h, w, channel)."""

    dtype: DType
    images: Dim
    out: tuple[Dim, Dim, Dim]
    into: tuple[Dim, Dim, Dim]
    groups: int
    channels: int              # of one group
    filters: int               # of one group
    kernel: Three
    strides: Three
    dilations: Three
    pads: tuple[Dim, Dim, Dim]
    pads_end: tuple[Dim, Dim, Dim]
    x: Strides
    views: list[Strides]
    weights: Array             # [O, C/group, d, h, w]

    @property
    def padded(self) -> bool:
        """Whether some window reaches outside the input."""
        return not all(isinstance(p, int) and p <= 0 for p in (*self.pads, *self.pads_end))

    @property
    def pointwise(self) -> bool:
        ones = (*self.kernel, *self.strides)
        return ones == (1,) * 6 and all(p == 0 for p in (*self.pads, *self.pads_end)) and self.groups == 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel has one filter, and vectors of channels can be read."""
        fixed = all(isinstance(p, int) for p in self.pads)
        return self.channels == self.filters == 1 and self.groups > 1 and self.x[4] == 1 and fixed

    def thinned(self) -> Shape:
        """The same, reading a thinned input, where a stride skips input that no window sees."""
        sparse = [k == 1 and s > 1 and p == 0 == e for k, s, p, e in
                  zip(self.kernel, self.strides, self.pads, self.pads_end, strict=True)]
        if not any(sparse):
            return self
        n, *steps, c = self.x
        d, h, w = (step * s if thin else step for step, s, thin in zip(steps, self.strides, sparse, strict=True))
        strides = [1 if thin else s for s, thin in zip(self.strides, sparse, strict=True)]
        into = [o if thin else i for i, o, thin in zip(self.into, self.out, sparse, strict=True)]
        return replace(self, x=(n, d, h, w, c), strides=(strides[0], strides[1], strides[2]),
                       into=(into[0], into[1], into[2]))

    def lying(self) -> Shape:
        """The same with the columns as rows, where there is one column: tiles are longest along rows of pixels."""
        ends = (self.out[2], self.into[2], self.kernel[2], self.pads[2], self.pads_end[2])
        if ends != (1, 1, 1, 0, 0) or self.out[1] == 1:
            return self

        def turn(entries: tuple[Any, ...]) -> Any:
            *before, high, wide = entries
            return (*before, wide, high)

        turned = {name: turn(getattr(self, name))
                  for name in ("out", "into", "kernel", "strides", "dilations", "pads", "pads_end")}
        return replace(self, x=(*turn(self.x[:-1]), self.x[-1]), views=[(*turn(v[:-1]), v[-1]) for v in self.views],
                       weights=np.swapaxes(self.weights, 3, 4), **turned)

    @property
    def depth(self) -> int:
        """Length of one sum."""
        return self.channels * prod(self.kernel)

    @property
    def flops(self) -> Dim:
        return product((self.images, *self.out, 2 * self.groups * self.filters * self.depth))


@lowers(ops.conv)
def lower_conv(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for a convolution, its bias and the elementwise ops behind it."""
    assert group.anchor is not None
    x, w, b = (*group.anchor.inputs, None)[:3]
    assert x is not None
    assert w is not None
    attrs = group.anchor.attrs
    if (halves := narrow_operand(x)) is not None:
        from lepton.codegen.lower import halves as of_halves

        return of_halves.conv(group, options, halves)
    weights = constant_array(group, w)
    known = x.tensor.dtype in (DType.F32, DType.F64) and 3 <= x.tensor.rank <= 5
    if weights is None or not known or not isinstance(x.tensor.shape[1 if attrs["layout"] == "nchw" else -1], int):
        from lepton.codegen.lower.products import generic_conv

        return generic_conv(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    shape = shape_of(group, fused, x, weights, attrs)
    from lepton.codegen.lower.sparse import sparse_conv

    if (kernel := sparse_conv(group, options, fused, shape, x)) is not None:
        return kernel
    if shape.pointwise:
        return pointwise(group, options, fused, shape, (x, w))
    if shape.depthwise:
        return depthwise(group, options, fused, shape, x)
    if options.winograd and options.math != "strict" and suits_winograd(shape):
        return winograd(group, options, fused, shape, x)
    return direct(group, options, fused, shape, x)


def shape_of(group: Group, fused: Fused, x: Value, weights: Array, attrs: Any) -> Shape:
    """The convolution with its missing spatial axes filled in."""
    rank, first = x.tensor.rank - 2, attrs["layout"] == "nchw"

    def three(values: Sequence[Any], missing: Any) -> Any:
        return (*(missing,) * (3 - rank), *values)

    def axes(values: Sequence[Any], missing: Any) -> Any:
        n, *rest = values
        channel, spatial = (rest[0], rest[1:]) if first else (rest[-1], rest[:-1])
        return (n, *three(spatial, missing), channel)

    result = axes(fused.shape, 1)
    into = axes(x.tensor.shape, 1)
    filters, channels, *kernel = weights.shape
    return Shape(
        x.tensor.dtype, result[0], result[1:4], into[1:4], attrs["group"], channels, filters // attrs["group"],
        three(kernel, 1), three(attrs["strides"], 1), three(attrs["dilations"], 1), three(attrs["pads_begin"], 0),
        three(attrs["pads_end"], 0), axes(group.access(x).strides, 0), [axes(v, 0) for v in fused.views],
        weights.reshape(filters, channels, *three(kernel, 1))).lying()


def pointwise(group: Group, options: LowerOptions, fused: Fused, shape: Shape, factors: tuple[Value, Value]) -> Kernel:
    """1x1: a matrix product over the pixels."""
    return matmul_kernel(group, options, fused, pixels(shape), factors)


def pixels(shape: Shape) -> Problem:
    """A pointwise convolution as a product: rows are pixels, as far as all operands walk them as one."""
    rows = [shape.x[:-1], *(v[:-1] for v in shape.views)]
    batch, merged = collapse((shape.images, *shape.out), rows)
    if not batch:
        batch, merged = (1,), [(0,)] * len(rows)
    matrix = np.ascontiguousarray(shape.weights.reshape(shape.filters, shape.channels).T)
    return Problem(batch[:-1], batch[-1], shape.filters, shape.channels, (*merged[0], shape.x[-1]),
                   (0,) * (len(batch) + 1),
                   [(*m, v[-1]) for m, v in zip(merged[1:], shape.views, strict=True)], matrix)


def direct(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value) -> Kernel:
    """Any other: the microkernel over windows of pixels."""
    bindings, shape = Bindings(), shape.thinned()
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    made = direct_body(bindings, options.target, shape, view, fused.epilogue(bindings, shape.views))
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(shape.flops, made.tasks), shape.flops, group.outputs)


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a direct convolution is cut."""

    tile: tuple[int, int]          # output rows and columns of a tile
    vectors: int
    block: tuple[Dim, Dim]         # output rows and columns of a task
    block_panels: int
    spans: tuple[Dim, Dim, Dim]    # input positions under a block
    tasks: Dim
    crowded: bool                  # the pixels of a tile share sets of the cache


def blocking(target: Target, shape: Shape, dot: Dot = FMA) -> Blocking:
    """Tile and blocks of the least cost. Of bytes, the shape's elements are groups of them."""
    height, width, vectors = tile_of(target, shape, dot)
    rows, columns = block_of(target, shape, height, width)
    panels = -(-shape.filters // (vectors * target.lanes(shape.dtype)))
    each = panels_of(shape, rows, columns, panels)
    tasks = product((shape.images, shape.groups, shape.out[0], ceildiv(shape.out[1], rows),
                     ceildiv(shape.out[2], columns), -(-panels // each)))
    spans = (shape.kernel[0], _span(shape, 1, rows), _span(shape, 2, columns))
    return Blocking((height, width), vectors, (rows, columns), each, spans, tasks, _crowded(target, shape))


def direct_body(bindings: Bindings, target: Target, shape: Shape, x: Operand, epilogue: Epilogue) -> Made:
    """The body of a direct convolution: tile, blocks, whether the input is copied."""
    cut = blocking(target, shape)
    planar = shape.x[4] != 1 and shape.channels > 1
    crowded = not planar and cut.crowded
    copied = shape.padded or crowded or not (planar or shape.x[4] == 1 or shape.channels == 1)
    gap = 16 if crowded else 0
    filters = bindings.buffer(packed(pack_filters(shape.weights, shape.groups, target, cut.vectors, planar,
                                                  shape.dtype)))
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads, *cut.block))
    out, into, pads, block = rest[:3], rest[3:6], rest[6:9], rest[9:]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    body = Convolution(
        shape.dtype, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, shape.channels,
        shape.filters, window, x, filters, epilogue, cut.tile, cut.vectors, (block[0], block[1]), cut.block_panels,
        copied, planar, gap)
    scratch = product((*cut.spans, (shape.channels + gap) * shape.dtype.bytes)) if copied else 0
    return Made(body, cut.tasks, scratch)


def depthwise(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value, zero: int = 0) -> Kernel:
    """One filter for each channel: no microkernel, vectors of channels. x may hold bytes, with a zero point."""
    target, bindings = options.target, Bindings()
    lanes = target.lanes(shape.dtype)
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    filters = bindings.buffer(packed(pack_taps(shape.weights, lanes)))
    epilogue = fused.epilogue(bindings, shape.views)
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads))
    out, into, pads = rest[:3], rest[3:6], rest[6:9]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    line = 2 * _known(shape.out[2]) * shape.groups * shape.depth
    block = max(1, min(-(-_known(shape.out[1]) // 4), DEPTHWISE_TASK_FLOPS // line))
    wide = shape.out[2] if isinstance(shape.out[2], int) else UNKNOWN_OUTPUT
    most = tile_width(target, shape.kernel[2])
    tile = -(-wide // -(-wide // most)) if wide else 1
    body = Depthwise(shape.dtype, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, window,
                     view, filters, epilogue, tile, block, zero)
    tasks = product((shape.images, shape.out[0], ceildiv(shape.out[1], block)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, 0,
                  grain_of(shape.flops, tasks, DEPTHWISE_TASK_FLOPS), shape.flops, group.outputs)


def suits_winograd(shape: Shape) -> bool:
    """Whether this is a 3x3 convolution of a known size that gains from Winograd's form."""
    sizes = (*shape.out[1:], *shape.into[1:], *shape.pads[1:])
    plain = (shape.kernel, shape.strides, shape.dilations, shape.groups) == ((1, 3, 3), (1, 1, 1), (1, 1, 1), 1)
    if not plain or shape.pads[0] != 0 or shape.x[4] != 1 or not all(isinstance(d, int) for d in sizes):
        return False
    return profitable((_known(shape.out[1]), _known(shape.out[2])), shape.channels, shape.filters)


def winograd(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value) -> Kernel:
    """3x3 with stride 1: F(4x4, 3x3)."""
    target, bindings, lanes = options.target, Bindings(), options.target.lanes(shape.dtype)
    _, high, wide = (_known(d) for d in shape.out)
    _, into_high, into_wide = (_known(d) for d in shape.into)
    pads = [p for p in shape.pads[1:] if isinstance(p, int)]
    tiles_high, tiles_wide = -(-high // 4), -(-wide // 4)
    rows = tile_rows(target, shape, (tiles_high, tiles_wide))
    tile = choose(target, rows * tiles_wide, shape.filters, shape.channels, shape.dtype, row_stride=0)
    panels = -(-shape.filters // (tile.vectors * lanes))
    blocks = min(panels, _filter_blocks(shape, -(-tiles_high // rows)))
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    filters = bindings.buffer(packed(pack_winograd(shape.weights[:, :, 0], target, tile, shape.dtype)))
    epilogue = fused.epilogue(bindings, shape.views)
    (images,) = bindings.sizes((shape.images,))
    body = Winograd(shape.dtype, images, (high, wide), (into_high, into_wide), shape.channels, shape.filters,
                    (pads[0], pads[1]), view, filters, epilogue, tile, rows, -(-panels // blocks))
    tasks = product((shape.images, -(-tiles_high // rows), -(-panels // body.block_panels)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, body.scratch_bytes(lanes),
                  grain_of(shape.flops, tasks), shape.flops, group.outputs)


def _filter_blocks(shape: Shape, groups: int) -> int:
    """Blocks of filters that make enough tasks of so many groups of tile rows."""
    images = shape.images if isinstance(shape.images, int) else 1
    return max(1, -(-WINOGRAD_TASKS // max(1, groups * images)))


def tile_rows(target: Target, shape: Shape, grid: tuple[int, int]) -> int:
    """Rows of tiles of a group: each group reads all transformed filters, and what does not fit in L2 moves twice."""
    filters = 36 * shape.channels * shape.filters
    found = []
    for groups in range(1, grid[0] + 1):
        rows = -(-grid[0] // groups)
        tiles, blocks = 36 * rows * grid[1], _filter_blocks(shape, groups)
        v, m = tiles * (shape.channels + 16), tiles * (-(-shape.filters // blocks) + 16)
        spilled = (v + m) * shape.dtype.bytes > target.l2_bytes * 3 // 4
        found.append((groups * filters + (2 * groups * (v + m * blocks) if spilled else 0), rows))
    return min(found)[1]


def _span(shape: Shape, axis: int, outputs: Dim) -> Dim:
    return (outputs - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilations[axis] + 1


def _known_span(shape: Shape, axis: int, outputs: int) -> int:
    return (outputs - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilations[axis] + 1


def _known(dim: Dim) -> int:
    return max(dim, 1) if isinstance(dim, int) else UNKNOWN_OUTPUT


def tile_of(target: Target, shape: Shape, dot: Dot = FMA) -> tuple[int, int, int]:
    """(output rows, output columns, vectors of filters) of the cheapest tile."""
    high, wide = _known(shape.out[1]), _known(shape.out[2])
    lanes = target.lanes(shape.dtype)
    vectors = -(-shape.filters // lanes)
    static = all(isinstance(d, int) for d in (*shape.out, *shape.into))
    found: list[tuple[float, tuple[int, int, int]]] = []
    for v in WIDTHS:
        most = min(most_rows(target, v, dot), MOST_TILE_ROWS)
        if v > vectors or most < 1:
            continue
        for w in {min(wide, most), -(-wide // -(-wide // most)), -(-wide // (-(-wide // most) + 1))}:
            for h in range(1, min(most // w, high, 4) + 1) if static else (1,):
                found.append((_sweep(target, shape, (h, w, v), (high, wide, vectors)), (h, w, v)))
    return min(found)[1]


def _sweep(target: Target, shape: Shape, tile: Three, whole: Three) -> float:
    """Cycles for all tiles of one image's plane."""
    pieces = [[(n // t, t), (1, n % t)] for n, t in zip(whole, tile, strict=True)]
    total = 0.0
    for many_v, v in pieces[2]:
        for many_h, h in pieces[0]:
            for many_w, w in pieces[1]:
                if v and h and w and many_v and many_h and many_w:
                    total += many_v * many_h * many_w * tile_cost(target, h * w, v, shape.depth)
    return total


def block_of(target: Target, shape: Shape, height: int, width: int) -> tuple[Dim, Dim]:
    """Output rows and columns of a task: enough tasks, a copied input that stays in L2, few rows copied twice."""
    per_row = 2 * _known(shape.out[2]) * shape.depth * shape.filters
    planes = _known(shape.images) * _known(shape.out[0]) * shape.groups if isinstance(shape.images, int) else 1
    high, wide = _known(shape.out[1]), _known(shape.out[2])
    wanted = max(1, min(MOST_TASKS // planes, per_row * high // TASK_FLOPS))
    room = target.l2_bytes // 3 // (shape.channels * shape.dtype.bytes * shape.kernel[0])
    columns: Dim = shape.out[2]
    if high == 1 or room < _known_span(shape, 2, wide) * _known_span(shape, 1, height):
        lines = _known_span(shape, 1, height)
        narrow = max(1, min(-(-wide // wanted), room // max(1, lines) // shape.strides[2]))
        narrow = max(width, -(-narrow // width) * width)
        columns = columns if isinstance(columns, int) and narrow >= columns else narrow
    wide = columns if isinstance(columns, int) else wide
    fits = max(1, (room // max(1, _known_span(shape, 2, wide)) - shape.kernel[1]) // shape.strides[1])
    rows = max(min(-(-high // wanted), fits), min(4, fits), height)
    rows = -(-rows // height) * height
    if isinstance(shape.out[1], int) and rows >= shape.out[1]:
        return max(shape.out[1], 1), _at_least_one(columns)
    return rows, _at_least_one(columns)


def _crowded(target: Target, shape: Shape) -> bool:
    """Whether the pixels of a tile lie so that few fit in the L1 cache together."""
    pixel = shape.x[3]
    step = shape.channels if shape.padded or not isinstance(pixel, int) else pixel
    return aliases(target, step * shape.strides[2] * shape.dtype.bytes)


def _at_least_one(dim: Dim) -> Dim:
    return max(dim, 1) if isinstance(dim, int) else dim_max(dim, 1)


def panels_of(shape: Shape, rows: Dim, columns: Dim, panels: int) -> int:
    """Panels of a task: all, unless the image gives too few tasks."""
    planes = _known(shape.images) * _known(shape.out[0]) * shape.groups
    tiles = -(-_known(shape.out[1]) // _known(rows)) * -(-_known(shape.out[2]) // _known(columns)) * planes
    flops = shape.flops if isinstance(shape.flops, int) else TASK_FLOPS * MOST_TASKS
    wanted = max(1, min(MOST_TASKS, flops // TASK_FLOPS))
    return -(-panels // min(panels, max(1, wanted // tiles)))
