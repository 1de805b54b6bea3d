"""The ten backend tests that expect the very draws of numpy's generator, by name: what can be asked of any other
generator is asked here. (onnx draws the six Bernoulli expectations from numpy's global state, whatever the node's seed;
it says itself that an implementation need not give the same values.)"""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.backend
from tests.conformance.suite import CaseData, Suite, default_cache, open_suite

BERNOULLI = [f"test_bernoulli{kind}{form}" for kind in ("", "_double", "_seed") for form in ("", "_expanded")]
DROPOUT = [f"test_training_dropout{kind}" for kind in ("", "_mask", "_default", "_default_mask")]
RUNS = 400


@pytest.fixture(scope="module")
def suite() -> Suite:
    return open_suite(default_cache())


def loaded(suite: Suite, name: str) -> CaseData:
    return suite.load(next(c for c in suite.cases if c.full_name == f"node/{name}"))


def runs(data: CaseData, **options: Any) -> list[list[np.ndarray[Any, Any]]]:
    """Many runs of one session, each of the expected types and shapes."""
    (inputs, expected), model = data.data_sets[0], lepton.backend.prepare(data.model, **options)
    found = [[np.asarray(y) for y in model.run(inputs)] for _ in range(RUNS)]
    for outputs in found:
        assert [(y.dtype, y.shape) for y in outputs] == [(np.asarray(y).dtype, np.shape(y)) for y in expected]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", BERNOULLI)
def test_bernoulli(suite: Suite, name: str) -> None:
    data = loaded(suite, name)
    drawn = np.array([y for (y,) in runs(data)])
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    p = np.asarray(data.data_sets[0][0][0], np.float64)
    if "expanded" in name:  # the function body in ONNX's schema asks draw > p, which holds with probability 1 - p
        p = 1 - p
    assert (np.abs(drawn.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / RUNS)).all()
    again = np.array([y for (y,) in runs(data, seed=5)])
    assert np.array_equal(drawn, again) == ("seed" in name)  # one is seeded by the model, the others by the session


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout(suite: Suite, name: str) -> None:
    data = loaded(suite, name)
    x, ratio = (np.asarray(v) for v in data.data_sets[0][0][:2])
    found = runs(data)
    kept = np.array([outputs[0] != 0 for outputs in found])
    for mask, (y, *more) in zip(kept, found, strict=True):
        np.testing.assert_allclose(y, x * mask / (1 - ratio), rtol=1e-6)
        assert all(np.array_equal(mask, m) for m in more)
    assert abs(kept.mean() - (1 - ratio)) < 4 * np.sqrt(ratio * (1 - ratio) / kept.size)
    assert (np.abs(kept.mean(0) - (1 - ratio)) < 5 * np.sqrt(ratio * (1 - ratio) / RUNS)).all()
    assert len({mask.tobytes() for mask in kept}) == RUNS  # each run draws anew
