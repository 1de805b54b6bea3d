"""Sorting and determinants, compiled, against their meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen.harness import HERE, backwards, check_node, dense, gaps, reversed_axes, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
layouts = pytest.mark.parametrize("layout", [dense, reversed_axes, backwards, gaps])
RNG = np.random.default_rng(0)


@targets
@layouts
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (37, 1), (64, 2), (100, 3), (0, 2), (5, 0)], ids=str)
def test_sort_rows(target: Target, layout: Any, shape: tuple[int, int]) -> None:
    x = value(shape, DType.I64)
    check_node(ops.sort_rows.node(x), {x: RNG.integers(-3, 4, shape)}, target, layouts={x: layout})


@targets
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.F16, DType.BOOL, DType.U8, DType.U64, DType.I8],
                         ids=lambda d: d.value)
def test_sort_rows_of_every_kind(target: Target, dtype: DType) -> None:
    x = value((50, 2), dtype)
    data = RNG.integers(0, 2 if dtype is DType.BOOL else 100, (50, 2)).astype(dtype.numpy)
    if dtype.is_float:
        data[::7, 0], data[::5, 1], data[3::9, 0] = np.nan, -np.inf, -0.0
    if dtype in (DType.U8, DType.U64):
        data[::3] = np.iinfo(dtype.numpy).max
    check_node(ops.sort_rows.node(x), {x: data}, target)


@targets
@pytest.mark.parametrize("n", [0, 1, 3, 33])
def test_sort_rows_of_open_number(target: Target, n: int) -> None:
    x = value((sym("n"), 2))
    check_node(ops.sort_rows.node(x), {x: RNG.integers(0, 5, (n, 2)).astype(np.float32)}, target, env={"n": n})


@targets
@layouts
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 4, 4), (2, 3, 9, 9), (0, 2, 2), (2, 0, 0)], ids=str)
def test_det(target: Target, layout: Any, shape: tuple[int, ...]) -> None:
    x = value(shape)
    check_node(ops.det.node(x), {x: RNG.standard_normal(shape).astype(np.float32)}, target, layouts={x: layout},
               rtol=1e-5)


@targets
def test_det_needs_row_exchanges(target: Target) -> None:
    x = value((4, 5, 5), DType.F64)
    data = np.stack([RNG.permutation(np.eye(5)) for _ in range(3)] + [np.ones((5, 5))])
    check_node(ops.det.node(x), {x: data}, target)
    huge = np.full((4, 5, 5), np.nan)
    check_node(ops.det.node(x), {x: huge}, target)


@targets
def test_det_of_open_sizes(target: Target) -> None:
    n = sym("n")
    x = value((sym("b"), n, n))
    check_node(ops.det.node(x), {x: RNG.standard_normal((3, 6, 6)).astype(np.float32)}, target,
               env={"b": 3, "n": 6}, rtol=1e-5)


@targets
@layouts
@pytest.mark.parametrize(("n", "k"), [(1, 2), (5, 3), (33, 10), (0, 4), (3, 1)])
def test_couple_pairs(target: Target, layout: Any, n: int, k: int) -> None:
    r = value((n, k, k), DType.F64)
    upper = np.triu(RNG.uniform(1e-7, 1 - 1e-7, (n, k, k)), 1)
    check_node(ops.couple_pairs.node(r), {r: upper + np.tril(1 - upper.swapaxes(1, 2), -1)}, target,
               layouts={r: layout}, rtol=1e-9)


@targets
def test_couple_pairs_of_an_open_number(target: Target) -> None:
    r = value((sym("n"), 4, 4), DType.F64)
    data = np.full((3, 4, 4), 0.5)
    data[1] = np.nan
    check_node(ops.couple_pairs.node(r), {r: data}, target, env={"n": 3})
