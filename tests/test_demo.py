"""README's first command: `make demo` ends by itself saying whether Lepton and ONNX Runtime agree."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import demo


def test_the_demo_agrees(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["demo"])
    monkeypatch.setattr(demo, "ROUNDS", 1)
    assert demo.main() == 0
    assert "the two agree" in capfd.readouterr().out


@pytest.mark.parametrize(("ours", "theirs", "agree"), [
    ([0.3, 0.7], [0.3, 0.7], True),
    ([0.3 + 5e-4, 0.7 - 5e-4], [0.3 - 4e-4, 0.7 + 4e-4], True),  # a file whose score hangs on rounding
    ([0.3 + 5e-4, 0.7 - 5e-4], [0.3, 0.7], False),
    ([0.7, 0.3], [0.3, 0.7], False),
    ([np.nan, np.nan], [0.3, 0.7], False),
])
def test_the_verdict(ours: list[float], theirs: list[float], agree: bool) -> None:
    exact = np.array([[0.3, 0.7]])
    assert demo.verdict(np.array([ours]), np.array([theirs]), exact)[0] is agree
