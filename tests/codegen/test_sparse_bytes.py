"""Products of bytes that skip groups of four zero weights: exact, on every machine here, between guard pages."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.codegen.group import LowerOptions
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.lower import sparse, sparse_bytes
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.dots import bytes_dot
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.sparse import SparseConvolution, SparseMicro, pack_sparse
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.codegen.running import inside, lower, run_node
from tests.codegen.test_integer import HERE as TARGETS_HERE
from tests.codegen.test_integer import SIGNS, Draw, constant

assert lepton.codegen.lower
HERE = [name for name in TARGETS_HERE if not TARGETS[name].tiles]     # with tiles the dense kernels stay


@pytest.fixture(autouse=True)
def _whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about answers; small shapes and few zeros would stay dense."""
    monkeypatch.setattr(sparse, "LEAST", 0)
    for module in (sparse, sparse_bytes):
        monkeypatch.setattr(module, "GAIN", 100.0)
    monkeypatch.setattr(sparse_bytes, "LEAST", 0)
    monkeypatch.setattr(sparse.has_zeros, "__defaults__", (0,))


def holed(draw: Draw, weights: Array, zero: Array | int, density: float = 0.3) -> Array:
    """[outputs, inputs, ...] with blocks of 16 outputs by 4 inputs at their zero point."""
    outputs, inputs, *taps = weights.shape
    kept = draw.rng.random((-(-outputs // 16), -(-inputs // 4), *taps)) < density
    mask = kept.repeat(16, axis=0)[:outputs].repeat(4, axis=1)[:, :inputs]
    middle = np.broadcast_to(np.reshape(zero, (-1, *[1] * (weights.ndim - 1))), weights.shape)
    return np.where(mask, weights, middle).astype(weights.dtype)


def run(node: Node, feeds: dict[Value, Array], want: Array, target: str, **options: Any) -> None:
    kernel = lower(node, LowerOptions(TARGETS[target]), {}, {})
    assert isinstance(kernel.body, SparseConvolution)
    (got,) = run_node(node, feeds, target, **options)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize(("m", "k", "n"), [(37, 96, 70), (1, 61, 33), (19, 128, 16)])
def test_products(target: str, signs: tuple[DType, DType], m: int, k: int, n: int) -> None:
    """Rows that fill no tile, inputs that fill no group, zero points of all kinds; weights that need nine bits."""
    draw = Draw(target, signs, m)
    za, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
    zb, _, right = draw.zero("none" if k % 4 else draw.rng.choice(["none", "constant"]), signs[1], n)
    if k % 4 and not signs[1].is_signed:
        pytest.skip("nine bits of inputs that fill no group: loops")
    x = draw.bytes(signs[0], m, k)
    w = np.ascontiguousarray(holed(draw, draw.bytes(signs[1], n, k), 0 if right is None else right).T)
    a = Value(TensorType(signs[0], (m, k)))
    node = ops.matmul_integer.node(a, constant(w), za, zb)
    run(node, {a: x, **feeds}, ops.matmul_integer.reference(x, w, left, right), target, shares=3)


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], int, int, tuple[int, int], tuple[int, int]]] = [
    ((1, 9, 7, 12), (40, 12, 3, 3), 2, 1, (1, 1), (1, 1)), ((2, 6, 5, 32), (33, 32, 3, 3), 1, 2, (2, 1), (1, 2)),
    ((1, 5, 6, 10), (20, 10, 3, 2), 1, 1, (0, 0), (0, 0)), ((1, 8, 8, 64), (48, 64, 1, 1), 2, 1, (0, 0), (0, 0)),
    ((2, 4, 5, 64), (80, 64, 1, 1), 1, 1, (0, 0), (0, 0)), ((1, 3, 3, 1024), (16, 1024, 1, 1), 1, 1, (1, 0), (0, 1)),
]


def conv(x: Value, w: Array, zx: Value | None, stride: int, dilation: int, begin: tuple[int, int],
         end: tuple[int, int]) -> Node:
    return ops.conv_integer.node(x, constant(w), zx, None, strides=(stride,) * 2, dilations=(dilation,) * 2,
                                 pads_begin=begin, pads_end=end, group=1, layout="nhwc")


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("sign", [DType.U8, DType.I8], ids=str)
@pytest.mark.parametrize(("into", "weights", "stride", "dilation", "begin", "end"), CONVS, ids=str)
def test_convolutions(target: str, sign: DType, into: tuple[int, ...], weights: tuple[int, ...], stride: int,
                      dilation: int, begin: tuple[int, int], end: tuple[int, int]) -> None:
    """Borders hold the zero point, known or not; channels fill groups or not; pixels crowd the cache or not."""
    draw = Draw(target, sign, into)
    x, w = draw.bytes(sign, *into), holed(draw, draw.bytes(DType.I8, *weights), 0)
    zx, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), sign)
    a = Value(TensorType(sign, into))
    node = conv(a, w, zx, stride, dilation, begin, end)
    want = ops.conv_integer.reference(x, w, left, None, **node.attrs)
    run(node, {a: x, **feeds}, want, target, shares=2)


