"""What patterns match and bind."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.op import Trait
from lepton.ir.parser import parse
from lepton.ir.pattern import Pat
from lepton.ir.rewrite import capture, const, opt, pat, rest, splat, tensor_of, var
from lepton.ir.tensor import Tensor

x, y, z = var("x y z")


def found(pattern: Pat, text: str) -> list[dict[str, Any]]:
    """What the pattern binds, over all nodes; values by name."""
    graph = parse(text)
    shown: Callable[[Any], Any] = lambda v: (  # noqa: E731
        v.name if isinstance(v, Value) else tuple(map(shown, v)) if isinstance(v, tuple) else v)
    return [{k: shown(v) for k, v in m.bound.items()} for node in graph.nodes for m in pattern.matches(node)]


def one(body: str, inputs: str = "%a: f32[N,3], %b: f32[N,3], %c: f32[3]") -> str:
    return f"graph @g({inputs}) {{\n{body}\n  return %r }}"


def test_operands_bind() -> None:
    assert found(pat(ops.sub)(x, y), one("%r = sub(%a, %b)")) == [{"x": "a", "y": "b"}]
    assert found(pat(ops.sub)(pat(ops.neg)(x), y), one("%0 = neg(%a) %r = sub(%0, %b)")) == [{"x": "a", "y": "b"}]
    assert found(pat(ops.sub)(pat(ops.neg)(x), y), one("%0 = neg(%a) %r = sub(%b, %0)")) == []


def test_commutative_ops_match_in_either_order() -> None:
    pattern = pat(ops.add)(pat(ops.neg)(x), y)
    assert found(pattern, one("%0 = neg(%a) %r = add(%b, %0)")) == [{"x": "a", "y": "b"}]
    both = found(pattern, one("%0 = neg(%a) %1 = neg(%b) %0a = add(%0, %1) %r = relu(%0a)"))
    assert len(both) == 2


def test_a_name_twice_is_the_same_value() -> None:
    assert found(pat(ops.mul)(x, x), one("%r = mul(%a, %a)")) == [{"x": "a"}]
    assert found(pat(ops.mul)(x, x), one("%r = mul(%a, %b)")) == []
    pattern = pat(ops.mul)(x, pat(ops.sigmoid)(x))
    assert found(pattern, one("%0 = sigmoid(%a) %r = mul(%0, %a)")) == [{"x": "a"}]
    assert found(pattern, one("%0 = sigmoid(%b) %r = mul(%0, %a)")) == []


def test_attributes() -> None:
    text = one("%r = transpose(%a, perm=(1,0))")
    assert found(pat(ops.transpose, perm=capture("p"))(x), text) == [{"p": (1, 0), "x": "a"}]
    assert found(pat(ops.transpose, perm=(1, 0))(x), text) == [{"x": "a"}]
    assert found(pat(ops.transpose, perm=(0, 1))(x), text) == []
    assert found(pat(ops.transpose, perm=lambda p: p[0] == 1)(x), text) == [{"x": "a"}]
    assert found(pat(ops.transpose, perm=capture("p", lambda p: p[0] == 0))(x), text) == []
    twice = pat(ops.transpose, perm=capture("p"))(pat(ops.transpose, perm=capture("p"))(x))
    assert len(found(twice, one("%0 = transpose(%a, perm=(1,0)) %r = transpose(%0, perm=(1,0))"))) == 1
    assert len(found(twice, one("%0 = transpose(%a, perm=(1,0)) %r = transpose(%0, perm=(0,1))"))) == 0


def test_attributes_compare_as_data() -> None:
    assert found(pat(ops.leaky_relu, alpha=1.0)(x), one("%r = leaky_relu(%a, alpha=1.0)")) != []
    assert found(pat(ops.leaky_relu, alpha=1)(x), one("%r = leaky_relu(%a, alpha=1.0)")) == []
    assert found(pat(ops.leaky_relu, alpha=0.0)(x), one("%r = leaky_relu(%a, alpha=-0.0)")) == []


def test_absent_operands() -> None:
    low = "%l: f32[], %h: f32[], %a: f32[2]"
    assert found(pat(ops.clip)(x), one("%r = clip(%a)", low)) == [{"x": "a"}]
    assert found(pat(ops.clip)(x), one("%r = clip(%a, _, _)", low)) == [{"x": "a"}]
    assert found(pat(ops.clip)(x), one("%r = clip(%a, %l)", low)) == []
    assert found(pat(ops.clip)(x, y), one("%r = clip(%a)", low)) == []
    pattern = pat(ops.clip)(x, opt("y"), opt("z"))
    assert found(pattern, one("%r = clip(%a, _, %h)", low)) == [{"x": "a", "y": None, "z": "h"}]
    assert found(pattern, one("%r = clip(%a, %l)", low)) == [{"x": "a", "y": "l", "z": None}]


def test_any_number_of_operands() -> None:
    text = one("%r = concat(%a, %b, %a, axis=0)")
    assert found(pat(ops.concat)(rest("xs")), text) == [{"xs": ("a", "b", "a")}]
    assert found(pat(ops.concat)(x, ...), text) == [{"x": "a"}]
    assert found(pat(ops.concat)(x, y), text) == []


def test_constants() -> None:
    text = one("%k = constant(value=dense<2.0 : f32[3]>) %r = mul(%k, %a)")
    assert found(pat(ops.mul)(x, const("c")), text) == [{"x": "a", "c": "k"}]
    assert found(pat(ops.mul)(x, const("c", splat(2.0))), text) == [{"x": "a", "c": "k"}]
    assert found(pat(ops.mul)(x, const(None, splat(1.0))), text) == []
    assert found(pat(ops.mul)(x, const("c")), one("%r = mul(%a, %b)")) == []


def test_splat_knows_signed_zeros_and_nans() -> None:
    for array, number, same in [([0.0, 0.0], 0.0, True), ([0.0, -0.0], 0.0, False), ([1.0, 2.0], 1.0, False),
                                ([np.nan], np.nan, False), ([], 0.0, False)]:
        assert splat(number)(Tensor.of(np.array(array, np.float32))) is same
    assert splat(3)(Tensor.of(np.array(3, np.int8)))
    assert not splat(0)(Tensor.of(np.array("a", object)))


def test_once_counts_readers_of_all_results() -> None:
    inner = pat(ops.relu)(pat(ops.neg)(x).once)
    assert len(found(inner, one("%0 = neg(%a) %r = relu(%0)"))) == 1
    assert len(found(inner, one("%0 = neg(%a) %1 = relu(%0) %r = add(%1, %0)"))) == 0
    square = pat(ops.mul)(pat(ops.neg)(x).once, y)
    assert len(found(square, one("%0 = neg(%a) %r = mul(%0, %0)"))) == 1
    returned = "graph @g(%a: f32[2]) { %0 = neg(%a) %1 = relu(%0) return %1, %0 }"
    assert found(inner, returned) == []
    top = pat(ops.relu)(pat(ops.top_k)(x).once)
    both = "%v, %i = top_k(%a, k=1, axis=1) %r = relu(%v)"
    assert len(found(top, one(both))) == 1
    assert found(top, f"graph @g(%a: f32[2,3]) {{ {both} return %r, %i }}") == []


def test_results_and_names() -> None:
    text = one("%v, %i = top_k(%a, k=1, axis=1) %r = cast(%i, to=f32)")
    assert found(pat(ops.cast)(pat(ops.top_k)(x).result(1).named("n")), text) == [{"x": "a", "n": "i"}]
    assert found(pat(ops.cast)(pat(ops.top_k)(x)), text) == []


def test_alternatives_and_traits() -> None:
    assert len(found(pat(ops.relu, ops.tanh)(x), one("%0 = tanh(%a) %1 = relu(%0) %r = neg(%1)"))) == 2
    text = one("%0 = transpose(%a, perm=(1,0)) %1 = softmax(%0, axis=0) %r = reshape(%1, shape=(3*N,))")
    assert len(found(pat(Trait.VIEW)(...), text)) == 2


def test_tensor_of() -> None:
    value = ops.constant(value=Tensor.of(np.arange(3)))
    assert tensor_of(value) == Tensor.of(np.arange(3))
    assert tensor_of(ops.neg(value)) is None
    assert tensor_of(None) is None
