"""Products and convolutions of bytes on tensor cores: exact, with zero points of every kind."""
from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda import integers, products
from lepton.codegen.cuda.templates.product import Product, TensorTile
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda.checking import BODIES, TURNS, check, constant, rng
from tests.cuda.simulated import COMPILER

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
U8, I8 = DType.U8, DType.I8
SLOW = partial(pytest.param, marks=pytest.mark.slow)


def draw(dtype: DType, *shape: int) -> Any:
    """Bytes, with many at the ends of their range."""
    low = -128 if dtype.is_signed else 0
    found = rng.integers(low, low + 256, shape)
    return np.where(rng.random(shape) < 0.3, rng.choice([low, low + 255], shape), found).astype(dtype.numpy)


def exact(node: Node, arrays: Any, *, zeros: bool, columns: bool = False, **more: Any) -> None:
    check(node, arrays, Product, rtol=0, atol=0, **more)
    body = BODIES[-1]
    assert isinstance(body.tile, TensorTile)
    assert (body.zeros is not None) == zeros
    assert not zeros or body.zeros.columns == columns


@pytest.mark.parametrize(("left", "right", "zero"), [
    (U8, U8, np.array(128, np.uint8)), SLOW(I8, I8, "columns"), SLOW(U8, I8, None), SLOW(I8, I8, np.array(0, np.int8)),
    SLOW(U8, U8, np.array(60, np.uint8))], ids=str)
def test_constant_weights(left: DType, right: DType, zero: Any) -> None:
    """Zero points that leave bytes are packed away, others are taken off sums of rows."""
    a, w = harness.value((2, 35, 80), left), draw(right, 80, 33)
    zero = draw(right, 33) if isinstance(zero, str) else zero
    packed = zero is None or (np.abs(w.astype(int) - zero + 0.5) < 128).all()
    za = harness.value((), left)
    node = ops.matmul_integer.node(a, constant(w), za, None if zero is None else constant(zero))
    arrays = {a: draw(left, 2, 35, 80), za: draw(left)}
    exact(node, arrays, zeros=not packed)
    assert TURNS[-1] == 1.0, "reads of fragments collide in shared memory"
    known = ops.matmul_integer.node(a, constant(w), constant(draw(left)), None if zero is None else constant(zero))
    exact(known, {a: arrays[a]}, zeros=not packed, layouts={a: harness.gaps})


@pytest.mark.parametrize("right", [U8, SLOW(I8)])
def test_two_values(right: DType) -> None:
    """Both zero points are run-time numbers: sums of rows and of columns."""
    m = sym("m")
    a, b = harness.value((2, m, 70), U8), harness.value((2, 70, 40), right)
    za, zb = harness.value((), U8), harness.value((), right)
    arrays = {a: draw(U8, 2, 37, 70), b: draw(right, 2, 70, 40), za: draw(U8), zb: draw(right)}
    exact(ops.matmul_integer.node(a, b, za, zb), arrays, zeros=True, columns=True, env={"m": 37},
          layouts={b: harness.reversed_axes})
    plain = {a: arrays[a], b: arrays[b]}
    exact(ops.matmul_integer.node(a, b), plain, zeros=False, env={"m": 37})
    each = harness.value((40,), right)
    exact(ops.matmul_integer.node(a, b, None, each), {**plain, each: draw(right, 40)}, zeros=True, columns=True,
          env={"m": 37})


@pytest.mark.slow
def test_sums_wrap() -> None:
    """133,000 products of 255 by -128: beyond i32, as the op says."""
    k = 133_000
    a, b = harness.value((1, k), U8), harness.value((k, 1), I8)
    exact(ops.matmul_integer.node(a, b), {a: np.full((1, k), 255, np.uint8), b: np.full((k, 1), -128, np.int8)},
          zeros=False)


def test_rows_with_zero_points_go_by_loops() -> None:
    a, w, za = harness.value((5, 8), U8), constant(draw(I8, 8, 4)), harness.value((5,), U8)
    check(ops.matmul_integer.node(a, w, za), {a: draw(U8, 5, 8), za: draw(U8, 5)}, LoopBody)


@pytest.mark.slow
@pytest.mark.parametrize("tile", products.SHAPES, ids=str)
def test_tiles_with_sums(tile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "tile_of", lambda *rest: TensorTile(rest[-1], *tile))
    a, b, zb = harness.value((130, 150), U8), harness.value((150, 140), U8), constant(np.array(7, np.uint8))
    za = constant(np.array(250, np.uint8))
    exact(ops.matmul_integer.node(a, b, za, zb), {a: draw(U8, 130, 150), b: draw(U8, 150, 140)}, zeros=True,
          columns=True)


CONVS: list[tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = [
    ((2, 9, 7, 16), 20, (3, 3), {"strides": (2, 1), "pads_begin": (1, 2), "pads_end": (1, 0)}),
    ((1, 8, 8, 3), 16, (5, 5), {"strides": (2, 2), "pads_begin": (2, 2), "pads_end": (2, 2)}),
    ((1, 10, 9, 32), 16, (3, 3), {"dilations": (2, 2), "group": 2, "pads_begin": (2, 2), "pads_end": (2, 2)}),
    ((2, 6, 5, 24), 24, (1, 1), {}),
]


@pytest.mark.parametrize("far", [False, SLOW(True)], ids=["bytes", "nine bits"])
@pytest.mark.parametrize("case", [CONVS[0], *map(SLOW, CONVS[1:])], ids=str)
def test_convolutions(case: Any, far: bool) -> None:
    """What lies outside counts as the zero point, known or not."""
    shape, filters, kernel, attrs = case
    given = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (0, 0), "pads_end": (0, 0), "group": 1, **attrs}
    x, w = harness.value(shape, U8), draw(I8, filters, shape[-1] // given["group"], *kernel)
    zw = constant(rng.integers(20, 90, filters).astype(np.int8)) if far else None
    node = ops.conv_integer.node(x, constant(w), constant(np.array(77, np.uint8)), zw, layout="nhwc", **given)
    arrays: dict[Value, Any] = {x: draw(U8, *shape)}
    exact(node, arrays, zeros=far)
    zx = harness.value((), U8)
    node = ops.conv_integer.node(x, constant(w), zx, zw, layout="nhwc", **given)
    exact(node, {**arrays, zx: draw(U8)}, zeros=far)
