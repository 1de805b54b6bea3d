"""ONNX Runtime's own static quantiser, by the same calibration data, run by ONNX Runtime."""
from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnx.version_converter
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from lepton.compress.data import Run
from lepton.compress.metrics import Outputs
from lepton.ir.tensor import Array


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, runs: Sequence[Run]) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([dict(run.feeds) for run in runs])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def quantised(model: onnx.ModelProto, calibration: Sequence[Run]) -> onnx.ModelProto:
    """As its documentation advises: prepared, QDQ, bytes without signs by signed ones, a scale for each channel."""
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        source, prepared, target = (Path(name) / f"{step}.onnx" for step in ("source", "prepared", "int8"))
        onnx.save(with_axes(model), source)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)

        def make(**extra: bool) -> None:
            quantize_static(str(prepared), str(target), _Reader(calibration), quant_format=QuantFormat.QDQ,
                            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                            extra_options=extra)

        try:
            make()
        except ValueError:   # 1.31 widens weights' scales for biases, and fails where both have one for each channel
            make(QDQDisableWeightAdjustForInt32Bias=True)
        return onnx.load(target)


def with_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    """In the first opset whose DequantizeLinear has scales for channels, or a later one."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return model if version >= 13 else onnx.version_converter.convert_version(model, 13)


def answers(model: onnx.ModelProto, runs: Sequence[Run]) -> Outputs:
    """By output, for each run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, dict(run.feeds)), strict=True)) for run in runs]
