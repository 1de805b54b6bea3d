"""Recurrent layers with weights of bytes: near the float ones, small, and the same in ONNX Runtime."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import lepton
from lepton.compress import Calibration, Recipe, quantize_model
from lepton.compress.sensitivity import estimated
from lepton.frontends.onnx.export import to_onnx
from lepton.ir import ops
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, HIDDEN, STEPS = 24, 40, 9


def network(kind: str, directions: int) -> onnx.ModelProto:
    """A recurrent layer over x [T,2,24], then a product."""
    rng = np.random.default_rng(directions)

    def array(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32), name)

    columns = GATES[kind] * HIDDEN
    tensors = [array("w", directions, columns, INPUTS), array("r", directions, columns, HIDDEN),
               array("b", directions, 2 * columns), array("v", HIDDEN, 5)]
    nodes = [helper.make_node(kind, ["x", "w", "r", "b"], ["y", "last"], hidden_size=HIDDEN,
                              direction="bidirectional" if directions == 2 else "forward"),
             helper.make_node("MatMul", ["last", "v"], ["z"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [STEPS, 2, INPUTS])],
                              [helper.make_tensor_value_info(n, 1, None) for n in ("z", "y")], tensors)
    made: onnx.ModelProto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    return made


def sample() -> Array:
    return np.random.default_rng(8).standard_normal((STEPS, 2, INPUTS)).astype(np.float32)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("how", ["static", "dynamic", "weights"])
def test_weights_become_bytes(kind: str, directions: int, how: Any) -> None:
    source, x = network(kind, directions), sample()
    graph = quantize_model(source, kind=how, calibration=[{"x": x}])
    meant, model = evaluate(graph, x), lepton.compile(graph)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    theirs = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options).run(None, {"x": x})
    exact = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    for got, want, peer, near in zip(model(x), meant, theirs, exact, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if want.ndim == 4 else 0.02)   # z: rounded activations
        np.testing.assert_allclose(peer, want, rtol=0, atol=1e-5 if want.ndim == 4 else 0.02)
        assert 0 < np.linalg.norm(want - near) < 0.03 * np.linalg.norm(near)
    facts = model.metadata["statistics"]["coded"]
    assert facts["weights"] >= directions * GATES[kind] * HIDDEN * (INPUTS + HIDDEN)
    whole = lepton.compile(source).metadata["statistics"]["weights"]
    assert model.metadata["statistics"]["weights"] < 0.45 * whole


def test_names_choose_among_them() -> None:
    calibration = Calibration.of(network("LSTM", 1), [{"x": sample()}])

    def quantised(**fields: Any) -> list[bool]:
        """Whether the recurrent layer, and whether the product is."""
        nodes = calibration.quantize(Recipe(**fields)).nodes
        return [n.inputs[1].producer.op is ops.dequantize for n in nodes   # type: ignore[union-attr]
                if n.op in (ops.lstm, ops.matmul)]

    assert quantised() == [True, True]
    assert quantised(skip=("y",)) == [False, True]
    assert quantised(only=("y",)) == [True, False]
    assert quantised(only=("z",)) == [False, True]
    assert quantised(kind="palette", bits=4) == [False, False]
    assert {d.layer for d in estimated(calibration)} == {"y", "z"}


def test_others_files_keep_their_bytes() -> None:
    """DequantizeLinear in front of W and R, one scale for all of each."""
    source, x = network("GRU", 1), sample()
    for tensor in list(source.graph.initializer):
        if tensor.name in ("w", "r"):
            array = numpy_helper.to_array(tensor)
            step = np.float32(np.abs(array).max() / 127)
            source.graph.initializer.remove(tensor)
            source.graph.initializer.extend([
                numpy_helper.from_array(np.rint(array / step).astype(np.int8), tensor.name + "8"),
                numpy_helper.from_array(np.array(step), tensor.name + "s")])
            source.graph.node.insert(0, helper.make_node("DequantizeLinear", [tensor.name + "8", tensor.name + "s"],
                                                         [tensor.name]))
    want = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    model = lepton.compile(source)
    for got, peer in zip(model(x), want, strict=True):
        np.testing.assert_allclose(got, peer, rtol=0, atol=1e-5)
    assert model.metadata["statistics"]["coded"]["weights"] == 3 * HIDDEN * (INPUTS + HIDDEN)
    strict = lepton.compile(source, math="strict")
    assert not strict.metadata["statistics"]["coded"]["weights"]
    np.testing.assert_allclose(strict(x)[1], want[1], rtol=0, atol=1e-5)
