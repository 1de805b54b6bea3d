"""quantize_model: integer kernels after compilation, ONNX Runtime's answers, what each option does."""
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import lepton
from lepton.compress import Calibration, Recipe, quantize_model
from lepton.compress.observe import Inputs
from lepton.compress.ranges import Histogram, choose
from lepton.compress.rounding import activation_aware, block_steps, gptq, up_or_down
from lepton.driver import Options, lower
from lepton.frontends.onnx.export import to_onnx
from lepton.ir import ops
from lepton.ir.diagnostics import UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array

RNG = np.random.default_rng(7)


@cache
def net() -> onnx.ModelProto:
    """conv, batch norm, relu, pool, depthwise, residual sum, mean, dense; a batch of 16."""
    rng = np.random.default_rng(1)

    def array(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    norm = [numpy_helper.from_array(np.linspace(0.2, 2, 8).astype(np.float32), "g"), array("h", 8), array("m", 8),
            numpy_helper.from_array(np.linspace(0.5, 3, 8).astype(np.float32), "var")]
    tensors = [array("v", 8, 3, 3, 3), *norm, array("d", 8, 1, 3, 3), array("p", 8, 8, 1, 1),
               array("w", 8, 5, scale=1.0)]
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], pads=[1] * 4), helper.make_node(
            "BatchNormalization", ["a", "g", "h", "m", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]), helper.make_node("MaxPool", ["r"], ["q"], kernel_shape=[2, 2],
                                                                 strides=[2, 2]),
        helper.make_node("Conv", ["q", "d"], ["e"], pads=[1] * 4, group=8), helper.make_node("Relu", ["e"], ["s"]),
        helper.make_node("Conv", ["s", "p"], ["t"]), helper.make_node("Add", ["t", "q"], ["u"]),
        helper.make_node("GlobalAveragePool", ["u"], ["z"]), helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", 1, [16, 3, 12, 10])],
                              [helper.make_tensor_value_info("y", 1, [16, 5])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 10)).astype(np.float32)


@cache
def calibration() -> Calibration:
    return Calibration.of(net(), images(48))


@cache
def expected() -> Array:
    return np.asarray(evaluate(calibration().graph, images(16, 1))[0])


def error(got: Array) -> float:
    """On images that calibration has not seen, as a share of the answers' size."""
    return float(np.linalg.norm(got - expected()) / np.linalg.norm(expected()))


RECIPES = {
    "plain": Recipe(), "i8": Recipe(activations="i8"), "minmax": Recipe(ranges="minmax"),
    "percentile": Recipe(ranges="percentile"), "entropy": Recipe(ranges="entropy"), "gptq": Recipe(rounding="gptq"),
    "adaround": Recipe(rounding="adaround"), "equalize": Recipe(equalize=True), "smooth": Recipe(smooth=0.5),
    "dynamic": Recipe(kind="dynamic"), "weights": Recipe(kind="weights"),
    "int4": Recipe(kind="weights", bits=4, block=32, rounding="gptq", awq=True),
    "u16": Recipe(activations="u16"), "i16": Recipe(activations="i16"), "pruned": Recipe(prune=0.05, pattern="4x4"),
    "palette": Recipe(kind="palette", bits=6), "palette4": Recipe(kind="palette", bits=4),
}


@pytest.mark.parametrize("name", RECIPES)
def test_answers_stay_near_and_onnx_runtime_agrees(name: str) -> None:
    graph = calibration().quantize(RECIPES[name])
    got = evaluate(graph, images(16, 1))[0]
    assert error(got) < {"int4": 0.25, "entropy": 0.2, "palette4": 0.2, "pruned": 0.1}.get(name, 0.04)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), options)
    want = session.run(None, {"x": images(16, 1)})[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=0.01 * float(np.abs(want).max()))


@pytest.mark.parametrize("name", ["plain", "i8", "dynamic", "u16", "pruned", "palette"])
def test_onnx_runtime_agrees_however_it_rewrites(name: str) -> None:
    """At its default level, where it makes integer kernels of what is written: rounded values move by a level."""
    graph = calibration().quantize(RECIPES[name])
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString())
    (want,), got = session.run(None, {"x": images(16, 1)}), np.asarray(lepton.compile(graph)(images(16, 1)))
    assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("name", ["plain", "dynamic", "int4"])
