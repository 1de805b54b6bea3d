"""What object detectors end with: NonMaxSuppression and RoiAlign, from sorting, gathering and a loop."""
from __future__ import annotations

from itertools import product

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType, TensorType

_FINEST = 4096  # sampling points of RoiAlign along an axis

# --- NonMaxSuppression ----------------------------------------------------------------------------


@imports("NonMaxSuppression", since=10)
def non_max_suppression(c: Call) -> Value:
    """boxes [B,N,4], scores [B,C,N] -> i64[k,3] of (batch, class, box), best first within each class.

    All classes at once: boxes in order of score; then, round by round, the next box that is still there drops the
    later ones that overlap it too much."""
    boxes, scores = c.ranked(0, 3), c.ranked(1, 3)
    batch, classes, count = scores.tensor.shape
    values, order = c.multi(ops.top_k, scores, k=count, axis=2)
    corners = _corners(c, boxes)
    corners = [_sorted(c, v, order) for v in corners]
    threshold = c.reshape(c.x(4), ()) if c.opt(4) is not None else None
    kept = c(ops.broadcast_to, c.const(True), shape=(batch, classes, count))
    if threshold is not None:
        kept = c(ops.greater, values, threshold)
    overlap = c.reshape(c.x(3), ()) if c.opt(3) is not None else c.const(0.0, DType.F32)
    kept = _suppressed(c, kept, corners, overlap, count)
    limit = c.cast(c.reshape(c.x(2), ()), DType.I64) if c.opt(2) is not None else c.const(0, DType.I64)
    rank = c(ops.cumsum, c.cast(kept, DType.I64), axis=2)
    kept = c(ops.logical_and, kept, c(ops.less_equal, rank, limit))
    return _chosen(c, kept, order)


def _corners(c: Call, boxes: Value) -> list[Value]:
    """[low y, low x, high y, high x] of [B,N,4], each [B,N]; the corners may come in any order."""
    parts = [c(ops.gather, boxes, c.const(k, DType.I64), axis=2) for k in range(4)]
    if c.flag("center_point_box"):
        x, y, width, height = parts
        half = c.like(0.5, x)
        w, h = c(ops.mul, width, half), c(ops.mul, height, half)
        return [c(ops.sub, y, h), c(ops.sub, x, w), c(ops.add, y, h), c(ops.add, x, w)]
    y1, x1, y2, x2 = parts
    return [c(ops.minimum, y1, y2), c(ops.minimum, x1, x2), c(ops.maximum, y1, y2), c(ops.maximum, x1, x2)]


def _sorted(c: Call, v: Value, order: Value) -> Value:
    """[B,N] in the order [B,C,N] of each class."""
    shape = order.tensor.shape
    wide = c(ops.broadcast_to, c.reshape(v, (shape[0], 1, shape[2])), shape=shape)
    return c(ops.gather_elements, wide, order, axis=2)


def _suppressed(c: Call, kept: Value, corners: list[Value], overlap: Value, count: Dim) -> Value:
    """The loop over the boxes, best first."""
    captures = [*corners, overlap]
    i, going = Value(TensorType(DType.I64, ()), name="i"), Value(TensorType(DType.BOOL, ()), name="going")
    alive = Value(kept.type, name="kept")
    inner = [Value(v.type) for v in captures]
    top, left, bottom, right = inner[:4]

    def area(y1: Value, x1: Value, y2: Value, x2: Value) -> Value:
        return c(ops.mul, c(ops.sub, y2, y1), c(ops.sub, x2, x1))

    def one(v: Value) -> Value:
        return c.reshape(c(ops.gather, v, i, axis=2), (*v.tensor.shape[:2], 1))

    mine = [one(v) for v in inner[:4]]
    zero = c.like(0.0, top)
    high = c(ops.maximum, c(ops.sub, c(ops.minimum, bottom, mine[2]), c(ops.maximum, top, mine[0])), zero)
    wide = c(ops.maximum, c(ops.sub, c(ops.minimum, right, mine[3]), c(ops.maximum, left, mine[1])), zero)
    common = c(ops.mul, high, wide)
    both = c(ops.sub, c(ops.add, area(*mine), area(top, left, bottom, right)), common)
    much = c(ops.logical_and, c(ops.greater, common, c(ops.mul, inner[4], both)), c(ops.greater, common, zero))
    later = c(ops.greater, c(ops.iota, size=count, dtype=DType.I64), i)
    drop = c(ops.logical_and, c(ops.logical_and, much, later), one(alive))
    left_over = c(ops.logical_and, alive, c(ops.logical_not, drop))
    body = Graph.of("suppress", [i, going, alive, *inner], [going, left_over])
    return c(ops.loop_, c.size(count), c.const(True), kept, *captures, carried=1, symbols=(), regions=[body])


def _chosen(c: Call, kept: Value, order: Value) -> Value:
    """i64[k,3] of the places that are kept, with the box's own number in place of its rank."""
    found = c(ops.non_zero, kept, symbol=c.fresh("boxes"))
    k = found.tensor.shape[1]
    rows = c(ops.transpose, found, perm=(1, 0))
    box = c.reshape(c(ops.gather_nd, order, rows), (k, 1))
    head = c(ops.slice_, rows, starts=(0, 0), sizes=(k, 2), steps=(1, 1))
    return c(ops.concat, head, box, axis=1)


# --- RoiAlign -------------------------------------------------------------------------------------


