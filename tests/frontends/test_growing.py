"""Sequences whose length only the running model knows: what loops put behind each other, and slices of open axes."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lepton
import lepton.backend
from lepton.frontends import load
from lepton.ir.diagnostics import UnsupportedError
from tests.frontends.build import runtime, text_model
from tests.frontends.test_sequences import check_equal

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
Y = np.array([1.5, -2], np.float32)


def agrees(model: onnx.ModelProto, structure: dict[str, Any], *runs: dict[str, Any]) -> lepton.Model:
    """Compiled once, the model answers all runs as ONNX Runtime does."""
    compiled = lepton.compile(model, structure=structure)
    for feeds in runs:
        check_equal(list(compiled.run(feeds).values()), runtime(model, feeds))
    return compiled


def rounds(*counts: int) -> list[dict[str, Any]]:
    return [{"n": np.array(n), "y": Y} for n in counts]


def looping(body: str, after: str, outputs: str) -> onnx.ModelProto:
    """n rounds of `body` on the sequence s, from k, y; t is the new one. `after`: what is done with the result z."""
    return text_model(HEAD + f"""l (int64 n, float[2] y) => ({outputs}) {{
        true = Constant<value = bool {{1}}>()
        none = SequenceEmpty()
        z = Loop(n, true, none) <body: graph = b (int64 k, bool go, seq(float[2]) s)
            => (bool go2, seq(float[2]) t) {{ go2 = Identity(go)  f = Cast<to: int = 1>(k)  {body} }}>
        {after}
    }}""")


GROW = "v = Mul(y, f)  t = SequenceInsert(s, v)"


def test_what_a_loop_collects_is_joined() -> None:
    agrees(looping(GROW, """stacked = ConcatFromSequence<axis: int = 0, new_axis: int = 1>(z)
        behind = ConcatFromSequence<axis: int = -1, new_axis: int = 1>(z)
        joined = ConcatFromSequence<axis: int = 0>(z)
        length = SequenceLength(z)
        minus = Constant<value = int64 {-1}>()
        last = SequenceAt(z, minus)""",
        "float[A,2] stacked, float[2,B] behind, float[C] joined, int64 length, float[2] last"), {}, *rounds(1, 2, 7))


def test_the_sequence_itself_is_a_list() -> None:
    model = agrees(looping(GROW, "more = SequenceInsert(z, y)", "seq(float[2]) z, seq(float[2]) more"), {},
                   *rounds(1, 5, 3))
    assert [p.name for p in model.outputs] == ["z", "more"]
    assert model(np.array(0), Y)[0] == []
    session = lepton.InferenceSession.__new__(lepton.InferenceSession)
    session._model = model
    assert [a.type for a in session.get_outputs()] == ["seq(tensor(float))"] * 2


def test_several_members_a_round() -> None:
    body = "v = Mul(y, f)  w = Neg(v)  s2 = SequenceInsert(s, v)  t = SequenceInsert(s2, w)"
    agrees(looping(body, "", "seq(float[2]) z"), {}, *rounds(1, 4))


def test_one_of_two_members_a_round() -> None:
    """A sequence that grows in both branches of an If."""
    agrees(looping("""one = Constant<value = float {1}>()
        big = Greater(f, one)
        t = If(big) <then_branch: graph = a () => (seq(float[2]) p) { v = Mul(y, f)  p = SequenceInsert(s, v) },
                     else_branch: graph = c () => (seq(float[2]) q) { q = SequenceInsert(s, y) }>""",
        "", "seq(float[2]) z"), {}, *rounds(1, 5))


def test_beginning_with_members() -> None:
    model = text_model(HEAD + """l (int64 n, seq(float[2]) s0) => (seq(float[2]) z, float[2] total) {
        true = Constant<value = bool {1}>()
        zero = Constant<value = float[2] {0, 0}>()
        z, total = Loop(n, true, s0, zero) <body: graph = b (int64 k, bool go, seq(float[2]) s, float[2] sum)
            => (bool go2, seq(float[2]) t, float[2] next) {
            go2 = Identity(go)
            f = Cast<to: int = 1>(k)
            next = Add(sum, f)
            t = SequenceInsert(s, next) }>
    }""")
    agrees(model, {"s0": 2}, *({"n": np.array(n), "s0": [Y, Y + 1]} for n in (1, 3)))


def test_two_loops_behind_each_other() -> None:
    """The second one goes on with a sequence of unknown length, and carries another one that stays as it is."""
    model = text_model(HEAD + """l (int64 n, float[2] y) => (seq(float[2]) w, seq(float[2]) same) {
        true = Constant<value = bool {1}>()
        none = SequenceEmpty()
        z = Loop(n, true, none) <body: graph = b (int64 k, bool go, seq(float[2]) s) => (bool go2, seq(float[2]) t) {
            go2 = Identity(go)  t = SequenceInsert(s, y) }>
        w, same = Loop(n, true, z, z) <body: graph = b2 (int64 k2, bool go3, seq(float[2]) s2, seq(float[2]) r)
            => (bool go4, seq(float[2]) t2, seq(float[2]) r2) {
            go4 = Identity(go3)  m = Neg(y)  t2 = SequenceInsert(s2, m)  r2 = Identity(r) }>
    }""")
    agrees(model, {}, *rounds(1, 4))


def test_rounds_that_the_data_ends() -> None:
    model = text_model(HEAD + """l (float limit, float[2] y) => (seq(float[2]) z) {
        true = Constant<value = bool {1}>()
        most = Constant<value = int64 {1000000}>()
        none = SequenceEmpty()
        z = Loop(most, true, none) <body: graph = b (int64 k, bool go, seq(float[2]) s) => (bool go2, seq(float[2]) t) {
            f = Cast<to: int = 1>(k)
            go2 = Less(f, limit)
            v = Add(y, f)
            t = SequenceInsert(s, v) }>
    }""")
    agrees(model, {}, *({"limit": np.array(n, np.float32), "y": Y} for n in (0, 3, 11)))


@pytest.mark.parametrize(("axis", "keep"), [(0, 1), (1, 1), (2, 0), (0, 0)])
def test_slices_of_an_open_axis(axis: int, keep: int) -> None:
    """SequenceMap over as many slices as the axis has."""
    shape = ["2", "3", "4"]
    shape[axis] = "N"
    model = text_model(HEAD + f"""s (float[{','.join(shape)}] x) => (seq(float[a,b,c]) out, int64 count) {{
        parts = SplitToSequence<axis: int = {axis}, keepdims: int = {keep}>(x)
        out = SequenceMap(parts) <body: graph = each (float[p,q,r] one) => (float[p,q,r] two) {{ two = Exp(one) }}>
        count = SequenceLength(parts)
    }}""")
    if not keep:  # of rank 2
        del model.graph.output[0].type.sequence_type.elem_type.tensor_type.shape.dim[2:]
        body = model.graph.node[1].attribute[0].g
        for value in (*body.input, *body.output):
            del value.type.tensor_type.shape.dim[2:]
    compiled = lepton.compile(model)
    for size in (1, 5):
        sizes = [2, 3, 4]
        sizes[axis] = size
        x = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
        out, count = compiled(x)
        assert count == size
        for got, want in zip(out, np.split(x, size, axis), strict=True):
            np.testing.assert_allclose(got, np.exp(want if keep else want.squeeze(axis)), rtol=1e-6)


@pytest.mark.parametrize(("body", "after", "outputs"), [
    ("v = SequenceAt(s, k)  t = SequenceInsert(s, v)", "", "seq(float[2]) z"),
    ("zero = Constant<value = int64 {0}>()  v = Mul(y, f)  t = SequenceInsert(s, v, zero)", "", "seq(float[2]) z"),
    ("t = SequenceErase(s)", "", "seq(float[2]) z"),
    ("v = Concat<axis: int = 0>(y, y)  w = SequenceInsert(s, y)  t = SequenceInsert(w, v)", "", "seq(float[2]) z"),
    (GROW, "two = Constant<value = int64 {2}>()  w = SequenceInsert(z, y, two)", "seq(float[2]) w"),
    (GROW, "w = SequenceErase(z)", "seq(float[2]) w"),
    ("ax = Constant<value = int64[1] {0}>()  v = Unsqueeze(y, ax)  t = SequenceInsert(s, v)",
     "w = SequenceInsert(z, y)", "seq(float[2]) w"),
])
def test_what_needs_the_length_asks_for_it(body: str, after: str, outputs: str) -> None:
    """Refused in general; where the number of rounds is given, the loop is written out."""
    model = looping(body, after, outputs)
    with pytest.raises(UnsupportedError, match=r"length|number of rounds"):
        load(model)
    with pytest.raises(UnsupportedError, match=r"length|rounds that cannot be written out"):
        load(model, values={"n": 100_000})


def test_many_rounds_are_no_more_code() -> None:
    model = lepton.compile(looping(GROW, "", "seq(float[2]) z"), values={"n": 20_000})
    check_equal(model(Y), [Y * np.float32(k) for k in range(20_000)])


def test_the_backend_writes_out_what_cannot_be_collected() -> None:
    model = looping("one = Constant<value = int64[1] {1}>()  zero = Constant<value = int64[1] {0}>()\n"
                    "e = Reshape(k, one)  v = Slice(y, zero, e)  t = SequenceInsert(s, v)", "", "seq(float[a]) z")
    prepared = lepton.backend.prepare(model)
    for n in (1, 3):
        (got,) = prepared.run([np.array(n), Y])
        check_equal(got, [Y[:k] for k in range(n)])


def test_members_that_grow_with_the_rounds() -> None:
    """A carried tensor that gets longer, put into the sequence each round: only written out."""
    model = text_model(HEAD + """l (int64 n, float[A] y) => (seq(float[B]) z, float[C] longest) {
        true = Constant<value = bool {1}>()
        none = SequenceEmpty()
        z, longest = Loop(n, true, none, y) <body: graph = b (int64 k, bool go, seq(float[D]) s, float[E] w)
            => (bool go2, seq(float[F]) t, float[G] v) {
            go2 = Identity(go)  v = Concat<axis: int = 0>(w, w)  t = SequenceInsert(s, v) }>
    }""")
    with pytest.raises(UnsupportedError, match="number of rounds"):
        load(model)
    z, longest = lepton.compile(model, values={"n": 3})(Y)
    check_equal(z, [np.tile(Y, k) for k in (2, 4, 8)])
    assert len(longest) == 16
