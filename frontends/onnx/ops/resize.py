"""Resize and Upsample: sizes as expressions, scales as numbers."""
from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lepton.frontends.onnx import numbers
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.numbers import Number, Undecided
from lepton.frontends.onnx.reading import Element
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim

Scales = Sequence[Number]


@imports("Upsample")
def upsample_7(c: Call) -> Value:
    scales = c.floats("scales", ()) or (1.0, 1.0, c.f("height_scale", REQUIRED), c.f("width_scale", REQUIRED))
    return _upsample(c, [numbers.from_float(s) for s in scales])


@imports("Upsample", since=9)
def upsample(c: Call) -> Value:
    return _upsample(c, _known(c, 1, "the scales"))


def _upsample(c: Call, scales: Scales) -> Value:
    mode = c.s("mode", "nearest")
    return scaled(c, scales, mode={"bilinear": "linear"}.get(mode, mode), coordinates="asymmetric", nearest="floor")


@imports("Resize", since=10)
def resize_10(c: Call) -> Value:
    """Version 10 does not say how coordinates are rounded. Its tests and runtimes round up on axes that shrink."""
    scales = _known(c, 1, "the scales")
    shrinks = [s < 1 for s in _floats(scales) or ()]
    if c.s("mode", "nearest") != "nearest" or not any(shrinks):
        return _upsample(c, scales)
    smaller = [s if shrink else 1 for s, shrink in zip(scales, shrinks, strict=True)]
    larger = [1 if shrink else s for s, shrink in zip(scales, shrinks, strict=True)]
    x = scaled(c, smaller, mode="nearest", coordinates="asymmetric", nearest="ceil")
    return scaled(c, larger, x, mode="nearest", coordinates="asymmetric", nearest="floor")


@imports("Resize", since=11)
def resize(c: Call) -> Value:
    rank = c.x().tensor.rank
    axes = c.axes_of(c.ints("axes", tuple(range(rank))), rank)
    coordinates = c.s("coordinate_transformation_mode", "half_pixel")
    attrs: dict[str, Any] = {
        "mode": c.s("mode", "nearest"), "coordinates": coordinates,
        "nearest": c.s("nearest_mode", "round_prefer_floor"), "cubic_a": c.f("cubic_coeff_a", -0.75), "exclude_outside":
        c.flag("exclude_outside"), "antialias": c.flag("antialias"), "extrapolation": c.f("extrapolation_value", 0.0),
    }
    if coordinates == "tf_crop_and_resize":
        attrs["roi"] = _roi(c, axes)
    policy = c.s("keep_aspect_ratio_policy", "stretch")
    if c.opt(3) is not None and c.x(3).tensor.shape != (0,):
        # The kernels for these have their taps in tables, or too many of them, or compare sizes.
        unknown = sum(isinstance(e, Element) for e in c.elements(3, "the sizes"))
        if unknown and (attrs["antialias"] or coordinates == "tf_crop_and_resize" or policy != "stretch"
                        or (attrs["mode"] == "cubic" and unknown > 2)):
            c.depends(3, "the sizes")
        return _to_sizes(c, axes, c.dims(3, "the sizes"), policy, attrs)
    given = _known(c, 2, "the scales")
    if len(given) != len(axes):
        raise LeptonError(f"{len(given)} scales for {len(axes)} axes", where=c.where)
    scales: list[Number] = [1] * rank
    for axis, scale in zip(axes, given, strict=True):
        scales[axis] = scale
    return scaled(c, scales, **attrs)


def _roi(c: Call, axes: tuple[int, ...]) -> tuple[float, ...]:
    rank = c.x().tensor.rank
    given = c.constant(1, "the region of interest").array.astype(float).tolist()
    if len(given) != 2 * len(axes):
        raise LeptonError(f"{len(given)} numbers in the region of interest for {len(axes)} axes", where=c.where)
    roi = [0.0] * rank + [1.0] * rank
    for k, axis in enumerate(axes):
        roi[axis], roi[axis + rank] = given[k], given[k + len(axes)]
    return tuple(roi)


