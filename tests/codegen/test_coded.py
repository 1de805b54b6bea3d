"""Products with weights of a few bits, against the same weights decoded."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton.codegen.lower
from lepton.codegen.group import LowerOptions
from lepton.codegen.llvm.machine import count_spills
from lepton.codegen.target import TARGETS
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, assembly, inside, lower, run_node

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


CASES = [
    # rows, k, n, bits, block, zero, table
    ((1,), 64, 64, 4, 32, "", False), ((1,), 96, 200, 4, 32, "any", False), ((2,), 100, 33, 4, 32, "whole", False),
    ((3,), 31, 17, 4, 31, "", True), ((4,), 130, 70, 8, 130, "", False), ((5,), 64, 65, 8, 32, "whole", False),
    ((7,), 50, 7, 3, 50, "", True), ((8,), 37, 130, 2, 16, "", True), ((9,), 64, 100, 4, 32, "any", False),
    ((40,), 70, 130, 4, 32, "", False), ((25,), 64, 100, 4, 32, "any", True),
    ((33,), 33, 66, 8, 16, "any", False), ((2, 3, 2), 40, 48, 4, 20, "", False),
    ((), 64, 40, 4, 32, "", False), ((1,), 1, 1, 4, 1, "", False), ((2,), 7, 300, 5, 7, "", True),
    ((2,), 70, 40, 6, 70, "", True), ((3,), 70, 40, 8, 70, "", True), ((20,), 70, 40, 8, 70, "", True),
    ((1,), 11, 20, 4, 11, "any", True), ((0,), 8, 8, 4, 4, "", False), ((3,), 64, 64, 1, 16, "", True),
]


@pytest.mark.parametrize(("target", "rows", "k", "n", "bits", "block", "zero", "table"), [
    pytest.param(target, *row, marks=[] if (i + t) % 3 == 0 else pytest.mark.slow)
    for t, target in enumerate(HERE) for i, row in enumerate(CASES)])
def test_constant_weights(target: str, rows: tuple[int, ...], k: int, n: int, bits: int, block: int, zero: str,
                          table: bool) -> None:
    x = Value(TensorType(DType.F32, (*rows, k)))
    operands = [None if a is None else constant(a) for a in arrays(k, n, bits, block, zero, table)]
    check(x, ops.matmul_coded.node(x, *operands, block=block), target, shares=3)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("rows", [0, 3, 61])
def test_rows_counted_at_run_time(target: str, rows: int) -> None:
    x = Value(TensorType(DType.F32, (2, sym("M"), 48)))
    operands = [constant(a) for a in arrays(48, 70, 4, 16) if a is not None]
    check(x, ops.matmul_coded.node(x, *operands, block=16), target, env={"M": rows}, shares=3)


@pytest.mark.parametrize("target", HERE)
def test_strange_strides(target: str) -> None:
    """Columns of a larger array, and rows that lie one after the other."""
    for rows, perm in ((2, (1, 0)), (30, (0, 1))):
        x = Value(TensorType(DType.F32, (rows, 37)))
        node = ops.matmul_coded.node(x, *(constant(a) for a in arrays(37, 41, 4, 37) if a is not None), block=37)
        layouts = {x: inside((rows, 37), (rows + 3, 40), (2, 1), perm),
                   node.results[0]: inside((rows, 41), (rows + 1, 50), (1, 4), perm)}
        check(x, node, target, layouts=layouts)


@pytest.mark.parametrize("target", ["x86-avx512", "x86-avx2", "aarch64-neon"])
def test_no_spills_where_it_matters(target: str) -> None:
    """Few rows by levels, without zero points; sums stay in registers."""
    for rows in (1, 4):
        for bits, block in ((8, 768), (4, 32)):
            x = Value(TensorType(DType.F32, (rows, 768)))
            operands = [constant(a) for a in arrays(768, 256, bits, block) if a is not None]
            kernel = lower(ops.matmul_coded.node(x, *operands, block=block), LowerOptions(TARGETS[target]), {}, {})
            spills = count_spills(assembly(kernel, TARGETS[target]))
            assert max(spills.values()) <= (target == "x86-avx2"), (rows, bits, spills)
