"""Recipes that change a graph before it is quantised, and the search that chooses among them."""
from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

import lepton
from lepton.compress import Calibration, Recipe, quantize_model
from lepton.compress.observe import inputs_of
from lepton.compress.sensitivity import Damage
from lepton.compress.study import FIRST, PLAIN, Study
from lepton.compressed import told
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.compress.layers import layers

NAMES = ("first", "second", "third", "last")


@cache
def network() -> Graph:
    """Three convolutions of 48 channels, the second of low rank, and a classifier."""
    rng = np.random.default_rng(2)
    same: dict[str, Any] = {"strides": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1), "dilations": (1, 1)}

    def weight(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    low = (weight(48, 4) @ weight(4, 48 * 9)).reshape(48, 48, 3, 3)
    y = x = Value(TensorType(DType.F32, (sym("N"), 8, 6, 6)), name="x")
    for name, filters in zip(NAMES, (weight(48, 8, 3, 3), low, weight(48, 48, 3, 3)), strict=False):
        y = ops.conv(y, ops.constant(value=Tensor.of(filters)), **same)
        y.name = name
        y = ops.relu(y)
    y = ops.matmul(ops.reduce_mean(y, axes=(2, 3)), ops.constant(value=Tensor.of(weight(48, 10))))
    y.name = NAMES[-1]
    return Graph.of("network", (x,), (y,))


def data() -> Array:
    return np.random.default_rng(5).standard_normal((24, 8, 6, 6)).astype(np.float32)


@cache
def calibration() -> Calibration:
    return Calibration.of(network(), data()[:16])


@pytest.mark.parametrize(("recipe", "error"), [
    (Recipe(kind="float", prune=0.2), 0.35), (Recipe(prune=0.2), 0.4), (Recipe(factors=0.01), 0.2),
    (Recipe(kind="float", prune=0.3, pattern="16x1"), 0.45), (Recipe(prune=0.3, pattern="16x4"), 0.55),
    (Recipe(kind="float", share=0.5), 1e-6), (Recipe(prune=0.2, equalize=True), 0.4)])
def test_answers_stay_near(recipe: Recipe, error: float) -> None:
    """On data that calibration did not see."""
    x = data()[16:]
    (want,), (mine,) = evaluate(network(), x), evaluate(calibration().quantize(recipe), x)
    assert np.linalg.norm(mine - want) < error * np.linalg.norm(want)


def test_pruned_factorised_and_quantised_compiles() -> None:
    graph, x = calibration().quantize(Recipe(prune=0.2, factors=0.01)), data()[16:]
    (mine,) = evaluate(graph, x)
    np.testing.assert_allclose(lepton.compile(graph)(x), mine, atol=0.02 * float(np.abs(mine).max()))


def test_what_layers_read_is_known_by_names_that_stay() -> None:
    """Factors have no names of their own, and numbers move on when multiplications are put in front of layers."""
    form = Recipe(factors=0.01, smooth=0.5).form
    known, graph = calibration().inputs(form), calibration().variant(form)
    assert len(known) > len(NAMES)
    seen = inputs_of(graph, calibration().runs, layers(graph))
    assert known.keys() == seen.keys()
    for name, inputs in seen.items():
        np.testing.assert_allclose(known[name].mean, inputs.mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_rounding_leaves_zeros(rounding: Any) -> None:
    """Kernels skip what is zero for 16 outputs and four inputs: no rounding may fill it again."""
    recipe = Recipe(prune=0.5, pattern="16x4", rounding=rounding)
    pruned = [x.weight == 0 for x in layers(calibration().variant(recipe.form))]
    assert pruned[2].mean() > 0.45
    products = [n for n in calibration().quantize(recipe).nodes if n.op in (ops.conv, ops.matmul)]
    for node, zeros in zip(products, pruned, strict=True):
        made = node.inputs[1].producer.inputs[0].producer  # type: ignore[union-attr]
        assert not made.attrs["value"].array[zeros].any()  # type: ignore[union-attr]


def test_whole_layers_stay() -> None:
    before = {x.name: x.weight for x in layers(network())}
    for recipe in (Recipe(kind="float", prune=0.5, pattern="16x1", whole=("second",)),
                   Recipe(kind="float", factors=0.3, whole=("second",))):
        after = {x.name: x.weight for x in layers(calibration().quantize(recipe))}
        np.testing.assert_array_equal(after["second"], before["second"])
        assert "third" not in after or after["third"].size < before["third"].size or (after["third"] == 0).any()
    widths = {x.name: len(x.weight) for x in layers(calibration().quantize(Recipe(kind="float", prune=0.6, whole=(
        "second",))))}
    assert widths["third"] < 48 == widths["second"]


def test_factors_shrink_and_their_names_may_be_skipped() -> None:
    graph = calibration().quantize(Recipe(factors=0.01, skip=("second",)))
    whole = sum(x.weight.size for x in layers(network()))
    assert sum(x.weight.size for x in layers(calibration().variant(Recipe(factors=0.01).form))) < 0.75 * whole
    assert evaluate(graph, data()[:2])[0].shape == (2, 10)


@pytest.mark.parametrize(("fields", "said"), [
    ({"prune": 1.0}, "prune=1.0"), ({"factors": -0.1}, "factors=-0.1"), ({"share": 2.0}, "share=2.0"),
    ({"prune": 0.5, "pattern": "round"}, "unknown pattern"), ({"prune": 0.2, "whole": ("nothing",)}, "no layer"),
    ({"factors": 0.1, "calibration": None}, "needs calibration data")])
def test_what_does_not_work_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        quantize_model(network(), **{"kind": "float", "calibration": data()[:2], **fields})


@pytest.mark.parametrize("objective", ["latency", "size"])
def test_every_choice_of_the_search_is_a_recipe(objective: str) -> None:
    """Zeros of single inputs lie in layers that stay floats only; all forms come up."""
    facts = dict.fromkeys(NAMES, (False, 100))
    search: Any = SimpleNamespace(plan=SimpleNamespace(objective=objective), layer_facts=lambda: facts)
    study = Study(search, optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)))
    ranked = [Damage(name, 0.1, None, 0.1 * i) for i, name in enumerate(NAMES)]
    for change in ({}, *FIRST):
        study.study.enqueue_trial({**PLAIN, **change})
    found = [study.recipe(study.study.ask(), ranked) for _ in range(60)]
    assert found[0] == Recipe()
    forms = {(r.pattern if r.prune else "factors" if r.factors else "plain") for r in found}
    assert forms == {"channels", "16x1", "16x4", "factors", "plain"}
    for recipe in found:
        if recipe.prune and recipe.pattern == "16x1" and recipe.kind == "static":
            assert {*recipe.whole, *recipe.skip} >= set(NAMES)
    assert any(r.pattern == "16x4" and r.kind == "static" and not {*NAMES} <= {*r.whole, *r.skip} for r in found)
    assert any(r.share for r in found) == (objective == "size")


def test_recipes_in_words() -> None:
    assert told(vars(Recipe(prune=0.25, rounding="gptq"))) == "int8, ranges by mse, gptq, 25% of the channels pruned"
    assert told(vars(Recipe(activations="u16"))) == "int8, ranges by mse, u16 activations"
    assert told(vars(Recipe(kind="float", factors=0.01))) == "f32, factors with an error of 0.01"
