"""A hundredth of ONNX's backend tests on the simulator, another one every day: none may end worse than recorded."""
from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.isolate import Outcome
from tests.conformance.suite import Case, Suite
from tests.cuda import suite as runs
from tests.cuda.simulated import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")


def run(part: str) -> str:
    """What is worse than recorded, in words. In a process of its own, which has not looked for a driver yet."""
    jobs = len(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-m", "tests.cuda.suite", "--part", part, "--jobs", str(jobs)],
                          cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr) * (done.returncode != 0)


@pytest.mark.slow
def test_a_hundredth_is_no_worse_than_the_record() -> None:
    worse = run(f"{datetime.date.today().toordinal() % 100}/100")
    assert not worse, worse


@pytest.mark.big
def test_all_are_no_worse_than_the_record() -> None:
    worse = run("0/1")
    assert not worse, worse


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
