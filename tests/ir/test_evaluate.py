"""The interpreter: binding sizes, checking promises, f64, observing, letting go."""
from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError, Location, UsageError
from lepton.ir.dims import floordiv, sym
from lepton.ir.evaluate import apply, evaluate
from lepton.ir.op import OPS, Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType, parse_type

F32 = np.float32
N, H = sym("N"), sym("H")


def v(text: str, name: str | None = None) -> Value:
    return Value(parse_type(text), name=name)


def ones(*shape: int) -> Array:
    return np.ones(shape, F32)


@pytest.mark.parametrize(("types", "shapes", "message"), [
    (["f32[N,3]"], [(2, 4)], "input 'x0': expected f32[N,3], got f32[2,4]: axis 1 is 4, not 3"),
    (["f32[N]", "f32[N]"], [(2,), (3,)], "input 'x1': expected f32[N], got f32[3]: axis 0 is 3, not 2 (N)"),
    (["f32[N]", "f32[2*N+1]"], [(2,), (4,)], "input 'x1': expected f32[2*N+1], got f32[4]: axis 0 is 4, not 5 (2*N+1)"),
    (["f32[N]"], [(2, 2)], "input 'x0': expected f32[N], got f32[2,2]: rank 2, not 1"),
    (["f32[2*N]"], [(4,)], "input 'x0': expected f32[2*N], got f32[4]: axis 0 is 2*N, and nothing says what N is"),
    (["i64[N]"], [(4,)], "input 'x0': expected i64[N], got float32[4]"),
    (["f32[N]"], [], "graph 'g' has 1 inputs, got 0"),
])
def test_inputs_that_do_not_fit(types: list[str], shapes: list[tuple[int, ...]], message: str) -> None:
    values = [v(t, f"x{i}") for i, t in enumerate(types)]
    with pytest.raises(UsageError) as caught:
        evaluate(Graph.of("g", values, values), *(ones(*s) for s in shapes))
    assert caught.value.message == message


def test_sizes_reach_the_attributes() -> None:
    """Dims in attributes, nested ones too, become numbers before a reference sees them."""
    x = v("f32[N,H]")
    outputs = [ops.reshape(x, shape=(N * floordiv(H, 2), 2)), ops.shape_values(dims=(N, H + 1)),
               ops.slice_(x, starts=(N - 1, 0), sizes=(1, H), steps=(1, 1)), ops.iota(size=N * H, dtype=DType.I32)]
    a, b, c, d = evaluate(Graph.of("g", [x], outputs), ones(3, 4))
    assert a.shape == (6, 2)
    assert b.tolist() == [3, 5]
    assert c.shape == (1, 4)
    assert d.shape == (12,)


def test_guards_are_checked() -> None:
    x, y = v("f32[N]"), v("f32[H]")
    graph = Graph.of("g", [x, y], [ops.add.node(x, y, loc=(Location("sum", "Add"),)).result])
    (got,) = evaluate(graph, ones(3), ones(3))
    assert got.tolist() == [2, 2, 2]
    with pytest.raises(LeptonError) as caught:
        evaluate(graph, ones(3), ones(4))
    assert caught.value.message == "add needs N = H, got 3 and 4"
    assert str(caught.value.where) == "node 'sum' (Add)"


def test_data_dependent_sizes() -> None:
    """The symbol that an op brings is bound to what came out, and later types may speak of it."""
    x = v("f32[N]")
    places = ops.non_zero(x, symbol="count")
    flat = ops.reshape(places, shape=(sym("count"),))
    graph = Graph.of("g", [x], [ops.gather(x, flat, axis=0), ops.shape_values(dims=(sym("count") * 2,))])
    values, size = evaluate(graph, np.array([0, 5, 0, 7, 8], F32))
    assert values.tolist() == [5, 7, 8]
    assert size.tolist() == [6]


@pytest.fixture
def liar() -> Any:
    """An op whose reference breaks its type rule's promise."""
    op = Op("test_liar", lambda x, *, how: x, lambda x, *, how: {
        "dtype": x.astype(np.float64), "shape": x[:1], "count": (x, x)}[how])
    yield op
    del OPS["test_liar"]


@pytest.mark.parametrize(("how", "message"), [
    ("dtype", "test_liar gave float64, its type rule promised f32[3]"),
    ("shape", "test_liar gave float32[1], its type rule promised f32[3]: axis 0 is 1, not 3"),
    ("count", "test_liar gave 2 results, its type rule 1"),
])
def test_broken_promises(liar: Op, how: str, message: str) -> None:
    x = v("f32[3]")
    with pytest.raises(LeptonError) as caught:
        evaluate(Graph.of("g", [x], [liar(x, how=how)]), ones(3))
    assert caught.value.message == message


def test_failures_name_the_node() -> None:
    x, i = v("f32[3]"), v("i64[2]")
    graph = Graph.of("g", [x, i], [ops.gather(x, i, axis=0, loc=(Location("look", "Gather", "m.onnx"),))])
    with pytest.raises(LeptonError) as caught:
        evaluate(graph, ones(3), np.array([0, 3]))
    assert str(caught.value) == ("gather: index 3 is outside an axis of size 3; operands: float32[3], int64[2]\n"
                                 "  --> m.onnx: node 'look' (Gather)")


