"""Attention against its meaning: lengths, masks, views, run-time sizes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, Layout, run_node

assert lepton.codegen.lower

rng = np.random.default_rng(4)


def value(*shape: Any, dtype: DType = DType.F32) -> Value:
    return Value(TensorType(dtype, shape))


def random(*shape: int, dtype: DType = DType.F32) -> Array:
    return rng.standard_normal(shape).astype(dtype.numpy)


def check(shape: tuple[int, ...], mask: tuple[int, ...] | None, target: str, dtype: DType = DType.F32,
          values: tuple[Value, ...] = (), **given: Any) -> None:
    b, h, s, t, d, e = shape
    arrays = [random(b, h, s, d, dtype=dtype), random(b, h, t, d, dtype=dtype), random(b, h, t, e, dtype=dtype)]
    if mask is not None:
        arrays.append(np.where(rng.random(mask) < 0.3, -40.0, random(*mask)).astype(dtype.numpy))
    operands = values or tuple(value(*a.shape, dtype=dtype) for a in arrays)
    node = ops.attention.node(*operands, scale=0.35)
    want = node.op.reference(*(a.astype(np.float64) for a in arrays), scale=0.35)
    (got,) = run_node(node, dict(zip(operands, arrays, strict=True)), target, **given)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("shape", [
    (1, 2, 16, 16, 8, 8), (2, 3, 17, 33, 5, 19), (1, 1, 1, 70, 16, 16), (1, 2, 40, 1, 8, 4), (1, 4, 128, 128, 64, 64)])
def test_shapes(target: str, shape: tuple[int, ...]) -> None:
    b, h, s, t, _, _ = shape
    check(shape, None, target, shares=3)
    for mask in ((b, 1, 1, t), (1, h, s, t), (s, 1), (b, h, s, t)):
        check(shape, mask, target)


def test_double() -> None:
    check((1, 2, 9, 11, 8, 8), (11,), HERE[-1], DType.F64)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("length", [1, 7, 16, 100])
def test_run_time_lengths(target: str, length: int) -> None:
    n, s = sym("N"), sym("S")
    values = (value(n, 2, s, 8), value(n, 2, s, 8), value(n, 2, s, 8), value(n, 1, 1, s))
    env = {"N": 2, "S": length}
    check((2, 2, length, length, 8, 8), (2, 1, 1, length), target, values=values, env=env)
    past = (value(n, 2, 1, 8), value(n, 2, s, 8), value(n, 2, s, 8))
    check((2, 2, 1, length, 8, 8), None, target, values=past, env=env)


def test_views_of_one_projection() -> None:
    """q, k and v as slices of [B,S,3*H*D], the result as [B,S,H,D]."""
    b, h, s, d = 2, 3, 21, 8
    wide = 3 * h * d
    values = tuple(value(b, h, s, d) for _ in range(3))
    layouts: dict[Value, Layout] = {v: Layout((s * wide, d, wide, 1), i * h * d, b * s * wide)
                                    for i, v in enumerate(values)}
    node = ops.attention.node(*values, scale=0.5)
    layouts[node.result] = Layout((s * h * d, d, h * d, 1), 0, b * s * h * d)
    arrays = [random(b, h, s, d) for _ in range(3)]
    (got,) = run_node(node, dict(zip(values, arrays, strict=True)), HERE[-1], layouts=layouts, shares=3)
    np.testing.assert_allclose(got, node.op.reference(*arrays, scale=0.5), rtol=2e-5, atol=1e-5)


def test_masked_out_rows_are_nan() -> None:
    q, k, v, m = value(1, 1, 2, 4), value(1, 1, 3, 4), value(1, 1, 3, 4), value(2, 3)
    mask = np.array([[-np.inf] * 3, [0, -np.inf, 0]], np.float32)
    arrays = [random(1, 1, 2, 4), random(1, 1, 3, 4), random(1, 1, 3, 4), mask]
    node = ops.attention.node(q, k, v, m, scale=1.0)
    (got,) = run_node(node, dict(zip((q, k, v, m), arrays, strict=True)), HERE[-1])
    assert np.isnan(got[0, 0, 0]).all()
    assert not np.isnan(got[0, 0, 1]).any()


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("scale", [-0.7, 0.0, 30.0])
def test_scales(target: str, scale: float) -> None:
    """Below 0 the least score counts most; at 30 most weights vanish."""
    shapes = ((1, 2, 9, 8), (1, 2, 37, 8), (1, 2, 37, 5), (37,))
    values, arrays = tuple(value(*s) for s in shapes), [random(*s) for s in shapes]
    for count in (3, 4):
        node = ops.attention.node(*values[:count], scale=scale)
        (got,) = run_node(node, dict(zip(values[:count], arrays[:count], strict=True)), target)
        np.testing.assert_allclose(got, node.op.reference(*(a.astype(np.float64) for a in arrays[:count]), scale=scale),
                                   rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", HERE)
def test_masks_that_forbid(target: str) -> None:
    """What is masked out weighs nothing at all, whatever V holds there; a row of the lowest number is even."""
    lowest = np.finfo(np.float32).min
    mask = np.zeros((3, 21), np.float32)
    mask[0, 3:], mask[1], mask[2, :20] = -np.inf, lowest, -300.0
    values = tuple(value(*s) for s in ((1, 1, 3, 4), (1, 1, 21, 4), (1, 1, 21, 4), (3, 21)))
    arrays = [random(1, 1, 3, 4), random(1, 1, 21, 4), random(1, 1, 21, 4) * np.float32(1e30), mask]
    arrays[2][..., 3:, :] *= np.float32(1e6)
    node = ops.attention.node(*values, scale=1.0)
    (got,) = run_node(node, dict(zip(values, arrays, strict=True)), target)
    want = node.op.reference(*(a.astype(np.float64) for a in arrays), scale=1.0)
    np.testing.assert_allclose(got[0, 0, 0], want[0, 0, 0], rtol=1e-4, atol=1e24)
    np.testing.assert_allclose(got[0, 0, 1], arrays[2][0, 0].mean(axis=0), rtol=1e-4, atol=1e32)
    np.testing.assert_allclose(got[0, 0, 2], arrays[2][0, 0, 20], rtol=1e-6)


def test_a_number_that_is_none_spoils_its_row_only() -> None:
    values = tuple(value(*s) for s in ((1, 1, 5, 4), (1, 1, 33, 4), (1, 1, 33, 4)))
    arrays = [random(1, 1, 5, 4), random(1, 1, 33, 4), random(1, 1, 33, 4)]
    arrays[0].view(np.uint32)[0, 0, 2, 1] = 0x7FC12345
    node = ops.attention.node(*values, scale=1.0)
    (got,) = run_node(node, dict(zip(values, arrays, strict=True)), HERE[-1])
    assert np.isnan(got[0, 0, 2]).all()
    assert np.isfinite(np.delete(got, 2, axis=2)).all()
