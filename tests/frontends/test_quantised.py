"""ONNX's own quantised operators in odd forms, compiled, against ONNX Runtime: blocks, axes, narrow types, extremes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.frontends.build import IR_VERSION, floats, positive, same
from tests.frontends.contrib import Operand, agrees, compiled, held, node_model, reference

WIDE = floats(3, 4, 5) * 4
WIDE[0, 0, :4] = np.inf, -np.inf, 1e30, -1e30
WIDE[1, 0, :3] = 0.5, 1.5, 2.5      # halves go to even
LEVELS = np.random.default_rng(0)
INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, ml_dtypes.uint4, ml_dtypes.int4)
FLOATS = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz)
# scale, zero point, attributes of x [3,4,5]
FORMS: list[tuple[np.ndarray, tuple[int, ...], dict[str, int]]] = [
    (np.array(1, np.float32), (), {}), (positive(4), (4,), {"axis": -2}), (positive(5), (5,), {"axis": 2}),
    (positive(3, 4, 3), (3, 4, 3), {"axis": -1, "block_size": 2}), (positive(3, 2, 5), (3, 2, 5), {"axis": 1,
                                                                                                    "block_size": 2}),
]


def there_and_back(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear: ONNX Runtime shows no tensor of 4 bits or of most 8-bit floats."""
    back = {k: v for k, v in attributes.items() if k != "saturate"}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **back)]
    shape = [f"n{i}" if i == 0 else d for i, d in enumerate(x.shape)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(zero, "z")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=IR_VERSION)


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda kind: kind.__name__)
def test_integers(kind: Any) -> None:
    for scale, shape, attributes in FORMS:
        # Where it goes by blocks or to 4 bits, ONNX Runtime makes the least level of infinity.
        finite = "block_size" in attributes or kind in INTEGERS[4:]
        x = np.clip(WIDE, -1e3, 1e3) if finite else WIDE
        zero = LEVELS.integers(0, 7, shape).astype(kind)
        model = there_and_back(x, scale, zero, **attributes)
        same(compiled(model, {"x": x}), reference(model, {"x": x}), rtol=0, atol=0)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.__name__)
def test_small_floats(kind: Any) -> None:
    """Not a number stays so; what is too large is the largest, or not a number (infinity where the type has it). The
    latter against ml_dtypes: ONNX Runtime makes 448 of 480 as f8e4m3fn, and nothing of 470."""
    x = WIDE * 30
    x[2, 2, 2] = np.nan
    for scale, shape, attributes in FORMS[:3]:
        zero, spread = np.zeros(shape, kind), np.asarray(scale).reshape([-1, 1] if shape == (4,) else [-1])
        model = there_and_back(x, scale, zero, **attributes)
        same(compiled(model, {"x": x}), reference(model, {"x": x}), rtol=0, atol=0)
        with np.errstate(all="ignore"):
            want = (x / spread).astype(kind).astype(np.float32) * spread
        same(compiled(there_and_back(x, scale, zero, saturate=0, **attributes), {"x": x}), [want], rtol=0, atol=0)


@pytest.mark.parametrize("x", [
    floats(4, 5), -positive(4, 5), positive(1, 1), np.zeros((2, 3), np.float32), np.array([1e38, -2e38], np.float32),
    np.array([1e-40, 0], np.float32), np.array([-0.0, -5.0, 0.01], np.float32),
], ids=lambda x: str(x.shape))
def test_dynamic(x: np.ndarray) -> None:
    agrees("DynamicQuantizeLinear", x, outputs=3, domain="", rtol=0, atol=0)


def test_dynamic_without_elements() -> None:
    """ONNX Runtime reads past the end; by the specification the range holds 0 alone."""
    y, scale, zero = compiled(*node_model("DynamicQuantizeLinear", np.zeros((0, 3), np.float32), outputs=3, domain=""))
    assert (y.shape, float(scale), int(zero)) == ((0, 3), 1.0, 0)


def byte(value: int, kind: Any = np.uint8) -> Operand:
    return held(value, kind)


def drawn(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    return LEVELS.integers(0, 256, shape).astype(np.uint8).view(kind)


ZEROS, ONE = held(np.zeros(6), np.int8), held(0.02, np.float32)
BIAS = held(LEVELS.integers(-900, 900, 6), np.int32)
PRODUCTS: list[tuple[str, tuple[Operand, ...], dict[str, Any]]] = [
    ("MatMulInteger", (drawn(2, 3, 4, 7), drawn(7, 5, kind=np.int8), byte(3), held(np.arange(5) - 2, np.int8)), {}),
    ("MatMulInteger", (drawn(2, 1, 4, 7), drawn(3, 7, 5, kind=np.int8), None, held(np.ones((3, 1, 5)), np.int8)),
     {"sizes": {"m": 4}}),
    ("MatMulInteger", (drawn(7), drawn(7, 5)), {}),
    ("QLinearMatMul", (drawn(2, 4, 7), ONE, byte(3), drawn(7, 5, kind=np.int8), ONE, byte(1, np.int8),
                       held(0.1, np.float32), byte(100)), {}),
    ("QLinearMatMul", (drawn(2, 4, 7, kind=np.int8), ONE, byte(3, np.int8), held(drawn(7, 6, kind=np.int8)),
                       held(positive(6)), ZEROS, held(3, np.float32), byte(10, np.int8)), {"sizes": {"m": 4}}),
    ("ConvInteger", (drawn(1, 4, 6, 7), held(drawn(6, 2, 3, 3)), byte(7), byte(120)),
     {"group": 2, "pads": [1, 1, 1, 1]}),
    ("QLinearConv", (drawn(2, 4, 7, 7), ONE, byte(7), held(drawn(6, 4, 3, 3, kind=np.int8)), held(positive(6)), ZEROS,
                     held(3, np.float32), byte(7), BIAS), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("QLinearConv", (drawn(2, 4, 9), ONE, byte(7), held(drawn(6, 4, 3, kind=np.int8)), ONE, byte(0, np.int8),
                     held(3, np.float32), byte(7)), {}),
    ("QLinearConv", (drawn(2, 6, 9, 9), ONE, byte(7), held(drawn(6, 1, 3, 3, kind=np.int8)), held(positive(6)), ZEROS,
                     held(0.5, np.float32), byte(7)), {"group": 6}),
]


@pytest.mark.parametrize("k", range(len(PRODUCTS)), ids=lambda k: f"{PRODUCTS[k][0]}-{k}")
def test_products(k: int) -> None:
    op, operands, rest = PRODUCTS[k]
    channels = {"sizes": {"batch": 2, "size": 9, "width": 7}} if "Conv" in op else {}
    agrees(op, *operands, domain="", rtol=0, atol=0, **{**channels, **rest})


def test_a_zero_point_for_each_row() -> None:
    """ONNX allows it for the left operand; ONNX Runtime does not."""
    a, b, zero = drawn(4, 7), drawn(7, 5), np.arange(4).astype(np.uint8)
    model, feeds = node_model("MatMulInteger", a, b, held(zero), domain="", sizes={"m": 9})
    want = (a.astype(np.int64) - zero[:, None]) @ b
    np.testing.assert_array_equal(compiled(model, feeds)[0], want)