@pytest.mark.parametrize("target", HERE)
def test_nothing_but_zeros(target: str) -> None:
    draw = Draw(target)
    x, w = draw.bytes(DType.I8, 3, 64), np.zeros((64, 40), np.int8)
    a = Value(TensorType(DType.I8, x.shape))
    run(ops.matmul_integer.node(a, constant(w), constant(np.array(7, np.int8))), {a: x}, np.zeros((3, 40)), target)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("rows", [0, 1, 29])
def test_rows_known_when_the_model_runs_and_inputs_inside_others(target: str, rows: int) -> None:
    draw = Draw(target, rows)
    x, w = draw.bytes(DType.U8, rows, 64), np.ascontiguousarray(holed(draw, draw.bytes(DType.I8, 48, 64), 0).T)
    a = Value(TensorType(DType.U8, (sym("M"), 64)))
    want = ops.matmul_integer.reference(x, w)
    run(ops.matmul_integer.node(a, constant(w)), {a: x}, want, target, env={"M": rows})
    shape: tuple[Dim, ...] = (rows, 64)
    b = Value(TensorType(DType.U8, shape))
    run(ops.matmul_integer.node(b, constant(w)), {b: x}, want, target,
        layouts={b: inside((rows, 64), (rows + 2, 83), (1, 5))})


def test_strict_math_skips_them_too() -> None:
    draw = Draw("strict")
    w = np.ascontiguousarray(holed(draw, draw.bytes(DType.I8, 48, 64), 0).T)
    node = ops.matmul_integer.node(Value(TensorType(DType.U8, (9, 64))), constant(w))
    for target in ("x86-avx512", "x86-avx2", "aarch64-neon"):
        assert isinstance(lower(node, LowerOptions(TARGETS[target], math="strict"), {}, {}).body, SparseConvolution)


def test_dense_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few zeros, scattered ones, machines that multiply tiles."""
    monkeypatch.undo()
    draw = Draw("dense")
    a = Value(TensorType(DType.U8, (64, 256)))

    def body(weights: Array, target: str = "x86-avx512") -> object:
        node = ops.matmul_integer.node(a, constant(np.ascontiguousarray(weights.T)))
        return lower(node, LowerOptions(TARGETS[target]), {}, {}).body

    whole = draw.bytes(DType.I8, 256, 256)
    blocks = holed(draw, whole, 0)
    assert isinstance(body(blocks), SparseConvolution)
    for weights, target in ((whole, "x86-avx512"), (holed(draw, whole, 0, 0.9), "x86-avx512"),
                            (whole * (draw.rng.random(whole.shape) < 0.3), "x86-avx512"), (blocks, "x86-amx")):
        assert not isinstance(body(weights, target), SparseConvolution)


@pytest.mark.parametrize("target", ["x86-sse4", "x86-avx2", "x86-avx512", "aarch64-neon"])
@pytest.mark.parametrize("vectors", [1, 2, 4])
@pytest.mark.parametrize("sign", [DType.U8, DType.I8], ids=str)
def test_no_spills_and_no_calls(target: str, vectors: int, sign: DType) -> None:
    machine = TARGETS[target]
    dot = bytes_dot(machine, sign)
    rows = sparse.highest(machine, vectors, dot)
    if rows < 1:
        pytest.skip("too few registers")
    micro = SparseMicro(Micro(DType.I32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 0, False, 0,
                              plain(Operand(0, DType.I32, (-1, -1, 1))), vectors * machine.lanes(DType.I32),
                              vectors * machine.vector_bytes, dot=dot))
    module = Module()
    micro.function(module, machine)
    text = compile_module(str(module).replace("define internal", "define"), machine, asm=True)
    assert count_spills(text)[micro.name] == 0
    assert calls(text)[micro.name] == []


def test_packing_with_what_sums_start_from() -> None:
    matrix = np.zeros((3, 5), np.int32)
    matrix[1, 0], matrix[2, 4] = 1, 3
    found = pack_sparse(matrix, np.arange(3) * 4, 2, 1, np.arange(10, 15, dtype=np.int32))
    assert found.table.tolist() == [[0, 0, 1], [16, 4, 0], [24, 4, 1]]
    assert found.weights[:10].tolist() == [10, 11, 1, 0, 12, 13, 14, 0, 3, 0]
    assert found.offsets[:2].tolist() == [4, 8]
