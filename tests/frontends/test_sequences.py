"""Sequences and optionals: inside models, through control flow, and at the border."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lepton
import lepton.backend
from lepton.cli import main as leptonc
from lepton.frontends import load
from lepton.frontends.onnx.bundles import UnknownStructure
from lepton.ir.diagnostics import LeptonError, UnsupportedError, UsageError
from lepton.ir.structure import Structure, build, flatten, named, ports, spec_of, words
from lepton.tool import main as tool
from tests.frontends.build import runtime, text_model

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
A, B, C = (np.arange(n * 2, dtype=np.float32).reshape(n, 2) * k for n, k in ((1, 1.5), (3, -2), (0, 1)))

JOIN = text_model(HEAD + """j (seq(float[N,2]) x, float[1,2] y) => (float[M,2] joined, int64 count) {
    more = SequenceInsert(x, y)
    joined = ConcatFromSequence<axis: int = 0>(more)
    count = SequenceLength(more)
}""")
EACH = text_model(HEAD + """e (seq(float[N,2]) x) => (seq(float[N,2]) negated, seq(int64[2]) shapes) {
    negated, shapes = SequenceMap(x) <body: graph = each (float[n,2] one) => (float[n,2] minus, int64[2] shape) {
        minus = Neg(one)
        shape = Shape(one)
    }>
}""")
MAYBE = text_model(HEAD + """m (optional(float[N]) bias, float[N] x) => (float[N] y) {
    there = OptionalHasElement(bias)
    y = If(there) <then_branch: graph = t () => (float[N] a) { b = OptionalGetElement(bias)  a = Add(x, b) },
                   else_branch: graph = e () => (float[N] a2) { a2 = Neg(x) }>
}""")


def compare(model: Any, structure: dict[str, Any], **feeds: Any) -> lepton.Model:
    """Compiled, with this structure, it answers as ONNX Runtime does."""
    compiled = lepton.compile(model, structure=structure)
    check_equal(list(compiled.run(feeds).values()), runtime(model, feeds))
    return compiled


def check_equal(got: Any, want: Any) -> None:
    assert isinstance(got, list) == isinstance(want, list)
    if isinstance(want, list):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            check_equal(g, w)
    elif want is None:
        assert got is None
    else:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("members", [[A], [A, B], [B, C, A], [C]])
def test_members_are_ports(members: list[np.ndarray]) -> None:
    model = compare(JOIN, {"x": len(members)}, x=members, y=A)
    assert [p.name for p in model.inputs] == [*(f"x.{i}" for i in range(len(members))), "y"]
    assert model.structure == Structure(
        {"x": {"sequence": [f"x.{i}" for i in range(len(members))]}, "y": "y"}, {"joined": "joined", "count": "count"})
    by_port = model.run_ports({**named("x", members), "y": A})  # as C calls it
    np.testing.assert_array_equal(by_port["joined"], np.concatenate([*members, A]))
    joined, count = model(members, A)
    assert (len(joined), count) == (sum(map(len, members)) + 1, len(members) + 1)


def test_an_empty_sequence() -> None:
    compare(JOIN, {"x": 0}, x=[], y=A)


@pytest.mark.parametrize("members", [[], [A, B], [C, B, A, B]])
def test_sequence_map_gives_sequences(members: list[np.ndarray]) -> None:
    model = lepton.compile(EACH, structure={"x": len(members)})
    negated, shapes = model(members)
    check_equal(negated, [-m for m in members])
    check_equal(shapes, [np.array(m.shape) for m in members])


def test_shapes_of_members() -> None:
    model = lepton.compile(EACH, structure={"x": [(1, 2), ("K", 2)]})
    assert [p.shape for p in model.inputs] == [(1, 2), ("K", 2)]
    with pytest.raises(LeptonError, match=r"x\.0"):
        model([B, A])
    with pytest.raises(UsageError, match="size 3 of axis 1, where the model has 2"):
        load(EACH, structure={"x": [(1, 3)]})
    with pytest.raises(UsageError, match="for rank 2"):
        load(EACH, structure={"x": [(1,)]})


def test_optionals() -> None:
    x, bias = np.array([1, np.nan, -0.0], np.float32), np.array([np.inf, 2, 0], np.float32)
    full, empty = (lepton.compile(MAYBE, structure={"bias": spec}) for spec in (True, None))
    check_equal(full(bias, x), bias + x)
    check_equal(empty(None, x), -x)
    assert [p.name for p in empty.inputs] == ["x"]
    for model, wrong in ((full, None), (empty, bias)):
        with pytest.raises(UsageError, match="'bias'"):
            model(wrong, x)


def test_what_is_not_said_is_asked_for() -> None:
    with pytest.raises(UnknownStructure, match="how many members") as caught:
        load(JOIN)
    assert caught.value.inputs == ("x",)
    assert "--structure x=3" in str(caught.value.help)
    with pytest.raises(UnknownStructure, match="whether it has a value"):
        load(MAYBE)
    for spec in (-1, "two", [True, "z"], 1.5):
        with pytest.raises(UsageError, match="structure of input 'x"):
            load(JOIN, structure={"x": spec})
    with pytest.raises(UsageError, match="no input 'z'"):
        load(JOIN, structure={"z": 1})
    with pytest.raises(UsageError, match="only an optional"):
        load(JOIN, structure={"x": [None]})


def test_wrong_lists_are_refused() -> None:
    model = lepton.compile(JOIN, structure={"x": 2})
    for wrong in ([A], [A, B, A], A, None, [A, None]):
        with pytest.raises(UsageError, match="input 'x"):
            model.run({"x": wrong, "y": A})
    with pytest.raises(UsageError, match="takes 2 inputs"):
        model([A, B])


IF = text_model(HEAD + """i (bool c, seq(float[N,2]) x, float[1,2] y) => (seq(float[N,2]) z) {
    z = If(c) <then_branch: graph = t () => (seq(float[N,2]) a) { a = SequenceConstruct(y, y) },
               else_branch: graph = e () => (seq(float[N,2]) b) { b = Identity(x) }>
}""")


def test_sequences_through_both_branches() -> None:
    model = lepton.compile(IF, structure={"x": [(1, 2), (1, 2)]})
    for c in (True, False):
        check_equal(model(np.array(c), [A, A + 1], A * 3), [A * 3, A * 3] if c else [A, A + 1])
    with pytest.raises(UnsupportedError, match="different numbers of members"):
        load(IF, structure={"x": 3})
    model = lepton.compile(IF, structure={"x": 3}, values={"c": False})
    check_equal(model([A, B, A], A), [A, B, A])


LOOP = text_model(HEAD + """l (int64 n, seq(float[N,2]) x, float[1,2] y) => (seq(float[N,2]) z, float[M,1,2] each) {
    true = Constant<value = bool {1}>()
    z, each = Loop(n, true, x) <body: graph = b (int64 k, bool go, seq(float[N,2]) s) => (bool go2, seq(float[N,2]) t,
                                                                                         float[1,2] scaled) {
        go2 = Identity(go)
        f = Cast<to: int = 1>(k)
        scaled = Mul(y, f)
        t = SequenceInsert(s, scaled)
    }>
}""")


@pytest.mark.parametrize("rounds", [1, 4, 300])
def test_sequences_around_a_loop(rounds: int) -> None:
    model = lepton.compile(LOOP, structure={"x": 1}, values={"n": rounds}, level=0)
    z, each = model([B], A)
    check_equal(z, [B, *(A * np.float32(k) for k in range(rounds))])
    check_equal(each, np.stack([A * np.float32(k) for k in range(rounds)]))


def test_a_member_can_be_compiled_in() -> None:
    model = lepton.compile(JOIN, structure={"x": 2}, values={"x.0": B})
    assert [p.name for p in model.inputs] == ["x.1", "y"]
    check_equal(model([None, A], A)[0], np.concatenate([B, A, A]))
    with pytest.raises(UsageError, match="compiled in"):
        model([B, A], A)


def test_an_input_called_like_a_member_is_refused() -> None:
    clash = text_model(HEAD + "c (seq(float[2]) x, float[2] z) => (float[M] y) { y = ConcatFromSequence<axis = 0>(x) }")
    clash.graph.input[1].name = "x.1"
    with pytest.raises(UnsupportedError, match=r"'x\.1'"):
        load(clash, structure={"x": 2})


def test_the_backend_takes_the_structure_of_what_it_is_given() -> None:
    prepared = lepton.backend.prepare(JOIN)
    for members in ([A], [A, B], [B, A], []):
        joined, count = prepared.run([members, A])
        check_equal(joined, np.concatenate([*members, A]))
        assert count == len(members) + 1
    assert lepton.backend.is_compatible(JOIN)


def test_trees_and_values() -> None:
    tree = {"sequence": ["a", {"optional": None}, {"optional": {"sequence": ["b"]}}, ""]}
    value = [1, None, [2], None]
    assert list(ports(tree)) == ["a", "b"]
    assert flatten(tree, value, "x") == {"a": 1, "b": 2}
    assert build(tree, {"a": 1, "b": 2}) == value
    assert words(tree) == "sequence of 4: a, empty optional, optional: sequence of 1: b, compiled in"
    assert spec_of([A, None, [np.float32(1)]]) == [(1, 2), None, [()]]
    assert named("x", [A, [B], None]).keys() == {"x.0", "x.1.0"}


def test_onnx_runtimes_names_for_it() -> None:
    session = lepton.InferenceSession.__new__(lepton.InferenceSession)
    session._model = lepton.compile(EACH, structure={"x": 2})
    assert [a.type for a in session.get_inputs()] == ["seq(tensor(float))"]
    assert [(a.name, a.type) for a in session.get_outputs()] == [
        ("negated", "seq(tensor(float))"), ("shapes", "seq(tensor(int64))")]
    (negated,) = session.run(["negated"], {"x": [A, B]})
    check_equal(negated, [-A, -B])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(EACH, "each.onnx")
    assert leptonc(["each.onnx", "-q"]) == 3
    assert "how many members" in capsys.readouterr().err
    assert leptonc(["each.onnx", "-q", "--structure", "x=[[1,2],[3,2]]"]) == 0
    model = lepton.load("each.so")
    check_equal(model([A, B])[0], [-A, -B])
    np.savez("x.npz", **named("x", [A, B]))
    assert tool(["inspect", "each.so"]) == 0
    assert "input   x is a sequence of 2: x.0, x.1" in capsys.readouterr().out
    assert tool(["run", "each.so", "-i", "@x.npz"]) == 0
    assert "negated.1: f32[3,2]" in capsys.readouterr().out
    assert tool(["compare", "each.onnx", "--structure", "x=[[1,2],[3,2]]", "--against", "onnxruntime"]) == 0
    assert tool(["run", "each.so", "--structure", "x=2"]) == 2
    for word in ("x", "x=", "=3", "x={"):
        assert leptonc(["each.onnx", "-q", "--structure", word]) == 2


def test_a_model_without_outputs_left(tmp_path: Path) -> None:
    lepton.compile_to(EACH, tmp_path / "none.so", structure={"x": 0})
    assert lepton.load(tmp_path / "none.so")([]) == ([], [])
