"""16-bit activations with 8-bit weights: sums of bytes, exact; the same bits everywhere; ONNX Runtime's answers."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import lepton
from lepton.codegen.target import TARGETS, runs_here
from lepton.compress import quantize_model
from lepton.driver import Options, lower
from lepton.frontends.onnx.export import to_onnx
from lepton.ir import ops
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array

HERE = [t for t in ("x86-sse4", "x86-avx2", "x86-avx512", "x86-avx512vnni") if runs_here(TARGETS[t])]


def model_of(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str],
             tensors: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=o) for o in outputs],
                              [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()])
    made: onnx.ModelProto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return made


def product(kind: Any, zero: int, w: Array, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Levels of 16 bits times bytes, both of scale 1."""
    nodes = [helper.make_node("DequantizeLinear", ["x", "one", "z"], ["a"]),
             helper.make_node("DequantizeLinear", ["w", "one"], ["b"]), helper.make_node("MatMul", ["a", "b"], ["y"])]
    given = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
    return model_of(nodes, [given], ["y"], {"one": np.float32(1), "z": np.array(zero, kind), "w": w})


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("kind", "zero"), [(np.uint16, 0), (np.uint16, 65535), (np.uint16, 32895), (np.int16, 0),
                                            (np.int16, -32768), (np.int16, 77)])
def test_sums_are_exact(target: str, kind: Any, zero: int) -> None:
    """Rounded to f32 at the end alone, at the ends of the levels' range too."""
    rng, info = np.random.default_rng(zero & 255), np.iinfo(kind)
    w = rng.integers(-128, 128, (131, 37)).astype(np.int8)
    x = rng.integers(info.min, info.max + 1, (5, 131)).astype(kind)
    x[0], x[1], x[2, ::2] = info.min, info.max, info.max
    got = lepton.compile(product(kind, zero, w, x.shape), target=target)(x)
    moved = x.astype(np.int64) - zero
    np.testing.assert_allclose(got, moved @ w.astype(np.int64), rtol=2**-22, atol=0.5)
    high = (x.astype(np.int64) - info.min) // 256 - (zero - info.min) // 256
    low = (x.astype(np.int64) - info.min) % 256 - (zero - info.min) % 256
    sums = [np.asarray(d @ w.astype(np.int64), np.float32) for d in (high, low)]
    np.testing.assert_array_equal(got, sums[0] * np.float32(256) + sums[1])


def network() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """conv with borders, pointwise conv, depthwise (which stays a product of floats), dense."""
    rng = np.random.default_rng(3)

    def array(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    nodes = [helper.make_node("Conv", ["x", "v", "c"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["r"]),
             helper.make_node("Conv", ["r", "p"], ["e"]), helper.make_node("Add", ["e", "r"], ["s"]),
             helper.make_node("Conv", ["s", "d"], ["t"], pads=[1] * 4, group=64),
             helper.make_node("GlobalAveragePool", ["t"], ["m"]), helper.make_node("Flatten", ["m"], ["f"]),
             helper.make_node("MatMul", ["f", "w"], ["y"])]
    tensors = {"v": array(64, 8, 3, 3), "c": array(64), "p": array(64, 64, 1, 1), "d": array(64, 1, 3, 3),
               "w": array(64, 10)}
    return model_of(nodes, [helper.make_tensor_value_info("x", 1, [2, 8, 9, 7])], ["y"], tensors), (2, 8, 9, 7)


def ort(model: onnx.ModelProto, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


@pytest.mark.parametrize("activations", ["u16", "i16"])
def test_own_quantisation(activations: str) -> None:
    """Nearer to the float model than bytes, the same bits on every machine, and in ONNX Runtime within some levels."""
    source, shape = network()
    data = np.random.default_rng(4).standard_normal((8, *shape)).astype(np.float32)
    x, runs = data[0], [{"x": d} for d in data]
    want = evaluate(quantize_model(source, kind="float"), x)[0]
    fine, coarse = (quantize_model(source, calibration=runs, activations=a) for a in (activations, "u8"))
    meant = evaluate(fine, x)[0]
    size = float(np.abs(want).max())
    assert np.abs(meant - want).max() < 0.7 * np.abs(evaluate(coarse, x)[0] - want).max()
    got = [np.asarray(lepton.compile(fine, target=t)(x)) for t in HERE]
    for other in got[1:]:
        np.testing.assert_array_equal(got[0], other)
    np.testing.assert_allclose(got[0], meant, rtol=0, atol=1e-4 * size)
    np.testing.assert_allclose(ort(to_onnx(fine), x), meant, rtol=0, atol=1e-4 * size)
    products = [n.op for n in lower(fine, Options()).graphs[0].walk() if n.op in
                (ops.conv, ops.matmul, ops.conv_integer, ops.matmul_integer)]
    assert products.count(ops.conv) == 1     # the depthwise one
    assert products.count(ops.conv_integer) == 4
    assert products.count(ops.matmul_integer) == 2


class _Feeds(CalibrationDataReader):  # type: ignore[misc]   # onnxruntime has no types
    def __init__(self, x: Array) -> None:
        self.left = [{"x": x}]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def test_files_of_onnx_runtimes_quantiser(tmp_path: Path) -> None:
    source, shape = network()
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    onnx.save(source, tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "wide.onnx", _Feeds(x), quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt16, weight_type=QuantType.QInt8, per_channel=True)
    made = onnx.load(tmp_path / "wide.onnx")
    want = ort(made, x)
    np.testing.assert_allclose(lepton.compile(made)(x), want, rtol=0, atol=2e-4 * float(np.abs(want).max()))
    assert any(n.op is ops.conv_integer for n in lower(made, Options()).graphs[0].walk())


def test_what_is_no_number_becomes_the_least_level() -> None:
    source, shape = network()
    data = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    graph = quantize_model(source, calibration=[{"x": data}], activations="u16")
    data[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    np.testing.assert_allclose(lepton.compile(graph)(data), evaluate(graph, data)[0], rtol=0, atol=1e-3)
