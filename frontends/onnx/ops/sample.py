"""GridSample: an image read at given coordinates, by gathering the neighbours of each and weighing them."""
from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_CUBIC = -0.75
_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}


@dataclass(frozen=True, slots=True)
class Tap:
    """One neighbour along one axis: its index, kept inside, and its weight (None: 1)."""

    index: Value
    weight: Value | None


@imports("GridSample", since=16)
def grid_sample(c: Call) -> Value:
    """x [N,C,spatial…] at grid [N,out…,D], whose last axis holds coordinates in [-1, 1], last spatial axis first."""
    x, grid = c.x(0), c.x(1)
    sizes, rank = x.tensor.shape[2:], x.tensor.rank - 2
    mode, padding = _MODES.get(c.s("mode", "linear")), c.s("padding_mode", "zeros")
    if mode is None or padding not in ("zeros", "border", "reflection") or grid.tensor.shape[-1:] != (rank,):
        raise LeptonError(f"mode {c.s('mode')!r}, padding {padding!r}, {x.tensor} and {grid.tensor}", where=c.where)
    corners = c.flag("align_corners")
    points: Dim = dims.product(grid.tensor.shape[1:-1])
    flat = c.reshape(grid, (grid.tensor.shape[0], points, rank))
    taps = []
    for axis, size in enumerate(sizes):
        place = c(ops.gather, flat, c.const(rank - 1 - axis, DType.I64), axis=2)
        taps.append(_taps(c, c.cast(place, x.tensor.dtype), size, mode, padding, corners))
    total = _weighed(c, x, sizes, taps, points)
    return c.reshape(total, (*x.tensor.shape[:2], *grid.tensor.shape[1:-1]))


def _taps(c: Call, place: Value, size: Dim, mode: str, padding: str, corners: bool) -> list[Tap]:
    """The neighbours of each coordinate along an axis of `size`."""
    dtype = place.tensor.dtype
    length = c.size(size, dtype)
    one, half, two = (c.const(v, dtype) for v in (1.0, 0.5, 2.0))
    scaled = c(ops.sub, length, one) if corners else length
    at = c(ops.div, c(ops.mul, c(ops.add, place, one), scaled), two)
    at = at if corners else c(ops.sub, at, half)
    low = c.const(0.0 if corners else -0.5, dtype)
    high = c(ops.sub, length, one if corners else half)
    at = c(ops.round_, at) if mode == "nearest" else at
    if padding == "border" and mode != "cubic":  # whose neighbours are kept inside one by one, as PyTorch does
        at = c(ops.clip, at, c.const(0.0, dtype), c(ops.sub, length, one))
    elif padding == "reflection":
        at = _reflected(c, at, low, high)
    if mode == "nearest":
        return [_tap(c, c(ops.round_, at), None, length, padding, low, high)]
    first = c(ops.floor, at)
    fraction = c(ops.sub, at, first)
    weights = _linear(c, fraction) if mode == "linear" else _cubic(c, fraction)
    begin = 0 if mode == "linear" else -1
    return [_tap(c, c(ops.add, first, c.const(float(begin + k), dtype)), w, length, padding, low, high)
            for k, w in enumerate(weights)]


def _tap(c: Call, at: Value, weight: Value | None, length: Value, padding: str, low: Value, high: Value) -> Tap:
    dtype = at.tensor.dtype
    zero, last = c.const(0.0, dtype), c(ops.sub, length, c.const(1.0, dtype))
    if padding == "reflection":
        at = _reflected(c, at, low, high)
    inside = c(ops.clip, at, zero, last)
    if padding == "zeros":
        there = c(ops.cast, c(ops.equal, inside, at), to=dtype)
        weight = there if weight is None else c(ops.mul, weight, there)
    return Tap(c(ops.cast, inside, to=DType.I64), weight)


def _reflected(c: Call, at: Value, low: Value, high: Value) -> Value:
    """Mirrored at both ends, again and again; an axis without extent holds one place."""
    span = c(ops.sub, high, low)
    period = c(ops.maximum, c(ops.add, span, span), c.like(1e-30, span))
    rest = c(ops.mod, c(ops.sub, at, low), period)
    return c(ops.add, low, c(ops.where, c(ops.greater, rest, span), c(ops.sub, period, rest), rest))


def _linear(c: Call, t: Value) -> list[Value]:
    return [c(ops.sub, c.like(1.0, t), t), t]


def _cubic(c: Call, t: Value) -> list[Value]:
    """Keys' kernel at t+1, t, 1-t, 2-t."""
    one = c.like(1.0, t)
    left, right = c(ops.add, t, one), c(ops.sub, one, t)
    return [_outer(c, left), _inner(c, t), _inner(c, right), _outer(c, c(ops.add, right, one))]


def _inner(c: Call, t: Value) -> Value:
    """((A+2)t - (A+3))t² + 1"""
    a = c(ops.sub, c(ops.mul, c.like(_CUBIC + 2, t), t), c.like(_CUBIC + 3, t))
    return c(ops.add, c(ops.mul, c(ops.mul, a, t), t), c.like(1.0, t))


def _outer(c: Call, t: Value) -> Value:
    """((At - 5A)t + 8A)t - 4A"""
    a = c(ops.sub, c(ops.mul, c.like(_CUBIC, t), t), c.like(5 * _CUBIC, t))
    b = c(ops.add, c(ops.mul, a, t), c.like(8 * _CUBIC, t))
    return c(ops.sub, c(ops.mul, b, t), c.like(4 * _CUBIC, t))


def _weighed(c: Call, x: Value, sizes: tuple[Dim, ...], taps: list[list[Tap]], points: Dim) -> Value:
    """The sum over all combinations of neighbours: [N,C,points]."""
    batch, channels = x.tensor.shape[:2]
    flat = c.reshape(x, (batch, channels, dims.product(sizes)))
    total: Value | None = None
    for combination in product(*taps):
        index, weight = combination[0].index, combination[0].weight
        for tap, size in zip(combination[1:], sizes[1:], strict=True):
            index = c(ops.add, c(ops.mul, index, c.size(size)), tap.index)
            weight = tap.weight if weight is None else weight if tap.weight is None else c(ops.mul, weight, tap.weight)
        row = c.reshape(index, (batch, 1, points))
        found = c(ops.gather_elements, flat, c(ops.broadcast_to, row, shape=(batch, channels, points)), axis=2)
        if weight is not None:
            found = c(ops.mul, found, c.reshape(weight, (batch, 1, points)))
        total = found if total is None else c(ops.add, total, found)
    assert total is not None
    return total
