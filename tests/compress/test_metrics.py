"""Metrics of answers that are no numbers, of every type, or not comparable."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton.compress.data import Run
from lepton.compress.metrics import HUGE, WORST, correlation, cosine, distance, f1, metric_of, psnr, top1
from lepton.compress.searching import Search
from lepton.ir.diagnostics import UsageError


def test_a_point_without_a_score_is_the_worst() -> None:
    """Not the end of the search: PSNR of NaN was the highest there is."""
    want, got = ([{"y": np.full(3, value, np.float32)}] for value in (1.0, np.nan))
    search = SimpleNamespace(reference_of=lambda _: want)
    for name in ("psnr", "cosine", "correlation"):
        search.metric = metric_of(name)
        assert Search.judged(search, got, [Run("", {})]) == WORST  # type: ignore[arg-type]
        assert Search.judged(search, [{"y": got[0]["y"][:2]}], [Run("", {})]) == WORST  # type: ignore[arg-type]
    assert distance([{"y": np.zeros(2)}], [{"y": np.zeros(3)}]) == HUGE


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.int8, ml_dtypes.bfloat16])
def test_numbers_of_every_type_count(dtype: Any) -> None:
    want, got = ([{"y": np.array(some).astype(dtype), "s": np.array(["a"], object)}] for some in ([1, 2], [2, -1]))
    for score in (cosine, correlation, psnr):
        assert score(want, want, [None]) > score(got, want, [None])
    with pytest.raises(UsageError, match="no numbers"):
        cosine([{"s": want[0]["s"]}], [{"s": want[0]["s"]}], [None])


def test_metrics_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A study of one is none of the other."""
    own = tmp_path / "own.py"
    sources = []
    for number in range(2):
        own.write_text(f"def metric(*_): return {number}")
        sources.append(metric_of(str(own)).source)
    assert sources[0] != sources[1]
    assert metric_of(top1).source != metric_of(f1).source
