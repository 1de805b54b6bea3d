"""Reductions, softmax and norms, compiled, against the ops' meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.op import Op
from lepton.ir.types import DType
from tests.codegen.harness import HERE, Layout, backwards, check_node, dense, gaps, reversed_axes, run_node, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
REDUCTIONS = [ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod]


def data(shape: Any, dtype: DType = DType.F32, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0, 100, shape).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)


@targets
@pytest.mark.parametrize("op", REDUCTIONS, ids=lambda o: o.name)
@pytest.mark.parametrize(("shape", "axes"), [
    ((5,), (0,)), ((3, 17), (1,)), ((3, 17), (0,)), ((2, 3, 4, 37), (1, 3)), ((2, 5, 6, 7), (2, 3)),
    ((2, 6, 7, 33), (1, 2)), ((4, 100), (0, 1)), ((0, 3), (0,)), ((3, 0), (0,)), ((1, 1, 9), (0, 1)),
    ((3, 4), ()), ((), ())], ids=str)
def test_reduce(target: Target, op: Op, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    for keepdims in (False, True):
        x = value(shape)
        check_node(op.node(x, axes=axes, keepdims=keepdims), {x: data(shape)}, target, rtol=1e-5, atol=1e-5)


@targets
@pytest.mark.parametrize(("shape", "axes"), [((8000, 5), (0,)), ((5, 8000), (1,)), ((3, 90, 90, 7), (1, 2)),
                                             ((9, 33), (0, 1)), ((2049,), (0,))], ids=str)
def test_long_sums_are_made_in_parts(target: Target, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Of positive numbers, where running sums would be off by 1e-6 and more."""
    array = np.random.default_rng(3).random(shape, np.float32)
    for op in (ops.reduce_sum, ops.reduce_mean):
        for open_ in (False, True):
            x = value(tuple(sym(f"n{i}") if open_ else n for i, n in enumerate(shape)))
            env = {f"n{i}": n for i, n in enumerate(shape)} if open_ else None
            (got,) = run_node(op.node(x, axes=axes), {x: array}, target, env=env)
            exact = op.reference(array.astype(np.float64), axes=axes)
            np.testing.assert_allclose(got, exact, rtol=1e-6)


@targets
@pytest.mark.parametrize("dtype", [
    DType.F64, DType.F16, DType.BF16, DType.I8, DType.U8, DType.I32, DType.I64, DType.BOOL], ids=lambda d: d.value)
def test_reduce_dtypes(target: Target, dtype: DType) -> None:
    for op in REDUCTIONS[2:4] if dtype is DType.BOOL else REDUCTIONS:
        for axes in ((1,), (0,)):
            x = value((5, 37), dtype)
            check_node(op.node(x, axes=axes), {x: data((5, 37), dtype)}, target, rtol=1e-5)


@targets
@pytest.mark.parametrize("layout", [gaps, reversed_axes, backwards])
def test_layouts(target: Target, layout: Layout) -> None:
    shape = (3, 4, 21)
    for node in (lambda x: ops.reduce_sum.node(x, axes=(1,)), lambda x: ops.softmax.node(x, axis=2),
                 lambda x: ops.softmax.node(x, axis=0), lambda x: ops.cumsum.node(x, axis=2)):
        x = value(shape)
        made: Node = node(x)
        check_node(made, {x: data(shape)}, target, layouts={x: layout, made.results[0]: layout}, rtol=1e-5)


@targets
def test_nan(target: Target) -> None:
    x = value((4, 40))
    array = data((4, 40))
    array[1, 3] = array[1, 30] = array[2, 39] = np.nan
    array[3, 5] = array[3, 6] = np.inf
    for op in (ops.reduce_max, ops.reduce_min):
        check_node(op.node(x, axes=(1,)), {x: array}, target)
        check_node(op.node(x, axes=(0,)), {x: array}, target)
    for last in (False, True):
        check_node(ops.arg_max.node(x, axis=1, select_last=last), {x: array}, target)


@targets
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_arg(target: Target, axis: int) -> None:
    x = value((3, 7, 35))
    array = np.random.default_rng(1).integers(0, 4, (3, 7, 35)).astype(np.float32)
    for op in (ops.arg_max, ops.arg_min):
        for last in (False, True):
            check_node(op.node(x, axis=axis, keepdims=last, select_last=last), {x: array}, target)


@targets
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scan(target: Target, axis: int) -> None:
    x = value((3, 4, 19))
    for op in (ops.cumsum, ops.cumprod):
        for exclusive in (False, True):
            for reverse in (False, True):
                check_node(op.node(x, axis=axis, exclusive=exclusive, reverse=reverse), {x: data((3, 4, 19))}, target,
                           rtol=1e-5, atol=1e-5)


@targets
@pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax, ops.hardmax], ids=lambda o: o.name)
@pytest.mark.parametrize(("shape", "axis"), [((3, 5), 1), ((2, 3, 100), 2), ((2, 33, 18), 1), ((4, 1), 1), ((0, 4), 1),
                                             ((7,), 0), ((3, 0), 1)], ids=str)
def test_softmax(target: Target, op: Op, shape: tuple[int, ...], axis: int) -> None:
    for dtype in (DType.F32, DType.F64, DType.F16):
        x = value(shape, dtype)
        check_node(op.node(x, axis=axis), {x: (data(shape) * 8).astype(dtype.numpy)}, target, rtol=1e-5)


