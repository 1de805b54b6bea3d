"""Casts to bf16 without denormals: by the processor's instruction where there is one, elsewhere by integers."""
from __future__ import annotations

import numpy as np
import pytest

import lepton
from lepton.codegen.target import TARGETS, runs_here
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from lepton.ir.types import DType, TensorType

SPECIAL = np.array([np.nan, np.inf, -np.inf, -1e-39, 1e-40, -0.0, 2.0**-126, -(2.0**-126), 3.4e38, 1.00390625],
                   np.float32)


@pytest.mark.parametrize("target", ["x86-sse4", "x86-avx2", "x86-avx512", "x86-avx512bf16", "x86-amx"])
@pytest.mark.parametrize("n", [0, 1, 7, 16, 33, 1000])
def test_denormals_become_zeros(target: str, n: int) -> None:
    if not runs_here(TARGETS[target]):
        pytest.skip(f"no {target} here")
    x = Value(TensorType(DType.F32, (n,)), name="x")
    narrow = ops.cast(x, to=DType.BF16, denormals=False)
    graph = Graph.of("casts", [x], [narrow, ops.cast(narrow, to=DType.F32),
                                    ops.cast(ops.neg(x), to=DType.BF16, denormals=False)])
    bits = np.random.default_rng(n).integers(0, 2**32, n, dtype=np.uint64).astype(np.uint32)
    given = np.concatenate([SPECIAL, bits.view(np.float32)])[:n]
    for got, want in zip(lepton.compile(graph, target=target)(given), evaluate(graph, given), strict=True):
        a, b = np.asarray(got).astype(np.float32), np.asarray(want).astype(np.float32)
        np.testing.assert_array_equal(a, b)
        kept = ~np.isnan(b)
        assert np.array_equal(np.signbit(a[kept]), np.signbit(b[kept]))


def test_only_bf16_loses_them() -> None:
    x = Value(TensorType(DType.F32, (3,)), name="x")
    with pytest.raises(LeptonError, match="f32 to bf16"):
        ops.cast(x, to=DType.F16, denormals=False)
