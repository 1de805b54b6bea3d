"""Products of bf16 values: pairs on the microkernel, on every machine; products of f16 by way of floats."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton
import lepton.codegen.lower
from lepton.codegen.group import LowerOptions
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.lower.halves import upper_halves
from lepton.codegen.target import TARGETS, runs_here
from lepton.codegen.templates.convolution import Convolution
from lepton.codegen.templates.dots import PAIRS
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.gemm import Gemm
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.tiles import WIDTHS, most_rows
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from lepton.passes.fuse import Fuse
from tests.codegen.running import lower, run_node

assert lepton.codegen.lower

# With and without FMA, masks and dot products of bf16.
HERE = [t for t in ("x86-sse4", "x86-avx2", "x86-avx512bf16") if runs_here(TARGETS[t])]
rng = np.random.default_rng(0)


def bf16(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def fused(x: Value, result: Value) -> Node:
    """The one kernel that fusion makes."""
    graph = Graph.of("g", [x], [result])
    Fuse().run(graph)
    (node,) = [n for n in graph.nodes if n.op is not ops.constant]
    assert node.op is ops.fusion
    return node


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 7, 33), (30, 68, 96), (5, 64, 130)])
def test_products(target: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, w, b = bf16(m, k), bf16(k, n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    a = Value(TensorType(DType.BF16, (m, k)))
    node = fused(a, ops.relu(ops.add(ops.matmul(ops.cast(a, to=DType.F32), constant(w)), constant(b))))
    assert isinstance(lower(node, LowerOptions(TARGETS[target]), {}, {}).body, Gemm)
    (got,) = run_node(node, {a: x}, target, shares=3)
    want = np.maximum(x.astype(np.float64) @ w.astype(np.float64) + b, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * k)


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], int, int, int]] = [
    ((1, 9, 7, 3), (5, 3, 3, 3), 2, 1, 1), ((2, 8, 8, 16), (33, 16, 3, 3), 1, 1, 1),
    ((1, 6, 5, 8), (40, 8, 1, 1), 1, 0, 1), ((1, 6, 5, 7), (4, 7, 1, 1), 1, 0, 1),
    ((1, 9, 9, 6), (18, 3, 3, 3), 1, 1, 2), ((1, 10, 9, 20), (20, 1, 3, 3), 1, 1, 20),
]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("case", CONVS, ids=str)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_convolutions(target: str, case: Any, layout: str) -> None:
    shape, filters, stride, pad, group = case
    x, w = bf16(*shape), bf16(*filters).astype(np.float32)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "nchw" else x
    a = Value(TensorType(DType.BF16, x.shape))
    attrs: dict[str, Any] = {"strides": (stride,) * 2, "pads_begin": (pad,) * 2, "pads_end": (pad,) * 2,
                             "dilations": (1, 1), "group": group, "layout": layout}
    node = fused(a, ops.conv(ops.cast(a, to=DType.F32), constant(w), **attrs))
    (got,) = run_node(node, {a: x}, target, shares=3)
    want = ops.conv.reference(x.astype(np.float64), w.astype(np.float64), **attrs)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_direct_convolutions_read_pairs() -> None:
    a = Value(TensorType(DType.BF16, (1, 8, 8, 16)))
    w = bf16(32, 16, 3, 3).astype(np.float32)
    node = fused(a, ops.conv(ops.cast(a, to=DType.F32), constant(w), strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 1),
                             dilations=(1, 1), layout="nhwc"))
    body = lower(node, LowerOptions(TARGETS["x86-avx512bf16"]), {}, {}).body
    assert isinstance(body, Convolution)
    assert body.dot is PAIRS
    module = Module()
    body.emit(module, "kernel", TARGETS["x86-avx512bf16"])
    assert "vdpbf16ps" in compile_module(str(module), TARGETS["x86-avx512bf16"], asm=True)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("shape", "kernel", "more"), [
    ((3, 40, 1), (16,), {"strides": (8,)}), ((2, 9, 3), (4,), {}), ((2, 9, 1), (3,), {"strides": (2,)}),
    ((2, 5, 12, 1), (3, 4), {"strides": (2, 2)}), ((2, 1, 5), (3,), {"pads_begin": (1,), "pads_end": (1,)}),
    ((2, 9, 1), (4,), {"pads_begin": (1,)}), ((2, 9, 1), (4,), {"dilations": (2,)})], ids=str)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_taps_in_pairs(target: str, shape: tuple[int, ...], kernel: tuple[int, ...], more: dict[str, Any],
                       layout: str) -> None:
    """Odd channels side by side: pairs are made of the taps of a row, and read nothing beside it."""
    x, w = bf16(*shape), bf16(20, shape[-1], *kernel).astype(np.float32)
    if layout == "nchw":
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    x[(0,) * x.ndim] = np.inf
    a, ones = Value(TensorType(DType.BF16, x.shape)), (1,) * len(kernel)
    attrs = {"strides": ones, "dilations": ones, "pads_begin": (0,) * len(kernel), "pads_end": (0,) * len(kernel),
             "layout": layout, **more}
    node = fused(a, ops.conv(ops.cast(a, to=DType.F32), constant(w), **attrs))
    (got,) = run_node(node, {a: x}, target, shares=3)
    want = ops.conv.reference(x.astype(np.float64), w.astype(np.float64), **attrs)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_infinities_and_nan_pass() -> None:
    x = bf16(3, 5)
    x[0, 0], x[1, 4] = np.inf, np.nan
    a, w = Value(TensorType(DType.BF16, (3, 5))), np.abs(bf16(5, 4)).astype(np.float32)
    node = fused(a, ops.matmul(ops.cast(a, to=DType.F32), constant(w)))
    for target in HERE:
        (got,) = run_node(node, {a: x}, target)
        assert (got[0] == np.inf).all()
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[2]).all()


def test_weights_that_are_more_than_bf16_stay_floats() -> None:
    with pytest.raises(ValueError, match="more than bf16"):
        upper_halves(np.array([1 + 2**-20], np.float32))
    a = Value(TensorType(DType.BF16, (4, 8)))
    graph = Graph.of("g", [a], [ops.matmul(ops.cast(a, to=DType.F32), constant(np.full((8, 4), 1 / 3, np.float32)))])
    Fuse().run(graph)
    assert [n.op for n in graph.nodes if n.op is not ops.constant][-1] is ops.matmul


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512", "x86-avx512bf16"])
def test_no_spills_and_no_calls(target: str) -> None:
    machine = TARGETS[target]
    for vectors in WIDTHS:
        rows = most_rows(machine, vectors, PAIRS)
        if rows < 1:
            continue
        micro = Micro(DType.F32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 4, True, 0,
                      plain(Operand(0, DType.F32, (-1, -1, 1))), vectors * machine.lanes(DType.F32),
                      vectors * machine.vector_bytes, ahead=1, dot=PAIRS)
        module = Module()
        micro.function(module, machine)
        text = compile_module(str(module).replace("define internal", "define"), machine, asm=True)
        assert count_spills(text)[micro.name] == 0, (rows, vectors)
        assert calls(text)[micro.name] == [], (rows, vectors)


def two_layers(dtype: DType) -> Graph:
    """conv and matmul with weights and values of this type."""
    x = Value(TensorType(dtype, (1, 8, 9, 9)), name="x")
    w = constant((rng.standard_normal((16, 8, 3, 3)) / 8).astype(dtype.numpy))
    y = ops.relu(ops.conv(x, w, strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1), dilations=(1, 1)))
    rows = ops.transpose(ops.reshape(y, shape=(16, 81)), perm=(1, 0))
    z = ops.matmul(rows, constant((rng.standard_normal((16, 24)) / 4).astype(dtype.numpy)))
    return Graph.of("layers", [x], [ops.matmul(z, ops.transpose(z, perm=(1, 0)))])


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F32])
def test_models_in_halves(dtype: DType) -> None:
    """Sums are f32 whatever the type; --precision bf16 rounds what f32 products with weights read."""
    from lepton.ir.evaluate import evaluate

    graph = two_layers(dtype)
    x = rng.standard_normal((1, 8, 9, 9)).astype(dtype.numpy)
    (want,) = evaluate(graph, x, float64=True)
    scale, want = np.abs(want.astype(np.float64)).max(), want.astype(np.float64)
    for target in HERE:
        for precision in ("f32", "bf16"):
            got = np.asarray(lepton.compile(graph, target=target, precision=precision)(x)).astype(np.float64)
            bound = 2e-2 if dtype is DType.BF16 or precision == "bf16" else 2e-3 if dtype is DType.F16 else 1e-6
            assert np.abs(got - want).max() <= bound * scale, (target, precision)
