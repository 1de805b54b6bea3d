"""Kernels that walk a compiled-in pattern of zeros, against the same weights multiplied out."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower.conv
import lepton.codegen.lower.sparse
from lepton.codegen.group import LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.scattered import Scattered
from lepton.codegen.templates.sparse import SparseConvolution, SparseMicro, pack_sparse
from lepton.codegen.templates.tiles import most_rows
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, inside, lower, run_node

assert lepton.codegen.lower.conv

rng = np.random.default_rng(5)


def blocks(outputs: int, inputs: int, density: float, kind: type = np.float32) -> Array:
    """[outputs, inputs]: blocks of 16 outputs by one input, most of them zero; the last panel may be all zero."""
    mask = rng.random((-(-outputs // 16), inputs)) < density
    weights = rng.standard_normal((outputs, inputs)) * mask.repeat(16, axis=0)[:outputs]
    return np.asarray(weights.astype(kind))


def conv(shape: tuple[Dim, ...], filters: int, kernel: tuple[int, ...], density: float = 0.1, *, stride: int = 1,
         pad: int = 0, dilation: int = 1, dtype: DType = DType.F32) -> tuple[Node, Value]:
    channels = shape[-1]
    assert isinstance(channels, int)
    x, rank = Value(TensorType(dtype, shape)), len(kernel)
    w = blocks(filters, channels * int(np.prod(kernel)), density, dtype.numpy.type).reshape(filters, channels, *kernel)
    b = ops.constant(value=Tensor.of(rng.standard_normal(filters).astype(dtype.numpy)))
    given: dict[str, Any] = {"strides": (stride,) * rank, "pads_begin": (pad,) * rank, "pads_end": (pad,) * rank,
                             "dilations": (dilation,) * rank, "layout": "nhwc"}
    return ops.conv.node(x, ops.constant(value=Tensor.of(w)), b, **given), x


def matmul(rows: tuple[Dim, ...], inputs: int, outputs: int, density: float = 0.1) -> tuple[Node, Value]:
    x = Value(TensorType(DType.F32, (*rows, inputs)))
    w = np.ascontiguousarray(blocks(outputs, inputs, density).T)
    return ops.matmul.node(x, ops.constant(value=Tensor.of(w))), x


def kernel_of(node: Node, target: str, **options: Any) -> Kernel:
    return lower(node, LowerOptions(TARGETS[target], **options), {}, {})


def check(node: Node, x: Value, target: str, env: dict[str, int] | None = None, kind: type = SparseConvolution,
          **given: Any) -> None:
    assert isinstance(kernel_of(node, target).body, kind)
    shape = tuple(d if isinstance(d, int) else (env or {})[str(d)] for d in x.tensor.shape)
    data = rng.standard_normal(shape).astype(x.tensor.dtype.numpy)
    (got,) = run_node(node, {x: data}, target, env=env, **given)
    constants = [v.producer.attrs["value"].array.astype(np.float64) for v in node.inputs[1:] if v and v.producer]
    want = np.asarray(node.op.reference(data.astype(np.float64), *constants, **node.attrs))
    assert got.shape == want.shape
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    assert float(np.abs(got - want).max(initial=0)) / scale < {4: 3e-6, 8: 1e-13}[got.dtype.itemsize]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("size", "channels", "filters", "kernel", "more"), [
    (9, 32, 40, 3, {"pad": 1}), (13, 24, 33, 3, {"stride": 2, "pad": 1}), (11, 40, 64, 3, {"pad": 2, "dilation": 2}),
    (7, 96, 64, 1, {}), (8, 64, 80, 1, {"stride": 2}), (6, 64, 96, 2, {"density": 0.0}), (1, 64, 64, 1, {"pad": 1}),
    (9, 32, 64, 3, {"dtype": DType.F64}),
])
def test_convolutions(target: str, size: int, channels: int, filters: int, kernel: int, more: dict[str, Any]) -> None:
    node, x = conv((2, size, size + 1, channels), filters, (kernel, kernel), **more)
    check(node, x, target)


@pytest.mark.parametrize("target", HERE)
def test_pixels_that_share_sets_of_the_cache_are_copied(target: str) -> None:
    node, x = conv((1, 5, 6, 1024), 32, (1, 1))
    kernel = kernel_of(node, target)
    assert isinstance(kernel.body, SparseConvolution)
    assert kernel.body.copied
    check(node, x, target)


@pytest.mark.parametrize("target", HERE)
def test_depth_and_views(target: str) -> None:
    node, x = conv((1, 4, 6, 5, 32), 32, (2, 3, 1), dilation=2)
    check(node, x, target)
    node, x = conv((2, 6, 6, 64), 64, (1, 1))
    check(node, x, target, layouts={x: inside((2, 6, 6, 64), (3, 7, 8, 80), (1, 0, 2, 8))})


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("rows", [(1, 37), (37,), (2, 3, 5), (2, 2, 3, 4)])
def test_products(target: str, rows: tuple[int, ...]) -> None:
    check(*matmul(rows, 96, 70, 0.05), target)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("n", [0, 1, 29, 64])
def test_rows_known_when_the_model_runs(target: str, n: int) -> None:
    node, x = matmul((sym("N"),), 96, 64)
    check(node, x, target, {"N": n})


def test_the_dense_kernel_where_it_is_faster() -> None:
    """Few zeros, scattered zeros, strict math, zeros that Winograd's form beats."""
    half, _ = matmul((64,), 128, 128, 0.9)
    x = Value(TensorType(DType.F32, (64, 128)))
    scattered = rng.standard_normal((128, 128)) * (rng.random((128, 128)) < 0.6)
    spread = ops.matmul.node(x, ops.constant(value=Tensor.of(scattered.astype(np.float32))))
    tripled, _ = conv((1, 56, 56, 64), 64, (3, 3), 0.4, pad=1)
    for node in (half, spread, tripled):
        assert not isinstance(kernel_of(node, "x86-avx512").body, (SparseConvolution, Scattered))
    sparse, _ = matmul((64,), 128, 128)
    assert isinstance(kernel_of(sparse, "x86-avx512").body, SparseConvolution)
    assert not isinstance(kernel_of(sparse, "x86-avx512", math="strict").body, SparseConvolution)


