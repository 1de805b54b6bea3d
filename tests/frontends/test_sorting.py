"""Unique, against onnx's own evaluator: elements and slices, sorted or in order of appearance."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from lepton.ir.evaluate import evaluate
from tests.frontends.build import agrees, imported, same, single

X = np.random.default_rng(2).integers(0, 3, (4, 3, 2)).astype(np.float32)
ROWS = np.array([[1, 2], [0, 3], [1, 2], [0, 1], [0, 3]])


@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}, {"axis": -1}])
def test_of_floats(attributes: dict[str, Any], in_order: int) -> None:
    agrees(single("Unique", {"x": X}, outputs=4, sorted=in_order, **attributes), {"x": X})


@pytest.mark.parametrize("x", [ROWS, ROWS.astype(np.int8), np.array([5]), ROWS[:, 0], ROWS[:0], ROWS[:0, 0]],
                         ids=lambda x: f"{x.dtype}{x.shape}")
def test_of_integers(x: np.ndarray[Any, Any]) -> None:
    agrees(single("Unique", {"x": x}, outputs=4, axis=0), {"x": x})
    agrees(single("Unique", {"x": x}, outputs=4, sorted=0, open_dims=True), {"x": x})


def test_nans_are_one() -> None:
    x = np.array([np.nan, 1, np.nan, -np.inf, 1], np.float32)
    model = single("Unique", {"x": x}, outputs=4)
    wanted = [np.asarray(y) for y in ReferenceEvaluator(model).run(None, {"x": x})]
    same(evaluate(imported(model), x), wanted, rtol=0, atol=0)
