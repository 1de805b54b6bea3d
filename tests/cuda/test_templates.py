"""CUDA templates on the simulator: ragged shapes, views, early and late asynchronous copies, orders of threads."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda import attention, products
from lepton.codegen.cuda.templates.attention import Attention
from lepton.codegen.cuda.templates.product import Columns, PlainTile, Product, TensorTile
from lepton.codegen.group import LowerOptions
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda.checking import BODIES, TURNS, check, constant, node_of, random, rng
from tests.cuda.simulated import COMPILER, CUDA

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
# --- products -------------------------------------------------------------------------------------

TILES = [
    (PlainTile(2, 2, 16, 16, 8), DType.F32), (PlainTile(1, 1, 16, 16, 16), DType.F32),
    (PlainTile(1, 1, 8, 8, 16, 4), DType.F32), (PlainTile(1, 1, 8, 8, 16, 2), DType.F64),
    *((TensorTile("f16", *s), DType.F16) for s in products.SHAPES),
    (TensorTile("bf16", *products.SHAPES[1]), DType.BF16)]


@pytest.mark.parametrize(("tile", "dtype"), TILES, ids=str)
def test_products(tile: Any, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "tile_of", lambda *_: tile)
    m, n, k = sym("m"), 40, 72
    a, b = (harness.value(s, dtype) for s in ((3, m, k), (3, k, n)))
    rows = 37 if tile.rows < 128 else 130
    arrays = {a: random((3, rows, k), dtype), b: random((3, k, n), dtype)}
    check(node_of(ops.matmul(a, b)), arrays, Product, env={"m": rows}, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_constant_weights_and_views(dtype: DType) -> None:
    a, w = harness.value((70, 48), dtype), constant(random((48, 33), dtype))
    y = node_of(ops.matmul(a, w))
    check(y, {a: random((70, 48), dtype)}, Product, layouts={a: harness.reversed_axes}, rtol=1e-5, atol=1e-5)
    check(y, {a: random((70, 48), dtype)}, Product, layouts={a: harness.gaps}, rtol=1e-5, atol=1e-5)


def test_few_rows_go_column_by_column() -> None:
    a, w = harness.value((3, 2, 50)), constant(random((50, 21)))
    check(node_of(ops.matmul(a, w)), {a: random((3, 2, 50))}, Columns, rtol=1e-5, atol=1e-5)
    a, b = harness.value((3, 50)), harness.value((50, 21))
    check(node_of(ops.matmul(a, b)), {a: random((3, 50)), b: random((50, 21))}, Columns, rtol=1e-5, atol=1e-5,
          layouts={a: harness.reversed_axes, b: harness.reversed_axes})


def test_nothing_to_sum() -> None:
    a, b = harness.value((5, 0)), harness.value((0, 40))
    check(node_of(ops.matmul(a, b)), {a: random((5, 0)), b: random((0, 40))}, Product)


def test_tf32_on_request() -> None:
    a, b = harness.value((40, 36)), harness.value((36, 34))
    arrays = {a: random((40, 36)), b: random((36, 34))}
    got, = harness.run_node(node_of(ops.matmul(a, b)), arrays, CUDA, options=LowerOptions(CUDA, math="fast"))
    assert isinstance(BODIES[-1], Product)
    assert isinstance(BODIES[-1].tile, TensorTile)
    error = np.abs(got - arrays[a].astype(np.float64) @ arrays[b]).max()
    assert 0 < error < 36 * 2.0**-11


@pytest.mark.parametrize("math", ["default", "strict"])
def test_floats_as_two_numbers_each(math: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors like those of sums in f32, infinities and NaN where the op has them; numbers of all sizes."""
    monkeypatch.setattr(products, "ENOUGH_TILES", 1)
    a, b = harness.value((70, 200)), harness.value((200, 66))
    x, y = random((70, 200)), random((200, 66))
    x *= 2.0 ** rng.integers(-20, 20, (70, 1))
    x[1, 3], x[2, 4], x[3, 5], x[4, 6] = np.inf, -np.inf, np.nan, 3.4028235e38
    y[3], y[4, 7], y[6] = 2.0, 0.0, 0.25
    got, = harness.run_node(node_of(ops.matmul(a, b)), {a: x, b: y}, CUDA, options=LowerOptions(CUDA, math=math))
    assert isinstance(BODIES[-1].tile, TensorTile if math == "default" else PlainTile)
    with np.errstate(invalid="ignore"):
        want = x.astype(np.float64) @ y
        size, error = np.abs(x).astype(np.float64) @ np.abs(y), np.abs(got - want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    here = np.isfinite(got)
    here[4] = False                     # numbers next to infinity count as one of tf32
    assert (error[here] < 2.0**-22 * size[here]).all()
    np.testing.assert_allclose(got[4], want[4], rtol=2.0**-10)
    tiny = np.full((70, 200), 1e-38, np.float32)
    y = random((200, 66))
    got, = harness.run_node(node_of(ops.matmul(a, b)), {a: tiny, b: y}, CUDA, options=LowerOptions(CUDA, math=math))
    np.testing.assert_allclose(got, tiny.astype(np.float64) @ y, rtol=0, atol=1e-40)


# --- convolutions ---------------------------------------------------------------------------------

CONVS: list[tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = [
    ((2, 9, 7, 8), 20, (3, 3), {"strides": (2, 1), "pads_begin": (1, 2), "pads_end": (1, 0)}),
    ((1, 8, 8, 3), 16, (5, 5), {"strides": (2, 2), "pads_begin": (2, 2), "pads_end": (2, 2)}),
    ((1, 10, 9, 32), 16, (3, 3), {"dilations": (2, 2), "group": 2}),
    ((2, 12, 16), 24, (3,), {"pads_begin": (1,), "pads_end": (1,)}),
]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_convolutions(case: Any, dtype: DType) -> None:
    shape, filters, kernel, attrs = case
    rank = len(kernel)
    given = {"strides": (1,) * rank, "dilations": (1,) * rank, "pads_begin": (0,) * rank, "pads_end": (0,) * rank,
             "group": 1, **attrs}
    x = harness.value(shape, dtype)
    w = constant(random((filters, shape[-1] // given["group"], *kernel), dtype))
    b = constant(random((filters,), dtype))
    node = ops.conv.node(x, w, b, layout="nhwc", **given)
    check(node, {x: random(shape, dtype)}, Product, rtol=2e-5, atol=2e-5)


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "depth", "width"), [
    (DType.F32, 24, 40), (DType.F32, 128, 128), (DType.F64, 8, 8), (DType.F16, 24, 40), (DType.F16, 128, 96),
    (DType.BF16, 64, 64)])
def test_attention(dtype: DType, depth: int, width: int) -> None:
    b, h, s, t = 1, 2, 70, 75
    shapes = ((b, h, s, depth), (b, h, t, depth), (b, h, t, width))
    q, k, v = (harness.value(x, dtype) for x in shapes)
    mask = harness.value((b, 1, s, t), dtype)
    hidden = np.where(rng.random((b, 1, s, t)) < 0.4, -np.inf, 0.0)
    hidden[:, :, :, 70] = 0
    hidden[:, :, 3, :70] = -np.inf      # whole tiles of nothing before the first score
    arrays = {x: random(shape, dtype) for x, shape in zip((q, k, v), shapes, strict=True)}
    arrays[mask] = hidden.astype(dtype.numpy)
    node = ops.attention.node(q, k, v, mask, scale=depth ** -0.5)
    check(node, arrays, Attention, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_attention_over_nothing_is_zero(dtype: DType) -> None:
    shapes = ((1, 2, 5, 16), (1, 2, 0, 16), (1, 2, 0, 8))
    q, k, v = (harness.value(x, dtype) for x in shapes)
    arrays = {x: random(shape, dtype) for x, shape in zip((q, k, v), shapes, strict=True)}
    check(ops.attention.node(q, k, v, scale=0.25), arrays, Attention)


def test_rows_of_any_length_of_attention() -> None:
    shapes = ((1, 1, 3, 300), (1, 1, 5, 300), (1, 1, 5, 300))
    q, k, v = map(harness.value, shapes)
    arrays = {x: random(shape) for x, shape in zip((q, k, v), shapes, strict=True)}
    check(ops.attention.node(q, k, v, scale=0.1), arrays, LoopBody, rtol=1e-5, atol=1e-5)
    assert attention.SHARED_LIMIT == 48 * 1024


def test_no_bank_conflicts() -> None:
    a, b = (harness.value((64, 64), DType.F16) for _ in range(2))
    check(node_of(ops.matmul(a, b)), {a: random((64, 64), DType.F16), b: random((64, 64), DType.F16)}, Product)
    assert TURNS[-1] == 1.0


# --- recurrent layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "more"), [
    (ops.lstm, {"clip": 0.4}), (ops.gru, {"linear_before_reset": True}), (ops.gru, {}), (ops.rnn, {})], ids=str)
def test_recurrent_layers(op: Any, more: dict[str, Any]) -> None:
    gates, hidden, steps, batch, inputs = {"lstm": 4, "gru": 3, "rnn": 1}[op.name], 10, 4, 3, 6
    shapes = ((steps, batch, inputs), (2, gates * hidden, inputs), (2, gates * hidden, hidden), (2, 2 * gates * hidden))
    x, w, r, b = map(harness.value, shapes)
    lens = harness.value((batch,), DType.I32)
    arrays = {v: random(shape) for v, shape in zip((x, w, r, b), shapes, strict=True)}
    node = op.node(x, w, r, b, lens, hidden=hidden, direction="bidirectional", **more)
    check(node, arrays | {lens: np.array([4, 0, 2], np.int32)}, LoopBody, rtol=2e-5, atol=2e-5)
