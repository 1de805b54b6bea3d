"""Products in whole tiles (AMX): exact for bytes, in the order of Intel's manual for bf16, through an emulator, and the
same on the processor where it has AMX."""
from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton
import lepton.codegen.lower
from lepton import ceilings
from lepton.codegen.group import LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.machine import calls, compile_module
from lepton.codegen.lower.tiled import chunk_of
from lepton.codegen.target import TARGETS, runs_here
from lepton.codegen.templates.dots import tiles_dot
from lepton.codegen.templates.tiled import TiledConvolution, TiledGemm
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.codegen import tiles
from tests.codegen.running import Layout, assembly, inside, lower, run_node
from tests.codegen.test_halves import constant, fused, two_layers
from tests.codegen.test_integer import SIGNS, Draw
from tests.codegen.tiles import EMULATED

assert lepton.codegen.lower
pytestmark = tiles.needs_vectors
rng = np.random.default_rng(0)


REAL = TARGETS["x86-amx"]
needs_tiles = pytest.mark.skipif(not runs_here(REAL), reason="needs AMX")


def lowered(node: Node) -> Kernel:
    return lower(node, LowerOptions(EMULATED), {}, {})


def on_tiles(node: Node, feeds: dict[Value, Array], **options: Any) -> list[Array]:
    """What the emulator answers; the processor answers the same, to the bit, where it can."""
    answers = run_node(node, feeds, EMULATED, **options)
    for got, want in zip(run_node(node, feeds, REAL, **options) if runs_here(REAL) else (), answers, strict=False):
        np.testing.assert_array_equal(got, want)
        numbers = ~np.isnan(want)
        assert got[numbers].tobytes() == want[numbers].tobytes()    # signs of zeros too
    return answers


def check(node: Node, feeds: dict[Value, Array], want: Array, **options: Any) -> None:
    (got,) = on_tiles(node, feeds, **options)
    np.testing.assert_array_equal(got, want)


# --- bytes ---


@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("shape", [(5, 20, 9), (16, 64, 80), (70, 130, 20)])
def test_constant_weights(signs: tuple[DType, DType], shape: tuple[int, int, int]) -> None:
    """Rests of rows, of columns and of sums; zero points of all kinds."""
    (m, k, n), draw = shape, Draw(signs, shape)
    x, w = draw.bytes(signs[0], m, k), draw.bytes(signs[1], k, n)
    a = Value(TensorType(signs[0], (m, k)))
    za, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
    zb = None if signs[1].is_signed else constant(np.array(128, np.uint8))
    node = ops.matmul_integer.node(a, constant(w), za, zb)
    assert isinstance(lowered(node).body, TiledGemm)
    want = ops.matmul_integer.reference(x, w, left, None if zb is None else np.array(128))
    check(node, {a: x, **feeds}, want, shares=3)


def test_weights_of_nine_bits() -> None:
    """The rows of A are walked twice."""
    draw = Draw(9)
    x, w = draw.bytes(DType.U8, 40, 128), draw.bytes(DType.I8, 128, 24)
    a, zero = Value(TensorType(DType.U8, x.shape)), np.array(-7, np.int8)
    node = ops.matmul_integer.node(a, constant(w), None, constant(zero))
    body = lowered(node).body
    assert isinstance(body, TiledGemm)
    assert body.passes == 2
    check(node, {a: x}, ops.matmul_integer.reference(x, w, None, zero))


@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_two_values(signs: tuple[DType, DType], transposed: bool) -> None:
    draw = Draw(signs, transposed)
    for m, k, n in ((9, 16, 40), (20, 70, 17)):
        x, w = draw.bytes(signs[0], 2, m, k), draw.bytes(signs[1], 2, k, n)
        a, b = Value(TensorType(signs[0], x.shape)), Value(TensorType(signs[1], w.shape))
        za, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
        zb = None if signs[1].is_signed else constant(np.array(128, np.uint8))
        layouts = {b: inside(w.shape, w.shape, (0, 0, 0), (0, 2, 1))} if transposed else {}
        want = ops.matmul_integer.reference(x, w, left, None if zb is None else np.array(128))
        node = ops.matmul_integer.node(a, b, za, zb)
        assert isinstance(lowered(node).body, TiledGemm)
        check(node, {a: x, b: w, **feeds}, want, layouts=layouts, shares=3)


def test_run_time_rows_and_strides() -> None:
    draw = Draw(1)
    w = draw.bytes(DType.I8, 72, 40)
    a = Value(TensorType(DType.U8, (sym("M"), 72)))
    for rows in (0, 1, 7, 16, 17, 33, 75):
        x = draw.bytes(DType.U8, rows, 72)
        check(ops.matmul_integer.node(a, constant(w)), {a: x}, ops.matmul_integer.reference(x, w),
              env={"M": rows})
    x, b = draw.bytes(DType.U8, 19, 72), Value(TensorType(DType.U8, (19, 72)))
    wide = {b: Layout((-79, 1), 18 * 79, 19 * 79)}
    check(ops.matmul_integer.node(b, constant(w)), {b: x}, ops.matmul_integer.reference(x, w), layouts=wide)


