"""What a test declares is gone after it."""
from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _forgotten(forgotten: None) -> None:
    """Every test here declares something."""
