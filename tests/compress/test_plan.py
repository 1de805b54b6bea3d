"""What a search is asked for: numbers that mean nothing are refused before any work."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton.compress.metrics import Budget, metric_of
from lepton.compress.searching import Plan
from lepton.ir.diagnostics import UsageError


@pytest.mark.parametrize("budget", [">=nan", ">=inf", "-inf%", "-1e999%", "-nan%", 0.5, None])
def test_budgets_that_are_no_numbers(budget: Any) -> None:
    with pytest.raises(UsageError, match="cannot read the budget"):
        Budget.of(budget)


@pytest.mark.parametrize("asked", [
    {"seconds": float("nan")}, {"seconds": 0.0}, {"trials": 0}, {"seed": -1}, {"seed": 2**32},
])
def test_plans_that_cannot_be(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Plan(Budget.of(">=0.5"), **asked).checked()
    assert Plan(Budget.of("-0.5%"), seconds=float("inf"), seed=2**32 - 1).checked()


def test_a_metric_that_leaves(tmp_path: Path) -> None:
    """It ended the command with the metric's own exit code, and no word."""
    own = tmp_path / "own.py"
    own.write_text("raise SystemExit(0)")
    with pytest.raises(UsageError, match="cannot load the metric"):
        metric_of(str(own))
