"""DeformConv and AffineGrid: convolutions that read where data says, and the grids that GridSample reads at."""
from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.conv import Window, checked_weight, kernel_of, window
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.ops.rules import windows
from lepton.ir.types import DType

Neighbour = tuple[Value, Value]  # index, weight


@imports("DeformConv", since=19)
def deform_conv(c: Call) -> Value:
    """x [N,C,spatial…] by w [M,C/group,k…], each tap moved by offset [N,offset_group*taps*axes,out…] and scaled by
    mask [N,offset_group*taps,out…]: the taps are gathered, interpolated linearly, zero outside, then multiplied."""
    x, w = c.x(0), checked_weight(c)
    at = window(c, kernel_of(c, w))
    groups, moves = c.positive("group", 1), c.positive("offset_group", 1)
    out, taps, (number, channels) = c.x(2).tensor.shape[2:], prod(at.kernel), x.tensor.shape[:2]
    depth, makes = w.tensor.shape[1], w.tensor.shape[0]
    if len(out) != x.tensor.rank - 2:
        raise LeptonError(f"offsets {c.x(2).tensor} for {x.tensor}", where=c.where)
    known = isinstance(channels, int) and isinstance(makes, int) and isinstance(depth, int)
    if not known or channels % moves or channels != groups * depth or makes % groups:
        raise LeptonError(f"{x.tensor}, {w.tensor} in {groups} groups with {moves} of offsets", where=c.where)
    fits = zip(out, x.tensor.shape[2:], at.kernel, at.strides, at.dilations, at.begin, at.end, strict=True)
    if any(dims.unify(n, windows(size, k, s, d, b + e)) is None for n, size, k, s, d, b, e in fits):
        raise LeptonError(f"{c.x(2).tensor} does not hold the offsets of the result", where=c.where)
    points = dims.product(out)
    places = _places(c, at, (number, moves, taps, len(out), *out))
    found = _sampled(c, x, places, (number, moves, channels // moves, taps * points))
    if c.opt(4) is not None:
        found = c(ops.mul, found, c.reshape(c.x(4), (number, moves, 1, taps * points)))
    columns = c.reshape(found, (number, groups, depth * taps, points))
    weight = c.reshape(w, (groups, makes // groups, depth * taps))
    result = c.reshape(c(ops.matmul, weight, columns), (number, makes, *out))
    if c.opt(3) is None:
        return result
    return c(ops.add, result, c.reshape(c.x(3), (makes, *[1] * len(out))))


def _places(c: Call, at: Window, shape: tuple[Dim, ...]) -> list[Value]:
    """The coordinates along each spatial axis that every tap reads at: [N,moves,taps*points] each."""
    number, moves, taps, _, *out = shape
    offset = c.reshape(c.x(2), shape)
    dtype, cells = offset.tensor.dtype, np.array(list(product(*map(range, at.kernel))))
    places = []
    for axis in range(len(out)):
        moved = c(ops.gather, offset, c.const(axis, DType.I64), axis=3)
        tap = c.const(cells[:, axis].reshape(-1, *[1] * len(out)) * at.dilations[axis], dtype)
        steps = c.cast(c(ops.iota, size=out[axis], dtype=DType.I64), dtype)
        steps = c.reshape(steps, [n if a == axis else 1 for a, n in enumerate(out)])
        start = c(ops.sub, c(ops.mul, steps, c.like(at.strides[axis], offset)), c.size(at.begin[axis], dtype))
        place = c(ops.add, c(ops.add, moved, start), tap)
        places.append(c.reshape(place, (number, moves, dims.product([taps, *out]))))
    return places


def _sampled(c: Call, x: Value, places: list[Value], shape: tuple[Dim, ...]) -> Value:
    """x at the places, of the given shape [N,moves,channels,points], interpolated; zero outside."""
    number, moves, channels, points = shape
    sizes = x.tensor.shape[2:]
    flat = c.reshape(x, (number, moves, channels, dims.product(sizes)))
    choices = [_neighbours(c, place, size) for place, size in zip(places, sizes, strict=True)]
    total: Value | None = None
    for corner in product(*choices):
        index, weight = corner[0]
        for (i, w), size in zip(corner[1:], sizes[1:], strict=True):
            index, weight = c(ops.add, c(ops.mul, index, c.size(size)), i), c(ops.mul, weight, w)
        row = c(ops.broadcast_to, c.reshape(index, (number, moves, 1, points)), shape=shape)
        term = c(ops.mul, c(ops.gather_elements, flat, row, axis=3), c.reshape(weight, (number, moves, 1, points)))
        total = term if total is None else c(ops.add, total, term)
    assert total is not None
    return total


def _neighbours(c: Call, place: Value, size: Dim) -> list[Neighbour]:
    """The elements below and above each place on an axis, kept inside; those outside weigh nothing."""
    dtype, one = place.tensor.dtype, c.like(1.0, place)
    last = c(ops.sub, c.size(size, dtype), one)
    low = c(ops.floor, place)
    above = c(ops.sub, place, low)
    found = []
    for at, weight in ((low, c(ops.sub, one, above)), (c(ops.add, low, one), above)):
        inside = c(ops.clip, at, c.like(0.0, place), last)
        there = c(ops.equal, inside, at)
        found.append((c.cast(inside, DType.I64), c(ops.where, there, weight, c.like(0.0, place))))
    return found


@imports("AffineGrid", since=20)
def affine_grid(c: Call) -> Value:
    """theta [N,D,D+1] over an image of size (N,C,spatial…) -> [N,spatial…,D]: where each point of the result is read,
    in coordinates from -1 to 1, last axis first."""
    theta, size = c.ranked(0, 3), c.dims(1, "the size")
    spatial, rank = size[2:], len(size) - 2
    if rank not in (2, 3) or theta.tensor.shape[1:] != (rank, rank + 1):
        raise LeptonError(f"{theta.tensor} for an image of {len(size)} axes", where=c.where)
    axes = [c(ops.broadcast_to, c.reshape(_even(c, n, theta.tensor.dtype), (n, *[1] * (rank - 1 - a))),
              shape=tuple(spatial)) for a, n in enumerate(spatial)]
    points = dims.product(spatial)
    apart = [c.reshape(a, (points, 1)) for a in reversed(axes)]
    ones = c(ops.broadcast_to, c.like(1.0, theta), shape=(points, 1))
    base = c(ops.concat, *apart, ones, axis=1)
    grid = c(ops.matmul, base, c(ops.transpose, theta, perm=(0, 2, 1)))
    return c.reshape(grid, (theta.tensor.shape[0], *spatial, rank))


def _even(c: Call, size: Dim, dtype: DType) -> Value:
    """`size` coordinates from -1 to 1: the middles of as many cells, or with align_corners their ends included."""
    corners = c.flag("align_corners")
    if corners and size == 1:
        return c.const([-1.0], dtype)
    i, n, one = c.cast(c(ops.iota, size=size, dtype=DType.I64), dtype), c.size(size, dtype), c.const(1.0, dtype)
    up = c(ops.mul, i, c.const(2.0, dtype))
    if corners:
        return c(ops.sub, c(ops.div, up, c(ops.sub, n, one)), one)
    return c(ops.sub, c(ops.div, c(ops.add, up, one), n), one)
