"""Scatters and top_k against the ops' meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen.harness import HERE, check_node, gaps, reversed_axes, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
REDUCTIONS = ("none", "add", "mul", "max", "min")


def floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@targets
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter_elements(target: Target, reduction: str) -> None:
    rng = np.random.default_rng(1)
    for shape, axis, part in (((3, 4, 19), 1, (3, 6, 17)), ((7,), 0, (5,)), ((2, 5), 1, (2, 0))):
        x, i, u = value(shape), value(part, DType.I64), value(part)
        indices = rng.integers(-shape[axis], shape[axis], part)
        node = ops.scatter_elements.node(x, i, u, axis=axis, reduction=reduction)
        check_node(node, {x: floats(*shape), i: indices, u: floats(*part, seed=2)}, target,
                   layouts={x: reversed_axes, node.results[0]: gaps}, rtol=1e-5)


@targets
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scatter_nd(target: Target, reduction: str) -> None:
    rng = np.random.default_rng(1)
    for shape, rows, depth in (((3, 4, 19), (6,), 1), ((3, 4, 19), (2, 5), 2), ((5, 6), (7,), 2), ((4, 3), (0,), 1)):
        x, i, u = value(shape), value((*rows, depth), DType.I32), value((*rows, *shape[depth:]))
        indices = np.stack([rng.integers(-n, n, rows) for n in shape[:depth]], -1).astype(np.int32)
        node = ops.scatter_nd.node(x, i, u, reduction=reduction)
        arrays = {x: floats(*shape), i: indices, u: floats(*rows, *shape[depth:], seed=2)}
        check_node(node, arrays, target, rtol=1e-5)


@targets
def test_indices_out_of_range_write_nothing(target: Target) -> None:
    """The reference raises there; compiled code skips them, and the guard pages see that it does."""
    from tests.codegen.harness import run_node

    x, i, u = value((5,)), value((3,), DType.I64), value((3,))
    node = ops.scatter_elements.node(x, i, u, axis=0)
    data = floats(5)
    (got,) = run_node(node, {x: data, i: np.array([2**40, -6, 1]), u: np.full(3, 9, np.float32)}, target)
    np.testing.assert_array_equal(got, [data[0], 9, *data[2:]])


@targets
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", [DType.F32, DType.I64, DType.F16, DType.U8], ids=lambda d: d.value)
def test_top_k(target: Target, largest: bool, dtype: DType) -> None:
    for shape, axis, k in (((3, 40), 1, 5), ((3, 40), 1, 40), ((20, 3), 0, 1), ((7,), 0, 3), ((2, 9, 4), 1, 9),
                           ((4, 5), 1, 0)):
        x = value(shape, dtype)
        array = np.random.default_rng(0).integers(0, 12, shape).astype(dtype.numpy)
        if dtype.is_float:
            array.reshape(-1)[::7] = np.nan
            array.reshape(-1)[::11] = np.inf
        check_node(ops.top_k.node(x, k=k, axis=axis, largest=largest), {x: array}, target)


@targets
def test_top_k_dynamic(target: Target) -> None:
    n = sym("N")
    for size in (1, 3, 50):
        x = value((2, n))
        check_node(ops.top_k.node(x, k=n, axis=1), {x: floats(2, size)}, target, env={"N": size})
