"""Attention of halves, compiled: nearer to the exact result than rounding after every op."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType


def exact(q: Array, k: Array, v: Array) -> Array:
    a, b, c = (x.astype(np.longdouble) for x in (q, k, v))
    scores = a @ np.swapaxes(b, -1, -2) / 4
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = e / e.sum(axis=-1, keepdims=True) @ c
    return result


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=lambda d: d.value)
def test_error(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, 2, 20, 16)).astype(dtype.numpy) for _ in range(3)]
    q, k, v = (Value(TensorType(dtype, a.shape), name=n) for a, n in zip(arrays, "qkv", strict=True))
    quarter = ops.constant(value=Tensor.of(np.array(0.25, dtype.numpy)))
    weights = ops.softmax(ops.mul(ops.matmul(q, ops.transpose(k, perm=(0, 1, 3, 2))), quarter), axis=3)
    graph = Graph.of("g", (q, k, v), [ops.matmul(weights, v)])
    want = exact(*arrays)

    def error(got: Array) -> float:
        return float(np.abs(got.astype(np.longdouble) - want).max())

    (step_by_step,) = evaluate(graph, *arrays)
    fused = lepton.compile(graph)(*arrays)
    assert fused.dtype == dtype.numpy
    one_rounding = float(np.abs(want.astype(np.float64).astype(dtype.numpy).astype(np.longdouble) - want).max())
    assert error(fused) <= 1.01 * one_rounding < error(step_by_step)
