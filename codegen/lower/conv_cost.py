"""Convolutions as the cost model sees them: their sizes, and which form, tile and blocks should be the fastest."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor, prod
from typing import Any

import numpy as np

from lepton.codegen.lower.matmul_cost import MOST_TASKS, READ_WORK, TASK_FLOPS, uneven, worth_tasks
from lepton.codegen.schedule import Schedule
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Three
from lepton.codegen.templates.depthwise import tile_width
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.fused import Strides
from lepton.codegen.templates.tiles import (
    L3_BYTES_PER_CYCLE,
    WIDTHS,
    Tile,
    aliases,
    candidates,
    most_rows,
    sweep_cost,
    tile_cost,
)
from lepton.codegen.templates.winograd import FILTER_TRANSFORM, OUTPUT, POINTS, TILE_TRANSFORM, profitable
from lepton.ir.dims import Dim, ceildiv, dim_max, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

UNKNOWN_OUTPUT = 56       # output rows and columns, where they are run-time sizes
DEPTHWISE_TASK_FLOPS = 400_000
DEPTHWISE_GRAIN_FLOPS = 150_000   # worth a thread: 1 us
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

    def joined(self, group: int) -> Shape:
        """The same with the taps of a row as channels of one tap, where these lie side by side in memory: if they fill
        groups of `group` elements better than the channels do (sound, above all), or if what comes of it is a product
        whose rows are those of many images, of few pixels each."""
        c, (deep, high, taps), (*steps, step) = self.channels, self.kernel, self.strides
        plain = self.groups == self.dilations[2] == 1 and self.pads[2] == 0 == self.pads_end[2]
        beside = self.x[3] == c and (c == 1 or self.x[4] == 1)
        if not plain or not beside or taps == 1 or taps * c % group:
            return self
        product_of_few = (deep, high, *steps, *self.out[1:]) == (1, 1, 1, 1, 1, 1)
        if c % group == 0 and not product_of_few:
            return self
        n, d, h, w, _ = self.x
        rows = np.moveaxis(self.weights, 1, -1).reshape(self.filters, deep, high, 1, taps * c)
        return replace(self, x=(n, d, h, w * step, 1), channels=taps * c, into=(*self.into[:2], self.out[2]),
                       kernel=(deep, high, 1), strides=(steps[0], steps[1], 1), weights=np.moveaxis(rows, -1, 1))

    def trimmed(self) -> Shape:
        """The same without the taps that only ever see padding: those of small images."""
        kernel, pads, pads_end, weights = list(self.kernel), list(self.pads), list(self.pads_end), self.weights
        for axis in range(3):
            n, out, p = self.into[axis], self.out[axis], self.pads[axis]
            if not (isinstance(n, int) and isinstance(out, int) and isinstance(p, int)):
                continue
            s, d = self.strides[axis], self.dilations[axis]
            seen = [t for t in range(self.kernel[axis]) if any(0 <= o * s - p + t * d < n for o in range(out))]
            if len(seen) in (0, self.kernel[axis]) or not np.isfinite(weights).all():
                continue
            first, last = seen[0], seen[-1]
            kernel[axis], pads[axis] = last - first + 1, p - first * d
            pads_end[axis] = max(0, (out - 1) * s - p + last * d - n + 1)
            weights = np.take(weights, range(first, last + 1), axis + 2)
        return replace(self, kernel=(kernel[0], kernel[1], kernel[2]), pads=(pads[0], pads[1], pads[2]),
                       pads_end=(pads_end[0], pads_end[1], pads_end[2]), weights=weights)

    def in_groups(self, group: int) -> Shape:
        """Of narrow elements, the same with a group of adjacent channels in the place of each float."""
        return replace(self, dtype=DType.F32, channels=-(-self.channels // group),
                       x=tuple(s // group if isinstance(s, int) else s for s in self.x))

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


def blocking(target: Target, shape: Shape, schedule: Schedule) -> Blocking:
    """What follows from the schedule of a direct convolution."""
    height, width, vectors = schedule.tile
    rows, columns, each = schedule.block
    assert isinstance(each, int)
    panels = -(-shape.filters // (vectors * target.lanes(shape.dtype)))
    tasks = product((shape.images, shape.groups, shape.out[0], ceildiv(shape.out[1], rows),
                     ceildiv(shape.out[2], columns), -(-panels // each)))
    spans = (shape.kernel[0], _span(shape, 1, rows), _span(shape, 2, columns))
    return Blocking((height, width), vectors, (rows, columns), each, spans, tasks, _crowded(target, shape))


def direct_schedule(target: Target, shape: Shape, dot: Dot = FMA) -> Schedule:
    """What the cost model takes. Of narrow elements, the shape's channels are groups of them."""
    shape = shape.thinned()
    return with_direct_blocks(target, shape, tile_of(target, shape, dot))


