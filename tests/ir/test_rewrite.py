"""Rules and the driver that applies them."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import Exit, LeptonError, Location, VerifyError
from lepton.ir.evaluate import evaluate
from lepton.ir.op import Op
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.rewrite import apply, capture, const, pat, rule, splat, sweep, var
from lepton.ir.sample import difference, random_inputs, random_run
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify

x, y, z = var("x y z")


@rule(pat(ops.neg)(pat(ops.neg)(x)))
def negneg(x: Value) -> Value:
    """neg(neg(x)) -> x"""
    return x


@rule(pat(ops.transpose, perm=capture("q"))(pat(ops.transpose, perm=capture("p"))(x)))
def transposes(x: Value, p: tuple[int, ...], q: tuple[int, ...]) -> Value:
    """transpose(transpose(x, p), q) -> transpose(x, p[q])"""
    return ops.transpose(x, perm=tuple(p[i] for i in q))


@rule(pat(ops.mul)(x, const("c", splat(1.0))))
def times_one(x: Value, c: Value) -> Value | None:
    """x * 1 -> x"""
    junk = ops.neg(ops.add(x, c))
    return None if x.type != junk.type else x


@rule(pat(ops.relu)(pat(ops.relu)(x).once))
def relus(x: Value) -> Value:
    """relu(relu(x)) -> relu(x)"""
    return ops.relu(x)


def rewritten(text: str, *rules: Any, check: bool = True) -> tuple[str, dict[str, int]]:
    graph = parse(text)
    inputs, want = random_run(graph)
    counts = apply(graph, rules, check=check)
    verify(graph)
    assert difference(want, evaluate(graph, *inputs)) == ""
    return show(graph), counts


def test_rules_fire_until_none_does() -> None:
    text, counts = rewritten("""graph @g(%x: f32[N,3,4]) {
      %c = constant(value=dense<1.0 : f32[]>)
      %0 = neg(%x)
      %1 = mul(%c, %0)
      %2 = neg(%1)
      %3 = transpose(%2, perm=(0,2,1))
      %4 = transpose(%3, perm=(2,0,1))
      %5 = transpose(%4, perm=(1,0,2))
      return %5 }""", negneg, transposes, times_one)
    assert counts == {"times_one": 1, "negneg": 1, "transposes": 2}
    assert text == """graph @g(%x: f32[N,3,4]) {
  %0 = transpose(%x, perm=(0,1,2)) : f32[N,3,4]
  return %0
}
"""


def test_locations_and_names_are_inherited() -> None:
    text, _ = rewritten("""graph @g(%x: f32[3]) {
      %a = relu(%x)  // node 'A' (Relu)
      %out = relu(%a)  // node 'B' (Relu); node 'C' (Clip)
      return %out }""", relus)
    assert "%out = relu(%x) : f32[3]  // node 'B' (Relu); node 'C' (Clip); node 'A' (Relu)" in text


def test_outputs_keep_their_names() -> None:
    text, _ = rewritten("""graph @g(%x: f32[3]) {
      %h = exp(%x)
      %0 = neg(%h)
      %y = neg(%0)
      return %y }""", negneg)
    assert "%y = exp(%x)" in text
    text, _ = rewritten("graph @g(%x: f32[3]) { %0 = neg(%x) %y = neg(%0) return %y }", negneg)
    assert "return %x" in text


def test_a_replacement_may_wrap_what_it_replaces() -> None:
    @rule(pat(ops.relu)(x).named("r"))
    def wrap(x: Value, r: Value) -> Value | None:
        """relu(x) -> abs(relu(x))"""
        return None if any(user.op is ops.abs_ for user in r.users if hasattr(user, "op")) else ops.abs_(r)

    text, counts = rewritten("graph @g(%x: f32[3]) { %y = relu(%x) %z = neg(%y) return %z, %y }", wrap)
    assert counts == {"wrap": 1}
    assert text == """graph @g(%x: f32[3]) {
  %0 = relu(%x) : f32[3]
  %y = abs(%0) : f32[3]
  %z = neg(%y) : f32[3]
  return %z, %y
}
"""


def test_what_a_rule_builds_and_drops_is_cleared_away() -> None:
    @rule(pat(ops.neg)(x))
    def undecided(x: Value) -> Value | None:
        """neg(x) -> neg(x)"""
        ops.relu(ops.add(x, ops.exp(x)))
        return None

    graph = parse("graph @g(%x: f32[3]) { %0 = neg(%x) return %0 }")
    assert apply(graph, [undecided]) == {}
    assert len(graph.inputs[0].uses) == 1


def test_several_results() -> None:
    @rule(pat(ops.top_k, sorted=False)(pat(ops.neg)(pat(ops.neg)(x)), ...))
    def both(x: Value) -> list[Value]:
        """top_k(neg(neg(x))) -> top_k(x)"""
        return list(ops.top_k.node(x, k=1, axis=1).results)

    @rule(pat(ops.top_k)(x).result(1))
    def index_only(x: Value) -> Value | None:
        """top_k(x).1 -> arg_max(x), where only the index is read"""
        return ops.arg_max(x, axis=1, keepdims=True)

    text, counts = rewritten("""graph @g(%x: f32[2,3]) {
      %0 = neg(%x)
      %1 = neg(%0)
      %v, %i = top_k(%1, k=1, axis=1, sorted=false)
      return %v, %i }""", both)
    assert counts == {"both": 1}
    assert "%v, %i = top_k(%x, k=1, axis=1) : f32[2,1], i64[2,1]" in text
    graph = parse("graph @g(%x: f32[2,3]) { %v, %i = top_k(%x, k=1, axis=1) return %v, %i }")
    inputs, want = random_run(graph)
    assert apply(graph, [index_only], max_rewrites=1) == {"index_only": 1}
    assert difference(want, evaluate(graph, *inputs)) == ""
    assert [n.op.name for n in graph.nodes] == ["top_k", "arg_max"]


def test_regions_are_rewritten() -> None:
    text, counts = rewritten("""graph @g(%c: bool[], %x: f32[3]) {
      %0 = if(%c, %x) {
        graph @then(%x: f32[3]) { %0 = neg(%x) %1 = neg(%0) return %1 }
        graph @else(%x: f32[3]) {
          %0 = fusion(%x, kind="k") { graph @b(%x: f32[3]) { %0 = neg(%x) %1 = neg(%0) return %1 } }
          return %0 }
      }
      return %0 }""", negneg)
    assert counts == {"negneg": 2}
    assert "neg" not in text


def test_earlier_rules_win() -> None:
    def make(name: str, op: Op) -> Any:
        def build(x: Value) -> Value:
            """exp(x) -> something else"""
            return op(x)

        build.__name__ = name
        return rule(pat(ops.exp)(x))(build)

    text = "graph @g(%x: f32[3]) { %0 = exp(%x) return %0 }"
    for names in (("a", "b"), ("b", "a")):
        made = {"a": make("a", ops.sin), "b": make("b", ops.cos)}
        assert apply(parse(text), [made[n] for n in names]) == {names[0]: 1}


def test_rules_that_undo_each_other_are_stopped_and_named() -> None:
    @rule(pat(ops.sin)(x))
    def there(x: Value) -> Value:
        """sin(x) -> cos(x)"""
        return ops.cos(x)

    @rule(pat(ops.cos)(x))
    def back(x: Value) -> Value:
        """cos(x) -> sin(x)"""
        return ops.sin(x)

    graph = parse("graph @g(%x: f32[3]) { %0 = sin(%x) return %0 }")
    with pytest.raises(LeptonError, match=r"does not end: (there|back) \(\d+ times\), (there|back)") as caught:
        apply(graph, [there, back])
    assert caught.value.exit is Exit.INTERNAL
    with pytest.raises(LeptonError, match="does not end"):
        apply(parse(show(graph)), [there, back], max_rewrites=3)


def test_wrong_types_are_refused() -> None:
    @rule(pat(ops.exp)(x))
    def narrow(x: Value) -> Value:
        """exp(x) -> f16"""
        return ops.cast(x, to=DType.F16)

    graph = parse("graph @g(%x: f32[3]) { %0 = exp(%x)  // node 'E' (Exp)\n return %0 }")
    with pytest.raises(VerifyError, match=r"rule narrow replaces f32\[3\] by f16\[3\]") as caught:
        apply(graph, [narrow])
    assert "node 'E' (Exp)" in str(caught.value)


def test_sizes_that_cannot_be_proved_equal_prevent_the_rewrite() -> None:
    """N and M are equal when the model runs, which a guard checks; the result's size is written M."""
    @rule(pat(ops.div)(x, y))
    def dividend(x: Value, y: Value) -> Value:
        """x / y -> x"""
        return x

    @rule(pat(ops.div)(x, y))
    def divisor(x: Value, y: Value) -> Value:
        """x / y -> y"""
        return y

    text = "graph @g(%x: f32[N], %y: f32[M]) { %0 = div(%x, %y) : f32[M] return %0 }"
    graph = parse(text)
    assert apply(graph, [dividend]) == {}
    assert [n.op.name for n in graph.nodes] == ["div"]
    assert apply(parse(text), [dividend, divisor]) == {"divisor": 1}


