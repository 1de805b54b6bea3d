"""A tenth of ONNX's backend tests, another one every day: none may end worse than in the record."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from tests.conformance import record
from tests.conformance.adapters import find_backend
from tests.conformance.compare import Mismatch, check_outputs
from tests.conformance.isolate import Outcome
from tests.conformance.run_suite import run_cases
from tests.conformance.suite import Case, Suite, default_cache, open_suite

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def suite() -> Suite:
    return open_suite(default_cache())


def _compare(suite: Suite, cases: list[Case]) -> list[str]:
    results = run_cases(suite, cases, find_backend("lepton"), len(os.sched_getaffinity(0)), TIMEOUT_S)
    return record.worse(results, record.read())


@pytest.mark.slow
def test_a_tenth_is_no_worse_than_the_record(suite: Suite) -> None:
    part = datetime.date.today().toordinal() % 10
    lines = _compare(suite, suite.cases[part::10])
    assert not lines, "\n".join(lines)


@pytest.mark.big
def test_all_are_no_worse_than_the_record(suite: Suite) -> None:
    lines = _compare(suite, suite.cases)
    assert not lines, "\n".join(lines)


def test_the_record_tells_better_from_worse(tmp_path: Path) -> None:
    def outcome(status: str) -> Outcome:
        return Outcome(status, "", 0.0)

    cases = [Case("node", f"test_{letter}", "plain", "") for letter in "abc"]
    path = tmp_path / "record.txt"
    before = dict(zip(cases, map(outcome, ("PASS", "UNSUPPORTED", "WRONG")), strict=True))
    record.write(before, "x", path)
    assert record.read(path) == {"node/test_a": "PASS", "node/test_c": "WRONG"}
    assert record.worse(before, record.read(path)) == []
    after = dict(zip(cases, map(outcome, ("UNSUPPORTED", "CRASH", "TIMEOUT")), strict=True))
    assert [line.split(":")[0] for line in record.worse(after, record.read(path))] == ["node/test_a", "node/test_b"]


def test_wrong_outputs_are_seen() -> None:
    """The comparison itself: values, shape, dtype and structure."""
    import numpy as np

    want = [np.ones((2, 3), np.float32)]
    check_outputs(want, [np.ones((2, 3), np.float32) * (1 + 5e-4)], rtol=1e-3, atol=1e-7)
    for wrong in (np.ones((2, 3), np.float32) * 1.01, np.ones((3, 2), np.float32), np.ones((2, 3)), None, want):
        with pytest.raises(Mismatch):
            check_outputs(want, [wrong], rtol=1e-3, atol=1e-7)
