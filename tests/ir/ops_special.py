"""Test cases of sorting and linear algebra."""
from __future__ import annotations

import struct
from typing import Any

import numpy as np

from lepton.ir.tensor import Tensor
from tests.ir.ops_cases import F32, HARD, Case, case, normal, whole
from tests.ir.ops_oracle import Onnx


def sorting() -> list[Case]:
    doubles = np.array([[2, 1], [1, 9], [2, 0], [1, 9], [-3, 4]])
    nans = np.array([[1, np.nan], [np.nan, 0], [1, 2], [np.nan, -1], [1, np.nan]], np.float32)
    return [
        case("sort_rows", doubles, expected=np.array([4, 1, 3, 2, 0])),
        case("sort_rows", nans, expected=np.array([2, 0, 4, 3, 1])),
        case("sort_rows", HARD[:5, None], expected=np.array([2, 3, 4, 1, 0])),  # NaN, inf, -inf, 0, -0
        case("sort_rows", np.array([[True], [False], [True]]), expected=np.array([1, 0, 2])),
        case("sort_rows", np.array([[2**64 - 1], [1], [2**63]], np.uint64), expected=np.array([1, 2, 0])),
        case("sort_rows", np.zeros((4, 0), np.float32), expected=np.arange(4)),
        case("sort_rows", np.zeros((0, 3), np.int8), expected=np.zeros(0, np.int64)),
    ]


def determinants() -> list[Case]:
    singular = np.array([[1, 2, 3], [2, 4, 6], [0, 1, 5]], np.float32)
    return [
        case("det", normal(2, 3, 4, 4), onnx=Onnx("Det")),
        case("det", whole(-3, 4, 5, 5).astype(np.float64), onnx=Onnx("Det", by="reference")),
        case("det", singular, expected=np.float32(0)),
        case("det", np.array([[0, 1], [1, 0]], np.float32), expected=np.float32(-1)),
        case("det", np.zeros((2, 0, 0), np.float32), expected=np.ones(2, np.float32)),
        case("det", np.diag([2, 3, 0.5]).astype(np.float16), expected=np.float16(3)),
    ]


def trees() -> list[Case]:
    """One tree: x0 <= 1 ? (x1 <= -0 or NaN ? leaf 0 : leaf 1) : leaf 2."""
    tables: dict[str, Any] = {name: Tensor.of(np.array(column, np.int32)) for name, column in (
        ("roots", [0]), ("feature", [0, 1]), ("yes", [1, -1]), ("no", [-3, -2]))}
    tables |= {"threshold": Tensor.of(np.array([1, -0.0], F32)), "nan_yes": Tensor.of(np.array([False, True])),
               "weights": Tensor.of(np.array([[1, 10], [2, 20], [3, 30]], F32)), "target": None, "targets": 2}
    x = np.array([[1, 0.0], [-np.inf, np.nan], [0, 1e-40], [np.nan, 0], [np.inf, 0]], F32)
    expected = np.array([[1, 10], [1, 10], [2, 20], [3, 30], [3, 30]], F32)
    twice = tables | {"roots": Tensor.of(np.array([0, 0, -1], np.int32))}
    none = tables | {"weights": Tensor.of(np.array([[np.inf, 1], [np.inf, np.inf], [2, np.inf]], F32))}
    alone = tables | {"weights": Tensor.of(np.array([[1], [2], [3]], F32)), "target": Tensor.of(np.array([0, 1, 1]))}
    return [
        case("tree_ensemble", x, expected=expected, **tables),
        case("tree_ensemble", x, expected=expected * 2 + np.array([1, 10], F32), label="sum", **twice),
        case("tree_ensemble", x, expected=np.array([[0, 1], [0, 1], [0, 0], [2, 0], [2, 0]], F32), aggregate="min",
             **none),
        case("tree_ensemble", x, expected=np.array([[1, 0], [1, 0], [0, 2], [0, 3], [0, 3]], F32), label="alone",
             **alone),
        case("tree_ensemble", np.zeros((0, 2), F32), expected=np.zeros((0, 2), F32), **tables),
    ]


def coupling() -> list[Case]:
    """Pairs that agree with some probabilities give those back; of two classes there is only the one pair."""
    p = np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])
    pairs = p[:, :, None] / (p[:, :, None] + p[:, None, :])
    two = np.array([[[7, 0.75], [0.25, np.nan]]])
    return [
        case("couple_pairs", pairs, expected=p, atol=3e-3),
        case("couple_pairs", two, expected=np.array([[0.75, 0.25]]), atol=3e-3),
        case("couple_pairs", np.ones((2, 1, 1)), expected=np.ones((2, 1))),
        case("couple_pairs", np.zeros((0, 4, 4)), expected=np.zeros((0, 4))),
    ]


def images() -> list[Case]:
    """A bitmap of one row: red, then nearly black. Rows are padded to four bytes."""
    header = b"BM" + struct.pack("<IIIIiiHHIIiiII", 62, 0, 54, 40, 2, 1, 1, 24, 0, 8, 0, 0, 0, 0)
    bitmap = np.frombuffer(header + bytes([0, 0, 255, 3, 2, 1, 0, 0]), np.uint8)
    pixels = np.array([[[255, 0, 0], [1, 2, 3]]], np.uint8)
    grey = np.array([[[76], [2]]], np.uint8)  # 0.299 red + 0.587 green + 0.114 blue
    return [
        case("decode_image", bitmap, expected=pixels, pixel_format="RGB", symbols=("h", "w")),
        case("decode_image", bitmap, expected=pixels[..., ::-1], pixel_format="BGR", symbols=("h", "w")),
        case("decode_image", bitmap, expected=grey, pixel_format="Grayscale", symbols=("h", "w")),
    ]


CASES = [*sorting(), *determinants(), *trees(), *coupling(), *images()]
