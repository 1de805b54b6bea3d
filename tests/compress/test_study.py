"""How trials are chosen, for a network of many layers that is not there."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from lepton.compress.metrics import Budget
from lepton.compress.quantize import Recipe
from lepton.compress.searching import Plan, Point
from lepton.compress.sensitivity import Damage, guessed, ladder
from lepton.compress.study import FIRST, NEAR, Study

LAYERS = 50
RANKED = [Damage(f"l{i}", error=1 / (i + 1)) for i in range(LAYERS)]
FINER = [Damage(f"l{i}", error=1 / (i + 1), finer=0.1) for i in range(LAYERS)]     # whose inputs are all that hurts
HALVES = 2 + math.ceil(math.log2(1 / NEAR)) + 1      # int8 twice, then by halves


def searched(needed: int, trials: int, ranked: Sequence[Damage] = RANKED, left: Callable[[], float] = lambda: 1.0,
             **plan: Any) -> list[Point]:
    """The points of a search where int8 is within the budget once the `needed` noisiest layers stay in f32, or read 16
    bits where that is as good."""
    noisiest = {d.layer for d in ranked[:needed]}

    def point(recipe: Recipe) -> Point:
        plain = recipe.kind == "static" and not recipe.prune and not recipe.factors
        score = 1 - 0.01 * len(noisiest - {*recipe.skip, *recipe.wide}) if plain else 0.0
        return Point(recipe, score, 1.0, 1, 1.0, 2.0 - (len(recipe.skip) + 0.1 * len(recipe.wide)) / LAYERS)

    import optuna

    asked = Plan(Budget.of(">=1"), trials=trials, **plan)
    search: Any = SimpleNamespace(plan=asked, left=left, tell=lambda _: None, point=point,
                                  layer_facts=lambda: {d.layer: (d.layer == "l9", 64) for d in RANKED})
    study = Study(search, optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=6)))
    study.run(ranked, 1.0)
    return study.points


@pytest.mark.parametrize("needed", [1, 7, 20, 28, 45])
def test_the_fewest_layers_in_f32_are_found_by_halves(needed: int) -> None:
    points = searched(needed, HALVES)
    within = [len(p.recipe.skip) for p in points if p.score >= 1]
    assert min(within) <= needed + 1 + NEAR * LAYERS


@pytest.mark.parametrize("needed", [1, 20, LAYERS])
def test_layers_read_16_bits_before_they_stay_in_f32(needed: int) -> None:
    points = searched(needed, HALVES, FINER)
    found = max((p for p in points if p.score >= 1), key=lambda p: p.shrink)
    assert len(found.recipe.wide) <= needed + 1 + 2 * NEAR * LAYERS
    assert len(found.recipe.skip) <= 2 * NEAR * LAYERS


def test_the_ladder_takes_what_gains_most_for_the_work_first() -> None:
    cheap, dear = Damage("cheap", work=0.01, error=0.1, weights=0.05), Damage("dear", work=0.5, error=1.0, weights=0.2,
                                                                             finer=0.3)
    assert ladder([dear, cheap]) == [("cheap", "f32"), ("dear", "wide"), ("dear", "f32")]
    assert ladder([replace(dear, weights=0.9)]) == [("dear", "f32")]      # 16 bits cost more than they mend


def test_what_was_not_measured_is_guessed_by_its_noise() -> None:
    measured = Damage("a", noise=0.2, loss=0.0, error=0.4, weights=0.3)
    assert guessed([measured, Damage("b", noise=0.1)]) == [measured, Damage("b", noise=0.1, error=0.2, weights=0.1)]
    assert guessed([Damage("b", noise=0.1)])[0].error == 0.1


def test_what_is_within_the_budget_needs_no_halves() -> None:
    points = searched(0, 1 + len(FIRST))
    assert points[0].score == 1
    assert len({p.recipe for p in points}) == 1 + len(FIRST)


def test_a_budget_that_int8_never_keeps_leaves_time_for_others() -> None:
    points = searched(LAYERS, 20)
    assert {p.recipe.kind for p in points} >= {"static", "weights", "float"}


def test_time_is_left_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock, before and after a trial, is five seconds later."""
    clock = count(step=5)
    now = 0

    def tick() -> int:
        nonlocal now
        now = next(clock)
        return now

    monkeypatch.setattr("lepton.compress.study.time", SimpleNamespace(monotonic=tick))
    points = searched(20, 100, left=lambda: 200.0 - now)
    assert len(points) > 10
    assert 10 < 200 - now < 30
