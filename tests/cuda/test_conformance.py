"""A hundredth of ONNX's backend tests on the simulator, another one every day: none may end worse than recorded."""
from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from tests.conformance import record
from tests.conformance.isolate import Outcome
from tests.conformance.run_modes import part_of
from tests.conformance.suite import Case, Suite, default_cache, open_suite
from tests.cuda import suite as runs
from tests.cuda.simulated import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")


def worse(suite: Suite, cases: list[Case]) -> list[str]:
    return record.worse(runs.run(suite, cases, len(os.sched_getaffinity(0))), runs.known())


@pytest.mark.slow
def test_a_hundredth_is_no_worse_than_the_record() -> None:
    suite = open_suite(default_cache())
    lines = worse(suite, part_of(runs.cases_of(suite), f"{datetime.date.today().toordinal()}/100"))
    assert not lines, "\n".join(lines)


@pytest.mark.big
def test_all_are_no_worse_than_the_record() -> None:
    suite = open_suite(default_cache())
    lines = worse(suite, runs.cases_of(suite))
    assert not lines, "\n".join(lines)


def test_outcomes_of_a_part_are_put_among_the_others(tmp_path: Path) -> None:
    cases = [Case("node", f"test_{letter}", "plain", "") for letter in "abc"] + [Case("real", "test_net", "real", "")]

    class Small(Suite):
        def __init__(self) -> None:
            pass

        cases = property(lambda self: cases)

    path = tmp_path / "record.txt"
    runs.keep(Small(), {cases[0]: Outcome("PASS", "", 0), cases[1]: Outcome("WRONG", "", 0)}, path)
    runs.keep(Small(), {cases[2]: Outcome("PASS", "", 0)}, path)
    assert runs.known(path) == {"node/test_a": "PASS", "node/test_b": "WRONG", "node/test_c": "PASS"}
    runs.keep(Small(), {cases[1]: Outcome("PASS", "", 0)}, path)
    assert set(runs.known(path).values()) == {"PASS"}
    assert runs.known(tmp_path / "none.txt") == {}
