"""DynamicQuantizeLSTM: the integers are ONNX Runtime's, so answers differ by the rounding of floats alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from tests.frontends.contrib import Held, Operand, agrees, held, node_model

PLAIN: dict[str, Any] = {}
FORMS: list[dict[str, Any]] = [
    PLAIN, {"batch": 1}, {"steps": 1}, {"directions": 1}, {"directions": 1, "direction": "reverse"},
    {"states": True}, {"no_bias": True}, {"signed": True}, {"signed": True, "columns": True, "peepholes": True},
    {"columns": True, "states": True, "lens": (5, 2, 4)}, {"lens": (3, 0, 4)},
    {"lens": (4, 1, 2), "directions": 1, "direction": "reverse", "states": True, "peepholes": True},
    {"directions": 1, "clip": 0.3, "input_forget": 1},
    {"directions": 1, "activations": ["HardSigmoid", "Relu", "Tanh"], "activation_alpha": [0.3],
     "activation_beta": [0.4]},
    {"directions": 1, "activations": ["Sigmoid", "Softsign", "Softplus"]},
    {"directions": 1, "activations": ["Sigmoid", "Elu", "LeakyRelu"], "activation_alpha": [0.7, 0.2]},
]
INPUTS, HIDDEN = 7, 12


def operands(rng: np.random.Generator, *, steps: int = 5, batch: int = 3, directions: int = 2, signed: bool = False,
             columns: bool = False, lens: tuple[int, ...] | None = None, states: bool = False, no_bias: bool = False,
             peepholes: bool = False) -> list[Operand]:
    kind = np.int8 if signed else np.uint8
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    gates, per = 4 * HIDDEN, (directions, 4 * HIDDEN) if columns else (directions,)

    def real(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) * 0.5, np.float32)

    def weights(rows: int) -> Held:
        return held(rng.integers(low, high, (directions, rows, gates), endpoint=True), kind)

    def scale() -> list[Operand]:
        """Factors of either sign; ONNX Runtime wants one zero point for all columns, and none for signed ones."""
        zero = np.zeros(per) if signed and columns else np.full(per, 120) if columns else rng.integers(90, 127, per)
        return [held(real(*per) * 0.02), held(zero, kind)]

    state = [real(directions, batch, HIDDEN) if states else None for _ in range(2)]
    return [real(steps, batch, INPUTS), weights(INPUTS), weights(HIDDEN),
            None if no_bias else held(real(directions, 2 * gates)),
            None if lens is None else np.array(lens, np.int32), *state,
            held(real(directions, 3 * HIDDEN)) if peepholes else None, *scale(), *scale()]


SHAPING = {"steps", "batch", "directions", "signed", "columns", "lens", "states", "no_bias", "peepholes"}


# h is rounded to bytes between steps: of a value half-way between two levels, the last bit of a sigmoid would decide.
# The numbers of this seed hold none.
SEED = 7


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "plain")
def test_equals_onnxruntime(form: dict[str, Any]) -> None:
    given = operands(np.random.default_rng(SEED), **{k: v for k, v in form.items() if k in SHAPING})
    attributes = {k: v for k, v in form.items() if k not in SHAPING}
    if form.get("directions", 2) == 2:
        attributes["direction"] = "bidirectional"
    agrees("DynamicQuantizeLSTM", *given, outputs=3, hidden_size=HIDDEN, atol=3e-6, **attributes)


def test_zeros_and_extremes() -> None:
    """All zero: the range is empty and the scale 1. A huge value: the rest rounds to the zero point."""
    given = operands(np.random.default_rng(SEED))
    x = given[0]
    assert isinstance(x, np.ndarray)
    for value in (np.zeros_like(x), np.where(x == x.max(), np.float32(1e9), x), -np.abs(x)):
        agrees("DynamicQuantizeLSTM", value, *given[1:], outputs=3, hidden_size=HIDDEN, direction="bidirectional",
               atol=3e-6)


def test_weights_of_another_size_are_refused() -> None:
    model, _ = node_model("DynamicQuantizeLSTM", *operands(np.random.default_rng(SEED)), outputs=3, hidden_size=HIDDEN)
    with pytest.raises(LeptonError, match="weights"):
        load(model)
