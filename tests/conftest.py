"""What every test may use."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from lepton import custom, functions
from lepton.codegen.group import LOWERINGS
from lepton.codegen.host import HOST_CALLS
from lepton.codegen.lower import strings as _lowerings  # noqa: F401  (its package fills LOWERINGS, HOST_CALLS)
from lepton.frontends.onnx import importer as _importer  # noqa: F401  (fills IMPORTERS)
from lepton.frontends.onnx.registry import IMPORTERS
from lepton.ir.op import OPS
from lepton.passes.base import PASSES
from lepton.passes.registry import load_all

ROOT = Path(__file__).parents[1]

# What passed once passes again: hypothesis draws the same examples for the same test. Looking for new ones is done on
# purpose, with `pytest --hypothesis-profile search`.
settings.register_profile("repeat", derandomize=True, database=None)
settings.register_profile("search", derandomize=False)
settings.load_profile("repeat")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files from what came out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests run in several processes, which must agree on their names."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: an address in a test's name differs from run to run; give it ids=")
    # Those that run whole documents and build wheels first: the last ones would leave processors idle.
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


def pytest_sessionfinish() -> None:
    if (simulated := sys.modules.get("tests.cuda.simulated")) is not None:
        simulated.remove_folder()


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Operators, importers, functions and passes that a test declares are gone after it; Lepton's own, of which many
    are only imported when asked for, are there before it."""
    load_all()
    tables: tuple[dict[Any, Any], ...] = (custom.DECLARED, IMPORTERS, OPS, HOST_CALLS, LOWERINGS, PASSES,
                                          functions.REGISTERED)
    before = [{key: list(value) if isinstance(value, list) else value for key, value in t.items()} for t in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
