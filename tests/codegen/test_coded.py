"""Products with weights of a few bits, against the same weights decoded."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton.codegen.lower
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, run_node

assert lepton.codegen.lower

rng = np.random.default_rng(17)


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def arrays(k: int, n: int, bits: int, block: int, zero: str = "", table: bool = False) -> list[Array | None]:
    """codes, scale, zero, table: `zero` is "" (none), "whole" or "any"."""
    signed = not table and not zero
    kind = {4: (ml_dtypes.uint4, ml_dtypes.int4), 8: (np.uint8, np.int8)}[4 if bits <= 4 else 8][signed]
    low = -(1 << bits - 1) if signed else 0
    codes = rng.integers(low, low + (1 << bits), (k, n)).astype(kind)
    shape = (-(-k // block), n)
    scale = rng.uniform(0.5, 2, shape).astype(np.float32) / np.float32(1 << bits - 1)
    points = rng.integers(0, 1 << bits, shape) if zero == "whole" else rng.uniform(0, 1 << bits, shape)
    entries = rng.standard_normal(16 if bits <= 4 else 256).astype(np.float32)
    return [codes, scale, points.astype(np.float32) if zero else None, entries if table else None]


def check(x: Value, node: Node, target: str, env: dict[str, int] | None = None, **given: Any) -> None:
    """On random rows: compared with f64, by the sizes of the sums."""
    shape = [d if isinstance(d, int) else (env or {})[str(d)] for d in x.tensor.shape]
    data = rng.standard_normal(shape).astype(np.float32)
    inputs = {x: data} | given.pop("inputs", {})
    (got,) = run_node(node, inputs, target, env=env, **given)
    known = [None if v is None else inputs[v] if v in inputs else v.producer.attrs["value"].array  # type: ignore
             for v in node.inputs[1:]]
    wide = [None if a is None else a.astype(np.float64) for a in known]
    codes = known[0]
    assert codes is not None
    want = ops.matmul_coded.reference(data.astype(np.float64), codes, *wide[1:], **node.attrs)
    assert got.shape == want.shape
    size = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got / size, want / size, rtol=0, atol=4e-6)


@pytest.mark.parametrize("target", HERE)
def test_operands_that_are_not_constant(target: str) -> None:
    """As loop kernels."""
    for rows, n, zero, table in (((3,), 19, "any", False), ((2, 2), 4, "", True), ((), 7, "whole", False),
                                 ((0,), 5, "", False)):
        given = arrays(10, n, 4, 4, zero, table)
        operands = [None if a is None else Value(TensorType(DType.of(a), a.shape)) for a in given]
        x = Value(TensorType(DType.F32, (*rows, 10)))
        inputs = {v: a for v, a in zip(operands, given, strict=True) if v is not None}
        check(x, ops.matmul_coded.node(x, *operands, block=4), target, inputs=inputs)
