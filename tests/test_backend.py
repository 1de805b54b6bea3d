"""ONNX's backend interface on Lepton: whole models, single nodes, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import lepton
import lepton.backend
from lepton.ir.diagnostics import LeptonError, UsageError

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def _model(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """x[3, 4] -> outputs, opset 17."""
    make = onnx.helper.make_tensor_value_info
    values = [make(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = onnx.helper.make_graph(list(nodes), "g", [make("x", onnx.TensorProto.FLOAT, X.shape)], values)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_model_runs_on_positional_inputs() -> None:
    model = _model(onnx.helper.make_node("Relu", ["x"], ["y"]), onnx.helper.make_node("Neg", ["x"], ["z"]),
                   outputs=("y", "z"))
    prepared = lepton.backend.prepare(model)
    relu, negated = prepared.run([X])
    np.testing.assert_array_equal(relu, np.maximum(X, 0))
    np.testing.assert_array_equal(negated, -X)
    np.testing.assert_array_equal(lepton.backend.run_model(model, [X])[0], relu)


def test_one_node_runs() -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    (total,) = lepton.backend.run_node(node, [X, X[:1]])
    np.testing.assert_array_equal(total, X + X[:1])
    node = onnx.helper.make_node("Mul", ["a", "a"], ["c"])
    (square,) = lepton.backend.run_node(node, [X, X], opset_version=14)
    np.testing.assert_array_equal(square, X * X)


def test_wrong_number_of_arrays_is_refused() -> None:
    with pytest.raises(UsageError, match="reads 2 inputs, got 1"):
        lepton.backend.run_node(onnx.helper.make_node("Add", ["a", "b"], ["c"]), [X])


def test_only_the_cpu() -> None:
    assert lepton.backend.supports_device("CPU")
    assert lepton.backend.supports_device("CPU:0")
    assert not lepton.backend.supports_device("CUDA")
    with pytest.raises(UsageError, match="CUDA"):
        lepton.backend.prepare(_model(onnx.helper.make_node("Relu", ["x"], ["y"])), device="CUDA")


def test_options_are_not_swallowed() -> None:
    prepared = lepton.backend.prepare(_model(onnx.helper.make_node("Relu", ["x"], ["y"])))
    with pytest.raises(UsageError, match="fast"):
        prepared.run([X], fast=True)


def test_compatibility_is_told_without_compiling() -> None:
    assert lepton.backend.is_compatible(_model(onnx.helper.make_node("Relu", ["x"], ["y"])))
    strange = _model(onnx.helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nobody.knows"))
    strange.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    assert not lepton.backend.is_compatible(strange)
    with pytest.raises(LeptonError, match="NoSuchOperator"):
        lepton.backend.prepare(strange)
