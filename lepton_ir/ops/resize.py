"""Resizing by interpolation: one axis after the other, each result element a weighted sum of a few source elements."""
from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np

from lepton.ir.dims import Dim
from lepton.ir.ops.rules import fail, not_empty, number, size_is, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric",
               "tf_crop_and_resize")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
F = np.float32


def _resize_type(x: Type, *, sizes: Sequence[Dim], scales: Sequence[float], mode: str, coordinates: str, nearest: str,
                 roi: Sequence[float], **_rest: Any) -> TensorType:
    t = tensor(x, number)
    if len(sizes) != t.rank or len(scales) not in (0, t.rank):
        raise fail("resize needs a size (and a scale, or none at all) for each axis", x)
    if mode not in MODES or coordinates not in COORDINATES or nearest not in NEAREST:
        raise fail(f"resize does not know {mode!r}, {coordinates!r} or {nearest!r}", x)
    if coordinates == "tf_crop_and_resize" and len(roi) != 2 * t.rank:
        raise fail("tf_crop_and_resize needs a begin and an end for each axis in `roi`", x)
    if any(s <= 0 for s in scales):
        raise fail(f"scales {tuple(scales)} are not all positive", x)
    for old, new in zip(t.shape, sizes, strict=True):
        size_is(new, "the result")
        not_empty(old, new, "resize", x)
    return t.with_shape(sizes)


@wide_op(_resize_type)
def resize(
    x: Array, *, sizes: tuple[Dim, ...], scales: tuple[float, ...] = (), mode: str = "nearest",
    coordinates: str = "half_pixel", nearest: str = "round_prefer_floor", cubic_a: float = -0.75,
    exclude_outside: bool = False, antialias: bool = False, extrapolation: float = 0.0, roi: tuple[float, ...] = (),
) -> Array:
    """x brought to `sizes`. Result element p of an axis lies at source coordinate c(p), computed in f32 as
    `coordinates` says from the axis' scale; `scales` () means new/old of each axis.

    nearest takes the element at c rounded as `nearest` says; linear weighs the two around c (c kept inside the axis);
    cubic weighs four with the kernel of parameter `cubic_a`, edge elements repeated or, if `exclude_outside`, left
    out and the weights scaled to sum 1. `antialias` widens linear and cubic kernels by 1/scale where the axis shrinks.
    With tf_crop_and_resize, elements whose c lies outside the axis become `extrapolation`. An axis is left alone if its
    size and scale say so. Integers are computed in f64 and truncated."""
    out = x if x.dtype.kind == "f" else x.astype(np.float64)
    outside = np.zeros([1] * x.ndim, np.bool_)
    for axis, (old, new) in enumerate(zip(x.shape, sizes, strict=True)):
        assert isinstance(new, int)
        scale = F(scales[axis]) if scales else F(new) / F(max(old, 1))
        if old == new and scale == 1 and coordinates != "tf_crop_and_resize":
            continue
        bounds = (roi[axis], roi[axis + x.ndim]) if roi else (0.0, 1.0)
        at = source_coordinates(coordinates, old, new, float(scale), bounds)
        if mode == "nearest":
            out = np.take(out, nearest_places(nearest, at, old), axis=axis)
        else:
            shrink = float(scale) if antialias else 1.0
            places, weights = taps(mode, at, old, shrink, cubic_a, exclude_outside, antialias)
            out = _weighted(out, axis, places, weights)
        if coordinates == "tf_crop_and_resize":
            far = (at < 0) | (at > old - 1)
            outside = outside | far.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    out = np.where(outside, out.dtype.type(extrapolation), out) if coordinates == "tf_crop_and_resize" else out
    return out if x.dtype.kind == "f" else out.astype(x.dtype)


def source_coordinates(kind: str, old: int, new: int, scale: float, roi: tuple[float, float]) -> Array:
    """c(p) of p = 0 … new-1, in f32: ONNX's formulas, one per `coordinate_transformation_mode`."""
    p, s, n, m = np.arange(new, dtype=F), F(scale), F(old), F(new)
    match kind:
        case "asymmetric":
            return p / s
        case "align_corners":
            # The resized length is what the scale makes of the old one, before it is rounded down to a size.
            return p * (n - 1) / (s * n - 1) if new > 1 else np.zeros(new, F)
        case "pytorch_half_pixel" if new <= 1:
            return np.zeros(new, F)
        case "half_pixel_symmetric":
            adjusted = m / (s * n)
            return n / 2 * (1 - adjusted) + (p + F(0.5)) / s - F(0.5)
        case "tf_crop_and_resize":
            begin, end = F(roi[0]), F(roi[1])
            if new <= 1:
                return np.full(new, F(0.5) * (begin + end) * (n - 1), F)
            return begin * (n - 1) + p * (end - begin) * (n - 1) / (m - 1)
    return (p + F(0.5)) / s - F(0.5)


def nearest_places(how: str, at: Array, size: int) -> Array:
    """The element each coordinate rounds to, kept inside the axis."""
    match how:
        case "round_prefer_floor":
            rounded = np.ceil(at - F(0.5))
        case "round_prefer_ceil":
            rounded = np.floor(at + F(0.5))
        case "floor":
            rounded = np.floor(at)
        case _:
            rounded = np.ceil(at)
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def taps(mode: str, at: Array, size: int, scale: float, cubic_a: float, exclude_outside: bool,
         antialias: bool) -> tuple[Array, Array]:
    """(places i64[new,T], weights f32[new,T]) of the source elements each result element sums."""
    if mode == "linear" and not antialias:
        at = np.clip(at, 0, size - 1)
    wide = max(1.0, 1 / scale)
    half = (1 if mode == "linear" else 2) * wide
    reach = floor(half) + 1 if antialias else int(half)
    places = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(places - at[:, None].astype(np.float64)) / wide
    weights = np.maximum(1 - distance, 0) if mode == "linear" else cubic_kernel(distance, cubic_a)
    if exclude_outside or antialias:
        if exclude_outside:
            weights = np.where((places < 0) | (places >= size), 0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, size - 1), weights.astype(F)


def cubic_kernel(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _weighted(x: Array, axis: int, places: Array, weights: Array) -> Array:
    view = [-1 if a == axis else 1 for a in range(x.ndim)]
    total: Any = 0
    for tap in range(places.shape[1]):
        total = total + np.take(x, places[:, tap], axis=axis) * weights[:, tap].astype(x.dtype).reshape(view)
    return np.asarray(total)