def test_compiled_code_says_what_the_graph_means(name: str) -> None:
    graph = calibration().quantize(RECIPES[name])
    want = evaluate(graph, images(16, 1))[0]
    got = lepton.compile(graph)(images(16, 1))
    np.testing.assert_allclose(got, want, rtol=0, atol=0.01 * float(np.abs(want).max()))


def test_every_layer_becomes_integer() -> None:
    done = lower(calibration().quantize(Recipe()), Options())
    left = {n.op for n in done.graphs[0].walk()}
    assert not left & {ops.conv, ops.matmul, ops.quantize, ops.dequantize}
    full = lower(net(), Options())
    mine, theirs = (next(iter(d.report.targets.values()))["weights"] for d in (done, full))
    assert mine < 0.6 * theirs


def attention() -> onnx.ModelProto:
    """One head: projections, scores, softmax, values, a projection. [2,10,16] -> [2,10,16]."""
    rng = np.random.default_rng(7)
    tensors = [numpy_helper.from_array((rng.standard_normal((16, 16)) / 3).astype(np.float32), n) for n in "qkvo"]
    nodes = [*(helper.make_node("MatMul", ["x", n], [n * 2]) for n in "qkv"),
             helper.make_node("Transpose", ["kk"], ["kt"], perm=[0, 2, 1]),
             helper.make_node("MatMul", ["qq", "kt"], ["s"]), helper.make_node("Softmax", ["s"], ["p"], axis=-1),
             helper.make_node("MatMul", ["p", "vv"], ["m"]), helper.make_node("MatMul", ["m", "o"], ["y"])]
    graph = helper.make_graph(nodes, "attention", [helper.make_tensor_value_info("x", 1, [2, 10, 16])],
                              [helper.make_tensor_value_info("y", 1, [2, 10, 16])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_attention_becomes_integer() -> None:
    """Scores and what they weigh too: six products of levels, and none of floats."""
    data = np.random.default_rng(8).standard_normal((16, 10, 16)).astype(np.float32)
    graph, x = quantize_model(attention(), calibration=data), data[:2] * np.float32(0.9)
    done = lower(graph, Options()).graphs[0]
    assert [n.op for n in done.walk() if n.op in (ops.matmul, ops.attention, ops.matmul_integer)] == [
        ops.matmul_integer] * 6
    (want,), (meant,) = evaluate(quantize_model(attention(), kind="float"), x), evaluate(graph, x)
    assert np.linalg.norm(meant - want) < 0.1 * np.linalg.norm(want)
    np.testing.assert_allclose(lepton.compile(graph)(x), meant, rtol=0, atol=0.02 * float(np.abs(want).max()))


def test_skipped_layers_stay_and_only_chosen_ones_change() -> None:
    names = {n.result.name for n in calibration().graph.nodes if n.op in (ops.conv, ops.matmul)}
    skipped = calibration().quantize(Recipe(skip=("y",)))
    assert sum(n.op is ops.quantize for n in skipped.nodes) == 3
    alone = calibration().quantize(Recipe(only=("y",)))
    assert sum(n.op is ops.quantize for n in alone.nodes) == 1
    assert "y" in names
    with pytest.raises(UsageError, match="no layer 'nothing'"):
        calibration().quantize(Recipe(skip=("nothing",)))


def test_inputs_may_have_any_name() -> None:
    """Text IR puts names in quotes that are no identifiers."""
    model = onnx.ModelProto()
    model.CopyFrom(net())
    model.graph.input[0].name = model.graph.node[0].input[0] = "gpu_0/data_0"
    graph = quantize_model(model, calibration=images(16))
    np.testing.assert_array_equal(evaluate(graph, images(16))[0], evaluate(quantize_model(
        net(), calibration=images(16)), images(16))[0])


def test_the_source_is_left_alone() -> None:
    graph = calibration().graph
    before = [id(n) for n in graph.nodes]
    calibration().quantize(Recipe())
    assert [id(n) for n in graph.nodes] == before


def test_recipes_do_not_depend_on_those_before() -> None:
    calibration().quantize(RECIPES["gptq"])
    seen = {name: s.gram.copy() for name, s in calibration().inputs(Recipe().form).items()}
    calibration().quantize(RECIPES["int4"])
    for name, stats in calibration().inputs(Recipe().form).items():
        np.testing.assert_array_equal(stats.gram, seen[name])


def test_quantising_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="quantised already"):
        quantize_model(quantize_model(net(), kind="dynamic"), kind="dynamic")


@pytest.mark.parametrize(("fields", "said"), [
    ({"kind": "magic"}, "unknown kind"), ({"ranges": "guess"}, "unknown calibration"), ({"bits": 5}, "5 bits"),
    ({"bits": 4}, "4 bits for kind 'static'"), ({"colour": 1}, "unknown option 'colour'"), ({}, "calibration data"),
    ({"kind": "weights", "block": 7}, "blocks of 7"), ({"smooth": 1.5}, "smooth=1.5"),
    ({"kind": "weights", "block": 32.0}, "blocks of 32.0"), ({"prune": "0.5"}, "prune='0.5'"),
    ({"correct_bias": "no"}, "correct_bias='no'"), ({"kind": "dynamic", "skip": "ta"}, "no layer 'ta'"),
])
def test_wrong_recipes(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantize_model(net(), **fields)


@pytest.mark.parametrize("make", [quantize_model, lepton.compress.prune_model, lepton.compress.factorize])
def test_a_model_without_layers_is_given_back_with_a_warning(make: Any) -> None:
    """Halves are no layers."""
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net",
                              [helper.make_tensor_value_info("x", 10, [2, 32])],
                              [helper.make_tensor_value_info("y", 10, [2, 32])],
                              [numpy_helper.from_array(np.ones((32, 32), np.float16), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.warns(UserWarning, match="no layers to compress: layers are .* in f32"):
        made = make(model, calibration=np.ones((2, 32), np.float16)) if make is quantize_model else make(model)
    assert not any(n.op is ops.dequantize for n in made.walk())


@pytest.mark.parametrize("kind", ["static", "dynamic", "weights", "palette"])
def test_layers_of_no_weights_stay(kind: Any) -> None:
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net",
                              [helper.make_tensor_value_info("x", 1, [2, 8])],
                              [helper.make_tensor_value_info("y", 1, [2, 0])],
                              [numpy_helper.from_array(np.zeros((8, 0), np.float32), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.ones((2, 8), np.float32)
    assert np.asarray(lepton.compile(quantize_model(model, calibration=x, kind=kind))(x)).shape == (2, 0)


@pytest.mark.parametrize("fields", [{"rounding": "gptq"}, {"factors": 0.5}, {"prune": 0.5, "pattern": "16x1"}])
def test_what_layers_read_must_be_numbers(fields: dict[str, Any]) -> None:
    tensors = [numpy_helper.from_array(np.full((8, 8), value, np.float32), name) for name, value in
               (("w", 3e38), ("v", 1.0))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y"])]
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", 1, [4, 8])],
                              [helper.make_tensor_value_info("y", 1, [4, 8])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UsageError, match="'a' becomes infinite or NaN"):
        quantize_model(model, calibration=np.ones((4, 8), np.float32), kind="weights", **fields)


# --- rounding and ranges ----------------------------------------------------------------------------


def layer_error(w: Array, q: Array, h: Array) -> float:
    return float(np.einsum("ok,kl,ol->", w - q, h, w - q))


@pytest.mark.parametrize("method", [gptq, up_or_down])
def test_rounding_by_the_answers_beats_the_nearest_levels(method: Any) -> None:
    x = RNG.standard_normal((400, 40)) @ RNG.standard_normal((40, 40))  # inputs that go together
    h, w = x.T @ x / len(x), RNG.standard_normal((13, 40))
    steps = block_steps(w, 16, 7)
    levels = method(w, steps, h, 7)
    assert np.array_equal(levels, np.rint(levels))
    assert np.abs(levels).max() <= 7
    nearest = np.clip(np.rint(w / steps), -7, 7) * steps
    assert layer_error(w, levels * steps, h) < 0.7 * layer_error(w, nearest, h)


def test_the_bias_takes_the_mean_of_what_rounding_changes() -> None:
    """Inputs around 3: what rounding takes from the weights adds up."""
    rng = np.random.default_rng(9)
    w = rng.standard_normal((32, 16)).astype(np.float32)
    model = helper.make_model(helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "dense", [helper.make_tensor_value_info("x", 1, ["N", 32])],
        [helper.make_tensor_value_info("y", 1, ["N", 16])], [numpy_helper.from_array(w, "w")]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = (3 + 0.3 * rng.standard_normal((512, 32))).astype(np.float32)
    off, on = (np.abs((evaluate(quantize_model(model, calibration=x, correct_bias=c), x)[0] - x @ w).mean(axis=0)).max()
               for c in (False, True))
    assert on < 0.2 * off


def test_rounding_survives_dead_inputs() -> None:
    h = np.zeros((5, 5))
    w = RNG.standard_normal((3, 5))
    for method in (gptq, up_or_down):
        assert np.isfinite(method(w, block_steps(w, 0, 127), h, 127)).all()
    factors, _ = activation_aware(w, h, 7, 0)
    assert np.isfinite(factors).all()


def test_ranges_cut_outliers() -> None:
    x = np.concatenate([RNG.standard_normal(100_000), [50.0]])
    histogram = Histogram.empty(float(x.min()), float(x.max()))
    histogram.add(x)
    widths = {m: choose(histogram, m) for m in ("minmax", "percentile", "entropy", "mse")}
    assert widths["minmax"][1] == 50
    assert widths["percentile"][1] < 6
    assert widths["mse"][1] < 50
    assert all(low <= 0 <= high for low, high in widths.values())


def test_values_that_hardly_differ_have_a_range() -> None:
    x = np.array([1e6, np.nextafter(np.float32(1e6), np.float32(2e6))], np.float32)
    histogram = Histogram.empty(float(x[0]), float(x[1]))
    histogram.add(x)
    assert histogram.counts.sum() == 2
    assert choose(histogram, "mse")[1] == pytest.approx(1e6, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_value_that_never_changes_has_a_range(value: float) -> None:
    histogram = Histogram.empty(value, value)
    histogram.add(np.full(10, value))
    assert choose(histogram, "mse") == (min(value, 0.0), max(value, 0.0))


def test_statistics_have_one_row_for_each_group() -> None:
    calibration().quantize(Recipe())
    stats = calibration().inputs(Recipe().form)
    deep = next(s for s in stats.values() if s.gram.shape[0] == 8)
    assert isinstance(deep, Inputs)
    assert deep.gram.shape == (8, 9, 9)
    assert deep.mean.shape == (8, 9)


def test_embeddings_become_bytes() -> None:
    """Rows looked up, then a product that reads codes; ONNX Runtime agrees with the graph, the artifact is small."""
    rng = np.random.default_rng(4)
    table, w = rng.standard_normal((300, 64)).astype(np.float32), rng.standard_normal((64, 96)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["t", "ids"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "look", [helper.make_tensor_value_info("ids", 7, ["n"])],
                              [helper.make_tensor_value_info(n, 1, None) for n in ("x", "y")],
                              [numpy_helper.from_array(table, "t"), numpy_helper.from_array(w, "w")])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = quantize_model(source, weights_only=True, embeddings=True)
    ids = np.array([3, 299, 0, -1])
    session = onnxruntime.InferenceSession(to_onnx(made).SerializeToString())
    model = lepton.compile(made)
    for got, want in zip(model(ids), session.run(None, {"ids": ids}), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))
    np.testing.assert_allclose(model(ids)[0], table[ids], rtol=0, atol=float(np.abs(table).max()) / 127)
    assert model.metadata["statistics"]["weights"] < 0.3 * (table.nbytes + w.nbytes)


def test_rounding_weights_alone_counts_the_mean_of_inputs() -> None:
    """No bias makes up for it there: inputs far from 0 must not come out shifted."""
    rng = np.random.default_rng(6)
    w, x = rng.standard_normal((64, 32)).astype(np.float32), rng.standard_normal((256, 64)).astype(np.float32) + 5
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "dense",
                              [helper.make_tensor_value_info("x", 1, [256, 64])],
                              [helper.make_tensor_value_info("y", 1, [256, 32])], [numpy_helper.from_array(w, "w")])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    lost = {}
    for rounding in ("nearest", "gptq"):
        made = quantize_model(source, bits=4, weights_only=True, block=32, rounding=rounding, calibration=x)
        lost[rounding] = float(np.square(evaluate(made, x)[0] - x @ w).mean())
    assert lost["gptq"] < 0.3 * lost["nearest"]
