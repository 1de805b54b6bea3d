"""Elementwise groups and copies, compiled, against the ops' meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.group import LowerOptions, copy_group
from lepton.codegen.kernel import Access, dense_strides
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module, count_spills
from lepton.codegen.lower.interleave import InterleaveBody
from lepton.codegen.target import TARGETS, Target
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.harness import (
    HERE,
    Layout,
    Placed,
    backwards,
    check_node,
    dense,
    gaps,
    lower,
    reversed_axes,
    run_kernel,
    run_node,
    value,
)

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-40, 88.8, -104.0, 1e30, np.inf, -np.inf, np.nan], np.float32)


def data(shape: tuple[int, ...], dtype: DType = DType.F32, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        low = -100 if dtype.is_signed else 0
        return rng.integers(low, 100, shape).astype(dtype.numpy)
    x = rng.standard_normal(shape) * 3
    flat = x.reshape(-1)
    flat[:len(SPECIAL)] = SPECIAL[:flat.size]
    with np.errstate(over="ignore"):
        return x.astype(dtype.numpy)


def fused(inputs: list[Value], outputs: list[Value]) -> Node:
    """A fusion of what lies between the inputs and the outputs."""
    return ops.fusion.node(*[Value(v.type) for v in inputs], regions=(Graph.of("body", inputs, outputs),), kind="map")


@targets
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (17,), (5, 7), (2, 3, 33), (3, 0, 4), (70, 300)], ids=str)
def test_shapes(target: Target, shape: tuple[int, ...]) -> None:
    x, y = value(shape), value(shape)
    check_node(ops.add.node(x, y), {x: data(shape), y: data(shape, seed=1)}, target)


@targets
@pytest.mark.parametrize("layout", [dense, gaps, reversed_axes, backwards])
@pytest.mark.parametrize("other", [dense, reversed_axes, backwards])
def test_layouts(target: Target, layout: Layout, other: Layout) -> None:
    x, y = value((4, 5, 19)), value((5, 1))
    node = ops.mul.node(x, y)
    arrays = {x: data((4, 5, 19)), y: data((5, 1), seed=1)}
    check_node(node, arrays, target, layouts={x: layout, y: other, node.results[0]: other})


@targets
@pytest.mark.parametrize("a", [(3, 1, 5), (1,), (3, 4, 5), ()], ids=str)
@pytest.mark.parametrize("b", [(4, 1), (4, 5), (1, 1, 1)], ids=str)
def test_broadcast(target: Target, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = value(a), value(b)
    check_node(ops.sub.node(x, y), {x: data(a), y: data(b, seed=1)}, target)


@targets
def test_dynamic(target: Target) -> None:
    n, m = sym("N"), sym("M")
    for sizes in ({"N": 3, "M": 21}, {"N": 0, "M": 5}, {"N": 1, "M": 1}, {"N": 40, "M": 1000}):
        x, y = value((n, 3, m)), value((m,))
        arrays = {x: data((sizes["N"], 3, sizes["M"])), y: data((sizes["M"],), seed=2)}
        check_node(ops.add.node(x, y), arrays, target, env=sizes)


@targets
def test_fused_several_outputs(target: Target) -> None:
    x, y = value((6, 37)), value((37,))
    half = ops.constant(value=Tensor.of(np.float32(0.5)))
    a = ops.sigmoid(ops.add(x, y))
    b = ops.relu(ops.mul(a, half))
    node = fused([x, y], [b, a])
    arrays = dict(zip(node.inputs, (data((6, 37)), data((37,), seed=3)), strict=True))
    check_node(node, arrays, target)  # type: ignore[arg-type]


@targets
@pytest.mark.parametrize("dtype", [
    DType.F32, DType.F64, DType.F16, DType.BF16, DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32,
    DType.I64, DType.U64, DType.BOOL], ids=lambda d: d.value)
def test_cast(target: Target, dtype: DType) -> None:
    for to in (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I8, DType.U8, DType.I32, DType.U32,
               DType.U64, DType.BOOL):
        x = value((37,), dtype)
        check_node(ops.cast.node(x, to=to), {x: data((37,), dtype)}, target)


NARROW = [DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1, DType.I4,
          DType.U4, DType.I2, DType.U2]


@targets
@pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.value)
def test_narrow_casts(target: Target, dtype: DType) -> None:
    """From every code to f32 and back, and from floats of all magnitudes, to the bit."""
    codes = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)
    x = value(codes.shape, dtype)
    for to in (DType.F32, DType.F16, dtype):
        (got,) = run_node(ops.cast.node(x, to=to), {x: codes}, target)
        np.testing.assert_array_equal(got.astype(np.float32), codes.astype(to.numpy).astype(np.float32))
    floats = np.concatenate([np.arange(0, 1 << 32, 80021, dtype=np.uint64).astype(np.uint32).view(np.float32), SPECIAL,
                             (np.arange(-4096, 4096) / 256).astype(np.float32)])
    y = value(floats.shape)
    for saturate in (True, False):
        node = ops.cast.node(y, to=dtype, saturate=saturate)
        with np.errstate(all="ignore"):
            expected = ops.cast.reference(floats, to=dtype, saturate=saturate)
        (got,) = run_node(node, {y: floats}, target)
        np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))  # 0.0 equals -0.0
        if dtype.is_float:
            number = ~np.isnan(expected.astype(np.float32)) & ~np.isnan(floats)
            np.testing.assert_array_equal(got[number].view(np.uint8), expected[number].view(np.uint8))


def copied(shape: tuple[int, ...], perm: tuple[int, ...], dtype: DType, target: Target, dynamic: bool = False) -> None:
    """A copy that turns an array with permuted strides into a dense one."""
    names = tuple(sym(f"D{i}") for i in range(len(shape)))
    type = TensorType(dtype, names if dynamic else shape)
    env = {f"D{i}": n for i, n in enumerate(shape)}
    source, result = Value(type), Value(type)
    array = data(shape, dtype)
    places = {source: Placed(array, lambda s: _permuted(s, perm)), result: Placed(array, dense)}
    places[source].view[...] = array
    strides: tuple[Dim, ...] = _permuted(type.shape, perm)
    accesses = {source: Access(type, strides), result: Access(type, dense_strides(type.shape))}
    kernel = lower(copy_group(source, result, accesses.__getitem__), LowerOptions(target))
    run_kernel(kernel, places, target, env)
    places[result].check()
    np.testing.assert_array_equal(places[result].view.view(np.uint8), array.view(np.uint8))


def _permuted(shape: Any, perm: tuple[int, ...]) -> Any:
    """Strides of an array whose axes lie in memory in the order `perm`."""
    strides = dict(zip(perm, dense_strides([shape[p] for p in perm]), strict=True))
    return tuple(strides[a] for a in range(len(shape)))


@targets
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("shape", "perm"), [
    ((16, 16), (1, 0)), ((33, 50), (1, 0)), ((2, 49, 70), (0, 2, 1)), ((3, 20, 4, 18), (0, 2, 1, 3)),
    ((2, 19, 20, 21), (3, 1, 0, 2)), ((300, 200), (1, 0)), ((5, 3), (1, 0)), ((17, 1, 40), (2, 1, 0))], ids=str)
def test_transpose(target: Target, shape: tuple[int, ...], perm: tuple[int, ...], dynamic: bool) -> None:
    for dtype in (DType.F32, DType.U8, DType.F16, DType.I64):
        copied(shape, perm, dtype, target, dynamic)


@targets
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", [(1, 9, 7, 2), (2, 110, 101, 3), (3, 4, 4, 4), (1, 5, 3, 3), (1, 1, 33, 4)], ids=str)
def test_planes_become_pixels(target: Target, shape: tuple[int, ...], dynamic: bool) -> None:
    for dtype in (DType.F32, DType.U8, DType.BF16, DType.F64):
        copied(shape, (0, 3, 1, 2), dtype, target, dynamic)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("width", [1, 4])
def test_pixels_spill_nothing(channels: int, width: int) -> None:
    body = InterleaveBody(width, (2,), (channels * 4096,), (channels * 4096,), 4096, channels, 4096, 1024, 4)
    for name in ("x86-avx2", "x86-avx512", "aarch64-neon"):
        module = Module()
        body.emit(module, "kernel", TARGETS[name])
        assert count_spills(compile_module(str(module), TARGETS[name], asm=True))["kernel"] == 0, name
