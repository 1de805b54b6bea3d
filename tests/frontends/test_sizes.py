"""Symbolic sizes: what the arithmetic says must hold for every number the symbols can stand for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.frontends import load, load_for
from lepton.frontends.onnx import bounds, numbers
from lepton.frontends.onnx.numbers import Ratio, Undecided
from lepton.frontends.onnx.problems import DataDependent
from lepton.frontends.onnx.symbols import Symbols, identifier
from lepton.ir import dims
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import Dim
from lepton.ir.evaluate import evaluate
from tests.frontends.build import agrees, floats, imported, ints, single, text_model

A, B = dims.sym("a"), dims.sym("b")


def expressions() -> st.SearchStrategy[Dim]:
    """Dims over a and b, with everything that dims can hold."""
    leaves: st.SearchStrategy[Dim] = st.one_of(st.sampled_from([A, B]), st.integers(-5, 9))

    def grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]), pair.map(lambda p: p[0] - p[1]), pair.map(lambda p: p[0] * p[1]),
            st.tuples(inner, st.integers(1, 6)).map(lambda p: dims.floordiv(*p)),
            st.tuples(inner, st.integers(1, 6)).map(lambda p: dims.mod(*p)),
            pair.map(lambda p: dims.dim_min(*p)), pair.map(lambda p: dims.dim_max(*p)))

    return st.recursive(leaves, grown, max_leaves=6)


ENVS = [{"a": a, "b": b} for a, b in product((1, 2, 3, 7, 40), repeat=2)]


@given(expressions())
@settings(deadline=None, max_examples=150)
def test_lower_bounds_hold(dim: Dim) -> None:
    bound = bounds.lower(dim)
    if bound is not None:
        assert all(dims.evaluate(dim, env) >= bound for env in ENVS)


@given(expressions(), expressions())
@settings(deadline=None, max_examples=150)
def test_what_is_certain_is_so(x: Dim, y: Dim) -> None:
    for relation, holds in (("<", int.__lt__), ("<=", int.__le__), ("==", int.__eq__)):
        known = bounds.certainly(x, relation, y)
        if known is not None:
            assert all(holds(dims.evaluate(x, e), dims.evaluate(y, e)) is known for e in ENVS)
    for env in ENVS:
        p, q = dims.evaluate(x, env), dims.evaluate(y, env)
        assert dims.evaluate(bounds.smaller(x, y), env) == min(p, q)
        assert dims.evaluate(bounds.larger(x, y), env) == max(p, q)


@given(expressions(), st.integers(1, 6))
@settings(deadline=None, max_examples=100)
def test_division_truncates(x: Dim, by: int) -> None:
    result = numbers.int_div(x, by)
    assert all(dims.evaluate(result, env) == int(dims.evaluate(x, env) / by) for env in ENVS)


@pytest.mark.parametrize(("dim", "least"), [
    (A, 1), (A - 1, 0), (A * B - A, 0), (A - 2, -1), (-A, None), (A - B, None), (dims.floordiv(A + 1, 2), 1),
    (A - dims.dim_min(A, 4), 0), (A - 2 * dims.floordiv(A, 2), 0), (dims.mod(A, 4) + 1, 1), (3 - dims.mod(A, 4), 0),
])
def test_bounds_that_models_need(dim: Dim, least: int | None) -> None:
    assert bounds.lower(dim) == least


def test_quotients() -> None:
    half = numbers.from_float(0.5)
    assert half == Ratio(1, 2)
    assert numbers.mul(half, 4 * A) == 2 * A
    assert numbers.floor(numbers.mul(A, half)) == dims.floordiv(A, 2)
    assert numbers.ceil(numbers.mul(A, half)) == dims.ceildiv(A, 2)
    assert numbers.mul(numbers.ratio(A, B), B) == A
    assert numbers.true_div(A, A) == 1
    assert numbers.less(half, A)
    for undecided in (lambda: numbers.ratio(1, A - 1), lambda: numbers.less(A, B), lambda: numbers.from_float(np.inf)):
        with pytest.raises(Undecided):
            undecided()


SPANS = [(s, e, t) for t in (1, 2, -1, -3) for s in (-9, -3, -1, 0, 1, 3, 9) for e in (-9, -2, 0, 2, 4, 9)]


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_slices_of_open_sizes(step: int) -> None:
    """All combinations of starts, ends and sizes. ONNX and numpy differ in one case: backwards from before the first
    element, ONNX begins with the first."""
    for start, end, by in SPANS:
        if by != step:
            continue
        model = single("Slice", {"x": floats(3)}, open_dims=True,
                       constants={"s": ints(start), "e": ints(end), "a": ints(0), "t": ints(step)})
        graph = imported(model)
        for size in range(1, 8):
            x = np.arange(size, dtype=np.float32)
            begin = 0 if step < 0 and start < -size else start
            assert evaluate(graph, x)[0].tolist() == x[begin:end:step].tolist(), (start, end, step, size)


def test_slices_backwards_from_before_the_first_element() -> None:
    constants = {"s": ints(-9), "e": ints(-9), "a": ints(0), "t": ints(-1)}
    agrees(single("Slice", {"x": floats(3)}, constants=constants), {"x": floats(3)})


@pytest.mark.parametrize(("n", "m"), [(5, 2), (2, 5), (3, 3), (1, 9), (9, 1)])
def test_which_side_a_slice_counts_from_is_seen_when_it_runs(n: int, m: int) -> None:
    """Both n - m and n - 3 may be negative; the second was once taken to be so always."""
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[N] x, float[M] z) => (float[k] y, float[l] head, float[j] tail) {
      n = Shape (x)
      m = Shape (z)
      d = Sub (n, m)
      far = Constant <value_ints = [1000]> ()
      y = Slice (x, d, far)
      three = Constant <value_ints = [3]> ()
      zero = Constant <value_ints = [0]> ()
      e = Sub (n, three)
      head = Slice (x, zero, e)
      tail = Slice (x, e, far)
    }""")
    feeds = {"x": floats(n), "z": floats(m)}
    agrees(model, feeds)
    agrees(model, feeds, dims={"N": n, "M": m})


