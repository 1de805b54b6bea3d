"""Weights that are halves lie in memory as halves, and change nothing: the same bits as those that are floats."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton
from lepton.codegen.group import LowerOptions
from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.lower import conv as lower_conv
from lepton.codegen.lower import matmul as lower_matmul
from lepton.codegen.lower.stored import halved
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.tiles import WIDTHS, most_rows
from lepton.codegen.templates.winograd import Winograd
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, lower, run_node

NARROW: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}


def rounded(seed: int, kind: str, *shape: int) -> Array:
    """Halves, denormal ones too."""
    w = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    w.reshape(-1)[::7] *= np.float32(1e-6)
    return w.astype(NARROW[kind]).astype(np.float32)


def stored_bytes(kernel: Kernel) -> int:
    return sum(o.array.nbytes for o in kernel.operands if isinstance(o, Packed))


def check(node: Node, feeds: dict[Value, Array], target: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Half the bytes, the same bits."""
    narrow = lower(node, LowerOptions(TARGETS[target]), {}, {})
    (got,) = run_node(node, feeds, target, **more)
    for module in (lower_matmul, lower_conv):
        monkeypatch.setattr(module, "halved", lambda _, weights: (FMA, weights))
    assert stored_bytes(narrow) * 2 == stored_bytes(lower(node, LowerOptions(TARGETS[target]), {}, {}))
    (want,) = run_node(node, feeds, target, **more)
    monkeypatch.undo()
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize(("target", "kind"), [(t, k) for t in HERE for k in NARROW if (t, k) != ("x86-sse4", "f16")])
def test_products(target: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for m, k, n in ((1, 37, 70), (13, 20, 33)):
        a = Value(TensorType(DType.F32, (m, k)))
        node = ops.matmul.node(a, ops.constant(value=Tensor.of(rounded(k, kind, k, n))))
        check(node, {a: rng.standard_normal((m, k)).astype(np.float32)}, target, monkeypatch, shares=3)
    a, x = Value(TensorType(DType.F32, (sym("M"), 24))), rng.standard_normal((9, 24)).astype(np.float32)
    node = ops.matmul.node(a, ops.constant(value=Tensor.of(rounded(2, kind, 24, 40))))
    check(node, {a: x}, target, monkeypatch, env={"M": 9})


@pytest.mark.parametrize("target", [t for t in HERE if t != "x86-sse4"])
@pytest.mark.parametrize(("shape", "filters", "group", "layout"), [
    ((1, 9, 10, 6), (21, 6, 5, 5), 1, "nhwc"), ((1, 13, 12, 8), (18, 4, 5, 5), 2, "nhwc"),
    ((1, 3, 9, 12), (17, 3, 5, 5), 1, "nchw"), ((1, 14, 14, 48), (40, 48, 3, 3), 1, "nhwc"),
], ids=["direct", "groups", "planes", "winograd"])
def test_convolutions(target: str, shape: tuple[int, ...], filters: tuple[int, ...], group: int, layout: str,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    a, pad = Value(TensorType(DType.F32, shape)), (filters[-1] // 2,) * 2
    node = ops.conv.node(a, ops.constant(value=Tensor.of(rounded(3, "f16", *filters))), strides=(1, 1), pads_begin=pad,
                         pads_end=pad, dilations=(1, 1), group=group, layout=layout)
    assert isinstance(lower(node, LowerOptions(TARGETS[target]), {}, {}).body, Winograd) == (filters[2] == 3)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    check(node, {a: x}, target, monkeypatch, shares=2)


@pytest.mark.qemu
def test_products_on_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    a, x = Value(TensorType(DType.F32, (9, 22))), np.random.default_rng(5).standard_normal((9, 22)).astype(np.float32)
    node = ops.matmul.node(a, ops.constant(value=Tensor.of(rounded(4, "f16", 22, 19))))
    check(node, {a: x}, "aarch64-neon", monkeypatch)


def test_only_what_loses_nothing() -> None:
    half, machine = rounded(0, "f16", 4, 5000), TARGETS["x86-avx2"]
    assert halved(machine, half)[0] == Dot(stored=DType.F16)
    assert halved(TARGETS["x86-sse4"], half)[0] == FMA
    for last in (np.float32(1 / 3), np.float32(1e6), np.float32(1e-9), np.float32(np.nan)):
        more = half.copy()
        more[-1, -1] = last
        dot, weights = halved(machine, more)
        assert dot == FMA
        assert weights is more
    assert halved(machine, half.astype(np.float64))[0] == FMA


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512", "aarch64-neon"])
def test_no_spills_and_no_calls(target: str) -> None:
    machine, dot = TARGETS[target], Dot(stored=DType.F16)
    for vectors in WIDTHS:
        rows = most_rows(machine, vectors, dot)
        if rows < 1:
            continue
        lanes = machine.lanes(DType.F32)
        micro = Micro(DType.F32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 4, True, 0,
                      plain(Operand(0, DType.F32, (-1, -1, 1))), vectors * lanes, vectors * lanes * 2, ahead=1, dot=dot)
        module = Module()
        micro.function(module, machine)
        text = compile_module(str(module).replace("define internal", "define"), machine, asm=True)
        assert count_spills(text)[micro.name] == 0, (rows, vectors)
        assert calls(text)[micro.name] == [], (rows, vectors)


def test_weights_too_small_for_halves_stay_floats() -> None:
    """Below 6e-5 f16 loses bits, below 3e-8 everything. Some small ones among others lose nothing that counts."""
    rng = np.random.default_rng(3)
    i, x = Value(TensorType(DType.I64, (3,)), name="i"), Value(TensorType(DType.F32, (3, 48)), name="x")
    for size, least, most in ((1e-7, 0, 1e-5), (1e-12, 0, 1e-5), (1.0, 1e-6, 1e-3)):
        w, table = (rng.standard_normal(s).astype(np.float32) * np.float32(size) for s in ((48, 64), (64, 48)))
        w[0] = table[0] = 1e-9
        graph = Graph.of("g", [i, x], [ops.matmul(x, ops.constant(value=Tensor.of(w))),
                                       ops.gather(ops.constant(value=Tensor.of(table)), i, axis=0)])
        feeds = np.array([1, 5, -1]), rng.standard_normal((3, 48)).astype(np.float32)
        wanted = feeds[1] @ w, table[feeds[0]]
        for got, want in zip(lepton.compile(graph, precision="fp16")(*feeds), wanted, strict=True):
            assert least <= np.linalg.norm(got - want) / np.linalg.norm(want) < most, size


def test_models() -> None:
    """Weights and tables take half the space; answers are as far off as rounding the weights makes them."""
    rng = np.random.default_rng(2)
    i, x = Value(TensorType(DType.I64, (6,)), name="i"), Value(TensorType(DType.F32, (1, 8, 9, 9)), name="x")
    table, w, f = (rng.standard_normal(s).astype(np.float32) for s in ((400, 64), (64, 96), (64, 8, 3, 3)))
    rows = ops.matmul(ops.gather(ops.constant(value=Tensor.of(table)), i, axis=0), ops.constant(value=Tensor.of(w)))
    y = ops.conv(x, ops.constant(value=Tensor.of(f)), strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1),
                 dilations=(1, 1))
    graph = Graph.of("g", [i, x], [rows, y])
    feeds = (np.array([0, 399, 5, -1, 7, 7]), rng.standard_normal((1, 8, 9, 9)).astype(np.float32))
    for target in HERE:
        for level in (1, 2, 3):
            wide, narrow = (lepton.compile(graph, target=target, level=level, precision=p) for p in ("f32", "fp16"))
            for got, want in zip(narrow(*feeds), wide(*feeds), strict=True):
                scale = np.abs(np.asarray(want)).max()
                difference = np.abs(np.asarray(got) - np.asarray(want)).max()
                assert 0 < difference < 1e-3 * scale, (target, level)
