"""Optimiser steps: several tensors at once, at the first step and later, against onnx's own evaluator."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import agrees, floats, imported, positive, same, single

DOMAIN = "ai.onnx.preview.training"
STATES = {"Adagrad": 1, "Adam": 2, "Momentum": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adagrad", {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.01}), ("Adagrad", {}),
    ("Adam", {"alpha": 0.95, "beta": 0.8, "epsilon": 1e-3, "norm_coefficient": 0.01, "norm_coefficient_post": 0.02}),
    ("Adam", {"alpha": 0.9, "beta": 0.999}),
    ("Momentum", {"alpha": 0.95, "beta": 0.8, "mode": "standard", "norm_coefficient": 0.01}),
    ("Momentum", {"alpha": 0.95, "beta": 0.8, "mode": "nesterov", "norm_coefficient": 0.0}),
]


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("op", "attributes"), CASES)
def test_steps(op: str, attributes: dict[str, Any], step: int) -> None:
    feeds: dict[str, np.ndarray[Any, Any]] = {"r": np.array(0.1, np.float32), "t": np.array(step)}
    shapes = [(2, 3), (4,)]
    for role in range(2 + STATES[op]):
        for i, shape in enumerate(shapes):
            feeds[f"x{role}{i}"] = positive(*shape) if role == 3 else floats(*shape, seed=7 * role + i)
    if op == "Adagrad":
        feeds |= {f"x2{i}": positive(*shape) for i, shape in enumerate(shapes)}
    model = single(op, feeds, outputs=2 * (1 + STATES[op]), domain=DOMAIN, **attributes)
    got = evaluate(imported(model), *feeds.values())
    same(got, [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(feeds))], rtol=1e-5, atol=1e-6)


def test_refuses_operands_that_do_not_pair_up() -> None:
    feeds = {"r": np.array(0.1, np.float32), "t": np.array(0), "x": floats(2), "g": floats(2)}
    with pytest.raises(LeptonError, match="4 inputs"):
        imported(single("Adagrad", feeds, outputs=2, domain=DOMAIN))


def test_training_that_drops_nothing() -> None:
    given = {"ratio": np.float32(0), "training": np.array(True)}
    agrees(single("Dropout", {"x": floats(3, 4)}, outputs=2, constants={k: np.asarray(v) for k, v in given.items()}),
           {"x": floats(3, 4)})
    given["ratio"] = np.float32(0.5)
    with pytest.raises(LeptonError, match="other than 0"):
        imported(single("Dropout", {"x": floats(3, 4)}, constants={k: np.asarray(v) for k, v in given.items()}))
