"""Files that ONNX Runtime's optimiser and quantiser write of trained models: fused, dynamic, QDQ and QOperator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lepton
from tests.models.networks import BY_NAME, Feeds

FORMS = ("fused", "dynamic", "QDQ", "QOperator")
# What the rounding of floats may do: levels that flip move a little of what follows.
TOLERANCE = {"fused": 1e-5, "dynamic": 5e-2, "QDQ": 5e-2, "QOperator": 5e-2}


class _Samples:
    """What the calibration asks for, one at a time."""

    def __init__(self, samples: list[Feeds]) -> None:
        self.samples = samples

    def get_next(self) -> Feeds | None:
        return self.samples.pop() if self.samples else None


def fused(source: Path, target: Path) -> Path:
    """The file as ONNX Runtime rewrites it for any CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target


def rewritten(name: str, form: str, folder: Path) -> Path:
    from onnxruntime import quantization as q

    network = BY_NAME[name]
    source, plain, target = network.path(), folder / "plain.onnx", folder / "fused.onnx"
    if form == "fused":
        return fused(source, target)
    if form == "dynamic":
        q.quantize_dynamic(str(source), str(plain))
    else:
        samples = _Samples([network.feeds(0, seed=s) for s in range(2)])
        q.quantize_static(str(source), str(plain), samples, quant_format=q.QuantFormat[form], per_channel=True,
                          activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
    return fused(plain, target) if form == "QDQ" else plain


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("ppocr_cls", form) for form in FORMS] + [("minilm_l3", "dynamic")])
def test_agrees_with_onnxruntime(name: str, form: str, tmp_path: Path) -> None:
    model = rewritten(name, form, tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    peer = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session = lepton.compile(model).session(1)
    for run in range(2):
        feeds = BY_NAME[name].feeds(run)
        for got, want in zip(session.run(feeds).values(), peer.run(None, feeds), strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            if want.dtype.kind != "f":
                np.testing.assert_array_equal(got, want)
                continue
            tolerance = TOLERANCE[form] * np.abs(want).max()
            assert np.abs(got - want).max() <= tolerance
            if name == "ppocr_cls":
                clear = np.abs(want[:, 0] - want[:, 1]) > 2 * tolerance   # rounding decides the others
                np.testing.assert_array_equal(got.argmax(axis=-1)[clear], want.argmax(axis=-1)[clear])
