"""Casts to powers of two, in every way to round them, against onnx's own."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from lepton.backend import prepare
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import imported, single

FLOATS = np.concatenate([
    np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 1.49, 1.5, 1.51, -1.5, 1.99, 3e38, 3.4e38, -3.4e38], np.float32),
    np.arange(0, 1 << 32, 500009, dtype=np.uint64).astype(np.uint32).view(np.float32),
    np.array([1, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFF, 0x800000, 0xBFFFFF, 0xC00000, 0x7F3FFFFF, 0x7F400000],
             np.uint32).view(np.float32)])


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_cast_to_powers_of_two(mode: str, saturate: int) -> None:
    model = single("Cast", {"x": FLOATS}, to=TensorProto.FLOAT8E8M0, round_mode=mode, saturate=saturate, opset=24)
    want = numpy_helper.to_float8e8m0(FLOATS, bool(saturate), mode).view(np.uint8)
    (meant,) = evaluate(imported(model), FLOATS)
    np.testing.assert_array_equal(meant.view(np.uint8), want)
    (compiled,) = prepare(model).run([FLOATS])
    np.testing.assert_array_equal(compiled.view(np.uint8), want)


def test_unknown_way_to_round() -> None:
    model = single("Cast", {"x": FLOATS}, to=TensorProto.FLOAT8E8M0, round_mode="sideways", opset=24)
    with pytest.raises(LeptonError, match="round_mode 'sideways'"):
        imported(model)
