"""Tensors of strings in compiled code: every op against its meaning, moved by all that moves elements, fuzzed."""
from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton.artifact import Model
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.regex import Dfa
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.ir.ops_cases import Case, build
from tests.ir.ops_strings import CASES, text

TEXT, FLAG, LONG = (TensorType(d, ()) for d in (DType.STRING, DType.BOOL, DType.I64))


def words(*shape: int, seed: int = 0) -> Array:
    """Words of 0 to 3 letters, some of them often."""
    rng = random.Random(seed)
    count = int(np.prod(shape))
    return text(*("".join(rng.choices("ab é,", k=rng.randrange(4))) for _ in range(count)), shape=shape)


def check(graph: Graph, *inputs: Array) -> Model:
    """Twice on one session, as the table of strings starts again with each run; the same as the interpreter."""
    model = lepton.compile(graph)
    want = evaluate(graph, *inputs)
    for _ in range(2):
        found = model(*inputs)
        for got, expected in zip(found if len(want) > 1 else [found], want, strict=True):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(got, expected)
    return model


def strings(name: str, *shape: int | str) -> Value:
    return Value(TensorType(DType.STRING, tuple(sym(d) if isinstance(d, str) else d for d in shape)), name=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ops(case: Case) -> None:
    shapes = [[sym(f"n{x.ndim - i}") for i in range(x.ndim)] for x in case.operands if x is not None]
    graph, node, arrays = build(case, shapes)
    for i, result in enumerate(node.results):
        result.name = f"out{i}"
    check(graph, *arrays)


# --- fuzzing --------------------------------------------------------------------------------------


def of_one(result: Value) -> Model:
    """The model of one op with one operand."""
    assert result.producer is not None
    (x,) = result.producer.inputs
    assert x is not None
    return lepton.compile(Graph.of("g", (x,), (result,)))


@pytest.mark.parametrize(("delimiter", "most"), [
    ("", None), ("", 0), ("", 2), (",", None), (",", 1), ("ab", 3), ("é", 0)])
def test_splitting_is_pythons(delimiter: str, most: int | None) -> None:
    letters = "aab,é \t\u00a0\u3000\x1f\x00"
    rng = random.Random(str((delimiter, most)))
    texts = ["".join(rng.choices(letters, k=rng.randrange(9))) for _ in range(600)]
    node = ops.string_split.node(strings("x", "N"), delimiter=delimiter, most=most, symbol="k")
    pieces, counts = node.results
    pieces.name, counts.name = "pieces", "counts"
    assert node.inputs[0] is not None
    model = lepton.compile(Graph.of("g", (node.inputs[0],), node.results))
    got, numbers = model(text(*texts))
    expected = [t.split(delimiter or None, -1 if most is None else most) for t in texts]
    assert numbers.tolist() == [len(e) for e in expected]
    assert [row[:n].tolist() for row, n in zip(got, numbers, strict=True)] == expected
    assert all(not "".join(row[n:]) for row, n in zip(got, numbers, strict=True))
    assert got.shape[1] == max(map(len, expected))


@pytest.mark.parametrize("pattern", [r"\w+@\w+\.(com|org)", r"(a|b)*abb", r".{2}[^é]*", r"\bab\b.*", r"(?i)[a-cé]+"])
def test_matching(pattern: str) -> None:
    rng = random.Random(pattern)
    texts = ["".join(rng.choices("aabbé @.comE\n", k=rng.randrange(8))) for _ in range(400)]
    texts += ["a@b.com", "É", "abb", "ab é", b"ab\xff".decode("utf-8", "surrogateescape")]
    dfa = Dfa.of(pattern)
    model = of_one(ops.regex_full_match(strings("x", "N"), pattern=pattern))
    got = model(text(*texts))
    assert got.tolist() == [dfa.matches(t.encode("utf-8", "surrogateescape")) for t in texts]
    assert got.any()


@pytest.mark.parametrize("dtype", [DType.F64, DType.F32, DType.F16, DType.BF16])
def test_printed_floats_read_back(dtype: DType) -> None:
    rng = np.random.default_rng(dtype.bits)
    bits = rng.integers(0, 2**63, 1500, np.uint64) << np.uint64(1) | rng.integers(0, 2, 1500, np.uint64)
    powers = 2.0 ** np.arange(-14 if dtype is DType.F16 else -126, 16 if dtype is DType.F16 else 128)
    values = np.concatenate([(bits >> np.uint64(64 - dtype.bits)).astype(f"u{dtype.bytes}").view(dtype.numpy),
                             powers.astype(dtype.numpy)])
    x = Value(TensorType(dtype, (sym("N"),)), name="x")
    got = of_one(ops.number_to_string(x))(values)
    if dtype is DType.F64:
        assert got.tolist() == [repr(v) for v in values.tolist()]
    else:
        graph = Graph.of("g", (x,), (ops.number_to_string(x),))
        assert got.tolist() == evaluate(graph, values)[0].tolist()
    with np.errstate(invalid="ignore"):
        again = np.array([float(t) for t in got]).astype(dtype.numpy)
        np.testing.assert_array_equal(again.astype(np.float64), values.astype(np.float64))


def test_reading_numbers() -> None:
    rng = random.Random(5)
    parts = ["", "-", "+", " "], ["", "0", "12", "9" * 25], ["", ".", ".5", ".00125"], ["", "e3", "E-400", "e+"]
    texts = ["".join(map(rng.choice, parts)) for _ in range(300)]
    texts += ["inf", "-Infinity", "NAN", "0x10", "1_0", "nan(1)", "", "٣", "1 2", "1e5 \t\n"]
    for to in (DType.F64, DType.F32, DType.I64, DType.U64, DType.BOOL):
        x = strings("x", "N")
        graph = Graph.of("g", (x,), (ops.string_to_number(x, to=to),))
        model = lepton.compile(graph)
        for t in texts:
            try:
                want = evaluate(graph, text(t))[0]
            except Exception:
                with pytest.raises(UsageError, match=r"is no (number|integer)|does not fit"):
                    model(text(t))
            else:
                np.testing.assert_array_equal(model(text(t)), want, err_msg=repr(t))


# --- strings in everything that moves elements ----------------------------------------------------


def test_movement() -> None:
    x, pick, flag = strings("x", "N", 4), Value(TensorType(DType.I64, (3,)), name="i"), Value(FLAG, name="f")
    other = ops.constant(value=Tensor.of(text("a", "é", "", "new")))
    turned = ops.transpose(x, perm=(1, 0))
    outs = [turned, ops.gather(x, pick, axis=1), ops.where(ops.equal(x, other), other, x), ops.concat(x, x, axis=1),
            ops.slice_(x, starts=(0, 3), sizes=(sym("N"), 2), steps=(1, -2)),
            ops.string_concat(turned, turned), ops.where(flag, other, ops.slice_(
                ops.reshape(x, shape=(sym("N") * 4,)), starts=(0,), sizes=(4,), steps=(1,))),
            ops.pad(x, before=(0, 1), after=(1, 0), mode="constant")]
    for i, out in enumerate(outs):
        out.name = f"y{i}"
    graph = Graph.of("g", (x, pick, flag), outs)
    model = lepton.compile(graph)
    for rows in (1, 3, 1):
        arrays = words(rows, 4, seed=rows), np.array([3, 0, -1]), np.array(rows > 1)
        for got, want in zip(model(*arrays), evaluate(graph, *arrays), strict=True):
            np.testing.assert_array_equal(got, want)


def grown(trip: int) -> Graph:
    """x behind itself, `trip` times: as many new strings in one run."""
    count, going, x = Value(LONG, name="i"), Value(FLAG, name="go"), strings("x", 2)
    body = Graph.of("body", (count, going, x), (going, ops.string_concat(x, x), x))
    start, limit = strings("start", 2), ops.constant(value=Tensor.of(np.array(trip)))
    last, rows = ops.loop_.node(limit, None, start, carried=1, symbols=("rounds",), regions=(body,)).results
    last.name, rows.name = "last", "rows"
    return Graph.of("g", (start,), (last, rows))


def test_loops_make_strings() -> None:
    check(grown(5), text("ab", ""))
    model = lepton.compile(grown(16))
    last, rows = model(text("xyz", "é"))
    assert last[0] == "xyz" * 2**16
    assert rows.shape == (16, 2)
    assert rows[3, 1] == "é" * 8


def test_sizes_found_in_text() -> None:
    """Two splits, one behind the other, then all pieces behind a constant."""
    x = strings("x", "N")
    lines, counts = ops.string_split.node(x, delimiter="\n", symbol="a").results
    lines = ops.reshape(lines, shape=(sym("N") * sym("a"),))
    pieces, _ = ops.string_split.node(lines, delimiter="", symbol="b").results
    flat = ops.reshape(pieces, shape=(sym("N") * sym("a") * sym("b"),))
    all_ = ops.concat(ops.constant(value=Tensor.of(text("first"))), flat, axis=0)
    all_.name, counts.name = "all", "counts"
    graph = Graph.of("g", (x,), (all_, counts))
    for given in (text("a b\nc", "", "d\n\ne f g"), text("one"), text(), text("", " ")):
        check(graph, given)


# --- the border -----------------------------------------------------------------------------------


def same(x: Value) -> Graph:
    doubled = ops.string_concat(x, x)
    doubled.name = "y"
    return Graph.of("g", (x,), (doubled,))


@pytest.mark.parametrize("given", [
    ["a", "é"], ("a", "é"), np.array(["a", "é"]), np.array(["a", "é"], object),
    np.array(["a", "é"], np.dtypes.StringDType()), np.array([b"a", "é".encode()], object)],
    ids=lambda g: type(g).__name__ + str(getattr(g, "dtype", "")))
def test_what_python_hands_in(given: Sequence[str]) -> None:
    assert lepton.compile(same(strings("x", "N")))(given).tolist() == ["aa", "éé"]


def test_bytes_that_are_no_utf8_come_back() -> None:
    model = lepton.compile(same(strings("x", 2)))
    got = model(np.array([b"\xff\x00", "\udcff"], object))
    assert [t.encode("utf-8", "surrogateescape") for t in got] == [b"\xff\x00" * 2, b"\xff\xff"]


@pytest.mark.parametrize(("given", "why"), [
    (np.array(["a", None], object), "element 1 is no string: None is of type NoneType"),
    (np.array(["a", 3], object), "element 1 is no string: 3 is of type int"),
    (np.array(["\ud800", ""], object), "element 0 is no string: .*surrogates not allowed"),
    (np.array([1, 2]), r"expected string\[2\], got i64\[2\]"),
    (np.array(["a"]), r"expected string\[2\], got string\[1\]")])
def test_what_is_no_string(given: Array, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        lepton.compile(same(strings("x", 2)))(given)


def test_outputs_of_ones_own() -> None:
    model = lepton.compile(same(strings("x", 2)))
    mine = np.array(["", ""], object)
    assert model.run({"x": ["a", "b"]}, {"y": mine})["y"] is mine
    assert mine.tolist() == ["aa", "bb"]


def test_artifacts(tmp_path: Path) -> None:
    """The same from a file, and the same file from the same model."""
    pieces = ops.string_split.node(strings("x", "N"), delimiter="-", symbol="k").results[0]
    is_a = ops.equal(pieces, ops.constant(value=Tensor.of(text("a", shape=()))))
    y = ops.where(is_a, ops.string_case(pieces, to="upper"), pieces)
    y.name = "y"
    x = pieces.producer.inputs[0] if pieces.producer else None
    assert x is not None
    graph = Graph.of("g", (x,), (y,))
    for name in ("one.so", "two.so"):
        lepton.compile_to(graph, tmp_path / name)
    assert (tmp_path / "one.so").read_bytes() == (tmp_path / "two.so").read_bytes()
    model = lepton.load(tmp_path / "one.so")
    assert str(model.inputs[0]) == "x: string[N]"
    for given in (["a-b", "x"], ["", "-a", "é"], []):
        wanted = evaluate(graph, text(*given))[0]
        np.testing.assert_array_equal(model(text(*given)), wanted)