def test_the_wrong_number_of_results_is_refused() -> None:
    @rule(pat(ops.exp)(x))
    def two(x: Value) -> list[Value]:
        """exp(x) -> x, x"""
        return [x, x]

    with pytest.raises(VerifyError, match="rule two gives 2 values for 1 results of exp"):
        apply(parse("graph @g(%x: f32[3]) { %0 = exp(%x) return %0 }"), [two])


def test_checking_names_the_rule_that_lies() -> None:
    @rule(pat(ops.sin)(x))
    def lie(x: Value) -> Value:
        """sin(x) -> cos(x)"""
        return ops.cos(x)

    text = "graph @g(%x: f32[3]) { %0 = neg(%x) %1 = neg(%0) %2 = sin(%1) return %2 }"
    apply(parse(text), [negneg, lie])
    with pytest.raises(VerifyError, match=r"rule lie changed the meaning: result 0: off by") as caught:
        apply(parse(text), [negneg, lie], check=True)
    assert "sin(x) -> cos(x)" in str(caught.value)


def test_checking_allows_what_the_accuracy_class_allows() -> None:
    def shifted(by: float, accuracy: Any) -> Any:
        @rule(pat(ops.sin)(x), accuracy=accuracy)
        def nearly(x: Value) -> Value:
            """sin(x) -> cos(x - pi/2) + by"""
            moved = ops.sub(x, ops.constant(value=Tensor.of(np.float32(np.pi / 2 - by))))
            return ops.cos(moved)

        return nearly

    text = "graph @g(%x: f32[3]) { %0 = sin(%x) return %0 }"
    apply(parse(text), [shifted(1e-4, "reassociating")], check=True)
    for by, accuracy in ((1e-4, "exact"), (1e-2, "reassociating"), (0.5, "approximate")):
        with pytest.raises(VerifyError, match="nearly"):
            apply(parse(text), [shifted(by, accuracy)], check=True)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: rule(pat(ops.exp)(x))(lambda y: y), "takes"),
    (lambda: rule(pat(ops.sub)(x, y))(lambda x: x), r"binds \['x', 'y'\]"),
    (lambda: rule(pat(ops.exp)(x))(lambda x: x), "docstring begins with"),
    (lambda: rule(pat(ops.exp)(x), accuracy="close"), "accuracy 'close'"),  # type: ignore[arg-type]
])
def test_malformed_rules_are_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_sweep() -> None:
    graph = parse("graph @g(%c: bool[], %x: f32[3]) { %0 = neg(%x) %1 = if(%c, %0) {"
                  " graph @a(%x: f32[3]) { %0 = exp(%x) return %0 } graph @b(%x: f32[3]) { return %x } } return %1 }")
    value, inner = graph.nodes[0].result, graph.nodes[1].regions[0].inputs[0]
    ops.relu(ops.add(value, graph.inputs[1]))
    ops.relu(inner)
    assert (len(value.uses), len(graph.inputs[1].uses), len(inner.uses)) == (2, 2, 2)
    sweep(graph)
    assert (len(value.uses), len(graph.inputs[1].uses), len(inner.uses)) == (1, 1, 1)
    assert sweep(graph) == 0