# x (nhwc), w, stride, dilation, groups, pads
CONVS: list[tuple[tuple[int, ...], tuple[int, ...], int, int, int, tuple[int, int], tuple[int, int]]] = [
    ((2, 8, 8, 16), (33, 16, 3, 3), 1, 1, 1, (1, 1), (1, 1)), ((1, 9, 21, 20), (8, 20, 3, 3), 2, 1, 1, (1, 1), (1, 1)),
    ((1, 6, 19, 64), (40, 64, 3, 3), 1, 1, 1, (0, 0), (0, 0)), ((1, 9, 9, 32), (24, 16, 3, 3), 1, 1, 2, (1, 2), (0, 1)),
    ((1, 9, 9, 16), (16, 16, 3, 3), 1, 2, 1, (2, 2), (2, 2)), ((1, 1, 50, 16), (70, 16, 1, 3), 1, 1, 1, (0, 1), (0, 1)),
    ((1, 1, 12, 24), (70, 24, 1, 5), 1, 1, 1, (0, 2), (0, 2)), ((1, 7, 7, 96), (9, 96, 3, 3), 1, 1, 1, (1, 1), (1, 1)),
    ((1, 15, 15, 3), (9, 3, 7, 7), 2, 1, 1, (3, 3), (3, 3)), ((1, 11, 33, 16), (16, 16, 5, 1), 1, 1, 1, (2, 0), (2, 0)),
]


def attributes(layout: str, stride: int, dilation: int, group: int, begin: tuple[int, int],
               end: tuple[int, int]) -> dict[str, Any]:
    return {"strides": (stride,) * 2, "pads_begin": begin, "pads_end": end, "dilations": (dilation,) * 2,
            "group": group, "layout": layout}


@pytest.mark.parametrize("case", CONVS, ids=lambda c: f"{c[0]}-{c[1]}")
def test_convolutions(case: Any) -> None:
    """Borders count as the zero point; lines in pairs and alone, the last pixels of a line."""
    shape, filters, *rest = case
    draw = Draw(case)
    for layout, sign in (("nhwc", DType.U8), ("nchw", DType.I8)):
        x, w = draw.bytes(sign, *shape), draw.bytes(DType.I8, *filters)
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "nchw" else x
        a = Value(TensorType(sign, x.shape))
        zx, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), sign)
        attrs = attributes(layout, *rest)
        node = ops.conv_integer.node(a, constant(w), zx, None, **attrs)
        assert isinstance(lowered(node).body, TiledConvolution)
        check(node, {a: x, **feeds}, ops.conv_integer.reference(x, w, left, None, **attrs), shares=3)


@pytest.mark.parametrize("size", [(1, 1), (3, 16), (5, 23)])
def test_convolutions_of_run_time_sizes(size: tuple[int, int]) -> None:
    draw = Draw(size)
    x, w = draw.bytes(DType.U8, 1, *size, 16), draw.bytes(DType.I8, 24, 16, 3, 3)
    a = Value(TensorType(DType.U8, (1, sym("H"), sym("W"), 16)))
    attrs = attributes("nhwc", 1, 1, 1, (1, 1), (1, 1))
    node = ops.conv_integer.node(a, constant(w), **attrs)
    assert isinstance(lowered(node).body, TiledConvolution)
    check(node, {a: x}, ops.conv_integer.reference(x, w, **attrs), env={"H": size[0], "W": size[1]}, shares=3)


# --- bf16 ---


def bf16(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


def flushed(x: Array) -> Array:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x).astype(np.float32)


def in_tiles(x: Array, w: Array, chunk: int) -> Array:
    """x @ w as the instruction sums: even and odd k apart over a chunk, then together, then to what there is.

    Multiply-adds of f32 are rounded once: products of bf16 are exact in f64, and so nearly always is their sum."""
    m, k = x.shape
    total = np.zeros((m, w.shape[1]), np.float32)
    for start in range(0, k, 2 * chunk):
        parts = [np.zeros_like(total), np.zeros_like(total)]
        for i in range(start, min(k, start + 2 * chunk)):
            product = x[:, i:i + 1].astype(np.float64) * w[i].astype(np.float64)
            parts[i % 2] = flushed((product + parts[i % 2]).astype(np.float32))
        total = flushed(total + flushed(parts[0] + parts[1]))
    return total