@pytest.mark.parametrize("target", ["x86-sse4", "x86-avx2", "x86-avx512", "aarch64-neon"])
@pytest.mark.parametrize("vectors", [1, 2, 4])
def test_no_spills_and_no_calls(target: str, vectors: int) -> None:
    machine = TARGETS[target]
    rows = most_rows(machine, vectors)
    if rows < 1:
        pytest.skip("too few registers")
    micro = SparseMicro(Micro(DType.F32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 0, False, 0,
                              plain(Operand(0, DType.F32, (-1, -1, 1))), vectors * machine.lanes(DType.F32),
                              vectors * machine.vector_bytes))
    module = Module()
    micro.function(module, machine)
    text = compile_module(str(module).replace("define internal", "define"), machine, asm=True)
    assert count_spills(text)[micro.name] == 0
    assert calls(text)[micro.name] == []


def spread_out(rows: tuple[Dim, ...], inputs: int, outputs: int, density: float = 0.06,
               dtype: DType = DType.F32) -> tuple[Node, Value]:
    """A product whose weights lie anywhere; some columns have none."""
    x = Value(TensorType(dtype, (*rows, inputs)))
    w = rng.standard_normal((inputs, outputs)) * (rng.random((inputs, outputs)) < density)
    w[:, 3] = 0
    return ops.matmul.node(x, ops.constant(value=Tensor.of(w.astype(dtype.numpy)))), x


@pytest.fixture
def lists_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it costs: these tests are about answers."""
    monkeypatch.setattr(lepton.codegen.lower.sparse, "sparse_kernel", lambda *_: None)
    monkeypatch.setattr(lepton.codegen.lower.sparse, "GAIN", 100.0)


@pytest.mark.usefixtures("lists_only")
@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("rows", "n", "dtype"), [
    ((200,), 70, DType.F32), ((3, 65), 64, DType.F32), ((2, 2, 2, 33), 128, DType.F32), ((129,), 66, DType.F64),
])
def test_scattered_products(target: str, rows: tuple[int, ...], n: int, dtype: DType) -> None:
    check(*spread_out(rows, 96, n, dtype=dtype), target, kind=Scattered)


@pytest.mark.usefixtures("lists_only")
@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("n", [0, 1, 31, 300])
def test_scattered_products_of_rows_known_when_the_model_runs(target: str, n: int) -> None:
    node, x = spread_out((sym("N"),), 128, 64)
    check(node, x, target, {"N": n}, kind=Scattered)


@pytest.mark.usefixtures("lists_only")
@pytest.mark.parametrize("target", HERE)
def test_scattered_pointwise_convolutions(target: str) -> None:
    """With a bias, a stride, and an operand inside a larger one."""
    x = Value(TensorType(DType.F32, (2, 16, 12, 64)))
    w = rng.standard_normal((72, 64, 1, 1)) * (rng.random((72, 64, 1, 1)) < 0.06)
    b = ops.constant(value=Tensor.of(rng.standard_normal(72).astype(np.float32)))
    for stride in (1, 2):
        node = ops.conv.node(x, ops.constant(value=Tensor.of(w.astype(np.float32))), b, strides=(stride,) * 2,
                             pads_begin=(0, 0), pads_end=(0, 0), dilations=(1, 1), layout="nhwc")
        check(node, x, target, kind=Scattered)
    check(node, x, target, kind=Scattered, layouts={x: inside((2, 16, 12, 64), (3, 17, 14, 80), (1, 0, 2, 8))})


@pytest.mark.usefixtures("lists_only")
@pytest.mark.parametrize("target", HERE)
def test_infinities_reach_only_what_reads_them(target: str) -> None:
    """Lists are filled up by zeros of their own, not by elements of A."""
    node, x = spread_out((200,), 96, 64)
    weights = node.inputs[1].producer.attrs["value"].array  # type: ignore[union-attr]
    data = rng.standard_normal((200, 96)).astype(np.float32)
    data[:, 0] = np.inf
    (got,) = run_node(node, {x: data}, target)
    np.testing.assert_array_equal(np.isfinite(got).all(axis=0), weights[0] == 0)


def test_packing() -> None:
    matrix = np.zeros((4, 5), np.float32)
    matrix[1, 0], matrix[3, 3], matrix[2, 4] = 1, 2, 3
    found = pack_sparse(matrix, np.arange(4) * 8, 2, 1)
    assert found.table.tolist() == [[0, 0, 1], [8, 4, 1], [16, 8, 1]]
    assert found.offsets[:3].tolist() == [8, 24, 16]
    assert found.weights[:6].tolist() == [1, 0, 0, 2, 3, 0]


