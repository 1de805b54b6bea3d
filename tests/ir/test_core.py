"""Uses, releases, the derived node list, inlining."""
from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Use, User, Value, clone, inline
from lepton.ir.dims import sym
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, OptionalType, TensorType
from lepton.ir.verify import verify
from tests.ir.graphs import graphs

F = TensorType(DType.F32, (2, 3))


def given_value(name: str = "x") -> Value:
    return Value(F, name=name)


def test_uses_follow_inputs() -> None:
    x, y = given_value("x"), given_value("y")
    node = ops.add.node(x, x)
    assert list(x.uses) == [Use(node, 0), Use(node, 1)]
    assert x.users == (node,)
    node.set_input(1, y)
    assert list(x.uses) == [Use(node, 0)]
    assert list(y.uses) == [Use(node, 1)]
    node.set_input(0, y)
    assert not x.uses
    assert node.inputs == (y, y)


def test_the_return_is_a_user_and_keeps_values_alive() -> None:
    x = given_value()
    y = ops.neg(x)
    graph = Graph.of("g", (x,), (y,))
    assert y.users == (graph.ret,)
    graph.ret.drop()
    assert graph.outputs == ()
    assert not x.uses
    assert not y.uses


def test_releasing_the_last_use_releases_the_chain() -> None:
    x = given_value()
    chain = x
    for _ in range(5000):  # recursion would not survive this
        chain = ops.neg(chain)
    kept = ops.relu(x)
    graph = Graph.of("g", (x,), (chain,))
    chain.replace_with(kept)
    assert graph.nodes == (kept.producer,)
    assert list(x.uses) == [Use(kept.producer, 0)]  # type: ignore[arg-type]


def test_a_value_read_elsewhere_survives() -> None:
    x = given_value()
    shared = ops.neg(x)
    one, other = ops.relu(shared), ops.tanh(shared)
    graph = Graph.of("g", (x,), (one, other))
    one.replace_with(x)
    assert [n.op.name for n in graph.nodes] == ["neg", "tanh"]
    assert len(shared.uses) == 1


def test_a_node_lives_while_one_of_its_results_is_read() -> None:
    x = given_value()
    values, indices = ops.top_k.node(x, k=1, axis=1).results
    graph = Graph.of("g", (x,), (values, indices))
    graph.ret.set_input(0, indices)
    assert [n.op.name for n in graph.nodes] == ["top_k"]
    assert len(x.uses) == 1


def test_replacement_inherits_the_name_and_can_wrap() -> None:
    x = given_value()
    y = ops.neg(x)
    y.name = "y"
    graph = Graph.of("g", (x,), (y,))
    wrapped = ops.relu(y)
    assert isinstance(wrapped.producer, Node)
    y.replace_with(wrapped, keep={wrapped.producer})
    assert [n.op.name for n in graph.nodes] == ["neg", "relu"]
    assert graph.outputs[0].name == "y"


def test_nodes_are_in_order_each_once() -> None:
    x = given_value()
    a = ops.neg(x)
    b, c = ops.relu(a), ops.tanh(a)
    graph = Graph.of("g", (x,), (ops.add(b, c), b))
    assert [n.op.name for n in graph.nodes] == ["neg", "relu", "tanh", "add"]


def test_deep_graphs_do_not_recurse() -> None:
    x = given_value()
    v = x
    for _ in range(20000):
        v = ops.neg(v)
    assert len(Graph.of("g", (x,), (v,)).nodes) == 20000


def test_walk_visits_regions_first() -> None:
    graph = parse("""graph @g(%x: f32[2]) {
      %0 = fusion(%x, kind="k") {
        graph @body(%x: f32[2]) { %0 = neg(%x) return %0 }
      }
      %1 = relu(%0)
      return %1 }""")
    assert [n.op.name for n in graph.walk()] == ["neg", "fusion", "relu"]


def test_tensor_types_are_asked_for() -> None:
    assert given_value().tensor is F
    with pytest.raises(TypeError, match="is not a tensor type"):
        _ = Value(OptionalType(F)).tensor


@given(graphs(depth=2))
@settings(max_examples=50, deadline=None)
def test_clones_are_equal_and_apart(graph: Graph) -> None:
    copy = clone(graph)
    verify(copy)
    assert show(copy) == show(graph)
    mine = {node for node in graph.walk()}
    assert not mine & set(copy.walk())
    assert not set(graph.inputs) & set(copy.inputs)


@given(st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_random_edits_keep_the_uses_true(seed: int) -> None:
    """Replace values by others of their type; afterwards every use is an operand, and the graph still verifies."""
    rng = Random(seed)
    x = given_value()
    pool = [x]
    for _ in range(20):
        make = rng.choice([ops.neg, ops.relu, ops.add, ops.mul])
        pool.append(make(*rng.choices(pool, k=make.arity[0])))
    graph = Graph.of("g", (x,), rng.sample(pool, 3))
    for _ in range(8):
        nodes = graph.nodes
        if not nodes:
            break
        old = rng.choice(nodes).result
        before = [x, *(n.result for n in nodes[:nodes.index(old.producer)])]
        old.replace_with(rng.choice(before))
        verify(graph)
        readers: set[User] = {graph.ret, *graph.nodes}
        live = [use for v in pool for use in v.uses if use.user in readers]
        assert all(user.inputs[slot] is not None for user, slot in live)
        assert sum(len(u.inputs) for u in readers) == len(live)


def test_inline_copies_and_leaves_the_region() -> None:
    body = parse("graph @b(%x: f32[2,3]) {\n  %h = neg(%x)  // node 'n' (Neg)\n  return %h, %x\n}")
    x = given_value("outer")
    first, second = inline(body, [x], body)
    assert second is x
    assert first.producer is not None
    assert (first.producer.op, first.producer.loc, first.name) == (ops.neg, body.nodes[0].loc, "h")
    assert first.producer is not body.nodes[0]
    with pytest.raises(ValueError, match="2 inputs for a region of 1"):
        inline(body, [x, x], body)


def test_a_size_from_data_is_found_before_it_is_used() -> None:
    one = ops.constant(value=Tensor.of(np.array(1, np.int64)))
    x = Value(TensorType(DType.I64, ()))
    found = ops.range_(one, x, one, symbol="count")
    size = ops.shape_values(dims=(sym("count"),))
    graph = Graph.of("g", (x,), (size, found))
    assert [n.op.name for n in graph.nodes if n.op is not ops.constant] == ["range", "shape_values"]


def test_outputs_that_come_twice_have_names_of_their_own() -> None:
    """Ports are found by name; a value may go out several times, and under a name that is given."""
    x = Value(TensorType(DType.F32, (3,)), name="x")
    first, named = ops.neg(x), ops.exp(x)
    named.name = "output2"
    assert Graph.of("g", [x], [first, x, first, x, named]).output_names == (
        "output0", "x", "output2_", "output3", "output2")
    assert Graph.of("g", [x], [x, named]).output_names == ("x", "output2")
