"""Gradients: every rule against central differences in f64, over shapes that broadcast, repeat, are empty or open."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lepton.ir import gradient_rules, gradient_tensors, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import Location, UnsupportedError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.gradient import RULES, gradients, replayed
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

RNG = np.random.default_rng(0)
Build = Callable[..., Value]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> Array:
    return RNG.uniform(0.3, 2.0, shape)


def inside(*shape: int) -> Array:
    return RNG.uniform(-0.9, 0.9, shape)


def constant(array: Any) -> Value:
    return ops.constant(value=Tensor.of(np.asarray(array)))


UNARY: dict[Op, tuple[Callable[..., Array], dict[str, Any]]] = {
    **{op: (normal, {}) for op in (
        ops.neg, ops.abs_, ops.exp, ops.expm1, ops.sin, ops.cos, ops.atan, ops.sinh, ops.cosh, ops.tanh, ops.asinh,
        ops.erf, ops.sigmoid, ops.softplus, ops.softsign, ops.relu, ops.hard_swish, ops.mish)},
    **{op: (positive, {}) for op in (ops.sqrt, ops.rsqrt, ops.reciprocal, ops.log, ops.log1p)},
    **{op: (inside, {}) for op in (ops.tan, ops.asin, ops.acos, ops.atanh)},
    ops.acosh: (lambda *shape: 1 + positive(*shape), {}), ops.leaky_relu: (normal, {"alpha": 0.1}),
    ops.elu: (normal, {"alpha": 1.3}), ops.selu: (normal, {"alpha": 1.6, "gamma": 1.05}),
    ops.celu: (normal, {"alpha": 0.7}), ops.hard_sigmoid: (normal, {"alpha": 0.4, "beta": 0.45}),
    ops.gelu: (normal, {}), ops.swish: (normal, {"alpha": 1.2}), ops.thresholded_relu: (normal, {"alpha": 0.3}),
    ops.shrink: (normal, {"lambd": 0.4, "bias": 0.1}),
}
INDICES = np.array([[0, -1], [2, 0]])
CASES: list[tuple[Op, Build, tuple[Array, ...]]] = [
    *((op, lambda x, op=op, a=a: op(x, **a), (make(3, 4),)) for op, (make, a) in UNARY.items()),
    (ops.gelu, lambda x: ops.gelu(x, approximate="tanh"), (normal(5),)),
    *((op, lambda a, b, op=op: op(a, b), (normal(*s), normal(*t))) for op in (ops.add, ops.sub, ops.mul, ops.maximum,
      ops.minimum) for s, t in (((3, 4), (4,)), ((3, 1), (2, 1, 4)), ((), (2,)), ((2, 0), (1,)), ((1, 1), (1,)))),
    (ops.div, lambda a, b: ops.div(a, b), (normal(3, 4), positive(3, 1))),
    (ops.mod, lambda a, b: ops.mod(a, b), (5 * normal(3, 4), positive(4))),
    (ops.mod, lambda a, b: ops.mod(a, b, fmod=True), (5 * normal(3, 4), positive(4))),
    (ops.pow_, lambda a, b: ops.pow_(a, b), (positive(3, 4), normal(4))),
    (ops.pow_, lambda a: ops.pow_(a, constant(np.array([0.0, 1.0, 2.0, 3.0]))), (normal(3, 4),)),
    (ops.clip, lambda x, lo, hi: ops.clip(x, lo, hi), (normal(3, 4), np.array(-0.4), np.array(0.5))),
    (ops.clip, lambda x, hi: ops.clip(x, None, hi), (normal(3, 4), np.array(0.5))),
    (ops.prelu, lambda x, slope: ops.prelu(x, slope), (normal(2, 3, 4), normal(3, 1))),
    (ops.where, lambda a, b: ops.where(constant([[True], [False]]), a, b), (normal(2, 3), normal(3))),
    (ops.cast, lambda x: ops.exp(ops.cast(x, to=DType.F64)), (normal(3),)),
    (ops.reshape, lambda x: ops.exp(ops.reshape(x, shape=(2, 6))), (normal(3, 4),)),
    (ops.transpose, lambda x: ops.exp(ops.transpose(x, perm=(2, 0, 1))), (normal(2, 3, 4),)),
    (ops.broadcast_to, lambda x: ops.exp(ops.broadcast_to(x, shape=(2, 3, 4))), (normal(3, 1),)),
    *((ops.slice_, lambda x, a=a: ops.exp(ops.slice_(x, starts=a[0], sizes=a[1], steps=a[2])), (normal(7, 5),))
      for a in (((1, 0), (3, 5), (1, 1)), ((1, 1), (3, 2), (2, 3)), ((6, 4), (3, 5), (-2, -1)),
                ((0, 0), (0, 5), (1, 1)), ((6, 2), (1, 1), (-1, 1)))),
    (ops.concat, lambda a, b, c: ops.exp(ops.concat(a, b, c, axis=1)), (normal(2, 3), normal(2, 1), normal(2, 2))),
    (ops.pad, lambda x: ops.exp(ops.pad(x, before=(1, -1), after=(0, 2), mode="constant")), (normal(3, 4),)),
    (ops.trilu, lambda x: ops.exp(ops.trilu(x, upper=False, k=1)), (normal(3, 4),)),
    *((ops.gather, lambda x, axis=axis: ops.exp(ops.gather(x, constant(INDICES), axis=axis)), (normal(3, 4, 3),))
      for axis in (0, 1, 2)),
    (ops.gather, lambda x: ops.exp(ops.gather(x, constant(np.array(1)), axis=1)), (normal(3, 4),)),
    (ops.gather_elements, lambda x: ops.exp(ops.gather_elements(x, constant(INDICES), axis=1)), (normal(2, 3),)),
    (ops.gather_nd, lambda x: ops.exp(ops.gather_nd(x, constant(INDICES))), (normal(3, 4, 2),)),
    *((op, lambda x, op=op, k=k, axes=axes: ops.exp(op(x, axes=axes, keepdims=k)), (normal(2, 3, 4),))
      for op in (ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod)
      for axes in ((1,), (0, 2), (0, 1, 2), ()) for k in (False, True)),
    (ops.reduce_prod, lambda x: ops.reduce_prod(x, axes=(1,)), (np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]]),)),
    *((ops.cumsum, lambda x, e=e, r=r: ops.exp(ops.cumsum(x, axis=1, exclusive=e, reverse=r)), (normal(2, 4),))
      for e in (False, True) for r in (False, True)),
    (ops.softmax, lambda x: ops.softmax(x, axis=1), (normal(2, 5, 3),)),
    (ops.log_softmax, lambda x: ops.log_softmax(x, axis=0), (normal(4, 3),)),
    *((ops.matmul, lambda a, b: ops.matmul(a, b), (normal(*s), normal(*t))) for s, t in (
        ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 1, 4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((4,), (4,)),
        ((2, 1, 3, 4), (5, 4, 2)))),
    (ops.layer_norm, lambda x, s, b: ops.layer_norm(x, s, b, axis=1, epsilon=1e-3),
     (normal(3, 5), normal(5), normal(5))),
    (ops.layer_norm, lambda x: ops.layer_norm(x, x, axis=1, epsilon=1e-3), (normal(3, 5),)),
    (ops.rms_norm, lambda x, s: ops.rms_norm(x, s, axis=1, epsilon=1e-3), (normal(3, 5), normal(5))),
    (ops.instance_norm, lambda x, s, b: ops.instance_norm(x, s, b, epsilon=1e-3),
     (normal(2, 3, 4), normal(3), normal(3))),
    (ops.group_norm, lambda x, s, b: ops.group_norm(x, s, b, groups=2, epsilon=1e-3),
     (normal(2, 4, 3), normal(4), normal(4))),
    (ops.batch_norm, lambda *v: ops.batch_norm(*v, epsilon=1e-3),
     (normal(2, 3, 4), normal(3), normal(3), normal(3), positive(3))),
    (ops.attention, lambda q, k, v: ops.attention(q, k, v, scale=0.7),
     (normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 6))),
    (ops.attention, lambda q, m: ops.attention(q, q, q, m, scale=0.7), (normal(1, 2, 3, 4), normal(3, 3))),
]


def differences(function: Callable[[Sequence[Array]], float], xs: Sequence[Array], h: float = 1e-6) -> list[Array]:
    """Central differences of a number in each element of each array."""
    found = []
    for k, x in enumerate(xs):
        slope = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a) for a in xs]
                moved[k][place] += sign * h
                ends.append(function(moved))
            slope[place] = (ends[0] - ends[1]) / (2 * h)
        found.append(slope)
    return found


def check(build: Build, xs: Sequence[Array]) -> None:
    values = [Value(TensorType(DType.F64, x.shape)) for x in xs]
    y = build(*values)
    weights = RNG.standard_normal(tuple(y.tensor.shape))  # type: ignore[arg-type]
    forward = Graph.of("f", values, [y])
    backward = Graph.of("g", values, gradients(y, values, seed=constant(weights)))
    want = differences(lambda moved: float((evaluate(forward, *moved)[0] * weights).sum()), xs)
    for g, w in zip(evaluate(backward, *xs), want, strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].name)
def test_rules(case: tuple[Op, Build, tuple[Array, ...]]) -> None:
    _, build, xs = case
    check(build, xs)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == {op for op, _, _ in CASES}
    assert gradient_rules.SLOPES.keys() == UNARY.keys()
    assert gradient_tensors.PARTS.keys() <= RULES.keys()


def test_a_network() -> None:
    """Two layers, a shared operand, a sum over a batch."""
    def network(x: Value, w: Value, b: Value, v: Value) -> Value:
        hidden = ops.gelu(ops.add(ops.matmul(x, w), b))
        return ops.reduce_mean(ops.log_softmax(ops.add(ops.matmul(hidden, v), ops.matmul(x, v)), axis=1), axes=(0, 1))

    check(network, (normal(3, 4), normal(4, 4), normal(4), normal(4, 2)))


def test_second_derivatives() -> None:
    check(lambda x: gradients(ops.mul(ops.tanh(x), ops.exp(x)), [x])[0], (normal(5),))


def test_open_sizes() -> None:
    """The graph is made once; the sizes come when it runs."""
    shape = (sym("N"), 3)
    x, w = Value(TensorType(DType.F64, shape), name="x"), Value(TensorType(DType.F64, (3,)), name="w")
    scaled = ops.mul(x, w)
    y = ops.reduce_mean(ops.concat(ops.exp(scaled), ops.broadcast_to(w, shape=shape), axis=0), axes=(0, 1))
    forward = Graph.of("f", (x, w), [y])
    backward = Graph.of("g", (x, w), gradients(y, [x, w]))
    for n in (1, 4):
        xs = (normal(n, 3), normal(3))
        want = differences(lambda moved: float(evaluate(forward, *moved)[0]), xs)
        for g, e in zip(evaluate(backward, *xs), want, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-8)


def test_what_does_not_depend_gets_zeros_and_what_is_fixed_passes_nothing() -> None:
    x, z, other = (Value(TensorType(DType.F64, (3,))) for _ in range(3))
    middle = ops.exp(x)
    y = ops.add(ops.mul(middle, x), ops.cast(ops.floor(x), to=DType.F64))
    graph = Graph.of("g", (x, z, other), [*gradients(y, [x, other]), *gradients(y, [x], fixed=[middle]),
                                         *gradients(ops.cast(ops.cast(x, to=DType.I32), to=DType.F64), [x]),
                                         *gradients(x, [x])])
    a = normal(3)
    got = evaluate(graph, a, a, a)
    for g, want in zip(got, (np.exp(a) * (1 + a), 0 * a, np.exp(a), 0 * a, 0 * a + 1), strict=True):
        np.testing.assert_allclose(g, want)


def test_kinks_take_a_slope_between() -> None:
    x = Value(TensorType(DType.F64, (2,)))
    values = [gradients(ops.maximum(x, constant(np.zeros(2))), [x])[0], gradients(ops.relu(x), [x])[0],
              gradients(ops.reduce_max(x, axes=(0,)), [x])[0], gradients(ops.abs_(x), [x])[0]]
    for g, want in zip(evaluate(Graph.of("g", (x,), values), np.zeros(2)), (0.5, 0.0, 0.5, 0.0), strict=True):
        np.testing.assert_array_equal(g, np.full(2, want))


def test_refusals_name_the_node() -> None:
    x = Value(TensorType(DType.F64, (1, 1, 5)))
    place = Location("conv1", "Conv")
    y = ops.conv(x, constant(np.ones((1, 1, 2))), strides=(1,), dilations=(1,), pads_begin=(0,), pads_end=(0,),
                 loc=(place,))
    with pytest.raises(UnsupportedError, match=r"conv cannot be differentiated") as caught:
        gradients(y, [x])
    assert caught.value.where == place
    values, _ = ops.top_k.node(x, k=2, axis=2).results
    with pytest.raises(UnsupportedError, match=r"top_k cannot be differentiated"):
        gradients(values, [x])


def test_replayed_shares_what_does_not_change() -> None:
    x, z, w = (Value(TensorType(DType.F64, (3,))) for _ in range(3))
    same = ops.exp(w)
    y = ops.add(ops.mul(x, same), x)
    again = replayed(y, {x: z})
    assert again.producer is not None
    assert again.producer.inputs[1] is z
    assert replayed(y, {}) is y
    product = again.producer.inputs[0]
    assert product is not None
    assert product.producer is not None
    assert product.producer.inputs == (z, same)
