"""Matrix products against numpy: shapes, strides, run-time sizes, fused epilogues; and the microkernels' code."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower.matmul
from lepton.codegen.target import TARGETS
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, Layout, inside, run_node

assert lepton.codegen.lower.matmul

rng = np.random.default_rng(1)


def value(*shape: Any, dtype: DType = DType.F32) -> Value:
    return Value(TensorType(dtype, shape))


def random(shape: tuple[int, ...], dtype: DType = DType.F32) -> Array:
    return rng.standard_normal(shape).astype(dtype.numpy)


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def node_of(v: Value) -> Node:
    assert v.producer is not None
    return v.producer


def close(got: Array, want: Array, k: int) -> None:
    assert got.shape == want.shape
    tolerance = {4: 1e-6, 8: 1e-14}[got.dtype.itemsize] * (k + 4)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


SHAPES = [(14, 4, 32), (1, 1, 1), (17, 7, 33), (49, 13, 130), (5, 9, 70), (3, 0, 5), (1, 64, 300),
          (65, 31, 1), (128, 66, 96)]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_constant_weights(target: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, w = random((m, k)), random((k, n))
    a = value(m, k)
    (got,) = run_node(node_of(ops.matmul(a, constant(w))), {a: x}, target, shares=3)
    close(got, x @ w, k)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_two_values(target: str, shape: tuple[int, int, int], transposed: bool) -> None:
    """B is packed at run time, or read in place; `transposed`: k is adjacent in B."""
    m, k, n = shape
    x, w = random((2, m, k)), random((2, k, n))
    a, b = value(2, m, k), value(2, k, n)
    layouts = {b: inside((2, k, n), (2, k, n), (0, 0, 0), (0, 2, 1))} if transposed else {}
    (got,) = run_node(node_of(ops.matmul(a, b)), {a: x, b: w}, target, layouts=layouts, shares=3)
    close(got, x @ w, k)


@pytest.mark.parametrize("target", HERE)
def test_double(target: str) -> None:
    x, w = random((9, 21), DType.F64), random((21, 37), DType.F64)
    a = value(9, 21, dtype=DType.F64)
    (got,) = run_node(node_of(ops.matmul(a, constant(w))), {a: x}, target)
    close(got, x @ w, 21)


@pytest.mark.parametrize(("a_shape", "b_shape"), [
    ((7,), (7, 5)), ((4, 7), (7,)), ((7,), (7,)), ((3, 4, 7), (7,)), ((7,), (2, 7, 5)), ((2, 3, 4, 5), (5, 6)),
    ((3, 1, 4, 5), (2, 5, 6)), ((1, 4, 5), (3, 5, 6)), ((2, 0, 5), (5, 3)), ((2, 3, 5), (5, 0))])
@pytest.mark.parametrize("fixed", [False, True])
def test_numpy_rules(a_shape: tuple[int, ...], b_shape: tuple[int, ...], fixed: bool) -> None:
    x, w = random(a_shape), random(b_shape)
    a = value(*a_shape)
    b = constant(w) if fixed else value(*b_shape)
    (got,) = run_node(node_of(ops.matmul(a, b)), {a: x, b: w}, HERE[-1])
    close(got, np.asarray(x @ w), x.shape[-1])


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("m", [1, 3, 14, 29, 100])
def test_run_time_sizes(target: str, m: int) -> None:
    """Every size but that of constant weights may be known only at run time."""
    x, w, y = random((m, 24)), random((24, 40)), random((2, 40, m))
    a = value(sym("M"), 24)
    (got,) = run_node(node_of(ops.matmul(a, constant(w))), {a: x}, target, env={"M": m})
    close(got, x @ w, 24)
    p, q = value(2, sym("M"), 40), value(2, 40, sym("M"))
    left = np.ascontiguousarray(y.swapaxes(1, 2))
    (got,) = run_node(node_of(ops.matmul(p, q)), {p: left, q: y}, target, env={"M": m})
    close(got, left @ y, 40)
    (got,) = run_node(node_of(ops.matmul(q, p)), {p: left, q: y}, target, env={"M": m})
    close(got, y @ left, m)


def test_strided_views() -> None:
    """Heads of an attention layer: [B,S,H,D] seen as [B,H,S,D], and a result written inside a larger one."""
    batch, heads, length, depth = 2, 3, 19, 8
    q, k = value(batch, heads, length, depth), value(batch, heads, depth, length)
    x, y = random((batch, heads, length, depth)), random((batch, heads, depth, length))
    out = ops.matmul(q, k)
    wide = (batch, length, heads * 3 * depth)
    steps = (wide[1] * wide[2], depth, wide[2], 1)
    layouts = {
        q: Layout(steps, 0, batch * wide[1] * wide[2]),
        k: Layout((steps[0], depth, 1, wide[2]), heads * depth, batch * wide[1] * wide[2]),
        out: inside((batch, heads, length, length), (batch, heads, length + 2, length + 3), (0, 0, 1, 2)),
    }
    (got,) = run_node(node_of(out), {q: x, k: y}, HERE[-1], layouts=layouts)
    close(got, x @ y, depth)
    columns = {q: Layout((8 * 3 * 19, 8 * 19, 1, 19), 0, 2 * 3 * 19 * 8)}  # k is the outer axis of A
    (got,) = run_node(node_of(ops.matmul(q, k)), {q: x, k: y}, HERE[-1], layouts=columns)
    close(got, x @ y, depth)
    scattered = {out: inside((2, 3, 19, 19), (2, 3, 19, 19), (0, 0, 0, 0), (3, 1, 0, 2))}
    (got,) = run_node(node_of(out), {q: x, k: y}, HERE[-1], layouts=scattered)
    close(got, x @ y, depth)


def test_reads_start_at_the_buffer() -> None:
    x, w = random((6, 40)), random((40, 50))
    a, b = value(6, 40), value(40, 50)
    (got,) = run_node(node_of(ops.matmul(a, b)), {a: x, b: w}, HERE[-1], at_end=False)
    close(got, x @ w, 40)


def test_targets_are_known() -> None:
    assert set(HERE) <= set(TARGETS)


@pytest.mark.parametrize("target", HERE)
def test_fused_epilogues(target: str) -> None:
    """Bias, residual, per-row and scalar operands, light and heavy functions, several outputs, other dtypes."""
    m, k, n = 30, 20, 45
    shapes = [(m, k), (n,), (m, n), (m, 1)]
    x, bias, residual, scale = (random(s) for s in shapes)
    w = constant(random((k, n)))
    stand_ins = tuple(value(*s) for s in shapes)
    product_ = ops.add(ops.matmul(stand_ins[0], inner_w := Value(w.type)), stand_ins[1])
    results = (ops.relu(ops.add(product_, stand_ins[2])), ops.mul(ops.gelu(product_), stand_ins[3]),
               ops.greater(product_, ops.constant(value=Tensor.of(np.float32(0.5)))))
    body = Graph.of("body", (*stand_ins, inner_w), results)
    inputs = tuple(value(*s) for s in shapes)
    node = ops.fusion.node(*inputs, w, regions=(body,), kind="matmul")
    got = run_node(node, dict(zip(inputs, (x, bias, residual, scale), strict=True)), target, shares=3)
    assert w.producer is not None
    want = evaluate(body, x, bias, residual, scale, w.producer.attrs["value"].array)
    close(got[0], want[0], k)
    close(got[1], want[1], 2 * k)
    assert got[2].dtype == bool
    assert np.mean(got[2] == want[2]) > 0.995


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_columns(target: str, n: int) -> None:
    """Vectors run along the rows there."""
    x, w = random((2, 70, 21)), random((21, n))
    a = value(2, 70, 21)
    (got,) = run_node(node_of(ops.matmul(a, constant(w))), {a: x}, target, shares=3)
    close(got, x @ w, 21)
    a = value(sym("M"), 21)
    (got,) = run_node(node_of(ops.matmul(a, constant(w))), {a: x[0]}, target, env={"M": 70})
    close(got, x[0] @ w, 21)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("k", [193, 385, 5000])
@pytest.mark.parametrize("known", [True, False])
def test_long_sums_are_made_in_parts(target: str, k: int, known: bool) -> None:
    """Of positive numbers, where one running sum of 5000 would be off by 1e-6; the same bits for any cut."""
    x, w = rng.random((19, k), np.float32), rng.random((k, 37), np.float32)
    a, b = value(19, k if known else sym("K")), value(k if known else sym("K"), 37)
    node, data = node_of(ops.matmul(a, b)), {a: x, b: w}
    (got,) = run_node(node, data, target, env={} if known else {"K": k}, shares=3)
    (whole,) = run_node(node, data, target, env={} if known else {"K": k}, shares=1)
    exact = x.astype(np.float64) @ w
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 2.5e-7
    np.testing.assert_array_equal(got, whole)
