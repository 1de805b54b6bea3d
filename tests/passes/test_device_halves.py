"""Halves stay halves on GPUs: products and attention read them as they are."""
from __future__ import annotations

import numpy as np
import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.default import pipeline_for
from lepton.passes.pipeline import Pipeline

rng = np.random.default_rng(2)


def attention(dtype: DType) -> Graph:
    x = Value(TensorType(dtype, (1, 2, 9, 8)), name="x")
    w, quarter = (ops.constant(value=Tensor.of(a.astype(dtype.numpy)))
                  for a in (rng.standard_normal((8, 8)), np.array(0.25)))
    q = ops.matmul(x, w)
    weights = ops.softmax(ops.mul(ops.matmul(q, ops.transpose(x, perm=(0, 1, 3, 2))), quarter), axis=3)
    return Graph.of("g", (x,), [ops.matmul(weights, x)])


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_products_and_attention_of_halves(dtype: DType) -> None:
    graph = attention(dtype)
    x = rng.standard_normal((1, 2, 9, 8)).astype(dtype.numpy)
    (want,) = evaluate(graph, x)
    Pipeline(pipeline_for("cuda", 2, "default")).run(graph)
    assert [n.op.name for n in graph.nodes] == ["constant", "matmul", "attention"]
    assert {n.results[0].tensor.dtype for n in graph.nodes} == {dtype}
    (got,) = evaluate(graph, x)
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), atol={16: 0.02}[dtype.bits])


def test_processors_widen_them() -> None:
    graph = attention(DType.F16)
    Pipeline(pipeline_for("x86", 2, "default")).run(graph)
    inside = [n for node in graph.nodes for n in (node, *(m for r in node.regions for m in r.nodes))]
    assert {n.results[0].tensor.dtype for n in inside if n.op in (ops.matmul, ops.attention)} == {DType.F32}
