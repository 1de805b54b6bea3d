"""Where Lepton and ONNX Runtime differ, and why that is no bug of Lepton's. One row each; README.md shows the table."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper

from lepton.ir.tensor import Array
from tests.fuzz.recipe import Recipe

Applies = Callable[[Recipe, Sequence[Array], Sequence[Array]], bool]


@dataclass(frozen=True)
class Row:
    """An operator, when the reason holds (given ONNX Runtime's and Lepton's answers), and the reason. `settle` gives a
    model in which nothing is in dispute: on it the two must agree; `same`: on Lepton's answer to the original."""

    op: str
    holds: Applies
    why: str
    settle: Callable[[Recipe], Recipe] | None = None
    same: bool = False


def attributes(recipe: Recipe) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in recipe.nodes[0].attribute}


def restated(recipe: Recipe, drop: Sequence[str] = (), **attrs: Any) -> Recipe:
    """The model with other attributes of its node."""
    made, node = copy(recipe), onnx.NodeProto()
    node.CopyFrom(recipe.nodes[0])
    kept = [a for a in node.attribute if a.name not in (*drop, *attrs)]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attrs.items())])
    made.nodes = [node, *recipe.nodes[1:]]
    return made


def _slices_back_from_far(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether each engine's size is that of its reading."""
    w = recipe.weights
    if "w3" not in w:
        return False
    numpys: list[slice] = [slice(None)] * recipe.feeds["x0"].ndim
    runtimes = list(numpys)
    for start, end, axis, step in zip(*(w[f"w{i}"].tolist() for i in range(4)), strict=True):
        back = step < 0 and end > 2**30
        first = max(start, -recipe.feeds["x0"].shape[axis]) if back else start  # ONNX: the first element, not before
        runtimes[axis] = slice(first, None if back else end, step)
        numpys[axis] = slice(start, end, step)
    x = recipe.feeds["x0"]
    return bool(got[0].shape == x[tuple(numpys)].shape and want[0].shape == x[tuple(runtimes)].shape)


def _fill_at_the_end(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether the windows do not fill the output_shape, and the answers are the same but for where the rest is."""
    attrs, shape = attributes(recipe), recipe.feeds["x0"].shape[2:]
    if "output_shape" not in attrs or want[0].shape != got[0].shape:
        return False
    ones = [1] * len(shape)
    kernel = recipe.weights["w0"].shape[2:]
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    extra = attrs.get("output_padding", [0] * len(shape))
    a, b, missing = want[0], got[0], False
    for axis, (n, k, s, d, e, out) in enumerate(
            zip(shape, kernel, strides, dilations, extra, attrs["output_shape"], strict=True), 2):
        pad = s * (n - 1) + e + (k - 1) * d + 1 - out
        if pad >= 0:
            continue
        missing = True
        upper = attrs.get("auto_pad") == b"SAME_UPPER"
        before = -(pad // 2) if upper else pad // 2 - pad
        windows = out + pad
        a = np.take(a, range(windows), axis)
        b = np.take(b, range(before, before + windows), axis)
    return missing and bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))


def _window_too_large(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether a window is larger than the padded image along some axis, and therefore there is nothing to give."""
    if got[0].size or not want[0].size:
        return False
    attrs, x = attributes(recipe), recipe.feeds["x0"]
    rank = x.ndim - 2
    kernel = attrs.get("kernel_shape") or recipe.weights["w0"].shape[2:]
    dilations, pads = attrs.get("dilations", [1] * rank), attrs.get("pads", [0] * 2 * rank)
    return any((k - 1) * d + 1 > n + pads[i] + pads[i + rank]
               for i, (k, d, n) in enumerate(zip(kernel, dilations, x.shape[2:], strict=True)))


def _same_dilated(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    attrs = attributes(recipe)
    return bool(attrs.get("auto_pad", b"").startswith(b"SAME")) and max(attrs.get("dilations", [1])) > 1


def _with_pads(recipe: Recipe) -> Recipe:
    """What ONNX says that auto_pad SAME means, as pads."""
    attrs = attributes(recipe)
    kernel = attrs["kernel_shape"]
    ones = [1] * len(kernel)
    totals = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n) for n, k, s, d in zip(
        recipe.feeds["x0"].shape[2:], kernel, attrs.get("strides", ones), attrs["dilations"], strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    pads = [*small, *large] if attrs["auto_pad"] == b"SAME_UPPER" else [*large, *small]
    return restated(recipe, drop=("auto_pad", "ceil_mode"), pads=pads)


def _clipped(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    return "clip" in attributes(recipe)


def _unclipped(recipe: Recipe) -> Recipe:
    return restated(recipe, drop=("clip",))


def _tie(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether all that differ have a source coordinate exactly between two, which f32 may miss by a unit."""
    attrs, x = attributes(recipe), recipe.feeds["x0"]
    if attrs.get("mode", b"nearest") != b"nearest" or want[0].shape != got[0].shape:
        return False
    shift = Fraction(0) if attrs.get("coordinate_transformation_mode") == b"asymmetric" else Fraction(1, 2)
    between = Fraction(0) if attrs.get("nearest_mode") in (b"floor", b"ceil") else Fraction(1, 2)
    tied = np.zeros(want[0].shape, np.bool_)
    for axis, (old, new) in enumerate(zip(x.shape, want[0].shape, strict=True)):
        ties = [old != new and ((p + shift) * old / new - shift) % 1 == between for p in range(new)]
        tied |= np.array(ties).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return bool(np.isclose(want[0], got[0], rtol=1e-5, atol=1e-6)[~tied].all())


TOO_LARGE = "a window larger than the padded image: ONNX's formula gives size 0, ONNX Runtime's division truncates to 1"

ROWS: tuple[Row, ...] = (
    Row("Slice", _slices_back_from_far, "ONNX Runtime reads an end of INT_MAX as `to the start` when slicing "
        "backwards; ONNX and numpy clamp it to the last element"),
    Row("ConvTranspose", _fill_at_the_end, "an output_shape that the windows do not fill: ONNX's formula makes "
        "negative pads and splits them, ONNX Runtime puts all of them at the end"),
    Row("LSTM", _clipped, "clip: ONNX bounds the input of every activation, ONNX Runtime not that of the last (h of "
        "the cell)", _unclipped),
    Row("Resize", _tie, "a source coordinate between two elements: computed in f32, it falls to either side"),
    *(Row(op, _same_dilated, "auto_pad SAME with dilations: ONNX gives ceil(size / stride), ONNX Runtime pads as if "
          "the window were not dilated", _with_pads, same=True) for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Row(op, _window_too_large, TOO_LARGE) for op in ("MaxPool", "AveragePool", "LpPool", "Conv")),
)


def explanation(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> Row | None:
    """The row that holds."""
    op = recipe.nodes[0].op_type
    return next((row for row in ROWS if row.op == op and row.holds(recipe, want, got)), None)
