"""The table of what 8 bits cost: its cheapest row, and how letters are counted."""
from __future__ import annotations

import pytest

from benchmarks.compression.letters import edits
from benchmarks.compression.quantise import judge, table
from benchmarks.compression.tasks import TASKS


@pytest.mark.parametrize(("a", "b", "count"), [
    ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)])
def test_edits(a: str, b: str, count: int) -> None:
    assert edits(a, b) == edits(b, a) == count


@pytest.mark.slow
def test_digits_lose_less_than_half_a_point() -> None:
    row = judge(TASKS[0])
    assert row.within
    assert row.before > 0.9
    assert row.after >= row.before - 0.005
    assert row.runs == 597
    assert "digits" in table([row])
