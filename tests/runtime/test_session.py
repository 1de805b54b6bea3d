"""`InferenceSession`: ONNX Runtime's names."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.ir.diagnostics import LeptonError
from lepton.session import InferenceSession, SessionOptions

X = np.array([0, 1, 2, 3], np.float32)


def test_describes_and_runs(artifact: Callable[..., Path]) -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(artifact("static"), options, providers=["CPUExecutionProvider"])
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.type, x.shape, y.name) == ("x", "tensor(float)", [4], "y")
    for names in (None, ["y"]):
        (result,) = session.run(names, {"x": X})
        np.testing.assert_array_equal(result, 2 * X + 7)
    assert session.run([], {"x": X}) == []


def test_open_dimensions_have_names(artifact: Callable[..., Path]) -> None:
    assert InferenceSession(artifact("dynamic")).get_inputs()[0].shape == ["N", "M"]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"providers": ["CUDAExecutionProvider"]}, "provider 'CUDAExecutionProvider' is not supported"),
    ({"providers": [("TensorrtExecutionProvider", {})]}, "provider 'TensorrtExecutionProvider'"),
    ({"sess_options": {"threads": 1}}, "sess_options must be a lepton.SessionOptions, got dict"),
])
def test_unknown_settings_are_errors(artifact: Callable[..., Path], arguments: Any, words: str) -> None:
    with pytest.raises(LeptonError, match=words):
        InferenceSession(artifact("static"), **arguments)


def test_unknown_options_names_and_run_options(artifact: Callable[..., Path]) -> None:
    with pytest.raises(LeptonError, match="session option 'enable_profiling' is not supported"):
        SessionOptions().enable_profiling = True
    session = InferenceSession(artifact("static"))
    with pytest.raises(LeptonError, match="unknown output 'z'; the model's outputs are 'y'"):
        session.run(["z"], {"x": X})
    with pytest.raises(LeptonError, match="run_options are not supported"):
        session.run(None, {"x": X}, object())  # type: ignore[arg-type]
