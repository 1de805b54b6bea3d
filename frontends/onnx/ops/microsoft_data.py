"""ONNX Runtime's own operators on shapes, indices and images, many of them from before ONNX had them."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.index import gather_nd
from lepton.frontends.onnx.ops.movement import pad, trilu
from lepton.frontends.onnx.ops.sample import grid_sample
from lepton.frontends.onnx.ops.shape import range_
from lepton.frontends.onnx.ops.sorting import distinct
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_MS = "com.microsoft"
I64 = DType.I64

imports("GatherND", domain=_MS)(gather_nd)
imports("GridSample", domain=_MS)(grid_sample)
imports("Pad", domain=_MS)(pad)
imports("Trilu", domain=_MS)(trilu)


@imports("Range", domain=_MS)
def range_by_one(c: Call) -> Value:
    """start, start + delta, …; without a delta by 1."""
    if c.opt(2) is None:
        c.inputs = (*c.inputs[:2], c.like(1, c.x(0)))
    return range_(c)


@imports("ExpandDims", domain=_MS)
def expand_dims(c: Call) -> Value:
    x = c.x()
    (axis,) = c.axes_of((c.int_in(1, "the axis"),), x.tensor.rank + 1)
    shape = x.tensor.shape
    return c.reshape(x, (*shape[:axis], 1, *shape[axis:]))


@imports("Unique", domain=_MS)
def unique(c: Call) -> list[Value]:
    """(the different elements in order of appearance, which one each place holds, how often each occurs)"""
    values, _, inverse, counts = distinct(c, c.ranked(0, 1), 0, in_order=False)
    return [values, inverse, counts]


@imports("CDist", domain=_MS)
def cdist(c: Call) -> Value:
    """Distances [M,K] between the rows of [M,N] and [K,N]."""
    a, b = c.ranked(0, 2), c.ranked(1, 2)
    metric = c.s("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        c.fail(f"metric {metric!r}")
    apart = c(ops.sub, c.reshape(a, (a.tensor.shape[0], 1, a.tensor.shape[1])), c.reshape(b, (1, *b.tensor.shape)))
    squares = c(ops.reduce_sum, c(ops.mul, apart, apart), axes=(2,), keepdims=False)
    return c(ops.sqrt, squares) if metric == "euclidean" else squares


@imports("UnfoldTensor", domain=_MS)
def unfold(c: Call) -> Value:
    """All pieces of `size` elements along an axis, `step` apart, on a new last axis."""
    x, size, step = c.x(), c.positive("size", REQUIRED), c.positive("step", 1)
    axis = c.axis(-1, name="dim")
    shape = x.tensor.shape
    count = dims.floordiv(shape[axis] - size, step) + 1
    first = c(ops.mul, c(ops.iota, size=count, dtype=I64), c.const(step, I64))
    at = c(ops.add, c.reshape(first, (count, 1)), c(ops.iota, size=size, dtype=I64))
    pieces = c(ops.gather, x, at, axis=axis)  # […, count, size, …]
    order = (*range(axis + 1), *range(axis + 2, len(shape) + 1), axis + 1)
    return c(ops.transpose, pieces, perm=order) if order != tuple(range(len(shape) + 1)) else pieces


@imports("NGramRepeatBlock", domain=_MS)
def ngram_repeat_block(c: Call) -> Value:
    """Scores [B,V], minus infinity for each token that would repeat n tokens that stand in ids [B,S] already."""
    n, ids, scores = c.positive("ngram_size", REQUIRED), c.cast(c.ranked(0, 2), I64), c.ranked(1, 2)
    batch, length = ids.tensor.shape
    count = length - n + 1
    if isinstance(count, int) and count < 1:
        return scores

    def window(k: int) -> Value:
        return c(ops.slice_, ids, starts=(0, k), sizes=(batch, count), steps=(1, 1))

    same = c(ops.broadcast_to, c.const(True), shape=(batch, count))
    for k in range(n - 1):
        last = c(ops.slice_, ids, starts=(0, length - n + 1 + k), sizes=(batch, 1), steps=(1, 1))
        same = c(ops.logical_and, same, c(ops.equal, window(k), last))
    hit = c(ops.where, same, c.const(1, DType.I32), c.const(0, DType.I32))
    zeros = c(ops.broadcast_to, c.const(0, DType.I32), shape=scores.tensor.shape)
    found = c(ops.scatter_elements, zeros, window(n - 1), hit, axis=1, reduction="max")
    return c(ops.where, c(ops.greater, found, c.const(0, DType.I32)), c.like(float("-inf"), scores), scores)


# --- inverse --------------------------------------------------------------------------------------


@imports("Inverse", domain=_MS)
def inverse(c: Call) -> Value:
    """By Gauss and Jordan: [A | 1] becomes [1 | A^-1], a column per round, the largest pivot first."""
    x = c.x()
    *lead, rows, columns = x.tensor.shape
    n = dims.unify(rows, columns)
    if n is None:
        raise LeptonError(f"{x.tensor} is not a square matrix", where=c.where)
    dtype = x.tensor.dtype
    batch = dims.product(lead)
    wide = c.reshape(x if dtype is not DType.F16 else c.cast(x, DType.F32), (batch, n, n))
    places = c(ops.iota, size=n, dtype=I64)
    eye = c(ops.cast, c(ops.equal, c.reshape(places, (n, 1)), places), to=wide.tensor.dtype)
    both = c(ops.concat, wide, c(ops.broadcast_to, eye, shape=(batch, n, n)), axis=2)
    inner = [Value(both.tensor), Value(places.tensor.with_shape(()))]
    after = _eliminated(c, inner[0], inner[1], n)
    region = Graph.of("column", inner, [after])
    done = c(ops.scan, both, places, carried=1, input_axes=(0,), output_axes=(), input_reverse=(False,),
             output_reverse=(), regions=[region])
    right = c(ops.slice_, done, starts=(0, 0, n), sizes=(batch, n, n), steps=(1, 1, 1))
    return c.cast(c.reshape(right, (*lead, n, n)), dtype)


def _eliminated(c: Call, m: Value, k: Value, n: Dim) -> Value:
    """One round for column k of m [B,n,2n]: the pivot's row exchanged with row k, scaled, taken from all others."""
    batch = m.tensor.shape[0]
    rows = c.reshape(c(ops.iota, size=n, dtype=I64), (1, n))
    column = c.reshape(c(ops.gather, m, k, axis=2), (batch, n))
    size = c(ops.where, c(ops.less, rows, k), c.like(-1.0, column), c(ops.abs_, column))
    pivot = c(ops.arg_max, size, axis=1, keepdims=True)
    order = c(ops.where, c(ops.equal, rows, k), pivot, c(ops.where, c(ops.equal, rows, pivot), k, rows))
    order = c(ops.broadcast_to, c.reshape(order, (batch, n, 1)), shape=m.tensor.shape)
    m = c(ops.gather_elements, m, order, axis=1)
    row = c.reshape(c(ops.gather, m, k, axis=1), (batch, 1, 2 * n))
    row = c(ops.div, row, c.reshape(c(ops.gather, row, k, axis=2), (batch, 1, 1)))
    factor = c.reshape(c(ops.gather, m, k, axis=2), (batch, n, 1))
    own = c(ops.equal, c.reshape(rows, (1, n, 1)), k)
    return c(ops.where, own, row, c(ops.sub, m, c(ops.mul, factor, row)))