@imports("RoiAlign", since=10)
def roi_align(c: Call) -> Value:
    """x [N,C,H,W], regions [R,4] (x1,y1,x2,y2) of images [R] -> [R,C,rows,columns]: the mean (or largest weighted
    neighbour) of `sampling_ratio`² points in each cell."""
    x, regions = c.ranked(0, 4), c.ranked(1, 2)
    grid, rows, columns = c.i("sampling_ratio", 0), c.positive("output_height", 1), c.positive("output_width", 1)
    mode, dtype = c.s("mode", "avg"), x.tensor.dtype
    kind = c.s("coordinate_transformation_mode", "half_pixel") if c.opset >= 16 else "output_half_pixel"
    if grid < 1:
        c.fail("sampling_ratio=0 (as many points as data asks for)", help="export with a positive sampling_ratio")
    if max(rows, columns) * grid > _FINEST:
        c.fail(f"{rows} x {columns} cells of {grid} x {grid} points")
    if mode not in ("avg", "max") or kind not in ("half_pixel", "output_half_pixel"):
        raise LeptonError(f"mode {mode!r}, coordinates {kind!r}", where=c.where)
    scale, shift = c.const(c.f("spatial_scale", 1.0), dtype), c.const(0.5 if kind == "half_pixel" else 0.0, dtype)
    x1, y1, x2, y2 = (c(ops.sub, c(ops.mul, c(ops.gather, regions, c.const(k, DType.I64), axis=1), scale), shift)
                      for k in range(4))
    count, channels, (height, width) = regions.tensor.shape[0], x.tensor.shape[1], x.tensor.shape[2:]
    down = _points(c, y1, y2, rows, grid, height, kind == "half_pixel")
    across = _points(c, x1, x2, columns, grid, width, kind == "half_pixel")
    images = c.reshape(c(ops.gather, x, c.cast(c.ranked(2, 1), DType.I64), axis=0),
                       (count, channels, dims.product([height, width])))
    terms = [_term(c, images, a, b, width) for a, b in product(down, across)]
    shape = (count, channels, rows, grid, columns, grid)
    total = terms[0]
    for term in terms[1:]:
        total = c(ops.add if mode == "avg" else ops.maximum, total, term)
    cells = c.reshape(total, shape)
    return c(ops.reduce_mean if mode == "avg" else ops.reduce_max, cells, axes=(3, 5), keepdims=False)


def _points(c: Call, begin: Value, end: Value, cells: int, grid: int, size: Dim, half_pixel: bool) -> list[
        tuple[Value, Value]]:
    """(index, weight), [R, cells*grid] each, of the neighbours below and above of every sampling point of an axis."""
    dtype, count = begin.tensor.dtype, begin.tensor.shape[0]
    extent = c(ops.sub, end, begin)
    extent = extent if half_pixel else c(ops.maximum, extent, c.const(1.0, dtype))
    places = [(cell + (k + 0.5) / grid) / cells for cell in range(cells) for k in range(grid)]
    spread = c(ops.mul, c.reshape(extent, (count, 1)), c.const(places, dtype))
    at = c(ops.add, c.reshape(begin, (count, 1)), spread)
    zero, length = c.const(0.0, dtype), c.size(size, dtype)
    inside = c(ops.logical_and, c(ops.greater_equal, at, c.const(-1.0, dtype)), c(ops.less_equal, at, length))
    last = c(ops.sub, length, c.const(1.0, dtype))
    at = c(ops.clip, at, zero, last)
    low = c(ops.floor, at)
    high = c(ops.minimum, c(ops.add, low, c.const(1.0, dtype)), last)
    there = c.cast(inside, dtype)
    above = c(ops.sub, at, low)
    weights = (c(ops.sub, c.const(1.0, dtype), above), above)
    return [(c.cast(place, DType.I64), c(ops.mul, w, there)) for place, w in zip((low, high), weights, strict=True)]


def _term(c: Call, images: Value, down: tuple[Value, Value], across: tuple[Value, Value], width: Dim) -> Value:
    """One neighbour of every point, weighed: [R,C,points]."""
    count, channels = images.tensor.shape[:2]
    (i, u), (j, v) = down, across
    m, n = i.tensor.shape[1], j.tensor.shape[1]
    points = dims.product([m, n])

    def cross(a: Value, b: Value) -> tuple[Value, Value]:
        return c.reshape(a, (count, m, 1)), c.reshape(b, (count, 1, n))

    first, second = cross(i, j)
    index = c.reshape(c(ops.add, c(ops.mul, first, c.size(width)), second), (count, 1, points))
    weight = c.reshape(c(ops.mul, *cross(u, v)), (count, 1, points))
    found = c(ops.gather_elements, images, c(ops.broadcast_to, index, shape=(count, channels, points)), axis=2)
    return c(ops.mul, found, weight)


# --- TensorScatter --------------------------------------------------------------------------------


@imports("TensorScatter", since=24)
def tensor_scatter(c: Call) -> Value:
    """A cache [B,…,T,…] with an update [B,…,S,…] written from `write_indices` [B] on, round and round if circular."""
    cache, update, mode = c.x(0), c.x(1), c.s("mode", "linear")
    rank = cache.tensor.rank
    axis = c.axis(-2)
    if mode not in ("linear", "circular") or update.tensor.rank != rank or axis == 0:
        raise LeptonError(f"mode {mode!r}, axis {axis}, {cache.tensor} and {update.tensor}", where=c.where)
    shape = update.tensor.shape
    own = [d if a == axis else 1 for a, d in enumerate(shape)]
    steps = c.reshape(c(ops.iota, size=shape[axis], dtype=DType.I64), own)
    if c.opt(2) is not None:
        begin = c.reshape(c.cast(c.ranked(2, 1), DType.I64), (shape[0], *[1] * (rank - 1)))
        steps = c(ops.add, steps, begin)
    if mode == "circular":
        steps = c(ops.mod, steps, c.size(cache.tensor.shape[axis]))
    return c(ops.scatter_elements, cache, c(ops.broadcast_to, steps, shape=shape), update, axis=axis)