@pytest.mark.parametrize("shape", [(4, 8, 8), (33, 64, 48), (20, 70, 19), (16, 31, 64)])
def test_products_of_halves(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, w = bf16(m, k), bf16(k, n).astype(np.float32)
    a = Value(TensorType(DType.BF16, (m, k)))
    node = fused(a, ops.add(ops.matmul(ops.cast(a, to=DType.F32), constant(w)), constant(np.zeros(n, np.float32))))
    assert isinstance(lowered(node).body, TiledGemm)
    (got,) = on_tiles(node, {a: x}, shares=3)
    np.testing.assert_array_equal(got, in_tiles(x.astype(np.float32), w, chunk_of(k, 2)))
    (pairs,) = run_node(node, {a: x}, "x86-avx512bf16")
    np.testing.assert_allclose(got, pairs, rtol=1e-5, atol=1e-5 * np.sqrt(k))


def test_infinities_nan_and_denormals() -> None:
    """NaN stays in its row, whatever lies behind a row; denormals are zeros."""
    x = bf16(20, 37)
    x[0, 0], x[19, 36] = np.inf, np.nan
    x[3] = ml_dtypes.bfloat16(1e-39)
    a, w = Value(TensorType(DType.BF16, x.shape)), np.abs(bf16(37, 12)).astype(np.float32)
    (got,) = on_tiles(fused(a, ops.relu(ops.matmul(ops.cast(a, to=DType.F32), constant(w)))), {a: x})
    assert (got[0] == np.inf).all()
    assert np.isnan(got[19]).all()
    assert (got[3] == 0).all()
    assert np.isfinite(got[1:19]).all()


@needs_tiles
@pytest.mark.parametrize("case", range(12))
def test_extremes(case: int) -> None:
    """Sums that overflow, vanish, cancel or begin as denormals are those of the emulator."""
    draw = np.random.default_rng(case)
    m, k, n = (int(draw.integers(*ends)) for ends in ((4, 41), (8, 201), (8, 71)))
    x, w = (draw.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    if case % 3 == 0:
        x, w = (v * np.float32(2) ** draw.integers(-140, 120, v.shape).astype(np.float32) for v in (x, w))
    elif case % 3 == 1:
        x, w = x * np.float32(2.0**-66), w * np.float32(2.0**-66)
    else:
        x = np.where(draw.random(x.shape) < 0.02, draw.choice([np.inf, -np.inf, np.nan, 1e-39, 3e38], x.shape), x)
    a, half = Value(TensorType(DType.BF16, x.shape)), w.astype(ml_dtypes.bfloat16).astype(np.float32)
    y = ops.add(ops.matmul(ops.cast(a, to=DType.F32), constant(half)), constant(np.full(n, 1e-39, np.float32)))
    on_tiles(fused(a, y), {a: x.astype(ml_dtypes.bfloat16)}, shares=3)


@pytest.mark.parametrize("case", [CONVS[i] for i in (0, 1, 2, 3, 7, 8)], ids=lambda c: f"{c[0]}-{c[1]}")
def test_convolutions_of_halves(case: Any) -> None:
    shape, filters, *rest = case
    x, w = bf16(*shape), bf16(*filters).astype(np.float32)
    a, attrs = Value(TensorType(DType.BF16, x.shape)), attributes("nhwc", *rest)
    node = fused(a, ops.relu(ops.conv(ops.cast(a, to=DType.F32), constant(w), **attrs)))
    assert isinstance(lowered(node).body, TiledConvolution)
    (got,) = on_tiles(node, {a: x}, shares=3)
    want = np.maximum(ops.conv.reference(x.astype(np.float64), w.astype(np.float64), **attrs), 0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


# --- the code ---


def wide_product(dtype: DType) -> Kernel:
    a = Value(TensorType(dtype, (64, 256)))
    if dtype is DType.BF16:
        node = fused(a, ops.relu(ops.matmul(ops.cast(a, to=DType.F32), constant(bf16(256, 64).astype(np.float32)))))
    else:
        node = ops.matmul_integer.node(a, constant(Draw(0).bytes(DType.I8, 256, 64)))
    return lower(node, LowerOptions(TARGETS["x86-amx"]), {}, {})


@pytest.mark.parametrize(("dtype", "name"), [(DType.U8, "tdpbusd"), (DType.I8, "tdpbssd"), (DType.BF16, "tdpbf16ps")])
def test_instructions(dtype: DType, name: str) -> None:
    """Four products a turn of four tiles of sums, four loads, no tile that moves to the stack and back, no calls."""
    asm = assembly(wide_product(dtype), TARGETS["x86-amx"])
    found = {word: len(re.findall(rf"\b{word}\b", asm)) for word in
             (name, "tileloadd", "tilestored", "ldtilecfg", "tilerelease", "sttilecfg")}
    loads = 4 if dtype is DType.BF16 else 8     # those that sums start from too
    assert found == {name: 4, "tileloadd": loads, "tilestored": 4, "ldtilecfg": 1, "tilerelease": 1, "sttilecfg": 0}
    assert all(set(names) <= {n for n in names if n.startswith("block_")} for names in calls(asm).values())


def test_configured_once_a_call() -> None:
    """Registers are set up and left once for each call of the kernel, also where it does nothing."""
    counts = (ctypes.c_int64 * 4).in_dll(tiles.library(), "tile_counts")
    before = list(counts)
    x, a = Draw(3).bytes(DType.U8, 64, 64), Value(TensorType(DType.U8, (64, 64)))
    run_node(ops.matmul_integer.node(a, constant(Draw(4).bytes(DType.I8, 64, 64))), {a: x}, EMULATED, shares=5)
    done = [after - b for after, b in zip(counts, before, strict=True)]
    assert done[:2] == [5, 5]
    assert done[2] == 4 * 4        # 4 tiles of rows, 4 of columns, one chunk


@pytest.fixture(params=["emulator", pytest.param("processor", marks=needs_tiles)])
def machine(request: pytest.FixtureRequest) -> Iterator[None]:
    with tiles.emulating() if request.param == "emulator" else nullcontext():
        yield


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("threads", [1, 2])
def test_models(threads: int) -> None:
    """A network in bf16 and one of levels: convolutions, products, what is fused to them, threads of the pool."""
    graph = two_layers(DType.F32)
    x = rng.standard_normal((1, 8, 9, 9)).astype(np.float32)
    want, like = (np.asarray(lepton.compile(graph, target=t, precision=p)(x))
                  for t, p in (("x86-avx512", "f32"), ("x86-avx512bf16", "bf16")))
    compiled = lepton.compile(graph, target="x86-amx", precision="bf16", threads=threads)
    got = np.asarray(compiled(x))
    scale = np.abs(want).max()
    assert np.abs(got - want).max() <= 2e-2 * scale
    assert np.abs(got - like).max() <= 2e-3 * scale
    np.testing.assert_array_equal(compiled(x), got)


@pytest.mark.usefixtures("machine")
def test_quantised_model() -> None:
    """Every machine gives the same levels."""
    a = Value(TensorType(DType.U8, (1, 9, 9, 16)), name="x")
    w, v = Draw(5).bytes(DType.I8, 32, 16, 3, 3), Draw(6).bytes(DType.I8, 32, 40)
    zero = constant(np.array(128, np.uint8))
    y = ops.conv_integer(a, constant(w), zero, None, **attributes("nhwc", 1, 1, 1, (1, 1), (1, 1)))
    z = ops.quantize(ops.cast(y, to=DType.F32), constant(np.array(2e3, np.float32)), zero, axis=3, to=DType.U8)
    graph = Graph.of("levels", [a], [ops.matmul_integer(ops.reshape(z, shape=(81, 32)), constant(v), zero, None)])
    x = Draw(7).bytes(DType.U8, 1, 9, 9, 16)
    got, want = (np.asarray(lepton.compile(graph, target=t)(x)) for t in ("x86-amx", "x86-avx512vnni"))
    np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("machine")
def test_floats_in_parts() -> None:
    """Three products of parts have an error of 4e-6, six that of f32 itself; `--math fast` takes three."""
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((48, 256), (256, 40)))
    exact = x.astype(np.float64) @ w.astype(np.float64)

    def error(**options: Any) -> float:
        a = Value(TensorType(DType.F32, x.shape), name="x")
        graph = Graph.of("g", [a], [ops.matmul(a, constant(w))])
        got = np.asarray(lepton.compile(graph, target="x86-amx", **options)(x))
        return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))

    plain = error()
    assert plain < 1e-6
    assert error(passes="parts{products=6},fuse") <= plain
    assert 2e-6 < error(passes="parts{products=3},fuse") == error(math="fast") < 6e-6


def test_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roofline's ceiling counts the operations that its loop does."""
    monkeypatch.setattr(ceilings, "compile_module",
                        lambda module, target: compile_module(tiles.with_calls(str(module)), target))
    counts = (ctypes.c_int64 * 4).in_dll(tiles.library(), "tile_counts")
    run, operations = ceilings.peak_loop(EMULATED, tiles_dot(DType.BF16))
    before = counts[2]
    run()
    assert operations == 2 * 16 * 16 * 32 * (counts[2] - before)


def test_few_rows_are_vectors() -> None:
    """What tiles would be mostly empty for stays as it is on machines without them."""
    a = Value(TensorType(DType.U8, (1, 64)))
    node = ops.matmul_integer.node(a, constant(Draw(0).bytes(DType.I8, 64, 64)))
    assert type(lowered(node).body) is type(lower(node, LowerOptions(TARGETS["x86-avx512vnni"]), {}, {}).body)
