"""Batches whose first layers run image by image (passes/batch_parts.py): the same answers, no image meets another."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import lepton
from lepton.frontends import load
from lepton.ir import ops
from lepton.passes.default import pipeline_for
from lepton.passes.pipeline import Pipeline

IMAGES, SIZE = 6, 160


def network(images: int = IMAGES) -> onnx.ModelProto:
    """Two branches that meet again, a shortcut past a layer, an output from the middle, and a sum over all images."""
    rng = np.random.default_rng(0)
    weights = {"a": (24, 3, 3, 3), "b": (24, 24, 1, 1), "c": (24, 24, 3, 3), "d": (24, 48, 1, 1)}
    stored = [helper.make_tensor(n, TensorProto.FLOAT, s, (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).ravel())
              for n, s in weights.items()]
    same: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    node = helper.make_node
    nodes = [node("Conv", ["x", "a"], ["0"], **same), node("Relu", ["0"], ["1"]), node("Conv", ["1", "b"], ["2"]),
             node("Sigmoid", ["2"], ["3"]), node("Conv", ["3", "c"], ["4"], **same), node("Add", ["4", "1"], ["5"]),
             node("Concat", ["5", "3"], ["6"], axis=1), node("Conv", ["6", "d"], ["7"]),
             node("MaxPool", ["7"], ["middle"], kernel_shape=[2, 2], strides=[2, 2]),
             node("ReduceMean", ["middle"], ["y"], axes=[0], keepdims=0)]
    shapes = {"x": (images, 3, SIZE, SIZE), "middle": (images, 24, SIZE // 2, SIZE // 2),
              "y": (24, SIZE // 2, SIZE // 2)}
    x, middle, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
    graph = helper.make_graph(nodes, "batch", [x], [middle, y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int = IMAGES) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def test_the_first_layers_run_in_parts() -> None:
    graph = load(network())
    Pipeline(pipeline_for("x86", 3, "default")).run(graph)
    joined = [n for n in graph.nodes if n.op is ops.concat and n.attrs["axis"] == 0]
    assert joined
    assert all(len(n.inputs) == IMAGES for n in joined)


@pytest.mark.parametrize("threads", [1, 3])
def test_answers_are_those_of_the_whole(threads: int) -> None:
    model, x = network(), images()
    got = lepton.compile(model, level=3).session(threads).run({"x": x})
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for a, b in zip(got.values(), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_an_image_that_is_not_a_number_stays_alone() -> None:
    compiled, x = lepton.compile(network(), level=3), images()
    clean = compiled.run({"x": x})["middle"]
    x[2] = np.nan
    spoiled = compiled.run({"x": x})["middle"]
    assert np.isnan(spoiled[2]).all()
    others = [i for i in range(IMAGES) if i != 2]
    np.testing.assert_array_equal(spoiled[others], clean[others])


def test_a_batch_needs_little_more_memory_than_an_image() -> None:
    one, all_, parts = (lepton.compile(network(n), level=level).workspace_size
                        for n, level in ((1, 3), (IMAGES, 2), (IMAGES, 3)))
    assert parts < all_ / 2
    assert parts < 2 * one
