"""Divisions become products only where no reciprocal overflows, is subnormal, or is lost."""
from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from lepton.passes.canonicalise import Canonicalise
from lepton.passes.common import constant
from lepton.passes.magnitudes import has_reciprocals, least

FLOATS = (DType.F16, DType.BF16, DType.F32, DType.F64)


def _divided(dtype: DType, divisor: Callable[[Value], Value] = lambda y: y) -> Graph:
    """x [7,5] / divisor(y [7,1])"""
    x, y = (Value(TensorType(dtype, (7, n)), name=name) for name, n in (("x", 5), ("y", 1)))
    return Graph.of("g", [x, y], [ops.div(x, divisor(y))])


def _names(graph: Graph) -> set[str]:
    return {node.op.name for node in graph.walk()}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("divisor", [lambda y: y, ops.sqrt, ops.exp, lambda y: ops.add(ops.abs_(y), y)],
                         ids=["plain", "sqrt", "exp", "sum"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tiny_divisors(dtype: DType, divisor: Callable[[Value], Value], level: int) -> None:
    kind = ml_dtypes.finfo(dtype.numpy)
    tiny, small = float(kind.tiny), float(kind.smallest_subnormal)
    ends = np.array([small, 3 * small, -small, tiny / 2, -tiny / 4, tiny, 0.0, -0.0, 1.0, np.inf, -np.inf, np.nan,
                     float(kind.max), -2.0]).astype(dtype.numpy)
    graph = _divided(dtype, divisor)
    model = lepton.compile(graph, level=level, target="x86-avx2")
    for part in (ends[:7], ends[7:]):
        x = np.resize(ends, (7, 5))
        y = part.reshape(7, 1)
        with np.errstate(all="ignore"):
            want = evaluate(graph, x, y, float64=False)[0].astype(np.float64)
        got = model(x, y).astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=4 * float(kind.eps), atol=2 * small)


def _known(dtype: DType, make: Callable[[Value, Value], Value]) -> Value:
    """A divisor made of y [7,1] in `dtype` and n [7,1] in i64."""
    return make(Value(TensorType(dtype, (7, 1))), Value(TensorType(DType.I64, (7, 1))))


def _number(value: float, y: Value) -> Value:
    return constant(np.asarray(value, y.tensor.dtype.numpy))


GOOD: dict[str, Callable[[Value, Value], Value]] = {
    "root": lambda y, _: ops.sqrt(y),
    "root, moved": lambda y, _: ops.transpose(ops.neg(ops.sqrt(y)), perm=(1, 0)),
    "absolute and more": lambda y, _: ops.add(ops.abs_(y), _number(1e-3, y)),
    "square and more": lambda y, _: ops.add(_number(1.0, y), ops.mul(y, y)),
    "sum of exponentials and more": lambda y, _: ops.add(
        ops.reduce_sum(ops.exp(y), axes=(0,), keepdims=True), _number(0.5, y)),
    "at least": lambda y, _: ops.maximum(y, _number(1e-3, y)),
    "clipped": lambda y, _: ops.clip(y, _number(1.0, y), _number(6.0, y)),
    "counted": lambda y, n: ops.reduce_sum(ops.cast(n, to=y.tensor.dtype), axes=(0,), keepdims=True),
    "rounded": lambda y, _: ops.round_(y),
}
BAD: dict[str, Callable[[Value, Value], Value]] = {
    "anything": lambda y, _: y,
    "exponential": lambda y, _: ops.exp(y),
    "absolute": lambda y, _: ops.abs_(y),
    "and more": lambda y, _: ops.add(y, _number(1.0, y)),
    "and too little": lambda y, _: ops.add(ops.abs_(y), _number(0.0, y)),
    "below": lambda y, _: ops.minimum(y, _number(1.0, y)),
    "clipped to too little": lambda y, _: ops.clip(y, _number(1.0, y), ops.reduce_sum(y, axes=(0, 1))),
    "clipped above alone": lambda y, _: ops.clip(y, None, _number(1.0, y)),
    "product": lambda y, n: ops.mul(y, ops.cast(n, to=y.tensor.dtype)),
    "half of a count": lambda y, n: ops.mul(ops.cast(n, to=y.tensor.dtype), _number(0.5, y)),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("made", "known"), [(made, known) for known, table in ((True, GOOD), (False, BAD))
                                             for made in table.values()], ids=[*GOOD, *BAD])
def test_what_is_known_of_divisors(dtype: DType, made: Callable[[Value, Value], Value], known: bool) -> None:
    assert has_reciprocals(_known(dtype, made)) == known


def test_an_epsilon_below_the_least_normal_number_is_none() -> None:
    assert not has_reciprocals(_known(DType.F16, lambda y, _: ops.add(ops.abs_(y), _number(1e-5, y))))
    assert has_reciprocals(_known(DType.F32, lambda y, _: ops.add(ops.abs_(y), _number(1e-5, y))))


def test_constants_bound() -> None:
    value = constant(np.array([3.0, -2.0], np.float32))
    assert least(value) == -2.0
    assert least(constant(np.array([np.nan, 1], np.float32))) == -np.inf


@pytest.mark.parametrize(("divisor", "becomes"), [(lambda y: y, "div"), (ops.sqrt, "rsqrt"), (
    lambda y: ops.maximum(y, _number(1e-3, y)), "reciprocal")], ids=["plain", "sqrt", "maximum"])
def test_which_become_products(divisor: Callable[[Value], Value], becomes: str) -> None:
    graph = _divided(DType.F32, divisor)
    Canonicalise().run(graph)
    names = _names(graph)
    assert becomes in names
    assert ("mul" in names) == (becomes != "div")


def test_divisions_by_eighths_of_a_byte_stay() -> None:
    graph = _divided(DType.F8E4M3FN, lambda y: ops.maximum(y, _number(1.0, y)))
    Canonicalise().run(graph)
    assert "div" in _names(graph)


@pytest.mark.parametrize(("numbers", "names"), [
    ((3.0,), {"mul"}), ((1.5e38,), {"div"}), ((1e-39,), {"div"}), ((0.0,), {"div"}), ((3.0, 1.5e38), {"div"})])
def test_constants_whose_reciprocals_lose_bits(numbers: tuple[float, ...], names: set[str]) -> None:
    """1 / 1.5e38 is subnormal, and such factors count as 0."""
    x = Value(TensorType(DType.F32, (3, 2)), name="x")
    graph = Graph.of("g", [x], [ops.div(x, constant(np.resize(np.array(numbers, np.float32), 2)))])
    feed = np.linspace(-3e38, 3e38, 6, dtype=np.float32).reshape(3, 2)
    with np.errstate(all="ignore"):
        want: Array = evaluate(graph, feed, float64=False)[0]
    np.testing.assert_allclose(lepton.compile(graph)(feed), want, rtol=3e-7)
    Canonicalise().run(graph)
    assert _names(graph) - {"constant"} == names


@pytest.mark.parametrize(("c", "d", "merged"), [
    (2.0, 3.0, True), (1e-30, 1e-30, False), (1e-20, 1e-19, False), (1e30, 1e30, False), (0.0, 2.0, True)])
def test_merged_factors_vanish_only_where_one_of_them_does(c: float, d: float, merged: bool) -> None:
    x = Value(TensorType(DType.F32, (6,)), name="x")
    factors = (constant(np.array([factor], np.float32)) for factor in (c, d))
    graph = Graph.of("g", [x], [ops.mul(ops.mul(x, next(factors)), next(factors))])
    feed = np.linspace(-3e38, 3e38, 6, dtype=np.float32)
    with np.errstate(all="ignore"):
        want: Array = evaluate(graph, feed, float64=False)[0]
    np.testing.assert_allclose(lepton.compile(graph)(feed), want, rtol=3e-7)
    Canonicalise().run(graph)
    assert (sum(node.op is ops.mul for node in graph.walk()) == 1) == merged
