"""Every rule of the verifier, broken on purpose; the error says where."""
from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Use, Value
from lepton.ir.diagnostics import Exit, VerifyError
from lepton.ir.dims import sym
from lepton.ir.parser import parse
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify
from tests.ir.graphs import graphs

TEXT = """graph @g(%x: f32[N,4], %c: bool[]) {
  %a = neg(%x)
  %b = relu(%a)  // node 'Relu_1' (Relu)
  %d = softmax(%b, axis=1)
  %e = add(%d, %x)
  %f = if(%c, %e) {
    graph @then(%x: f32[N,4]) { %t = tanh(%x) return %t }
    graph @else(%x: f32[N,4]) { %t = exp(%x) return %t }
  }
  return %f, %b
}
"""


def named(graph: Graph) -> dict[str, Value]:
    values = [*graph.inputs, *(r for n in graph.walk() for r in n.results)]
    return {v.name: v for v in values if v.name}


def node(graph: Graph, name: str) -> Node:
    found = named(graph)[name].producer
    assert found is not None
    return found


def cycle(g: Graph) -> None:
    node(g, "a").set_input(0, named(g)["d"])


def foreign_input(g: Graph) -> None:
    node(g, "a").set_input(0, Value(g.inputs[0].type, name="z"))


def region_reads_outside(g: Graph) -> None:
    then = node(g, "f").regions[0]
    then.nodes[0].set_input(0, named(g)["e"])


def shared_node(g: Graph) -> None:
    then, other = node(g, "f").regions
    other.ret.set_input(0, then.outputs[0])


def lost_use(g: Graph) -> None:
    del named(g)["a"].uses[Use(node(g, "b"), 0)]


def invented_use(g: Graph) -> None:
    named(g)["a"].uses[Use(node(g, "d"), 0)] = None


def stale_type(g: Graph) -> None:
    named(g)["b"].type = TensorType(DType.F32, (sym("M"), 4))


def bad_size(g: Graph) -> None:
    named(g)["b"].type = TensorType(DType.F32, (-1, 4))


def wrong_producer(g: Graph) -> None:
    named(g)["b"].producer = node(g, "a")


def wrong_index(g: Graph) -> None:
    named(g)["b"].index = 3


def produced_input(g: Graph) -> None:
    g.inputs = (*g.inputs, named(g)["a"])


def repeated_input(g: Graph) -> None:
    g.inputs = (*g.inputs, g.inputs[0])


def absent_output(g: Graph) -> None:
    g.ret.set_input(1, None)


def attribute(value: Any) -> Callable[[Graph], None]:
    def change(g: Graph) -> None:
        node(g, "d").attrs = MappingProxyType({"axis": value})

    return change


def missing_attribute(g: Graph) -> None:
    node(g, "d").attrs = MappingProxyType({})


def unwanted_region(g: Graph) -> None:
    node(g, "b").regions = (parse("graph @r() {\n  %0 = iota(size=3, dtype=i64)\n  return %0\n}"),)


def region_of_another_type(g: Graph) -> None:
    f = node(g, "f")
    f.regions = (f.regions[0], parse("graph @else(%x: f32[N,4]) {\n  %0 = cast(%x, to=f16)\n  return %0\n}"))


def same_input_names(g: Graph) -> None:
    g.inputs[1].name = "x"


def same_output_names(g: Graph) -> None:
    g.outputs[0].name = "b"


CASES: list[tuple[Callable[[Graph], None], str]] = [
    (cycle, r"'g' has a cycle through"),
    (foreign_input, r"operand 0 \(<z: f32\[N,4\]>\) belongs to another graph than 'g'"),
    (region_reads_outside, r"'then' shares a node with 'g'"),
    (shared_node, r"'else' shares a node with 'then'"),
    (lost_use, r"operand 0 .* does not know of this use"),
    (invented_use, r"lists a use that does not read it"),
    (stale_type, r"relu has type f32\[M,4\], its operands and attributes give f32\[N,4\]"),
    (bad_size, r"f32\[-1,4\] has -1 for a size"),
    (wrong_producer, r"is not what its producer lists|names another producer"),
    (wrong_index, r"is not what its producer lists as result 3"),
    (produced_input, r"input .* of 'g' is the result of a node"),
    (repeated_input, r"an input of 'g' is listed twice"),
    (absent_output, r"output 1 of 'g' is absent"),
    (attribute(np.int64(1)), r"axis is .*1.*, a int64: not frozen plain data"),
    (attribute([1]), r"axis is \[1\], a list: not frozen plain data"),
    (attribute((np.float64(1),)), r"not frozen plain data"),
    (attribute(5), r"axis"),
    (missing_attribute, r"softmax has attributes none; expected axis"),
    (unwanted_region, r"relu takes no regions"),
    (region_of_another_type, r"branches"),
    (same_input_names, r"two inputs of 'g' are named 'x'"),
    (same_output_names, r"two outputs of 'g' are named 'b'"),
]


@pytest.mark.parametrize(("break_it", "message"), CASES, ids=[f.__name__ + str(i) for i, (f, _) in enumerate(CASES)])
def test_broken_graphs_are_refused(break_it: Callable[[Graph], None], message: str) -> None:
    graph = parse(TEXT)
    verify(graph)
    break_it(graph)
    with pytest.raises(VerifyError, match=message) as caught:
        verify(graph)
    assert caught.value.exit is Exit.INTERNAL


def test_the_message_quotes_the_text_around_and_names_the_model() -> None:
    graph = parse(TEXT)
    stale_type(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert str(caught.value) == """\
relu has type f32[M,4], its operands and attributes give f32[N,4]
  | graph @g(%x: f32[N,4], %c: bool[]) {
  |   %a = neg(%x) : f32[N,4]
> |   %b = relu(%a) : f32[M,4]  // node 'Relu_1' (Relu)
  |   %d = softmax(%b, axis=1) : f32[N,4]
  |   %e = add(%d, %x) : f32[N,4]
  |   %f = if(%c, %e) : f32[N,4] {
  --> node 'Relu_1' (Relu)"""


def test_the_excerpt_reaches_into_regions() -> None:
    graph = parse(TEXT)
    named(graph)["t"].type = TensorType(DType.F16, (sym("N"), 4))
    node(graph, "f").regions[1].outputs[0].type = TensorType(DType.F16, (sym("N"), 4))
    with pytest.raises(VerifyError, match=r"if has type|exp has type") as caught:
        verify(graph)
    assert "> |" in str(caught.value)


def test_sizes_that_differ_by_algebra_only_are_equal() -> None:
    verify(parse("""graph @g(%x: f32[N,2]) {
      %0 = concat(%x, %x, axis=0) : f32[N+N,2]
      %1 = reshape(%0, shape=(N*4,)) : f32[4*N]
      return %1 }"""))


def test_an_op_from_elsewhere_is_refused() -> None:
    graph = parse(TEXT)
    from dataclasses import replace

    from lepton.ir.op import OPS

    known = OPS.pop("relu")
    try:
        copy = replace(known)
    finally:
        OPS["relu"] = known
    node(graph, "b").op = copy
    with pytest.raises(VerifyError, match="relu is not a registered op"):
        verify(graph)


def test_readers_outside_the_graph_are_no_error() -> None:
    """Code that builds nodes and drops them leaves readers behind; `sweep` clears them, verify does not mind."""
    graph = parse(TEXT)
    ops.neg(named(graph)["a"])
    verify(graph)


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_what_ops_make_is_right(graph: Graph) -> None:
    verify(graph)
