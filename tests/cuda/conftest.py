from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.cuda.checking import on_simulator
from tests.cuda.fakecuda import Fake, installed

__all__ = ["on_simulator"]


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    """The fake driver, which must hold nothing when a file's tests have run."""
    with installed() as driver:
        yield driver
        gc.collect()
        counts = driver.counts()
        assert (counts.allocations, counts.handles) == (0, 0), counts
