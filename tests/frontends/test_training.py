"""Optimiser steps: several tensors at once, at the first step and later, against onnx's own evaluator."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import lepton
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import agrees, floats, imported, positive, same, single, text_model

DOMAIN = "ai.onnx.preview.training"
STATES = {"Adagrad": 1, "Adam": 2, "Momentum": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adagrad", {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.01}), ("Adagrad", {}),
    ("Adam", {"alpha": 0.95, "beta": 0.8, "epsilon": 1e-3, "norm_coefficient": 0.01, "norm_coefficient_post": 0.02}),
    ("Adam", {"alpha": 0.9, "beta": 0.999}),
    ("Momentum", {"alpha": 0.95, "beta": 0.8, "mode": "standard", "norm_coefficient": 0.01}),
    ("Momentum", {"alpha": 0.95, "beta": 0.8, "mode": "nesterov", "norm_coefficient": 0.0}),
]


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("op", "attributes"), CASES)
def test_steps(op: str, attributes: dict[str, Any], step: int) -> None:
    feeds: dict[str, np.ndarray[Any, Any]] = {"r": np.array(0.1, np.float32), "t": np.array(step)}
    shapes = [(2, 3), (4,)]
    for role in range(2 + STATES[op]):
        for i, shape in enumerate(shapes):
            feeds[f"x{role}{i}"] = positive(*shape) if role == 3 else floats(*shape, seed=7 * role + i)
    if op == "Adagrad":
        feeds |= {f"x2{i}": positive(*shape) for i, shape in enumerate(shapes)}
    model = single(op, feeds, outputs=2 * (1 + STATES[op]), domain=DOMAIN, **attributes)
    got = evaluate(imported(model), *feeds.values())
    same(got, [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(feeds))], rtol=1e-5, atol=1e-6)


def test_refuses_operands_that_do_not_pair_up() -> None:
    feeds = {"r": np.array(0.1, np.float32), "t": np.array(0), "x": floats(2), "g": floats(2)}
    with pytest.raises(LeptonError, match="4 inputs"):
        imported(single("Adagrad", feeds, outputs=2, domain=DOMAIN))


def dropout(ratio: float, training: bool, **rest: Any) -> onnx.ModelProto:
    given = {"ratio": np.array(ratio, np.float32), "training": np.array(training)}
    return single("Dropout", {"x": floats(30, 40)}, outputs=2, constants=given, **rest)


@pytest.mark.parametrize(("ratio", "training"), [(0.0, True), (0.5, False)])
def test_dropout_that_drops_nothing(ratio: float, training: bool) -> None:
    agrees(dropout(ratio, training), {"x": floats(30, 40)})


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_dropout_in_training(ratio: float, known: bool) -> None:
    """y = x * mask / (1 - ratio), whether the ratio and the mode are constants or inputs."""
    x = floats(30, 40)
    feeds = {"x": x, "ratio": np.array(ratio, np.float32), "training": np.array(True)}
    model = dropout(ratio, True, seed=3) if known else single("Dropout", feeds, outputs=2, seed=3)
    compiled = lepton.compile(model)
    y, mask = compiled.run({"x": x} if known else feeds).values()
    np.testing.assert_allclose(y, x * mask / (1 - np.float32(ratio)), rtol=1e-6)
    assert abs(mask.mean() - (1 - ratio)) < 4 * (ratio * (1 - ratio) / x.size) ** 0.5
    want = evaluate(imported(model), *([x] if known else feeds.values()))
    np.testing.assert_array_equal(mask, want[1])
    if not known:
        y, mask = compiled.run({**feeds, "training": np.array(False)}).values()
        np.testing.assert_array_equal(y, x)
        assert mask.all()


def test_dropout_of_nan_is_nan() -> None:
    """As in ONNX's formula: dropping multiplies by 0."""
    x = np.full((30, 40), np.nan, np.float32)
    y, mask = lepton.compile(dropout(0.5, True)).run({"x": x}).values()
    assert np.isnan(y).all()
    assert 0 < mask.sum() < mask.size