# --- images ---------------------------------------------------------------------------------------


@imports("CropAndResize", domain=_MS)
def crop_and_resize(c: Call) -> Value:
    """x [N,C,H,W] cut at boxes [R,4] (y1, x1, y2, x2 as shares of H-1 and W-1), each brought to one size: [R,C,h,w]."""
    x, boxes, image = c.ranked(0, 4), c.ranked(1, 2), c.ranked(2, 1)
    mode, outside = c.s("mode", "bilinear"), c.f("extrapolation_value", 0.0)
    if mode not in ("bilinear", "nearest"):
        raise LeptonError(f"mode {mode!r}", where=c.where)
    sizes = c.dims(3, "the size of the crops")
    batch, channels, height, width = x.tensor.shape
    count = boxes.tensor.shape[0]
    (y, y_in), (x_, x_in) = (_places(c, boxes, axis, extent, size) for axis, extent, size in
                             zip((0, 1), (height, width), sizes, strict=True))
    rows = c.reshape(c(ops.transpose, x, perm=(0, 2, 3, 1)), (batch * height * width, channels))
    first = c(ops.mul, c.cast(image, I64), c.size(height * width))

    def at(row: Value, column: Value) -> Value:
        """[R,h,w,C]"""
        place = c(ops.add, c(ops.mul, c.reshape(row, (count, sizes[0], 1)), c.size(width)),
                  c.reshape(column, (count, 1, sizes[1])))
        return c(ops.gather, rows, c(ops.add, place, c.reshape(first, (count, 1, 1))), axis=0)

    if mode == "nearest":
        found = at(*(c.cast(c(ops.floor, c(ops.add, v, c.like(0.5, v))), I64) for v in (y, x_)))
    else:
        (top, bottom, dy), (left, right, dx) = _around(c, y), _around(c, x_)
        dx = c.reshape(dx, (count, 1, sizes[1], 1))
        upper, lower = (_between(c, at(row, left), at(row, right), dx) for row in (top, bottom))
        found = _between(c, upper, lower, c.reshape(dy, (count, sizes[0], 1, 1)))
    inside = c(ops.logical_and, c.reshape(y_in, (count, sizes[0], 1, 1)), c.reshape(x_in, (count, 1, sizes[1], 1)))
    return c(ops.transpose, c(ops.where, inside, found, c.like(outside, found)), perm=(0, 3, 1, 2))


def _places(c: Call, boxes: Value, axis: int, extent: Dim, size: Dim) -> tuple[Value, Value]:
    """([R,size] where the crops' rows or columns fall, kept inside; whether they fell inside)"""
    dtype, count = boxes.tensor.dtype, boxes.tensor.shape[0]
    low, high = (c(ops.slice_, boxes, starts=(0, k), sizes=(count, 1), steps=(1, 1)) for k in (axis, axis + 2))
    last = c.size(extent - 1, dtype)
    if size == 1:
        place = c(ops.mul, c(ops.mul, c(ops.add, low, high), c.const(0.5, dtype)), last)
    else:
        step = c(ops.div, c(ops.mul, c(ops.sub, high, low), last), c.size(size - 1, dtype))
        place = c(ops.add, c(ops.mul, low, last), c(ops.mul, c(ops.iota, size=size, dtype=dtype), step))
    zero = c.const(0.0, dtype)
    inside = c(ops.logical_and, c(ops.greater_equal, place, zero), c(ops.less_equal, place, last))
    return c(ops.where, inside, place, zero), inside


def _around(c: Call, place: Value) -> tuple[Value, Value, Value]:
    """The indices below and above a place, and how far it lies between them."""
    low = c(ops.floor, place)
    return c.cast(low, I64), c.cast(c(ops.ceil, place), I64), c(ops.sub, place, low)


def _between(c: Call, a: Value, b: Value, share: Value) -> Value:
    return c(ops.add, a, c(ops.mul, c(ops.sub, b, a), share))
