"""LinearRegressor and LinearClassifier (ai.onnx.ml)."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml_scores import class_labels, labelled, picked, transformed
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType

_ML = "ai.onnx.ml"


@imports("LinearRegressor", domain=_ML)
def linear_regressor(c: Call) -> Value:
    """x [N,F] -> f32[N, targets]."""
    return transformed(c, _linear(c, c.positive("targets", 1)))


@imports("LinearClassifier", domain=_ML)
def linear_classifier(c: Call) -> list[Value]:
    """x [N,F] -> (labels [N], scores f32[N, classes]). One row of coefficients is the score of the second of two."""
    labels = class_labels(c, "classlabels_ints")
    c.ignore("multi_class")
    rows = len(c.floats("coefficients", REQUIRED)) // max(1, _width(c))
    total = _linear(c, rows)
    if rows == 1 and len(labels) == 2:
        second = c(ops.greater, c.reshape(total, total.tensor.shape[:1]), c.like(0, total))
        both = c(ops.concat, c(ops.neg, total), total, axis=1)
        return [picked(c, labels, c.cast(second, DType.I64)), transformed(c, both)]
    if rows != len(labels):
        raise LeptonError(f"{rows} rows of coefficients for {len(labels)} classes", where=c.where)
    return labelled(c, total, labels)


def _width(c: Call) -> int:
    width = c.ranked(0, 2).tensor.shape[1]
    if not isinstance(width, int):
        c.fail(f"an open number of features: {c.x().tensor}")
    return width


def _linear(c: Call, rows: int) -> Value:
    """x @ coefficients^T + intercepts, in f32."""
    coefficients, intercepts = c.floats("coefficients", REQUIRED), c.floats("intercepts", ())
    if not rows or len(coefficients) != rows * _width(c) or len(intercepts) not in (0, rows):
        raise LeptonError(f"{len(coefficients)} coefficients, {len(intercepts)} intercepts for {rows} rows of "
                          f"{c.x().tensor}", where=c.where)
    matrix = np.array(coefficients, np.float32).reshape(rows, -1).T
    total = c(ops.matmul, c.cast(c.x(), DType.F32), c.const(np.ascontiguousarray(matrix)))
    return total if not intercepts else c(ops.add, total, c.const(intercepts, DType.F32))