def test_pins() -> None:
    model = single("Neg", {"x": floats(2, 3)}, open_dims=True)
    assert imported(model, dims={"x_0": 2, "x_1": 7}).inputs[0].tensor.shape == (2, 7)
    with pytest.raises(UsageError, match="no dimension 'q'"):
        load(model, dims={"q": 2})
    with pytest.raises(UsageError, match="cannot be -1"):
        load(model, dims={"x_0": -1})


def test_values_of_inputs() -> None:
    model = single("Reshape", {"x": floats(2, 3), "shape": ints(3, -1)})
    graph = imported(model, values={"shape": [3, -1]})
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.outputs[0].tensor.shape == (3, 2)
    with pytest.raises(UsageError, match="no input 'q'"):
        load(model, values={"q": 1})
    with pytest.raises(UsageError, match="got shape"):
        load(model, values={"shape": [[1]]})
    with pytest.raises(UsageError, match="value of input"):
        load(model, values={"shape": ["a", "b"]})


def test_loading_for_given_inputs_pins_what_decides_sizes() -> None:
    model = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x, int64[2] shape, int64[1] axis) => (float[k] y) {
      r = Reshape (x, shape)
      y = ReduceSum <keepdims = 0> (r, axis)
    }""")
    feeds = {"x": floats(2, 3), "shape": ints(3, 2), "axis": ints(1)}
    graph = load_for(model, feeds)
    assert [v.name for v in graph.inputs] == ["x", "shape"]
    summed = feeds["x"].reshape(3, 2).sum(1)
    np.testing.assert_allclose(evaluate(graph, feeds["x"], feeds["shape"])[0], summed, rtol=1e-6)
    with pytest.raises(DataDependent, match="input 'axis'"):
        load_for(model, {"x": feeds["x"]})


@pytest.mark.parametrize(("name", "expected"), [
    ("batch", "batch"), ("p2o.DynamicDimension.0", "p2o_DynamicDimension_0"), ("2x", "d2x"), ("é", "d"), ("if", "if_"),
    ("min", "min_"), ("None", "None_"), ("a b", "a_b"), ("w_", "w_"), ("_", "_"), ("-_", "d"), ("", "d"),
])
def test_names_become_identifiers(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_symbols_stay_apart() -> None:
    symbols = Symbols()
    first, second = symbols.named("a.b"), symbols.named("a_b")
    assert first != second
    assert symbols.named("a.b") == first
    assert symbols.unnamed("x", 2) != symbols.unnamed("x", 2)
    assert symbols.originals() == {"a_b": "a.b", "a_b_2": "a_b"}
