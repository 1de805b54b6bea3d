"""Arabic diacritics by int8 BiLSTMs (DynamicQuantizeLSTM, MatMulInteger): ONNX Runtime's labels, letter by letter.

Both engines round every state to 8 bits before the next step, so the last bit of a float may move a level by one, and
what follows with it: ONNX Runtime differs from itself so on another number of threads. Short texts have the same
labels; on long ones, and of many at once, a few in a thousand may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

import lepton
from tests.models.fetch_models import FILES, models_folder, provide

VOCABULARY = {"rawi_ensemble.int8.onnx": 236, "bilstm.int8.onnx": 54}
SHORT, LONG = ((1, 1), (1, 20), (1, 57)), ((1, 120), (2, 33), (5, 64))


def sessions(name: str) -> tuple[Any, Any]:
    """Lepton's and ONNX Runtime's, of one thread each."""
    folder = models_folder()
    provide(next(file for file in FILES if file.name == name), folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    peer = onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
    return lepton.compile(folder / name).session(1), peer


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARY)
def test_labels_are_onnxruntimes(name: str) -> None:
    ours, peer = sessions(name)
    (port,) = peer.get_inputs()
    for shape in (*SHORT, *LONG):
        ids = np.random.default_rng(shape[1]).integers(0, VOCABULARY[name], shape)
        (want,) = peer.run(None, {port.name: ids})
        (got,) = ours.run({port.name: ids}).values()
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.ndim == 3:
            assert np.abs(got - want).max() <= 0.1 * np.abs(want).max()
            got, want = got.argmax(axis=2), want.argmax(axis=2)
        assert np.mean(got == want) == 1 if shape in SHORT else np.mean(got == want) > 0.99


@pytest.mark.slow
def test_first_step_is_exact() -> None:
    """One letter: nothing has been rounded apart yet, and the logits differ by the rounding of floats alone."""
    ours, peer = sessions("bilstm.int8.onnx")
    for letter in range(54):
        ids = np.array([[letter]])
        np.testing.assert_allclose(ours.run({"input_ids": ids})["logits"], peer.run(None, {"input_ids": ids})[0],
                                   atol=2e-5)
