"""What a test declares is gone after it."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lepton import custom, functions
from lepton.codegen.group import LOWERINGS
from lepton.codegen.host import HOST_CALLS
from lepton.frontends.onnx import importer as _importer  # noqa: F401  (fills IMPORTERS)
from lepton.frontends.onnx.registry import IMPORTERS
from lepton.ir.op import OPS
from lepton.passes.base import PASSES


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    tables: tuple[dict[Any, Any], ...] = (custom.DECLARED, IMPORTERS, OPS, HOST_CALLS, LOWERINGS, PASSES,
                                          functions.REGISTERED)
    before = [{key: list(value) if isinstance(value, list) else value for key, value in t.items()} for t in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
