"""Graphs as text: the round trip as a property over everything OPS can make, and the errors."""
from __future__ import annotations

import errno
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError, Location, ParseError, ResourceError, UsageError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.export import to_dot, to_networkx
from lepton.ir.literals import Elided, read_locations, spell_location
from lepton.ir.parser import parse, parse_all
from lepton.ir.printer import same_attribute, show
from lepton.ir.sidecar import beside, load_constants, save_constants
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from lepton.ir.verify import verify
from tests.ir.graphs import LOCATIONS, TEXTS, graphs, tensors

relaxed = settings(max_examples=100, deadline=None,
                   suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def constants_of(graph: Graph) -> dict[str, Tensor]:
    return {t.digest: t for n in graph.walk() for t in n.attrs.values() if isinstance(t, Tensor)}


def assert_same(a: Graph, b: Graph) -> None:
    """The same nodes, attributes to the bit, types, locations, names of inputs, metadata; regions too."""
    assert (a.name, a.metadata) == (b.name, b.metadata)
    assert [(v.name or None, v.type) for v in a.inputs] == [(v.name, v.type) for v in b.inputs]
    numbers: list[dict[Value, tuple[int, int]]] = []
    for graph in (a, b):
        numbers.append({v: (-1, i) for i, v in enumerate(graph.inputs)})
        for i, node in enumerate(graph.nodes):
            numbers[-1].update({r: (i, j) for j, r in enumerate(node.results)})
    assert [numbers[0][v] for v in a.outputs] == [numbers[1][v] for v in b.outputs]
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert (x.op, x.loc, [r.type for r in x.results]) == (y.op, y.loc, [r.type for r in y.results])
        assert [v and numbers[0][v] for v in x.inputs] == [v and numbers[1][v] for v in y.inputs]
        assert list(x.attrs) == list(y.attrs)
        assert all(same_attribute(x.attrs[key], y.attrs[key]) for key in x.attrs), (x.attrs, y.attrs)
        for inner, outer in zip(x.regions, y.regions, strict=True):
            assert_same(inner, outer)


@given(graphs())
@relaxed
def test_round_trip(graph: Graph) -> None:
    verify(graph)
    text = show(graph)
    again = parse(text, constants=constants_of(graph))
    verify(again)
    assert show(again) == text
    assert_same(graph, again)
    assert_same(graph, parse(show(graph, full_constants=True)))
    elided = parse(text)
    assert show(elided) == text


@given(tensors())
@settings(max_examples=150, deadline=None)
def test_constants_are_exact(tensor: Tensor) -> None:
    graph = Graph.of("c", (), (ops.constant(value=tensor),))
    (node,) = parse(show(graph, full_constants=True)).nodes
    again = node.attrs["value"]
    assert again.type == tensor.type
    assert again.digest == tensor.digest


@given(st.builds(Location, st.sampled_from(TEXTS), st.sampled_from(["", "Conv"]), st.sampled_from(["", "a b.onnx"]))
       | st.sampled_from(LOCATIONS))
def test_locations(loc: Location) -> None:
    both = (loc, Location("second", "Op"))
    assert read_locations(f" {'; '.join(map(spell_location, both))}") == both


def test_ordinary_comments_are_no_locations() -> None:
    for comment in ("", "a node", "node 'x", "see node 'x' (Conv) there", "node 'x' (Conv) and more"):
        assert read_locations(comment) == ()


def test_every_element_type_in_a_type() -> None:
    for dtype in DType:
        text = f"graph @t(%x: {dtype.value}[N,2]) {{\n  return %x\n}}\n"
        assert show(parse(text)) == text


def test_sequences_and_optionals() -> None:
    text = "graph @t(%x: seq<opt<f32[N,(M//2)]>>) {\n  return %x\n}\n"
    assert show(parse(text)) == text




def test_normal_form() -> None:
    """What people read: defaults left out, absent operands as _, names kept, ports quoted where they must be."""
    x = Value(TensorType(DType.F32, (sym("N"), 4)), name="x")
    limit = Value(TensorType(DType.F32, ()), name="limit.0")
    values, indices = ops.top_k.node(x, k=2, axis=1, loc=(Location("t", "TopK"),)).results
    values.name = "/top/Values:0"
    clipped = ops.clip(values, None, limit)
    graph = Graph.of("g", (x, limit), (clipped, indices), opset="17")
    indices.name = "out:0"
    assert show(graph) == """\
graph @g(%x: f32[N,4], %limit.0: f32[]) meta("opset"="17") {
  %top_Values_0, %"out:0" = top_k(%x, k=2, axis=1) : f32[N,2], i64[N,2]  // node 't' (TopK)
  %0 = clip(%top_Values_0, _, %limit.0) : f32[N,2]
  return %0, %"out:0"
}
"""


def test_names_stay_unique() -> None:
    x = Value(TensorType(DType.F32, (2,)), name="a")
    values = [x]
    for name in ("a", "a", "a_1", "a/1", None, "7"):
        values.append(ops.neg(values[-1]))
        values[-1].name = name
    text = show(Graph.of("g", (x,), (values[-1],)))
    assert [line.split()[0] for line in text.splitlines()[1:-2]] == ["%a_1", "%a_2", "%a_1_1", "%a_1_2", "%0", '%"7"']
    assert show(parse(text)) == text


def test_hand_written_text() -> None:
    """Types, defaults and layout of the text are free; integers serve as floats; dead statements go."""
    graph = parse("""
        // a comment
        graph @g(%x : f32[N, 4],
                 %y : f32[4]) {   // another
          %dead = neg(%x)
          %0 = leaky_relu(%x , alpha = 1)  // not a place
          %1 = add( %y, %0 ) return %1 }
    """)
    assert [n.op.name for n in graph.nodes] == ["leaky_relu", "add"]
    assert type(graph.nodes[0].attrs["alpha"]) is float
    assert [len(v.uses) for v in graph.inputs] == [1, 1]
    assert graph.nodes[0].loc == ()


def test_several_graphs() -> None:
    text = "graph @a(%x: f32[2]) {\n  return %x\n}\n// ===\ngraph @b(%y: f32[2]) {\n  return %y\n}\n"
    assert [g.name for g in parse_all(text)] == ["a", "b"]
    assert parse_all(" // nothing\n") == []
    with pytest.raises(ParseError, match="expected one graph, found 2"):
        parse(text)


def test_regions() -> None:
    text = """\
graph @g(%c: bool[], %x: f32[N]) {
  %0 = if(%c, %x) : f32[N] {  // node 'If_0' (If)
    graph @then(%x: f32[N]) {
      %0 = neg(%x) : f32[N]  // node 'Neg_0' (Neg)
      return %0
    }
    graph @else(%x: f32[N]) {
      return %x
    }
  }
  return %0
}
"""
    graph = parse(text)
    assert show(graph) == text
    (node,) = graph.nodes
    assert node.loc == (Location("If_0", "If"),)
    assert node.regions[0].nodes[0].loc == (Location("Neg_0", "Neg"),)


HEAD = "graph @g(%x: f32[2,3], %w: f32[5,4]) {\n"


@pytest.mark.parametrize(("body", "where", "message"), [
    ("  %0 = matmul(%x, %w)\n  return %0 }", "2:8", "matmul"),
    ("  %0 = matmull(%x, %w)\n  return %0 }", "2:8", "unknown op 'matmull'; did you mean 'matmul'?"),
    ("  %0 = neg(%xx)\n  return %0 }", "2:12", "unknown value %xx; did you mean %x?"),
    ("  %x = neg(%x)\n  return %x }", "2:3", "%x is defined twice"),
    ("  %0 = neg(%x) : f32[2,4]\n  return %0 }", "2:8", "neg gives f32[2,3], the text says f32[2,4]"),
    ("  %0, %1 = neg(%x)\n  return %0 }", "2:12", "neg has 1 results, 2 named"),
    ("  %0 = neg(%x) : f3[2,3]\n  return %0 }", "2:18", "'f3' is not a valid DType"),
    ("  %0 = neg(%x, axis=1)\n  return %0 }", "2:8", "neg has no attribute 'axis'"),
    ("  %0 = softmax(%x)\n  return %0 }", "2:8", "softmax needs attribute 'axis'"),
    ("  %0 = softmax(%x, axis=?)\n  return %0 }", "2:25", "not a value: '?'"),
    ("  %0 = neg(%x %w)\n  return %0 }", "2:15", "expected ','"),
    ("  %0 = neg(%x)\n  return %0", "3:12", "expected '}'"),
    ("  neg(%x)\n  return %0 }", "2:3", "expected a value, like %x"),
    ("  %0 = constant(value=dense<[1.0,2.0] : f32[3]>)\n return %0 }", "2:23", "2 elements for f32[3]"),
    ("  %0 = constant(value=dense<300 : u8[]>)\n return %0 }", "2:23", "300 does not fit u8"),
    ("  %0 = constant(value=dense<[1.0,1e39] : f32[2]>)\n return %0 }", "2:23", "1e39 does not fit f32"),
    ("  %0 = constant(value=dense<500.0 : f8e4m3fn[]>)\n return %0 }", "2:23", "500.0 does not fit f8e4m3fn"),
    ("  %0 = constant(value=dense<1.0 : f32[N]>)\n return %0 }", "2:23", "a constant of type f32[N]"),
    ("  %0 = constant(value=dense<[1.0,x] : f32[2]>)\n return %0 }", "2:23", "x"),
    ("  %0 = if(%x) { graph @t() { %1 = neg(%x) return %1 } }\n return %0 }", "2:39", "unknown value %x"),
])
def test_errors_point_at_the_place(body: str, where: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(HEAD + body, "bad.lir")
    text = str(caught.value)
    assert text.startswith(f"bad.lir:{where}: ")
    assert message in text
    _, source, caret = text.split("\n")[-3:]
    line, column = map(int, where.split(":"))
    assert source.removeprefix("  | ") == (HEAD + body).split("\n")[line - 1]
    assert len(caret) == len("  | ") + column


@given(st.text(alphabet='graph@%x:f32[N]{}()=,"\\ \n/-_.<>1', max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_parser(text: str) -> None:
    """Anything else than a graph is a ParseError (of the user's), never another exception."""
    for attempt in (text, f"graph @g(%x: f32[2]) {{ {text}", f"graph @g(%x: f32[2]) {{ %0 = neg({text}"):
        try:
            parse_all(attempt)
        except ParseError:
            pass


@given(graphs(depth=1), st.data())
@relaxed
def test_damaged_text_is_refused_or_read(graph: Graph, data: st.DataObject) -> None:
    text = show(graph)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from(["", "%", ",", "0", '"', "<", ")"])) + text[at + 1:]
    try:
        verify(parse(damaged))
    except ParseError:
        pass


# --- constants that the text leaves out -------------------------------------------------------------


def weighty() -> Graph:
    rng = np.random.default_rng(1)
    x = Value(TensorType(DType.F32, (sym("N"), 6)), name="x")
    w = ops.constant(value=Tensor.of(rng.standard_normal((6, 8)).astype(np.float32)))
    names = ops.constant(value=Tensor.of(np.array([str(i) for i in range(50)], dtype=object)))
    ones = ops.constant(value=Tensor.of(np.ones((64, 64), np.float32)))
    return Graph.of("weighty", (x,), (ops.matmul(x, w), names, ones))


def test_large_constants_lie_beside(tmp_path: Path) -> None:
    graph, file = weighty(), tmp_path / "a.lir"
    text = show(graph)
    assert text.count("dense<hash=") == 2
    assert "dense<1.0 : f32[64,64]>" in text
    assert save_constants(graph, beside(file)) == 2
    assert save_constants(graph, beside(file)) == 0
    again = parse(text, constants=load_constants(beside(file)))
    x = np.ones((2, 6), np.float32)
    for a, b in zip(evaluate(graph, x), evaluate(again, x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert beside(file).name == "a.constants.zip"


def test_constants_may_be_shared_by_a_folder(tmp_path: Path) -> None:
    save_constants(weighty(), tmp_path / "constants.zip")
    assert len(load_constants(beside(tmp_path / "03-fuse.lir"))) == 2
    assert load_constants(tmp_path / "nothing.zip") == {}


def test_a_full_disk_costs_no_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.constants.zip"
    save_constants(weighty(), file)
    before, other = file.read_bytes(), ops.constant(value=Tensor.of(np.arange(900.0)))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_constants(Graph.of("more", (), (other,)), file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_what_is_no_file_of_constants_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.constants.zip"
    for data in (b"", b"PK\x03\x04 and then nothing"):
        file.write_bytes(data)
        with pytest.raises(UsageError, match="holds no constants"):
            load_constants(file)
        with pytest.raises(UsageError, match="holds no constants"):
            save_constants(weighty(), file)
    with zipfile.ZipFile(file, "w") as made:
        for name, type in (("few", b"f32[9]"), ("odd", b"g99[1]")):
            entry = zipfile.ZipInfo(name)
            entry.comment = type
            made.writestr(entry, bytes(8))
    with pytest.raises(UsageError, match="g99"):
        load_constants(file)
    with zipfile.ZipFile(file, "w") as made:
        entry = zipfile.ZipInfo("few")
        entry.comment = b"f32[9]"
        made.writestr(entry, bytes(8))
    with pytest.raises(UsageError, match="holds no constants"):
        _ = load_constants(file)["few"].array
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    file.mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        load_constants(file)


def test_missing_constants_are_named_when_needed() -> None:
    graph = parse(show(weighty()), "dump.lir")
    tensor = next(t for t in constants_of(graph).values() if isinstance(t, Elided) and t.type.dtype is DType.F32)
    with pytest.raises(LeptonError, match=r"elements of constant [0-9a-f]{16} : f32\[6,8\] were left out") as caught:
        _ = tensor.array
    assert "dump.lir" in str(caught.value)
    assert "constants.zip" in str(caught.value)


def test_constants_of_another_type_are_refused() -> None:
    text = show(weighty())
    given = {digest: Tensor.of(np.zeros(3, np.float32)) for digest in constants_of(weighty())}
    with pytest.raises(ParseError, match=r"has type f32\[3\], the text says f32\[6,8\]"):
        parse(text, constants=given)


# --- other tools --------------------------------------------------------------------------------------


def test_dot_and_networkx() -> None:
    graph = parse("""graph @g(%c: bool[], %x: f32[N]) {
      %0 = mul(%x, %x)  // node 'Mul_0' (Mul)
      %1 = if(%c, %0) {
        graph @then(%x: f32[N]) { %0 = neg(%x) return %0 }
        graph @else(%x: f32[N]) { return %x }
      }
      return %1, %0 }""")
    dot = to_dot(graph)
    assert dot.startswith('digraph "g" {')
    assert dot.count("->") == 6 + 2 + 1
    assert dot.count("subgraph cluster_") == 2
    assert dot.count("{") == dot.count("}")
    net: Any = to_networkx(graph)
    assert net.edges["%x", "%0"]["slots"] == ((0, 0), (0, 1))
    assert net.nodes["%0"]["op"] == "mul"
    assert net.nodes["%0"]["loc"] == ("node 'Mul_0' (Mul)",)
    assert [r.graph["name"] for r in net.nodes["%1"]["regions"]] == ["then", "else"]
    assert sorted(net.predecessors("return 0")) == ["%1"]


def test_large_graphs_print_and_parse_in_linear_time() -> None:
    value = x = Value(TensorType(DType.F32, (2,)), name="x")
    for _ in range(3000):
        value = ops.neg(value)
    graph = Graph.of("long", (x,), (value,))
    assert len(parse(show(graph)).nodes) == 3000
    assert isinstance(graph.nodes[0], Node)
