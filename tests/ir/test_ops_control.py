"""Ops that hold graphs, against ONNX Runtime's If, Loop and Scan."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError, TypeRuleError
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, parse_type
from tests.ir.ops_cases import F32, normal


def v(text: str, name: str | None = None) -> Value:
    return Value(parse_type(text), name=name)


def region(name: str, inputs: list[Value], *outputs: Value) -> Graph:
    return Graph.of(name, inputs, outputs)


def run(node: Any, inputs: list[Value], *arrays: Array) -> list[Array]:
    return evaluate(Graph.of("g", inputs, node.results), *arrays)


def onnx_run(nodes: list[Any], inputs: dict[str, Array], outputs: list[str]) -> list[Array]:
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for k, x in inputs.items()]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info(o) for o in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def info(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


# --- fusion and if --------------------------------------------------------------------------------


def test_fusion_means_its_body() -> None:
    a, b = v("f32[N,3]"), v("f32[3]")
    s = ops.add(a, b)
    body = region("body", [a, b], ops.relu(s), ops.neg(s))
    x, y = v("f32[N,3]"), v("f32[3]")
    node = ops.fusion.node(x, y, regions=(body,), kind="bias")
    p, q = normal(4, 3), normal(3)
    first, second = run(node, [x, y], p, q)
    np.testing.assert_array_equal(first, np.maximum(p + q, 0))
    np.testing.assert_array_equal(second, -(p + q))


def test_fusion_refuses_other_operands() -> None:
    a = v("f32[3]")
    body = region("body", [a], ops.neg(a))
    with pytest.raises(TypeRuleError, match=r"region 'body' takes \(f32\[3\]\); operands: f32\[4\]"):
        ops.fusion.node(v("f32[4]"), regions=(body,))
    with pytest.raises(TypeRuleError, match="fusion holds 1 region, not 0"):
        ops.fusion.node(v("f32[4]"))


def branches() -> tuple[Graph, Graph]:
    a, b = v("f32[4]"), v("f32[4]")
    half = ops.slice_(b, starts=(0,), sizes=(2,), steps=(1,))
    return region("then", [a], ops.exp(a)), region("else", [b], half)


@pytest.mark.parametrize("cond", [True, False])
def test_if(cond: bool) -> None:
    """Branches of different sizes: the result's size is a symbol."""
    c, x = v("bool[]"), v("f32[4]")
    node = ops.if_.node(c, x, regions=branches(), symbols=("n", "unused"))
    assert str(node.result.type) == "f32[n]"
    seen: list[str] = []
    graph = Graph.of("g", [c, x], [ops.neg(node.result)])
    p = normal(4)
    (got,) = evaluate(graph, np.array(cond), p, observe=lambda n, _: seen.append(n.op.name))
    then = helper.make_graph([helper.make_node("Exp", ["x"], ["a"])], "t", [], [info("a")])
    other = helper.make_graph([helper.make_node("Slice", ["x", "zero", "two"], ["b"])], "e", [], [info("b")],
                              [helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
                               helper.make_tensor("two", TensorProto.INT64, [1], [2])])
    nodes = [helper.make_node("If", ["c"], ["r"], then_branch=then, else_branch=other),
             helper.make_node("Neg", ["r"], ["y"])]
    (wanted,) = onnx_run(nodes, {"c": np.array(cond), "x": p}, ["y"])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert seen == ["exp" if cond else "slice", "if", "neg"]   # the other branch does not run


def test_if_needs_names_for_sizes() -> None:
    with pytest.raises(TypeRuleError, match="the branches give the sizes 4 and 2, and `symbols` has no name left"):
        ops.if_.node(v("bool[]"), v("f32[4]"), regions=branches())


# --- loop -----------------------------------------------------------------------------------------


def loop_body(limit: float) -> Graph:
    """Doubles s, collects s*s, goes on while its sum is below the limit; `step` is captured."""
    i, go, s, step = v("i64[]"), v("bool[]"), v("f32[2]"), v("f32[]")
    two = ops.constant(value=Tensor.of(np.array(2, F32)))
    doubled = ops.mul(ops.add(s, ops.mul(ops.cast(i, to=DType.F32), step)), two)
    again = ops.less(ops.reduce_sum(doubled, axes=(0,)), ops.constant(value=Tensor.of(np.array(limit, F32))))
    return region("body", [i, go, s, step], again, doubled, ops.mul(s, s))


