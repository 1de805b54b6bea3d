"""Functions in numpy that are followed: what they become means what numpy says."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.ir import dims
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.evaluate import evaluate
from lepton.ir.traced import trace
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify

F32 = np.float32

FOLLOWED: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: (2 - x) / (1 + abs(x)) * x - 0.5,
    "powers": lambda x: x**2 + np.abs(x)**0.5 + np.square(x),
    "choice": lambda x: np.where(x > 0, np.expm1(x), -1.0),
    "choice of numbers": lambda x: np.where((x != x) | ~(x >= 0), 2, 3.5) + np.zeros_like(x),
    "clip": lambda x: np.clip(x, -1, None) + np.minimum(x, 1),
    "rounding": lambda x: np.trunc(x) + np.rint(x) - np.floor(x),
    "rest": lambda x: x % 2 + np.fmod(x, -0.75),
    "sums": lambda x: x.sum(axis=-1) - x.mean(axis=0, keepdims=True).max() + np.min(x),
    "counting": lambda x: np.sum(x > 0, axis=1) * 2 + (x > 0).sum(),
    "softmax": lambda x: np.exp(x - x.max(axis=-1, keepdims=True)) / np.exp(x - x.max(axis=-1, keepdims=True)).sum(
        axis=-1, keepdims=True),
    "gram": lambda x: x @ x.T + np.matmul(np.swapaxes(x, 0, 1), x)[:3, :3],
    "indices": lambda x: x[1:, ::2].reshape(-1) + x[0, -1] + x[-1, None, :1],
    "joining": lambda x: np.concatenate([x, x * 2, np.ones((3, 1), F32)], axis=1).reshape(3, -1, 1)
    - np.stack([x[0]] * 3)[0, 0],
    "kinds": lambda x: x.astype(np.int32) / 2 + np.int64(3),
    "bits": lambda x: (np.clip(x, -9, 9).astype(np.int16) & 5 | 8) << 1,
    "shape": lambda x: x / x.shape[1] + x.ndim + np.shape(x)[1],
}


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("name", FOLLOWED)
def test_followed_functions_mean_what_numpy_says(name: str, open_sizes: bool) -> None:
    function = FOLLOWED[name]
    x = np.array([[0.5, -1.25, 3], [2, 0.75, -0.5], [-3, 1, 0.25]], F32)
    if open_sizes and name in ("gram", "joining"):
        pytest.skip("its sizes must be numbers")
    value = Value(TensorType(DType.F32, (dims.sym("N") if open_sizes else 3, 3)), name="x")
    graph = Graph.of("g", (value,), trace(function, [value], {}))
    verify(graph)
    want = function(x)
    (got,) = evaluate(graph, x)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(lepton.compile(graph)(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", [
    lambda x: x if x.sum() > 0 else -x, lambda x: np.sort(x), lambda x: np.hypot(x, x), lambda x: np.asarray(x),
    lambda x: np.add.reduce(x), lambda x: x[[0, 1]], lambda x: np.add(x, x, out=x), lambda x: x // 2,
])
def test_what_cannot_be_followed_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(UnsupportedError):
        trace(function, [Value(TensorType(DType.F32, (3, 3)))], {})