def test_dropout_before_opset_12() -> None:
    x = floats(30, 40)
    y, mask = evaluate(imported(single("Dropout", {"x": x}, outputs=2, opset=6, ratio=0.25)), x)
    np.testing.assert_allclose(y, x * mask / 0.75, rtol=1e-6)
    assert 0.2 < 1 - mask.mean() < 0.3
    for form in ({"opset": 6, "is_test": 1}, {"opset": 10}):
        y, mask = evaluate(imported(single("Dropout", {"x": x}, outputs=2, ratio=0.25, **form)), x)  # type: ignore[arg-type]
        assert (y == x).all()
        assert mask.all()


def test_a_ratio_of_one_is_refused() -> None:
    with pytest.raises(LeptonError, match=r"a ratio of 1\.0"):
        imported(dropout(1.0, True))


@pytest.mark.parametrize(("op", "mean", "deviation"), [
    ("RandomNormal", 2.0, 0.5), ("RandomNormalLike", 2.0, 0.5), ("RandomUniform", 0.5, 12**-0.5),
    ("RandomUniformLike", 0.5, 12**-0.5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, None])
def test_draws(op: str, mean: float, deviation: float, dtype: Any) -> None:
    like = op.endswith("Like")
    attributes: dict[str, Any] = {"mean": mean, "scale": deviation} if "Normal" in op else {}
    if dtype is not None:
        attributes["dtype"] = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    feeds = {"x": np.zeros((70, 50), np.float32)} if like else {}
    if not like:
        attributes["shape"] = [70, 50]
    model = single(op, feeds, open_dims=True, **attributes)
    (got,) = lepton.compile(model).run(feeds).values()
    assert got.shape == (70, 50)
    assert got.dtype == (dtype or np.float32)
    assert abs(got.astype(float).mean() - mean) < 5 * deviation / got.size**0.5
    assert abs(got.astype(float).std() / deviation - 1) < 0.05
    (want,) = evaluate(imported(model), *feeds.values())
    assert got.tobytes() == want.tobytes()


def test_every_node_has_a_stream_of_its_own_unless_it_has_a_seed() -> None:
    model = text_model('''<ir_version: 8, opset_import: ["": 17]>
        g () => (float[100] a, float[100] b, float[100] c, float[100] d, float[100] e) {
            a = RandomNormal <shape = [100]> ()
            b = RandomNormal <shape = [100]> ()
            c = RandomNormal <shape = [100], seed = 1.5> ()
            d = RandomNormal <shape = [100], seed = 1.5> ()
            e = RandomNormal <shape = [100], seed = 3.0> ()
        }''')
    drawn = lepton.compile(model).run({})
    assert (drawn["c"] == drawn["d"]).all()
    for one, other in (("a", "b"), ("a", "c"), ("c", "e")):
        assert (drawn[one] != drawn[other]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_multinomial(dtype: Any) -> None:
    """Each class as often as its probability says; what is impossible never, whatever the rounding."""
    p = np.array([[0.5, 0.2, 0.0, 0.3], [0.0, 0.0, 1.0, 0.0], [1e-3, 0.9, 0.099, 0.0]])
    with np.errstate(divide="ignore"):
        x = (np.log(p) + np.array([[0.0], [700.0], [-50.0]])).astype(dtype)
    model = single("Multinomial", {"x": x}, sample_size=20000, dtype=onnx.TensorProto.INT64)
    (got,) = lepton.compile(model).run({"x": x}).values()
    assert got.shape == (3, 20000)
    assert got.dtype == np.int64
    counts = np.array([np.bincount(row, minlength=4) for row in got]) / 20000
    assert (counts[p == 0] == 0).all()
    assert (np.abs(counts - p) <= 4 * np.sqrt(p * (1 - p) / 20000)).all()
    (want,) = evaluate(imported(model), x)
    assert (want != got).mean() < 1e-3  # a cumulative sum's last bit may tip a draw


def test_multinomial_of_one_class_and_of_no_rows() -> None:
    for shape in ((2, 1), (0, 3)):
        x = np.zeros(shape, np.float32)
        (got,) = lepton.compile(single("Multinomial", {"x": x}, sample_size=5)).run({"x": x}).values()
        assert got.shape == (shape[0], 5)
        assert got.dtype == np.int32
        assert not got.any()