def onnx_loop(limit: float, trip: int | None, start: Array, step: Array, cond: bool) -> list[Array]:
    n = helper.make_node
    body = helper.make_graph(
        [n("Cast", ["i"], ["f"], to=TensorProto.FLOAT), n("Mul", ["f", "step"], ["g"]), n("Add", ["s", "g"], ["t"]),
         n("Mul", ["t", "two"], ["d"]), n("ReduceSum", ["d"], ["sum"], keepdims=0),
         n("Less", ["sum", "limit"], ["again"]), n("Mul", ["s", "s"], ["q"])],
        "b", [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s", shape=[2])],
        [info("again", TensorProto.BOOL, []), info("d", shape=[2]), info("q", shape=[2])],
        [helper.make_tensor("two", TensorProto.FLOAT, [], [2]),
         helper.make_tensor("limit", TensorProto.FLOAT, [], [limit])])
    feed = {"start": start, "step": step, "cond": np.array(cond)}
    if trip is not None:
        feed["trip"] = np.array(trip)
    node = n("Loop", ["trip" if trip is not None else "", "cond", "start"], ["last", "all"], body=body)
    return onnx_run([node], feed, ["last", "all"])


@pytest.mark.parametrize(("trip", "cond", "limit"), [(3, True, 1e9), (0, True, 1e9), (10, True, 40.0), (5, False, 1e9),
                                                     (None, True, 100.0)])
def test_loop(trip: int | None, cond: bool, limit: float) -> None:
    start, step = np.array([1, 2], F32), np.array(0.5, F32)
    t, c, s, k = v("i64[]"), v("bool[]"), v("f32[2]"), v("f32[]")
    node = ops.loop_.node(t if trip is not None else None, c, s, k, carried=1, symbols=("n",),
                          regions=(loop_body(limit),))
    assert [str(r.type) for r in node.results] == ["f32[2]", "f32[n,2]"]
    inputs = ([t] if trip is not None else []) + [c, s, k]
    arrays = ([np.array(trip)] if trip is not None else []) + [np.array(cond), start, step]
    for got, wanted in zip(run(node, inputs, *arrays), onnx_loop(limit, trip, start, step, cond), strict=True):
        np.testing.assert_allclose(got, wanted)


def growing() -> Graph:
    i, go, s = v("i64[]"), v("bool[]"), v("f32[m]")
    one = ops.constant(value=Tensor.of(np.ones(1, F32)))
    return region("body", [i, go, s], go, ops.concat(s, one, axis=0))


def test_loop_with_a_growing_value() -> None:
    """Inside, the size is the body's own symbol, bound anew in each round; outside it is a fresh one."""
    t, s = v("i64[]"), v("f32[N]")
    node = ops.loop_.node(t, None, s, carried=1, symbols=("after",), regions=(growing(),))
    assert str(node.result.type) == "f32[after]"
    (got,) = run(node, [t, s], np.array(3), np.array([5, 6], F32))
    np.testing.assert_array_equal(got, np.array([5, 6, 1, 1, 1], F32))


def test_loop_refuses_bodies_that_do_not_fit() -> None:
    with pytest.raises(TypeRuleError, match=r"a carried value changes a size: N, m, m\+1"):
        ops.loop_.node(v("i64[]"), None, v("f32[N]"), carried=1, regions=(growing(),))
    with pytest.raises(TypeRuleError, match="must take"):
        ops.loop_.node(v("i64[]"), None, v("f32[N]"), v("f32[N]"), carried=1, regions=(growing(),))


# --- scan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(axis: int, back: bool) -> None:
    s, e = v("f32[2]"), v("f32[2]")
    total = ops.add(s, e)
    body = region("body", [s, e], total, ops.mul(total, e))
    start, x = v("f32[2]"), v("f32[T,2]" if axis == 0 else "f32[2,T]")
    node = ops.scan.node(start, x, carried=1, input_axes=(axis,), output_axes=(1,), input_reverse=(back,),
                         output_reverse=(back,), regions=(body,))
    assert [str(r.type) for r in node.results] == ["f32[2]", "f32[2,T]"]
    n = helper.make_node
    inner = helper.make_graph([n("Add", ["s", "e"], ["t"]), n("Mul", ["t", "e"], ["q"])], "b",
                              [info("s", shape=[2]), info("e", shape=[2])],
                              [info("t", shape=[2]), info("q", shape=[2])])
    scan = n("Scan", ["start", "x"], ["last", "all"], body=inner, num_scan_inputs=1, scan_input_axes=[axis],
             scan_output_axes=[1], scan_input_directions=[int(back)], scan_output_directions=[int(back)])
    p, q = normal(2), normal(5, 2) if axis == 0 else normal(2, 5)
    expected = onnx_run([scan], {"start": p, "x": q}, ["last", "all"])
    for got, wanted in zip(run(node, [start, x], p, q), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    nothing = normal(0, 2) if axis == 0 else normal(2, 0)
    assert [a.shape for a in run(node, [start, x], p, nothing)] == [(2,), (2, 0)]


def test_scan_refuses_unequal_lengths() -> None:
    s, e, f = v("f32[2]"), v("f32[2]"), v("f32[2]")
    body = region("body", [s, e, f], ops.add(s, ops.add(e, f)))
    with pytest.raises(TypeRuleError, match="lengths of the scanned values differ: 3 and 4"):
        ops.scan.node(v("f32[2]"), v("f32[3,2]"), v("f32[4,2]"), carried=1, input_axes=(0, 0), output_axes=(),
                      input_reverse=(False, False), output_reverse=(), regions=(body,))


def test_errors_name_the_region() -> None:
    t, s = v("i64[]"), v("f32[2]")
    i, go, a = v("i64[]"), v("bool[]"), v("f32[2]")
    index = ops.add(i, ops.constant(value=Tensor.of(np.array(1))))
    body = region("body", [i, go, a], go, a, ops.gather(a, index, axis=0))
    node = ops.loop_.node(t, None, s, carried=1, symbols=("n",), regions=(body,))
    with pytest.raises(LeptonError, match="gather: index 2 is outside an axis of size 2"):
        run(node, [t, s], np.array(2), np.zeros(2, F32))
