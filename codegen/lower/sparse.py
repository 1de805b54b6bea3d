"""Whether weights with many zeros run faster by their pattern, and the kernel that does so.

What counts is a whole row of a panel: one input times a vector's worth of filters. Blocks of 16 outputs by one input
(of AVX-512's lanes; 8 on AVX2) leave such rows empty. Zeros that are scattered do so rarely; products then have lists
(scattered.py). What is not multiplied
cannot make an infinity a NaN: strict math keeps to the dense kernels.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.lower.conv import pixels
from lepton.codegen.lower.conv_cost import (
    Shape,
    block_of,
    known,
    panels_of,
    suits_winograd,
    sweep,
    tile_of,
)
from lepton.codegen.lower.matmul import grain_of
from lepton.codegen.lower.matmul_cost import UNKNOWN_ROWS, Problem
from lepton.codegen.lower.matmul_cost import tile_of as product_tile
from lepton.codegen.lower.scattered import scattered_kernel, tiling
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Window
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Epilogue
from lepton.codegen.templates.fused import Bindings, Fused, outer
from lepton.codegen.templates.quads import Zero
from lepton.codegen.templates.sparse import SparseConvolution, active_rows, pack_sparse
from lepton.codegen.templates.tiles import CALL, L3_BYTES_PER_CYCLE, LATENCY, aliases, most_rows, sweep_cost
from lepton.codegen.templates.winograd import saving
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

DENSE_FROM = 0.75      # of the weights not zero: not worth a look
LEAST = 4096           # weights; fewer take no time
GAIN = 0.9             # of the dense kernel's time that the sparse one must stay below
WINOGRAD = 0.9         # of what Winograd's form should save is saved
TURN = 1.0             # cycles that the list costs a turn
GAP = 64               # bytes between copied pixels, so that few share a set of the cache


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a sparse kernel multiplies: [K, N] in the order in which the input is walked, of floats or of the groups
    that `dot` takes; [N] what the sums start from, where they do not from 0."""

    matrix: Array
    dot: Dot = FMA
    start: Array | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A tile of (output rows, columns, vectors of filters) and what it is thought to cost, in cycles."""

    cost: float
    tile: tuple[int, int, int]


def sparse_conv(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value) -> Kernel | None:
    """The kernel of a convolution, None where the dense one is faster or the walk is not known when compiling."""
    spread = shape.x[4] != 1 and shape.channels > 1
    if options.math == "strict" or shape.groups != 1 or spread or not has_zeros(shape.weights):
        return None
    shape = shape.thinned()
    if shape.pointwise:
        return sparse_matmul(group, options, fused, pixels(shape), x)
    return sparse_kernel(group, options, shape, x, Rows(matrix_of(shape)), GAIN * direct_cost(options, shape),
                         lambda bindings: fused.epilogue(bindings, shape.views))


def sparse_matmul(group: Group, options: LowerOptions, fused: Fused, problem: Problem, x: Value) -> Kernel | None:
    """The kernel of a product with a constant matrix, by panels or by lists; None where the dense one is faster."""
    dtype, weights = x.tensor.dtype, problem.weights
    if options.math == "strict" or weights is None or problem.a[-1] != 1 or not has_zeros(weights):
        return None
    lists = tiling(options.target, problem, weights, dtype)
    limit = GAIN * product_cost(options.target, problem, dtype)
    if (shape := of_problem(problem, dtype)) is not None:
        rival, views = min(limit, lists.cost) * known(shape.out[1]), shape.views
        kernel = sparse_kernel(group, options, shape, x, Rows(matrix_of(shape)), rival,
                               lambda bindings: fused.epilogue(bindings, views))
        if kernel is not None:
            return kernel
    return scattered_kernel(group, options, fused, problem, x, lists) if lists.cost <= limit else None


def has_zeros(weights: Array, least: int = LEAST) -> bool:
    return weights.size >= least and int(np.count_nonzero(weights)) <= DENSE_FROM * weights.size


def of_problem(problem: Problem, dtype: DType) -> Shape | None:
    """A product as a convolution of a row of pixels; None for too many batch axes."""
    batch, room = problem.batch, 3 - len(problem.batch)
    if room < 0 or problem.weights is None:
        return None

    def axes(strides: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return (*(0,) * room, *strides)

    sizes: list[Dim] = [*[1] * room, *batch]
    n, d, h = sizes
    k, columns = problem.weights.shape
    ones = (1, 1, 1)
    return Shape(dtype, n, (d, h, problem.m), (d, h, problem.m), 1, k, columns, ones, ones, ones, (0, 0, 0), (0, 0, 0),
                 axes(problem.a), [axes(v) for v in problem.views], problem.weights.T.reshape(columns, k, 1, 1, 1))


def direct_cost(options: LowerOptions, shape: Shape) -> float:
    """Cycles of the dense convolution of one image's plane."""
    target = options.target
    whole = (known(shape.out[1]), known(shape.out[2]), -(-shape.filters // target.lanes(shape.dtype)))
    cost = sweep(target, shape, tile_of(target, shape), whole)
    if not options.winograd or not suits_winograd(shape):
        return cost
    return cost / (WINOGRAD * saving((whole[0], whole[1]), shape.channels, shape.filters))


def product_cost(target: Target, problem: Problem, dtype: DType, dot: Dot = FMA) -> float:
    """Cycles of the dense product of one batch entry. Of narrow elements, k counts groups of them."""
    rows = max(problem.m, 1) if isinstance(problem.m, int) else UNKNOWN_ROWS
    n, k = (d if isinstance(d, int) else 1 for d in (problem.n, problem.k))
    return sweep_cost(target, product_tile(target, problem, dtype, dot), rows, n, k, dtype)


# --- the choice -----------------------------------------------------------------------------------


def matrix_of(shape: Shape) -> Array:
    """[taps * channels, filters] in the order in which the input is walked."""
    return np.ascontiguousarray(np.transpose(shape.weights, (2, 3, 4, 1, 0)).reshape(-1, shape.filters))


def choose(target: Target, shape: Shape, rows: Rows) -> Choice | None:
    """The cheapest tile for the pattern; of narrow elements, the shape counts groups of them."""
    lanes = target.lanes(shape.dtype)
    high, wide = known(shape.out[1]), known(shape.out[2])
    found: list[Choice] = []
    for vectors in (1, 2, 4):
        if (vectors - 1) * lanes >= shape.filters:
            continue
        active, row = active_rows(rows.matrix, vectors * lanes), vectors * target.vector_bytes
        for h, w in tiles(target, shape, vectors, rows.dot):
            once = h >= high and w >= wide
            cost = sum(many * (turn(y * x, vectors, row if once else 0) * int(active.sum()) +
                               (CALL + y * x * vectors) * active.shape[1])
                       for many, y, x in pieces((high, wide), (h, w)))
            found.append(Choice(cost, (h, w, vectors)))
    return min(found, key=lambda c: c.cost, default=None)


def tiles(target: Target, shape: Shape, vectors: int, dot: Dot) -> Iterator[tuple[int, int]]:
    """Rows and columns worth trying."""
    most, (high, wide) = highest(target, vectors, dot), (known(shape.out[1]), known(shape.out[2]))
    if most < 1:
        return
    static = all(isinstance(d, int) for d in (*shape.out, *shape.into))
    for w in sorted({min(wide, most), -(-wide // -(-wide // most))}):
        for h in range(1, min(most // w, high, 4) + 1) if static else (1,):
            yield h, w


def highest(target: Target, vectors: int, dot: Dot) -> int:
    """Rows of a tile that registers allow. Of bytes without instructions of three operands (SSE) LLVM moves loads up,
    and fewer fit."""
    most = most_rows(target, vectors, dot)
    return most if target.fma or dot.group == 1 else min(most, 6 // vectors)


def pieces(whole: tuple[int, int], tile: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """(how many, rows, columns) of the tiles that cover a plane."""
    down, across = ([(n // t, t), (1, n % t)] for n, t in zip(whole, tile, strict=True))
    for many_h, h in down:
        for many_w, w in across:
            if many_h * many_w * h * w:
                yield many_h * many_w, h, w


def turn(pixels: int, vectors: int, once: int) -> float:
    """Cycles for one input of a tile: products, loads, or so many bytes of weights that are read only once."""
    return max(pixels * vectors / 2, (pixels + vectors + 1) / 2, LATENCY, once / L3_BYTES_PER_CYCLE) + TURN


# --- the kernel -----------------------------------------------------------------------------------


def sparse_kernel(group: Group, options: LowerOptions, shape: Shape, x: Value, rows: Rows, limit: float,
                  epilogue: Callable[[Bindings], Epilogue],
                  fill: Callable[[Bindings], Zero] | None = None) -> Kernel | None:
    """The kernel that skips empty rows of panels; None if it takes more than so many cycles."""
    dot, target = rows.dot, options.target
    like = shape if dot.group == 1 else shape.in_groups(dot.group)
    choice = choose(target, like, rows)
    if choice is None or choice.cost > limit:
        return None
    high, wide, vectors = choice.tile
    block = block_of(target, like, high, wide)
    if (reading := reading_of(target, shape, like, block, dot.group)) is None:
        return None
    offsets = np.tile(reading.offsets, len(rows.matrix) // len(reading.offsets))
    packing = pack_sparse(rows.matrix, offsets, target.lanes(like.dtype), vectors, rows.start)
    panels = len(packing.table)
    each = panels_of(like, *block, panels)
    bindings = Bindings()
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    behind, border = epilogue(bindings), fill(bindings) if fill else None
    weights, places, table = (bindings.buffer(packed(a)) for a in (packing.weights, packing.offsets, packing.table))
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads, *block))
    out, into, pads, cut = rest[:3], rest[3:6], rest[6:9], rest[9:]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    body = SparseConvolution(
        shape.dtype if dot.group == 1 else dot.sums, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), 1,
        shape.channels, shape.filters, window, view, weights, behind, (high, wide), vectors, (cut[0], cut[1]), each,
        reading.copied, False, reading.gap, dot, fill=border, offsets=places, table=table)
    tasks = product((shape.images, shape.out[0], ceildiv(shape.out[1], block[0]), ceildiv(shape.out[2], block[1]),
                     -(-panels // each)))
    turns = product((shape.images, *shape.out, 2 * packing.weights.size))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, reading.scratch,
                  grain_of(turns, tasks), dot.group * turns, group.outputs)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How a kernel reads its input: where it lies, or a copy in so many bytes of scratch with a gap behind each pixel;
    [taps * groups of channels] bytes from a window's first element, in the order of `matrix_of`."""

    copied: bool
    gap: int
    scratch: Dim
    offsets: Array


def reading_of(target: Target, shape: Shape, like: Shape, block: tuple[Dim, Dim], group: int) -> Reading | None:
    """`like`: the shape with groups of channels in the place of each. None where the walk is not known when compiling,
    or lists of 32 bits cannot hold it."""
    size = shape.dtype.bytes
    crowded = aliases(target, pitch) if isinstance(pitch := _pitch(like), int) else False
    copied, gap = shape.padded or crowded or shape.channels % group != 0, GAP // size if crowded else 0
    pixel = like.channels * group + gap
    spans = (shape.kernel[0], span(shape, 1, block[0]), span(shape, 2, block[1]))
    walk: tuple[Dim, ...] = (shape.x[1] * shape.dilations[0], *shape.x[2:])   # a copy holds only planes that are read
    if copied:
        walk = (spans[1] * spans[2] * pixel, spans[2] * pixel, pixel, 1)
    known = [w for w in walk if isinstance(w, int)]
    if len(known) < 4:
        return None
    d, h, w, c = np.ogrid[:shape.kernel[0], :shape.kernel[1], :shape.kernel[2], :like.channels]
    plane, line, step, channel = known
    taps = d * plane + h * shape.dilations[1] * line + w * shape.dilations[2] * step
    offsets = np.asarray((taps + c * group * channel) * size).reshape(-1)
    if np.abs(offsets).max() >= 2**31:
        return None
    return Reading(copied, gap, product((*spans, pixel * size)) if copied else 0, offsets)


def _pitch(shape: Shape) -> Dim:
    """Bytes between the pixels of a tile."""
    step: Dim = shape.channels if shape.padded else shape.x[3]
    return step * shape.strides[2] * shape.dtype.bytes


def span(shape: Shape, axis: int, outputs: Dim) -> Dim:
    """Input positions under adjacent windows."""
    return (outputs - 1) * shape.strides[axis] + (shape.kernel[axis] - 1) * shape.dilations[axis] + 1