def with_direct_blocks(target: Target, shape: Shape, tile: Three) -> Schedule:
    """The best blocks for a tile."""
    most, columns = block_of(target, shape, tile[0], tile[1])
    panels = -(-shape.filters // (tile[2] * target.lanes(shape.dtype)))

    def block(rows: Dim) -> tuple[Dim, Dim, int]:
        return rows, columns, panels_of(shape, rows, columns, panels)

    if not isinstance(most, int):
        return Schedule("direct", tile, block(most))
    fewer = (rows for rows in range(tile[0], most, tile[0]) if 2 * rows > most)
    best = min((block(rows) for rows in (most, *fewer)), key=lambda b: waste(shape, b, panels))
    return Schedule("direct", tile, best)


def waste(shape: Shape, block: tuple[Dim, Dim, int], panels: int) -> float:
    """What a direct convolution's blocks add to its work, as a share: threads that wait for others, and rows of input
    that several blocks copy."""
    rows, columns, each = block
    lines, high, wide = known(rows), known(shape.out[1]), known(shape.out[2])
    planes = known(shape.images) * known(shape.out[0]) * shape.groups
    again = known_span(shape, 1, lines) - lines * shape.strides[1]
    copied = again * known(shape.into[2]) * shape.channels * READ_WORK
    return (uneven(planes, high / lines, wide / known(columns), panels / each)
            + max(0, copied) / (2 * lines * wide * shape.depth * shape.filters))


def winograd_schedule(target: Target, shape: Shape) -> Schedule:
    """What the cost model takes."""
    images = shape.images if isinstance(shape.images, int) else 1
    high, wide = (-(-known(d) // OUTPUT) for d in shape.out[1:])
    rows, tile = _winograd_cut(target, shape.dtype, images, (high, wide), shape.channels, shape.filters)
    return with_winograd_blocks(target, shape, tile, rows)


def with_winograd_blocks(target: Target, shape: Shape, tile: Tile, rows: int) -> Schedule:
    """As many panels of filters a task as leave enough tasks."""
    images = shape.images if isinstance(shape.images, int) else 1
    panels = shape.filters / (tile.vectors * target.lanes(shape.dtype))
    groups = -(-known(shape.out[1]) // OUTPUT) / rows
    return Schedule("winograd", (tile.rows, tile.vectors), (rows, _panels_of_task(images, groups, panels)[1]))


@cache
def _winograd_cut(target: Target, dtype: DType, images: int, grid: tuple[int, int], channels: int,
                  filters: int) -> tuple[int, Tile]:
    """Rows of tiles of a group, and the tile of its products: what takes the fewest cycles, among them those of threads
    that wait for others."""
    high, wide = grid
    lanes = target.lanes(dtype)
    transforms = channels * (FILTER_TRANSFORM * filters + TILE_TRANSFORM * images * high * wide) / (2 * lanes)
    found: list[tuple[float, int, int, int]] = []
    for rows in sorted({-(-high // groups) for groups in range(1, high + 1)}):
        for tile in candidates(target, rows * wide, MOST_TILE_ROWS):
            if tile.vectors * lanes >= filters + lanes:
                continue
            waiting, each = _panels_of_task(images, high / rows, filters / (tile.vectors * lanes))
            products = POINTS * images * high / rows * sweep_cost(target, tile, rows * wide, filters, channels, dtype)
            groups = images * -(-high // rows)
            columns = channels + each * tile.vectors * lanes
            moved = groups * _moved(target, POINTS * rows * wide * columns * dtype.bytes)
            if groups > 1:     # filters are transformed by a step of their own
                moved += POINTS * channels * filters * dtype.bytes / L3_BYTES_PER_CYCLE
            found.append(((transforms + products + moved) * (1 + waiting), -rows, tile.rows, tile.vectors))
    _, rows, *sides = min(found)
    return -rows, Tile(*sides)


def _panels_of_task(images: int, groups: float, panels: float) -> tuple[float, int]:
    """(what waiting threads add, panels of filters of a task) where groups of tile rows alone make too few tasks.
    `panels`: a fraction where the last one is narrower."""
    count = ceil(panels)
    least = min(count, -(-WINOGRAD_TASKS // (images * max(1, floor(groups)))))
    cuts = {-(-count // blocks) for blocks in range(least, min(count, 2 * least) + 1)}
    waste, most = min((uneven(images, groups, panels / each), -each) for each in cuts)
    return waste, -most


def _moved(target: Target, size: int) -> float:
    """Cycles to write what of a group's tiles does not stay in L2, and to read it again."""
    return 2 * max(0, size - target.l2_bytes * 3 // 4) / L3_BYTES_PER_CYCLE


def depthwise_schedule(target: Target, shape: Shape) -> Schedule:
    """What the cost model takes."""
    line = 2 * known(shape.out[2]) * shape.groups * shape.depth
    block = max(1, min(-(-known(shape.out[1]) // 4), DEPTHWISE_TASK_FLOPS // line))
    wide = shape.out[2] if isinstance(shape.out[2], int) else UNKNOWN_OUTPUT
    most = tile_width(target, shape.kernel[2])
    return Schedule("depthwise", (-(-wide // -(-wide // most)) if wide else 1,), (block,))


def suits_winograd(shape: Shape) -> bool:
    """Whether this is a 3x3 convolution of a known size that gains from Winograd's form."""
    return can_winograd(shape) and profitable((known(shape.out[1]), known(shape.out[2])), shape.channels, shape.filters)


def can_winograd(shape: Shape) -> bool:
    """Whether this is a 3x3 convolution of a known size."""
    sizes = (*shape.out[1:], *shape.into[1:], *shape.pads[1:])
    plain = (shape.kernel, shape.strides, shape.dilations, shape.groups) == ((1, 3, 3), (1, 1, 1), (1, 1, 1), 1)
    return plain and shape.pads[0] == 0 and shape.x[4] == 1 and all(isinstance(d, int) for d in sizes)


def _span(shape: Shape, axis: int, outputs: Dim) -> Dim:
    return (outputs - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilations[axis] + 1


def known_span(shape: Shape, axis: int, outputs: int) -> int:
    return (outputs - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilations[axis] + 1


def known(dim: Dim) -> int:
    return max(dim, 1) if isinstance(dim, int) else UNKNOWN_OUTPUT


def tile_of(target: Target, shape: Shape, dot: Dot = FMA) -> Three:
    """(output rows, output columns, vectors of filters) of the cheapest tile."""
    return min((sweep(target, shape, t, whole(target, shape)), t)
               for t in direct_tiles(target, shape, dot, MOST_TILE_ROWS, 4))[1]


def whole(target: Target, shape: Shape) -> Three:
    """Output rows and columns, vectors of filters."""
    return known(shape.out[1]), known(shape.out[2]), -(-shape.filters // target.lanes(shape.dtype))


def direct_tiles(target: Target, shape: Shape, dot: Dot, limit: int, deepest: int) -> list[Three]:
    """Tiles of at most `limit` pixels that registers allow and that divide rows of pixels well."""
    high, wide, vectors = whole(target, shape)
    static = all(isinstance(d, int) for d in (*shape.out, *shape.into))
    found: list[Three] = []
    for v in WIDTHS:
        most = min(most_rows(target, v, dot), limit)
        if v > vectors or most < 1:
            continue
        for w in {min(wide, most), -(-wide // -(-wide // most)), -(-wide // (-(-wide // most) + 1))}:
            found += [(h, w, v) for h in (range(1, min(most // w, high, deepest) + 1) if static else (1,))]
    return found


def sweep(target: Target, shape: Shape, tile: Three, whole: Three) -> float:
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
    per_row = 2 * known(shape.out[2]) * shape.depth * shape.filters
    planes = known(shape.images) * known(shape.out[0]) * shape.groups if isinstance(shape.images, int) else 1
    high, wide = known(shape.out[1]), known(shape.out[2])
    wanted = max(1, min(MOST_TASKS // planes, worth_tasks(per_row * high)))
    room = target.l2_bytes // 3 // (shape.channels * shape.dtype.bytes * shape.kernel[0])
    columns: Dim = shape.out[2]
    if high == 1 or room < known_span(shape, 2, wide) * known_span(shape, 1, height):
        lines = known_span(shape, 1, height)
        narrow = max(1, min(-(-wide // wanted), room // max(1, lines) // shape.strides[2]))
        narrow = max(width, -(-narrow // width) * width)
        columns = columns if isinstance(columns, int) and narrow >= columns else narrow
    wide = columns if isinstance(columns, int) else wide
    fits = max(1, (room // max(1, known_span(shape, 2, wide)) - shape.kernel[1]) // shape.strides[1])
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
    planes = known(shape.images) * known(shape.out[0]) * shape.groups
    tiles = -(-known(shape.out[1]) // known(rows)) * -(-known(shape.out[2]) // known(columns)) * planes
    flops = shape.flops if isinstance(shape.flops, int) else TASK_FLOPS * MOST_TASKS
    wanted = max(1, min(MOST_TASKS, worth_tasks(flops)))
    return -(-panels // min(panels, max(1, wanted // tiles)))
