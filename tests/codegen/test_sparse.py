"""Kernels that walk a compiled-in pattern of zeros, against the same weights multiplied out."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower.conv
from lepton.codegen.group import LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.microkernel import Micro
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


def check(node: Node, x: Value, target: str, env: dict[str, int] | None = None, **given: Any) -> None:
    assert isinstance(kernel_of(node, target).body, SparseConvolution)
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
    scattered = rng.standard_normal((128, 128)) * (rng.random((128, 128)) < 0.3)
    spread = ops.matmul.node(x, ops.constant(value=Tensor.of(scattered.astype(np.float32))))
    tripled, _ = conv((1, 56, 56, 64), 64, (3, 3), 0.4, pad=1)
    for node in (half, spread, tripled):
        assert not isinstance(kernel_of(node, "x86-avx512").body, SparseConvolution)
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


def test_packing() -> None:
    matrix = np.zeros((4, 5), np.float32)
    matrix[1, 0], matrix[3, 3], matrix[2, 4] = 1, 2, 3
    found = pack_sparse(matrix, np.arange(4) * 8, 2, 1, DType.F32)
    assert found.table.tolist() == [[0, 0, 1], [8, 4, 1], [16, 8, 1]]
    assert found.offsets[:3].tolist() == [8, 24, 16]
    assert found.weights[:6].tolist() == [1, 0, 0, 2, 3, 0]


