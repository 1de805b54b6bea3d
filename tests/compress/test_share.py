"""Sharing makes artifacts smaller, within a model and across models."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.compress.share import share_weights
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.compress.layers import layers

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((64, 64)).astype(np.float32) / 8


def chain(*weights: Array) -> Graph:
    x = Value(TensorType(DType.F32, (3, 64)), name="x")
    y = x
    for w in weights:
        y = ops.tanh(ops.matmul(y, ops.constant(value=Tensor.of(w))))
    return Graph.of("chain", (x,), (y,))


def noisy(share: float) -> Array:
    return np.asarray(BASE + RNG.standard_normal(BASE.shape) * share * BASE.std(), np.float32)


def test_near_equal_layers_share_and_answer_alike() -> None:
    graph = chain(BASE, noisy(0.01), noisy(0.01), noisy(2.0))
    shared = share_weights(graph, tolerance=1e-3)
    kept = {id(layer.w) for layer in layers(shared)}
    assert len(kept) == 2
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    (want,), (got,) = evaluate(graph, x), evaluate(shared, x)
    assert float(np.abs(got - want).max()) < 0.1
    np.testing.assert_allclose(lepton.compile(shared)(x), got, rtol=1e-4, atol=1e-5)


def test_models_share_to_the_last_bit() -> None:
    first, second = share_weights(chain(BASE, noisy(2.0)), chain(noisy(0.01), noisy(3.0)), tolerance=1e-3)
    a, b = (layers(g)[0].weight for g in (first, second))
    np.testing.assert_array_equal(a, b)
    assert layers(first)[0].w is not layers(second)[0].w
    assert not np.array_equal(layers(first)[1].weight, layers(second)[1].weight)


def test_nan_is_near_nothing_and_zeros_are_near_zeros() -> None:
    hole = BASE.copy()
    hole[0, 0] = np.nan
    shared = share_weights(chain(hole, hole + 0, np.zeros_like(BASE), np.full_like(BASE, 1e-20)), tolerance=0.5)
    weights = [n.inputs[1] for n in shared.nodes if n.op is ops.matmul]
    assert weights[2] is not weights[3]
    with pytest.raises(UsageError, match="tolerance"):
        share_weights(chain(BASE), tolerance=-1.0)