def test_windows_that_do_not_fit() -> None:
    x = v("f32[1,1,N]")
    y = ops.max_pool(x, kernel=(5,), strides=(1,), pads_begin=(0,), pads_end=(0,), dilations=(1,))
    graph = Graph.of("g", [x], [y])
    assert [evaluate(graph, ones(1, 1, n))[0].shape[2] for n in (6, 5, 4)] == [2, 1, 0]
    with pytest.raises(LeptonError, match="the output would have the negative size -1"):
        evaluate(graph, ones(1, 1, 3))
    w = ops.constant(value=Tensor.of(ones(1, 1, 5)))
    z = ops.conv(x, w, strides=(1,), pads_begin=(0,), pads_end=(0,), dilations=(1,))
    with pytest.raises(LeptonError, match=r"conv: windows reaching over \[5\] do not fit into \[3\]"):
        evaluate(Graph.of("g", [x], [z]), ones(1, 1, 3))


def test_float64() -> None:
    """f16, bf16 and f32 become f64: inputs, constants, casts; integers stay."""
    x = v("f32[N]")
    third = ops.constant(value=Tensor.of(np.array(1 / 3, F32)))
    narrow = ops.cast(ops.mul(x, third), to=DType.BF16)
    back = ops.cast(narrow, to=DType.F32)
    graph = Graph.of("g", [x], [back, ops.cast(back, to=DType.I32), ops.iota(size=N, dtype=DType.F16), narrow])
    exact = np.array([1, 2, 3], F32)
    a, b, c, d = evaluate(graph, exact, float64=True)
    assert [r.dtype for r in (a, b, c, d)] == [np.float64, np.int32, np.float64, np.float64]
    np.testing.assert_array_equal(a, exact * np.float64(F32(1 / 3)))
    rounded = evaluate(graph, exact)
    assert [r.dtype for r in rounded] == [np.float32, np.int32, np.float16, ml_dtypes.bfloat16]
    assert not np.array_equal(a, rounded[0])


def test_observe_sees_every_node_in_order() -> None:
    x = v("f32[2]")
    y = ops.exp(x)
    values, indices = ops.top_k.node(y, k=1, axis=0).results
    seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def observe(node: Node, results: list[Array]) -> None:
        seen.append((node.op.name, [r.shape for r in results]))

    evaluate(Graph.of("g", [x], [values, indices, y]), ones(2), observe=observe)
    assert seen == [("exp", [(2,)]), ("top_k", [(1,), (1,)])]


def test_values_are_freed_after_their_last_use() -> None:
    x = v("f32[4]")
    y = x
    for _ in range(5):
        y = ops.exp(y)
    alive: list[weakref.ref[Array]] = []
    most = 0

    def observe(node: Node, results: list[Array]) -> None:
        nonlocal most
        alive.append(weakref.ref(results[0]))
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))

    evaluate(Graph.of("g", [x], [y]), ones(4), observe=observe)
    assert most == 2   # the operand and the result


def test_an_output_may_be_an_input_or_stand_twice() -> None:
    x = v("f32[2]")
    y = ops.neg(x)
    a, b, c = evaluate(Graph.of("g", [x], [x, y, y]), ones(2))
    assert a.tolist() == [1, 1]
    assert b.tolist() == c.tolist() == [-1, -1]


def test_strings() -> None:
    x, y = v("str[2]"), v("str[1]")
    graph = Graph.of("g", [x, y], [ops.concat(x, y, axis=0), ops.equal(x, y)])
    joined, same = evaluate(graph, np.array(["a", "b"]), np.array(["b"]))
    assert joined.tolist() == ["a", "b", "b"]
    assert same.tolist() == [False, True]


def test_values_other_than_tensors() -> None:
    x = v("seq<f32[2]>")
    with pytest.raises(LeptonError, match="the interpreter does not know values of type seq<f32\\[2\\]>"):
        evaluate(Graph.of("g", [x], [x]), [ones(2)])


def test_apply_is_one_node() -> None:
    """What constant folding calls: one node, its operands, the sizes."""
    x = Value(TensorType(DType.F32, (N, 4)))
    node = ops.reshape.node(x, shape=(2 * N, 2))
    (got,) = apply(node, [ones(3, 4)], {"N": 3})
    assert got.shape == (6, 2)
    with pytest.raises(LeptonError, match="reshape"):
        apply(node, [ones(3, 4)], {"N": 4})


def test_quiet() -> None:
    """NaN and overflow are values here, not warnings."""
    x = v("f32[3]")
    with np.errstate(all="raise"):
        (got,) = evaluate(Graph.of("g", [x], [ops.log(ops.exp(ops.div(x, ops.sub(x, x))))]), ones(3))
    assert np.isnan(got).all() or np.isinf(got).all()