def _known(c: Call, index: int, what: str) -> Scales:
    known = c.numbers(index)
    if known is None:
        c.depends(index, what)
    return known


def scaled(c: Call, scales: Scales, x: Value | None = None, **attrs: Any) -> Value:
    """x (the first operand unless given) resized to floor(size * scale) per axis, with these scales in the coordinate
    maps."""
    x = c.x() if x is None else x
    shape = x.tensor.shape
    if len(scales) != len(shape):
        raise LeptonError(f"{len(scales)} scales for {x.tensor}", where=c.where)
    for scale in scales:
        top, bottom = numbers.parts(scale)
        if isinstance(top, int) and isinstance(bottom, int) and not 0 < top / bottom < 2**31:
            raise LeptonError(f"a scale of {top / bottom}", where=c.where)
    sizes = tuple(_size(d, s) for d, s in zip(shape, scales, strict=True))
    return _resize(c, x, sizes, _floats(scales), attrs)


def _size(size: Dim, scale: Number) -> Dim:
    """floor(size * scale), for numbers computed in f32 as runtimes do; for open sizes with the simplest fraction that
    rounds to the scale: 13/5 for 2.6, by which 5 becomes 13 as it does in f32."""
    top, bottom = numbers.parts(scale)
    if not isinstance(top, int) or not isinstance(bottom, int):
        return numbers.floor(numbers.mul(size, scale))
    if isinstance(size, int):
        return int(np.floor(np.float32(min(size, 2**62)) * np.float32(top / bottom)))
    exact = Fraction(top, bottom)
    fractions = (exact.limit_denominator(2**bits) for bits in range(24))
    simple = next((f for f in fractions if np.float32(float(f)) == np.float32(float(exact))), exact)
    return numbers.floor(numbers.mul(size, numbers.ratio(simple.numerator, simple.denominator)))


def _floats(scales: Scales) -> tuple[float, ...] | None:
    """The scales as numbers; None where one depends on open sizes."""
    found = []
    for scale in scales:
        top, bottom = numbers.parts(scale)
        if not isinstance(top, int) or not isinstance(bottom, int):
            return None
        found.append(float(np.float32(top / bottom)))
    return tuple(found)


def _to_sizes(c: Call, axes: tuple[int, ...], given: Sequence[Dim], policy: str, attrs: dict[str, Any]) -> Value:
    """x resized to given sizes; the scales follow from them, and with a policy the sizes from the scales."""
    shape = c.x().tensor.shape
    if len(given) != len(axes):
        raise LeptonError(f"{len(given)} sizes for {len(axes)} axes", where=c.where)
    wanted = list(shape)
    for axis, size in zip(axes, given, strict=True):
        wanted[axis] = size
    if policy == "stretch":
        return _resize(c, c.x(), tuple(wanted), (), attrs)
    try:
        ratios = [numbers.ratio(wanted[a], shape[a]) for a in axes]
        best = ratios[0]
        for other in ratios[1:]:
            best = (numbers.minimum if policy == "not_larger" else numbers.maximum)(best, other)
    except Undecided:
        c.fail(f"keep_aspect_ratio_policy {policy!r} with open sizes", help="pin the sizes")
    half = numbers.ratio(1, 2)
    for axis in axes:
        wanted[axis] = numbers.floor(numbers.add(numbers.mul(shape[axis], best), half))
    scales: list[Number] = [best if a in axes else 1 for a in range(len(shape))]
    return _resize(c, c.x(), tuple(wanted), _floats(scales), attrs)


def _resize(c: Call, x: Value, sizes: tuple[Dim, ...], scales: tuple[float, ...] | None, attrs: dict[str, Any]
            ) -> Value:
    if scales is not None and sizes == x.tensor.shape and not any(s != 1 for s in scales) and "roi" not in attrs:
        return x
    return c(ops.resize, x, sizes=sizes, scales=scales or (), **attrs)


