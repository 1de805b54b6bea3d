"""Norms of rows that lie far from 0, close together, or where squares overflow: against long doubles."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.op import Op
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.codegen.harness import HERE, Layout, dense, reversed_axes, run_node, value

N = 203
NORMAL = np.random.default_rng(0).standard_normal((12, N))
SIGNS = np.where(NORMAL > 0, 1.0, -1.07)
ROWS: dict[str, Callable[[float], Array]] = {  # of the largest number of the type
    "normal": lambda most: NORMAL,
    "far": lambda most: 1e4 + NORMAL,
    "close": lambda most: 1e4 + 0.01 * NORMAL,
    "large": lambda most: most**0.55 * NORMAL,
    "largest": lambda most: most * 0.9 * SIGNS,
    "equal": lambda most: np.full_like(NORMAL, most * 1e-5),
    "spike": lambda most: np.eye(12, N) * most,
    "tiny": lambda most: NORMAL / most**0.9,
    "mixed": lambda most: NORMAL * np.where(np.arange(12) % 2, most * 1e-3, 1.0)[:, None],
}
NORMS: dict[str, tuple[Op, dict[str, Any], int, tuple[int, ...]]] = {  # with the sizes of parameters and x
    "layer": (ops.layer_norm, {"axis": 1}, N, (12 * 9, N)), "rms": (ops.rms_norm, {"axis": 1}, N, (12 * 9, N)),
    "instance": (ops.instance_norm, {}, 4, (3 * 9, 4, N)), "group": (ops.group_norm, {"groups": 4}, 8, (3 * 9, 8, N)),
}
EPSILON = 1e-5


def exact(name: str, x: Array) -> Array:
    rows = x.astype(np.longdouble).reshape(12 * len(ROWS), -1)
    centred = rows
    for _ in range(0 if name == "rms" else 2):  # the first mean is rounded, even here
        centred = centred - centred.mean(axis=1, keepdims=True)
    result: Array = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.longdouble(EPSILON))
    return result


def sample(name: str, dtype: DType) -> Array:
    x = np.concatenate([make(float(np.finfo(dtype.numpy).max)) for make in ROWS.values()])
    if name == "group":  # two channels to a group
        x = np.concatenate([x, -x[:, ::-1]], axis=1)
    return x.reshape(NORMS[name][3]).astype(dtype.numpy)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("layout", [dense, reversed_axes])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=lambda d: d.value)
@pytest.mark.parametrize("name", NORMS)
def test_extreme_rows(target: Target, layout: Layout, dtype: DType, name: str) -> None:
    """Within the rounding of a sum of 203 terms, beside the row's largest result, and so is the meaning."""
    op, attrs, size, shape = NORMS[name]
    x, scale, bias = sample(name, dtype), np.ones(size, dtype.numpy), np.zeros(size, dtype.numpy)
    parameters = [scale] if name == "rms" else [scale, bias]
    values = [value(shape, dtype), *(value((size,), dtype) for _ in parameters)]
    node = op.node(*values, **attrs, epsilon=EPSILON)
    arrays = dict(zip(values, (x, *parameters), strict=True))
    (got,) = run_node(node, arrays, target, layouts={values[0]: layout, node.result: layout})
    with np.errstate(over="ignore"):
        meant = op.reference(x, *parameters, **attrs, epsilon=EPSILON)
    want = exact(name, x)
    allowed = 64 * np.finfo(dtype.numpy).eps * np.maximum(np.abs(want).max(axis=1), 1)
    for result in (got, meant):
        error = np.abs(result.reshape(want.shape) - want).max(axis=1)
        wrong = {kind: float(error[12 * i:12 * i + 12].max()) for i, kind in enumerate(ROWS)
                 if not (error <= allowed)[12 * i:12 * i + 12].all()}
        assert not wrong


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("layout", [dense, reversed_axes])
def test_a_row_with_nan_or_infinity_is_nan_and_no_other(target: Target, layout: Layout) -> None:
    x = NORMAL.astype(np.float32)
    x[3, 7], x[5, 0], x[8, -1] = np.nan, np.inf, -np.inf
    values = [value((12, N)), value((N,))]
    node = ops.layer_norm.node(*values, axis=1, epsilon=EPSILON)
    arrays = dict(zip(values, (x, np.ones(N, np.float32)), strict=True))
    (got,) = run_node(node, arrays, target, layouts={values[0]: layout, node.result: layout})
    assert np.flatnonzero(np.isnan(got).any(axis=1)).tolist() == [3, 5, 8]
    assert np.isnan(got[[3, 5, 8]]).all()
