"""Sorting, running sums and searching for CUDA, on the simulator: long rows are a block's."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda import order
from lepton.codegen.cuda.templates.order import Firsts, Found, Running, Sorted
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda.checking import BODIES, check, node_of, random, rng
from tests.cuda.simulated import COMPILER

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]

HARD = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45]


def hard(shape: tuple[int, ...], dtype: DType) -> Array:
    """Few different numbers, so that many are alike; of floats also those that order is hard for."""
    if not dtype.is_float:
        ends = [np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max, 0, 1, 7]
        return rng.choice(np.array(ends, dtype.numpy), shape)
    return np.where(rng.random(shape) < 0.3, rng.choice(HARD, shape), rng.integers(-9, 9, shape)).astype(dtype.numpy)


@pytest.mark.parametrize(("shape", "axis", "k", "dtype"), [
    ((3, 100), 1, 7, DType.F32), ((1, 300), 1, 300, DType.I64), *(pytest.param(*x, marks=pytest.mark.slow) for x in [
        ((2, 1500, 2), 1, 1500, DType.F32), ((5, 33), 0, 2, DType.I8), ((2, 64), 1, 64, DType.F64),
        ((2, 90), 1, 5, DType.F16), ((2, 9), 1, 0, DType.U64), ((3, 1), 1, 1, DType.F32), ((0, 8), 1, 3, DType.F32)])],
    ids=str)
def test_top_k(shape: tuple[int, ...], axis: int, k: int, dtype: DType) -> None:
    x = harness.value(shape, dtype)
    for largest in (True, False):
        check(ops.top_k.node(x, k=k, axis=axis, largest=largest), {x: hard(shape, dtype)}, Firsts)


@pytest.mark.parametrize("rising", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_top_k_of_rows_longer_than_shared_memory(rising: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "SHARED_BYTES", 16 * 1024)
    n = 9000
    x = harness.value((2, n))
    data = np.stack([np.arange(n)[::1 if rising else -1], rng.integers(0, 50, n)]).astype(np.float32)
    check(ops.top_k.node(x, k=20, axis=1, largest=True), {x: data}, Firsts)
    assert BODIES[-1].room == 2048
    check(ops.top_k.node(x, k=5000, axis=1, largest=False), {x: data}, Firsts)
    assert BODIES[-1].room == 0


@pytest.mark.slow
def test_top_k_of_any_length() -> None:
    n = sym("n")
    x = harness.value((2, n))
    for length in (3, 64, 501):
        arrays, env = {x: hard((2, length), DType.F32)}, {"n": length}
        check(ops.top_k.node(x, k=3, axis=1, largest=True), arrays, Firsts, env=env)
        check(ops.top_k.node(x, k=n, axis=1, largest=True), arrays, Firsts, env=env)
        assert BODIES[-1].room == 0


@pytest.mark.parametrize(("op", "dtype", "more"), [
    (ops.cumsum, DType.I64, {"exclusive": True, "reverse": True}), (ops.cumsum, DType.F16, {}),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in [
        (ops.cumsum, DType.F32, {"exclusive": True}), (ops.cumsum, DType.F32, {"reverse": True}),
        (ops.cumprod, DType.F64, {}), (ops.cumprod, DType.F64, {"exclusive": True, "reverse": True})])], ids=str)
def test_running_sums(op: Any, dtype: DType, more: dict[str, Any]) -> None:
    shape = (3, 300, 2)
    x = harness.value(shape, dtype)
    data = rng.integers(-9, 9, shape) if dtype is DType.I64 else random(shape, DType.F32) * 0.1 + (op is ops.cumprod)
    check(node_of(op(x, axis=1, **more)), {x: data.astype(dtype.numpy)}, Running, rtol=1e-4, atol=1e-4)


def test_running_sums_of_any_length() -> None:
    x = harness.value((sym("n"),))
    for n in (0, 1, 31, 1025, 2600):
        check(node_of(ops.cumsum(x, axis=0)), {x: random((n,))}, Running, env={"n": n}, rtol=1e-4, atol=1e-4)


def test_infinity_stays_behind() -> None:
    x, data = harness.value((200,)), random((200,))
    data[77], data[150] = np.inf, np.nan
    check(node_of(ops.cumsum(x, axis=0)), {x: data}, Running, rtol=1e-4, atol=1e-4)


def test_short_rows_and_bytes_are_summed_by_threads() -> None:
    x = harness.value((3, 20))
    check(node_of(ops.cumsum(x, axis=1)), {x: random((3, 20))}, LoopBody, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "dtype"), [
    ((9, 11, 13), DType.BOOL), *(pytest.param(*x, marks=pytest.mark.slow) for x in [
        ((5000,), DType.F32), ((70, 65), DType.I64), ((0, 4), DType.F32), ((), DType.F32)])], ids=str)
def test_non_zero(shape: tuple[int, ...], dtype: DType) -> None:
    data = (rng.random(shape) < 0.3).astype(dtype.numpy)
    x = harness.value(shape, dtype)
    node = ops.non_zero.node(x, symbol="hits")
    check(node, {x: np.asarray(data)}, Found, env={"hits": int(np.count_nonzero(data))})


@pytest.mark.parametrize("dtype", [DType.F32, *(pytest.param(d, marks=pytest.mark.slow) for d in (
    DType.I64, DType.BOOL))])
def test_sorted_rows(dtype: DType) -> None:
    for shape in ((700, 2), (1, 3), (33, 0)):
        x = harness.value(shape, dtype)
        data = rng.random(shape) < 0.5 if dtype is DType.BOOL else hard(shape, dtype)
        check(node_of(ops.sort_rows(x)), {x: data}, Sorted)
