"""Where Lepton and ONNX Runtime differ, and why that is no bug of Lepton's. One row each; README.md shows the table."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from onnx import helper

from lepton.ir.tensor import Array
from tests.fuzz.recipe import Recipe

Applies = Callable[[Recipe, Sequence[Array], Sequence[Array]], bool]


@dataclass(frozen=True)
class Row:
    """An operator, when the reason holds (given ONNX Runtime's and Lepton's answers), and the reason."""

    op: str
    holds: Applies
    why: str


def _attrs(recipe: Recipe) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in recipe.nodes[0].attribute}


def _slices_back_from_far(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    w = recipe.weights
    return "w3" in w and any(step < 0 and end > 2**30 for step, end in zip(w["w3"], w["w1"], strict=True))


def _output_shape(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    return "output_shape" in _attrs(recipe)


def _window_too_large(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether a window is larger than the padded image along some axis."""
    attrs, x = _attrs(recipe), recipe.feeds["x0"]
    rank = x.ndim - 2
    kernel = attrs.get("kernel_shape") or recipe.weights["w0"].shape[2:]
    dilations, pads = attrs.get("dilations", [1] * rank), attrs.get("pads", [0] * 2 * rank)
    return any((k - 1) * d + 1 > n + pads[i] + pads[i + rank]
               for i, (k, d, n) in enumerate(zip(kernel, dilations, x.shape[2:], strict=True)))


def _same_dilated(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    attrs = _attrs(recipe)
    return bool(attrs.get("auto_pad", b"").startswith(b"SAME")) and max(attrs.get("dilations", [1])) > 1


def _clipped(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    return "clip" in _attrs(recipe)


def _tie(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> bool:
    """Whether some element's source coordinate lies exactly between two, which f32 may miss by a unit."""
    attrs, x = _attrs(recipe), recipe.feeds["x0"]
    if attrs.get("mode", b"nearest") != b"nearest" or want[0].shape != got[0].shape:
        return False
    shift = Fraction(0) if attrs.get("coordinate_transformation_mode") == b"asymmetric" else Fraction(1, 2)
    between = Fraction(0) if attrs.get("nearest_mode") in (b"floor", b"ceil") else Fraction(1, 2)
    places = [(p + shift) * old / new - shift for old, new in zip(x.shape, want[0].shape, strict=True) if old != new
              for p in range(new)]
    return any(place % 1 == between for place in places)


TOO_LARGE = "a window larger than the padded image: ONNX's formula gives size 0, ONNX Runtime's division truncates to 1"

ROWS: tuple[Row, ...] = (
    Row("Slice", _slices_back_from_far, "ONNX Runtime reads an end of INT_MAX as `to the start` when slicing "
        "backwards; ONNX and numpy clamp it to the last element"),
    Row("ConvTranspose", _output_shape, "an output_shape that the windows do not fill: ONNX's formula makes negative "
        "pads and splits them, ONNX Runtime puts all of them at the end"),
    Row("LSTM", _clipped, "clip: ONNX bounds the input of every activation, ONNX Runtime not that of the last (h of "
        "the cell)"),
    Row("Resize", _tie, "a source coordinate between two elements: computed in f32, it falls to either side"),
    *(Row(op, _same_dilated, "auto_pad SAME with dilations: ONNX gives ceil(size / stride), ONNX Runtime pads as if "
          "the window were not dilated") for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Row(op, _window_too_large, TOO_LARGE) for op in ("MaxPool", "AveragePool", "LpPool", "Conv")),
)


def explanation(recipe: Recipe, want: Sequence[Array], got: Sequence[Array]) -> str:
    """The reason that holds, or ""."""
    op = recipe.nodes[0].op_type
    return next((row.why for row in ROWS if row.op == op and row.holds(recipe, want, got)), "")
