"""The race, by a clock of its own: what it finds does not depend on the machine."""
from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton.codegen.group import LowerOptions
from lepton.codegen.schedule import Choice, Schedule
from lepton.codegen.target import native
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import Dim
from lepton.ir.parser import parse
from lepton.tuning import cache, search
from lepton.tuning.cache import Cache
from lepton.tuning.search import GAIN, Job, jobs

GRAPH = """graph @g(%x: f32[40,24], %w: f32[24,48], %v: f32[48,48]) {
  %a = matmul(%x, %w)
  %b = matmul(%a, %v)
  %c = matmul(%b, %v)
  return %c
}
"""


class Fake:
    """A candidate that takes as long as `of` says, give or take what a busy machine adds."""

    def __init__(self, schedule: Schedule, of: Callable[[Schedule], float], noise: np.random.Generator) -> None:
        self.time, self.noise = of(schedule), noise

    def seconds(self) -> float:
        return self.time * (1 + self.noise.exponential(0.3) * (self.noise.random() < 0.6))


def graph() -> Graph:
    return parse(GRAPH)


def first_job() -> Job:
    found, unknown, _ = jobs(graph(), LowerOptions(native()))
    assert (len(found), unknown) == (2, 0)
    assert sorted(j.count for j in found) == [1, 2]
    return found[0]


def raced(of: Callable[[Schedule], float], seed: int = 0, threads: int = 1) -> search.Found:
    noise = np.random.default_rng(seed)
    return search.search(first_job(), lambda s: Fake(s, of, noise), threads, lambda: False)


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_fastest_tile(seed: int) -> None:
    job = first_job()
    model = job.choice.model()
    fast = next(s for s in job.choice.others() if s.tile != model.tile)
    found = raced(lambda s: 1e-5 if s.tile == fast.tile else 2e-5, seed)
    assert found.schedule.tile == fast.tile
    assert found.model_seconds > 1.5 * found.seconds
    assert found.tried > 3


def test_finds_better_blocks_of_the_same_tile() -> None:
    model = first_job().choice.model()
    found = raced(lambda s: 2e-5 if s.block == model.block or s.tile != model.tile else 1e-5)
    assert found.schedule.tile == model.tile
    assert found.schedule.block != model.block


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_cost_model(seed: int) -> None:
    model = first_job().choice.model()
    assert raced(lambda s: 1e-5, seed).schedule == model
    assert raced(lambda s: 1e-5 if s == model else 1e-5 * (1 - GAIN / 2), seed).schedule == model


def test_unknown_threads_keep_as_many_tasks() -> None:
    job = first_job()

    def tasks(schedule: Schedule) -> Dim:
        return job.kernel(schedule).tasks

    least = tasks(job.choice.model())
    assert isinstance(least, int)
    few = [s for s in job.choice.around(job.choice.model()) if isinstance(n := tasks(s), int) and n < least]
    found = raced(lambda s: 1e-6 if s in few else 1e-5, threads=0)
    assert found.schedule not in few


def fake_measurement(counter: list[str], fails_at: int = -1) -> Callable[..., cache.Row]:
    def measured(job: Job, threads: int, weights: int, deadline: float) -> cache.Row:
        if len(counter) == fails_at:
            raise KeyboardInterrupt
        counter.append(job.choice.key)
        fast = next(s for s in job.choice.others() if s != job.choice.model())
        return cache.Row(cache.cpu(), cache.compiler(), job.options.target.name, threads, job.choice.key, str(fast),
                         1e-6, str(job.choice.model()), 2e-6, 7)

    return measured


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options, counter = tmp_path / "t.jsonl", LowerOptions(native()), list[str]()
    monkeypatch.setattr(search, "_measured", fake_measurement(counter, fails_at=1))
    with pytest.raises(KeyboardInterrupt):
        search.tune(graph(), options, 1, Cache.open(path), 60.0)
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]
    assert len(Cache.open(path).rows) == 1
    monkeypatch.setattr(search, "_measured", fake_measurement(counter))
    report = search.tune(graph(), options, 1, Cache.open(path), 60.0)
    assert (report.known, report.measured, report.changed, report.candidates) == (1, 1, 2, 7)
    assert report.model_seconds == pytest.approx(2 * report.tuned_seconds)
    assert len(counter) == len(set(counter)) == 2
    assert search.tune(graph(), options, 1, Cache.open(path), 60.0).known == 2
    assert search.tune(graph(), options, 2, Cache.open(path), 0.0).known == 0, "two threads are another question"


def test_nothing_is_measured_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    counter: list[str] = []
    monkeypatch.setattr(search, "_measured", fake_measurement(counter))
    with pytest.raises(UsageError, match="cannot write"):
        search.tune(graph(), LowerOptions(native()), 1, Cache.open("/proc/lepton/t.jsonl"), 60.0)
    assert not counter


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 20.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    counter: list[str] = []
    monkeypatch.setattr(search, "_measured", fake_measurement(counter))
    report = search.tune(graph(), LowerOptions(native()), 1, Cache.open(tmp_path / "t.jsonl"), 30.0)
    assert (report.measured, report.kernels) == (1, 2)


def test_a_real_measurement() -> None:
    """One kernel, compiled and run: all the race needs is that numbers come out."""
    job = first_job()
    row = search._measured(job, 2, 1 << 20, float("inf"))
    assert 0 < row.seconds <= row.model_seconds < 1
    assert job.choice.legal(Schedule.parse(row.schedule))


def test_choices_of_equal_kernels_are_one() -> None:
    choices: list[Choice] = [j.choice for j in jobs(graph(), LowerOptions(native()))[0]]
    assert len({c.key for c in choices}) == len(choices)
