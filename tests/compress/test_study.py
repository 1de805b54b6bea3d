"""How trials are chosen, for a network of many layers that is not there."""
from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lepton.compress.metrics import Budget
from lepton.compress.quantize import Recipe
from lepton.compress.searching import Plan, Point
from lepton.compress.sensitivity import Damage
from lepton.compress.study import FIRST, MOST_IN_F32, NEAR, Study

LAYERS = 50
RANKED = [Damage(f"l{i}", 1 / (i + 1)) for i in range(LAYERS)]
HALVES = 2 + 1 + math.ceil(math.log2(MOST_IN_F32 / NEAR))    # int8 twice, as many layers in f32 as may be, halves


def searched(needed: int, trials: int, finer: int = LAYERS + 1, **plan: Any) -> list[Point]:
    """The points of a search where int8 is within the budget once the `needed` noisiest layers stay in f32, or the
    `finer` ones read 16 bits."""
    noisiest, coarse = ({d.layer for d in RANKED[:many]} for many in (needed, finer))

    def point(recipe: Recipe) -> Point:
        plain = recipe.kind == "static" and not recipe.prune and not recipe.factors
        left = min(len(noisiest - set(recipe.skip)), len(coarse - set(recipe.wide)) if finer <= LAYERS else LAYERS)
        return Point(recipe, 1 - 0.01 * left if plain else 0.0, 1.0, 1, 1.0,
                     2.0 - len(recipe.skip) / LAYERS - 0.5 * len(recipe.wide) / LAYERS)

    import optuna

    asked = Plan(Budget.of(">=1"), trials=trials, **plan)
    search: Any = SimpleNamespace(plan=asked, left=lambda: 1.0, tell=lambda _: None, point=point,
                                  layer_facts=lambda: {d.layer: (d.layer == "l9", 64) for d in RANKED})
    study = Study(search, optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=6)))
    study.run(RANKED, 1.0)
    return study.points


@pytest.mark.parametrize("needed", [1, 7, 20, 28])
def test_the_fewest_layers_in_f32_are_found_by_halves(needed: int) -> None:
    points = searched(needed, HALVES)
    within = [len(p.recipe.skip) for p in points if p.score >= 1]
    assert min(within) <= needed + NEAR * LAYERS


@pytest.mark.parametrize("finer", [1, 22, LAYERS])
def test_the_fewest_layers_of_16_bit_inputs_are_found_by_halves(finer: int) -> None:
    """Where leaving layers in f32 does not do."""
    points = searched(LAYERS, HALVES + math.ceil(math.log2(1 / NEAR)) + 1, finer)
    within = [len(p.recipe.wide) for p in points if p.score >= 1]
    assert min(within) <= finer + NEAR * LAYERS


def test_a_damage_is_weighed_by_the_work_that_it_saves() -> None:
    cheap, dear, unknown = Damage("a", work=0.01, error=0.1), Damage("b", work=0.5, error=1.0), Damage("c", 9.0)
    assert sorted([unknown, dear, cheap], key=Damage.gain, reverse=True) == [cheap, dear, unknown]
    assert Damage("a", work=0.5, error=1.0, weights=1.0).gain(wide=True)[0] == 0


def test_what_is_within_the_budget_needs_no_halves() -> None:
    points = searched(0, 1 + len(FIRST))
    assert points[0].score == 1
    assert len({p.recipe for p in points}) == 1 + len(FIRST)


def test_a_budget_that_int8_never_keeps_leaves_time_for_others() -> None:
    points = searched(LAYERS, 20)
    assert {p.recipe.kind for p in points} >= {"static", "weights", "float"}
