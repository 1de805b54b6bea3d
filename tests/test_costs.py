"""The limits of `make cost` and `make budgets`: what counts as kept."""
from __future__ import annotations

import pytest

from benchmarks.budgets import Line


@pytest.mark.parametrize(("line", "reached", "kept", "words"), [
    (Line("one run", 9.0, None, "ms"), True, True, ""),
    (Line("artifact", 2.0, 2.0, "MB"), True, True, ""),
    (Line("artifact", 2.1, 2.0, "MB"), False, False, "MISSED"),
    (Line("first", 92.0, 84.0, "ms", "less than one run"), False, True, "less than one run"),
    (Line("first", 80.0, 84.0, "ms", "less than one run"), True, True, ""),
    (Line("two threads", 1.7, 1.8, "x", least=True), False, False, "MISSED"),
    (Line("two threads", 1.9, 1.8, "x", least=True), True, True, ""),
])
def test_lines(line: Line, reached: bool, kept: bool, words: str) -> None:
    assert (line.reached, line.kept) == (reached, kept)
    assert str(line).endswith(words) if words else "MISSED" not in str(line)
