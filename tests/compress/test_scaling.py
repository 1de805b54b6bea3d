"""Channels of different sizes: what layers read is brought to one size, and the answers stay."""
from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import lepton
from lepton.compress import Calibration, Recipe
from lepton.compress.observe import inputs_of
from lepton.compress.quantize import PLAIN_FORM
from lepton.frontends.onnx.export import to_onnx
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array
from lepton.passes.compress.layers import layers

SIZES = np.geomspace(1e-2, 1, 8).astype(np.float32)     # of the channels that come in


@cache
def model(groups: int) -> onnx.ModelProto:
    """hard-swish of x * sizes, conv 3x3 of 8 channels in so many groups whose weights undo the sizes, hard-swish, conv
    1x1."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((8, 8 // groups, 3, 3)).astype(np.float32)
    by_channel = SIZES.reshape(groups, 1, -1, 1, 1)
    w = (w.reshape(groups, 8 // groups, 8 // groups, 3, 3) / by_channel).reshape(w.shape)
    tensors = [numpy_helper.from_array(a, n) for a, n in (
        (SIZES.reshape(1, 8, 1, 1), "s"), (w, "w"), (rng.standard_normal((4, 8, 1, 1)).astype(np.float32), "v"))]
    nodes = [helper.make_node("Mul", ["x", "s"], ["sized"]), helper.make_node("HardSwish", ["sized"], ["t"]),
             helper.make_node("Conv", ["t", "w"], ["u"], pads=[1] * 4, group=groups),
             helper.make_node("HardSwish", ["u"], ["h"]), helper.make_node("Conv", ["h", "v"], ["y"])]
    graph = helper.make_graph(nodes, "sizes", [helper.make_tensor_value_info("x", 1, [8, 8, 9, 7])],
                              [helper.make_tensor_value_info("y", 1, [8, 4, 9, 7])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((8, 8, 9, 7)).astype(np.float32)


@cache
def calibration(groups: int) -> Calibration:
    return Calibration.of(model(groups), np.concatenate([images(0), images(1)]))


def error(groups: int, recipe: Recipe) -> float:
    """On images that calibration has not seen, as a share of the answers' size."""
    x = images(2)
    (want,), (got,) = evaluate(calibration(groups).graph, x), evaluate(calibration(groups).quantize(recipe), x)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_depthwise_layers_read_channels_of_one_size() -> None:
    assert error(8, Recipe(only=("u",), balance=False)) > 0.2
    assert error(8, Recipe(only=("u",))) < 0.03


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_smoothing_helps_convolutions(groups: int) -> None:
    """Groups of any width; a scale for each output has to do for weights as different as the channels were."""
    assert error(groups, Recipe(only=("u",), smooth=0.5)) < 0.5 * error(groups, Recipe(only=("u",)))


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_answers_stay_and_statistics_follow(groups: int) -> None:
    """What is said of the layers' inputs afterwards is what observing them anew finds."""
    known = calibration(groups)
    form = known.form(Recipe(smooth=0.4))
    graph, x = known.variant(form), images(3)
    np.testing.assert_allclose(evaluate(graph, x)[0], evaluate(known.graph, x)[0], rtol=1e-4, atol=1e-3)
    for name, seen in inputs_of(graph, known.runs, layers(graph)).items():
        told = known.inputs(form)[name]
        for field in ("mean", "gram", "largest"):
            np.testing.assert_allclose(getattr(told, field), getattr(seen, field), rtol=1e-3, atol=1e-6)


def test_nothing_is_done_where_no_layer_is_depthwise() -> None:
    assert calibration(1).form(Recipe()) == PLAIN_FORM
    assert calibration(8).form(Recipe()) != PLAIN_FORM
    assert calibration(8).form(Recipe(kind="dynamic")) == PLAIN_FORM


def test_compiled_code_and_onnx_runtime_agree() -> None:
    graph, x = calibration(8).quantize(Recipe()), images(4)
    want = evaluate(graph, x)[0]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options)
    for got in (lepton.compile(graph)(x), session.run(None, {"x": x})[0]):
        assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)
