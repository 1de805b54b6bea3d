"""Small networks in QDQ form: compiled to integer products, next to ONNX Runtime and to their own meaning."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import lepton
from lepton.codegen.target import TARGETS, runs_here
from lepton.driver import Options, lower
from lepton.ir import ops
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array

HERE = [t for t in ("x86-sse4", "x86-avx2", "x86-avx512", "x86-avx512vnni") if runs_here(TARGETS[t])]


class Net:
    """A model under construction; values are names, activations u8 or s8 with a scale and a zero point."""

    def __init__(self, seed: int, kind: Any) -> None:
        self.rng, self.kind = np.random.default_rng(seed), kind
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def constant(self, array: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def qdq(self, x: str, scale: float, zero: int) -> str:
        s, z = self.constant(np.float32(scale)), self.constant(np.array(zero, self.kind))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)

    def weights(self, *shape: int, axis: int) -> tuple[str, Array]:
        """Symmetric s8 with a scale per place along the axis."""
        scales = (self.rng.random(shape[axis]) * 0.01 + 0.002).astype(np.float32)
        levels = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8))
        zero = self.constant(np.zeros(shape[axis], np.int8))
        return self.node("DequantizeLinear", levels, self.constant(scales), zero, axis=axis), scales

    def conv(self, x: str, scale: float, *shape: int, **attrs: Any) -> str:
        w, scales = self.weights(*shape, axis=0)
        bias = self.constant(self.rng.integers(-3000, 3000, shape[0]).astype(np.int32))
        steps, zero = self.constant((scales * np.float32(scale)).astype(np.float32)), self.constant(
            np.zeros(shape[0], np.int32))
        return self.node("Conv", x, w, self.node("DequantizeLinear", bias, steps, zero, axis=0), **attrs)

    def model(self, shape: tuple[int, ...], *outputs: str) -> onnx.ModelProto:
        made = [onnx.ValueInfoProto(name=o) for o in outputs]
        graph = helper.make_graph(self.nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], made, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def middle(kind: Any) -> int:
    return 120 if kind is np.uint8 else -7


def image_net(kind: Any) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A stem of three channels, depthwise, 1x1, a residual sum, pooling, concat, a mean and a dense layer."""
    net, mid, low = Net(1, kind), middle(kind), 0 if kind is np.uint8 else -128
    x = net.qdq("x", 0.02, mid)
    stem = net.qdq(net.node("Relu", net.conv(x, 0.02, 24, 3, 3, 3, strides=[2, 2], pads=[1] * 4)), 0.03, low)
    stem = net.qdq(net.node("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 0.03, low)
    deep = net.qdq(net.conv(stem, 0.03, 24, 1, 3, 3, pads=[1] * 4, group=24), 0.05, mid)
    point = net.qdq(net.conv(deep, 0.05, 24, 24, 1, 1), 0.11, mid)
    total = net.qdq(net.node("Relu", net.node("Add", stem, point)), 0.09, low)
    left = net.qdq(net.conv(total, 0.09, 20, 24, 3, 3, pads=[1] * 4), 0.4, mid)
    both = net.qdq(net.node("Concat", left, total, axis=1), 0.4, mid)
    mean = net.qdq(net.node("GlobalAveragePool", both), 0.2, mid)
    flat = net.node("Flatten", mean)
    w, _ = net.weights(10, 44, axis=0)
    result = net.qdq(net.node("Gemm", flat, w, net.constant(net.rng.random(10, np.float32)), transB=1), 0.1, mid)
    return net.model((2, 3, 33, 29), result), (2, 3, 33, 29)


def attention_net(kind: Any) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Two projections, scores of two values, softmax, values again; sizes that four does not divide."""
    net, mid, low = Net(2, kind), middle(kind), 0 if kind is np.uint8 else -128
    x = net.qdq("x", 0.02, mid)

    def project(scale: float) -> str:
        w, _ = net.weights(36, 36, axis=1)
        y = net.node("Add", net.qdq(net.node("MatMul", x, w), scale, mid), net.constant(net.rng.random(36, np.float32)))
        y = net.node("Reshape", y, net.constant(np.array([2, 19, 4, 9])))
        return y

    q, k, v = (project(0.03) for _ in range(3))
    q = net.qdq(net.node("Transpose", q, perm=[0, 2, 1, 3]), 0.03, mid)
    k = net.qdq(net.node("Transpose", k, perm=[0, 2, 3, 1]), 0.03, mid)
    v = net.qdq(net.node("Transpose", v, perm=[0, 2, 1, 3]), 0.03, mid)
    scores = net.qdq(net.node("MatMul", q, k), 0.5, mid)
    weights = net.qdq(net.node("Softmax", scores, axis=-1), 1 / 255, low)
    mixed = net.qdq(net.node("MatMul", weights, v), 0.03, mid)
    return net.model((2, 19, 36), mixed), (2, 19, 36)


def reference(model: onnx.ModelProto, x: Array, optimise: bool) -> Array:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("kind", [np.uint8, np.int8], ids=["u8", "s8"])
@pytest.mark.parametrize("net", [image_net, attention_net])
def test_agrees(net: Any, kind: Any, tmp_path: Any) -> None:
    """Nowhere more than a quantum from ONNX Runtime, and hardly anywhere at all from its unfused operators (its fused
    softmax looks up rounded powers); the same bits for all threads and, without softmax, on all machines."""
    model, shape = net(kind)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    quantum = {image_net: 0.1, attention_net: 0.03}[net]
    runs = [*((t, 1) for t in HERE), (HERE[-1], 2)]
    found = [np.asarray(lepton.compile(path, target=t, threads=n)(x)) for t, n in runs]
    for optimised in (False, True):
        steps = np.abs(np.rint((found[-1] - reference(model, x, optimised)) / quantum))
        assert steps.max() <= 1
        assert optimised or (steps > 0).mean() < 0.01
    for other in found[:-1]:
        if net is image_net:
            np.testing.assert_array_equal(other, found[-1])
        assert np.abs(other - found[-1]).max() < 1.01 * quantum


@pytest.mark.parametrize("kind", [np.uint8, np.int8], ids=["u8", "s8"])
@pytest.mark.parametrize("net", [image_net, attention_net])
def test_only_integer_products_are_left(net: Any, kind: Any, tmp_path: Any) -> None:
    model, shape = net(kind)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    done = lower(path, Options.of({"target": HERE[-1]}))
    graph = done.graphs[0]
    left = {n.op for n in graph.walk()}
    assert not left & {ops.conv, ops.matmul, ops.quantize, ops.dequantize}
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    want, got = evaluate(done.original, x)[0], evaluate(graph, x)[0]
    assert np.abs(want - got).max() < 0.11


def test_dynamic_quantisation(tmp_path: Any) -> None:
    """Zero points that are known only at run time."""
    rng = np.random.default_rng(5)
    w = rng.integers(-127, 128, (20, 33)).astype(np.int8)
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
             helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]), helper.make_node("Cast", ["i"], ["f"], to=1),
             helper.make_node("Mul", ["f", "s"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 20])],
                              [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.standard_normal((7, 20)).astype(np.float32)
    for target in HERE:
        got = np.asarray(lepton.compile(tmp_path / "model.onnx", target=target)(x))
        np.testing.assert_allclose(got, reference(model, x, True), rtol=1e-6, atol=1e-5)