# --- the driver on many nodes -------------------------------------------------------------------------


def chain(length: int) -> Graph:
    start = value = Value(TensorType(DType.F32, (3,)), name="x")
    for _ in range(length):
        value = ops.neg(value)
    return Graph.of("chain", (start,), (value,))


def wide(length: int) -> Graph:
    """One value with as many readers, all of which change."""
    start = Value(TensorType(DType.F32, (3,)), name="x")
    shared = total = ops.exp(start)
    for _ in range(length):
        total = ops.add(total, ops.neg(ops.neg(shared)))
    return Graph.of("wide", (start,), (total,))


@pytest.mark.parametrize("make", [chain, wide])
def test_time_grows_with_the_nodes_not_their_square(make: Callable[[int], Graph]) -> None:
    def seconds(length: int) -> float:
        graph = make(length)
        start = time.process_time()
        assert apply(graph, [negneg, relus, times_one])["negneg"] >= length // 3
        return time.process_time() - start

    seconds(100)
    small, large = (min(seconds(n) for _ in range(3)) for n in (1000, 8000))
    assert large < 8 * 4 * max(small, 0.005)


@given(st.lists(st.sampled_from([ops.neg, ops.relu, ops.exp]), max_size=30), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_random_chains_reach_the_normal_form(made: list[Op], shared: int) -> None:
    """No pair of negations or rectifiers is left but where the inner one is read elsewhere; the meaning stays."""
    start = value = Value(TensorType(DType.F32, (4,)), name="x")
    values = [start]
    for op in made:
        value = op(value)
        values.append(value)
    graph = Graph.of("g", (start,), (value, values[min(shared, len(values) - 1)]))
    inputs = [np.clip(a, -1, 1) for a in random_inputs(graph)]
    want = evaluate(graph, *inputs)
    apply(graph, [negneg, relus])
    verify(graph)
    assert difference(want, evaluate(graph, *inputs)) == ""
    for node in graph.nodes:
        inner = node.inputs[0].producer if node.inputs[0] is not None else None
        if inner is not None and inner.op is node.op:
            assert node.op is ops.exp or (node.op is ops.relu and len(inner.result.uses) > 1)


def test_locations_of_new_nodes_that_have_one_stay() -> None:
    own = (Location("made by the rule"),)

    @rule(pat(ops.sin)(x))
    def located(x: Value) -> Value:
        """sin(x) -> neg(neg(sin(x)))"""
        return ops.cos(ops.neg(x), loc=own)

    graph = parse("graph @g(%x: f32[3]) { %0 = sin(%x)  // node 'S' (Sin)\n return %0 }")
    apply(graph, [located])
    inner, outer = graph.nodes
    assert (inner.loc, outer.loc) == ((Location("S", "Sin"),), own)


def _rules_of_all_passes() -> Iterator[Any]:
    from lepton.passes.base import RewritePass
    from lepton.passes.registry import load_all

    for pass_ in load_all().values():
        if issubclass(pass_, RewritePass):
            yield from pass_.rules


def test_every_rule_says_before_and_after_on_one_line() -> None:
    rules = list(_rules_of_all_passes())
    wrong = [r.name for r in rules if "->" not in r.doc.split("\n")[0]]
    assert not wrong
    assert len({r.name for r in rules}) == len(rules)