@targets
@pytest.mark.parametrize("length", [10, 64, 214, 1000, 32000])
@pytest.mark.parametrize("peaks", [0, 1, 3])
def test_sums_of_softmax_are_not_rounded(target: Target, length: int, peaks: int) -> None:
    """Beside elements far above the others: a sum of f32 was off by 4e-7 in rows of 214 and by 1e-5 in long ones."""
    count = 8 if length > 1000 else 100
    rng = np.random.default_rng(length + peaks)
    array = rng.standard_normal((count, length)).astype(np.float32)
    for _ in range(peaks):
        array[np.arange(count), rng.integers(0, length, count)] += 8 + np.log(length)
    exact = ops.softmax.reference(array.astype(np.float64), axis=1)
    for axis, sizes in ((1, (count, length)), (1, (count, sym("n"))), (0, (length, count))):
        x = value(sizes)
        given = array.T.copy() if axis == 0 else array
        (got,) = run_node(ops.softmax.node(x, axis=axis), {x: given}, target, env={"n": length})
        off = (got.T if axis == 0 else got).astype(np.float64) - exact
        assert (np.linalg.norm(off, axis=1) / np.linalg.norm(exact, axis=1)).max() < 1e-7


@targets
@pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax], ids=lambda o: o.name)
def test_softmax_of_what_is_not_finite(target: Target, op: Op) -> None:
    """NaN does not count when the maximum is looked for, and yet makes its whole row NaN, wherever it stands."""
    for length in (1, 2, 17, 40, 150):
        rows = np.repeat(data((1, length)), 9 + length, axis=0)
        rows[0], rows[1], rows[2], rows[3] = np.nan, -np.inf, np.inf, 3e38
        rows[4, -1], rows[5, 0], rows[6, length // 2] = np.inf, -np.inf, -3e38
        rows[7, :2], rows[8, -2:] = (np.nan, np.inf)[:length], (-np.inf, np.nan)[-length:]
        rows[np.arange(9, 9 + length), np.arange(length)] = np.nan
        for axis, array in ((1, rows), (0, rows.T.copy())):
            x = value(array.shape)
            check_node(op.node(x, axis=axis), {x: array}, target, rtol=1e-5, atol=1e-6)


def norms() -> list[tuple[str, Op, tuple[int, ...], list[tuple[int, ...]], dict[str, Any]]]:
    return [
        ("layer", ops.layer_norm, (3, 4, 37), [(37,), (37,)], {"axis": 2, "epsilon": 1e-5}),
        ("layer2", ops.layer_norm, (3, 4, 37), [(4, 37)], {"axis": 1, "epsilon": 1e-5}),
        ("rms", ops.rms_norm, (5, 130), [(130,)], {"axis": 1, "epsilon": 1e-5}),
        ("instance", ops.instance_norm, (2, 3, 5, 7), [(3,), (3,)], {"epsilon": 1e-5}),
        ("group", ops.group_norm, (2, 6, 5, 7), [(6,), (6,)], {"groups": 3, "epsilon": 1e-5}),
        ("batch", ops.batch_norm, (2, 3, 5, 7), [(3,)] * 4, {"epsilon": 1e-5}),
        ("batch_nhwc", ops.batch_norm, (2, 5, 7, 19), [(19,)] * 4, {"epsilon": 1e-5, "layout": "nhwc"}),
    ]


@targets
@pytest.mark.parametrize("case", norms(), ids=lambda c: c[0])
@pytest.mark.parametrize("layout", [dense, reversed_axes])
def test_norms(target: Target, case: Any, layout: Layout) -> None:
    _, op, shape, parameters, attrs = case
    x, rest = value(shape), [value(p) for p in parameters]
    node = op.node(x, *rest, **attrs)
    arrays = {v: np.abs(data(v.tensor.shape, seed=i)) for i, v in enumerate([x, *rest])}
    check_node(node, arrays, target, layouts={x: layout}, rtol=1e-4, atol=1e-5)


def fused(inputs: list[Value], outputs: list[Value]) -> Node:
    return ops.fusion.node(*[Value(v.type) for v in inputs], regions=(Graph.of("body", inputs, outputs),), kind="row")


@targets
@pytest.mark.parametrize("op", ["softmax", "layer_norm", "reduce", "outer"])
def test_fused(target: Target, op: str) -> None:
    """A prologue that is also an output, an anchor, and an epilogue with operands of its own."""
    shape = (6, 5, 39)
    x, y, scale, after = value(shape), value((5, 1)), value((39,)), value((6, 1, 1))
    before = ops.add(x, y)
    match op:
        case "softmax":
            result = ops.softmax(before, axis=2)
        case "layer_norm":
            result = ops.layer_norm(before, scale, scale, axis=2, epsilon=1e-5)
        case "reduce":
            result = ops.reduce_mean(before, axes=(2,), keepdims=True)
        case _:
            result = ops.reduce_max(before, axes=(1,), keepdims=True)
    node = fused([x, y, scale, after], [ops.relu(ops.mul(result, after)), before])
    arrays = {v: data(v.tensor.shape, seed=i) for i, v in enumerate(v for v in node.inputs if v is not None)}
    check_node(node, arrays, target, rtol=1e-4, atol=1e-5)


@targets
def test_dynamic(target: Target) -> None:
    n, s = sym("N"), sym("S")
    for sizes in ({"N": 2, "S": 5}, {"N": 1, "S": 130}, {"N": 0, "S": 3}, {"N": 3, "S": 1}):
        x = value((n, 4, s, s))
        array = data((sizes["N"], 4, sizes["S"], sizes["S"]))
        for node in (ops.softmax.node(x, axis=3), ops.softmax.node(x, axis=1), ops.reduce_mean.node(x, axes=(2, 3)),
                     ops.reduce_sum.node(x, axes=(0,))):
            check_node(node, {x: array}, target, env=sizes, rtol=1e-4, atol=1e-5)
