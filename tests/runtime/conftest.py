"""Artifacts that the runtime's tests share."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime import handmade


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`artifact("dynamic")`: the path of a hand-made compiled model, built once."""
    built: dict[tuple[object, ...], Path] = {}

    def get(name: str, dtype: str = "F32", size: int = 4) -> Path:
        key = (name, dtype, size)
        if key not in built:
            built[key] = handmade.build(name, tmp_path_factory.mktemp(name), dtype=dtype, size=size)
        return built[key]

    return get
