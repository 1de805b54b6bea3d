"""Every case of every .lir file here, and proof that the harness sees what it is there to see."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.rewrite import pat, rule, var
from lepton.passes.base import PASSES, Pass, RewritePass
from lepton.passes.cases import read_cases, with_expected
from tests.golden import GoldenError, case_id, check_file, find_cases

CASES = find_cases(Path(__file__).parent)


@pytest.mark.parametrize(("file", "index"), CASES, ids=[case_id(*case) for case in CASES])
def test_pass(file: Path, index: int, update_golden: bool) -> None:
    check_file(file, index, update=update_golden)


def test_there_are_cases() -> None:
    assert CASES


# --- the harness itself -----------------------------------------------------------------------------

(x,) = var("x")

BEFORE = """// RUN: {run}
graph @g(%x: f32[N,3]) {{
  %0 = neg(%x)
  %1 = neg(%0)
  %y = relu(%1)
  return %y
}}
"""
AFTER = """graph @g(%x: f32[N,3]) {
  %y = relu(%x) : f32[N,3]
  return %y
}
"""


@pytest.fixture(autouse=True, scope="module")
def _passes() -> Iterator[None]:
    """Passes that are right, wrong and dishonest, known while this module's tests run."""
    define_rewriting_passes()
    define_plain_passes()
    yield
    for name in [name for name in PASSES if name.startswith("test-")]:
        del PASSES[name]


def define_rewriting_passes() -> None:
    @rule(pat(ops.neg)(pat(ops.neg)(x)))
    def twice(x: Value) -> Value:
        """neg(neg(x)) -> x"""
        return x

    @rule(pat(ops.relu)(x))
    def wrong(x: Value) -> Value:
        """relu(x) -> abs(x), which is wrong"""
        return ops.abs_(x)

    class Twice(RewritePass):
        name = "test-twice"
        rules = (twice,)

    class Wrong(RewritePass):
        name = "test-wrong"
        rules = (wrong,)


def define_plain_passes() -> None:
    class Liar(Pass):
        name = "test-liar"

        def run(self, graph: Graph) -> bool:
            PASSES["test-twice"]().run(graph)
            return False

    class Renames(Pass):
        name = "test-renames"

        def run(self, graph: Graph) -> bool:
            graph.outputs[0].name = "other"
            return True

    class Swaps(Pass):
        name = "test-swaps-inputs"

        def run(self, graph: Graph) -> bool:
            graph.inputs = graph.inputs[::-1]
            return True

    class Stale(Pass):
        name = "test-stale-type"

        def run(self, graph: Graph) -> bool:
            node = graph.outputs[0].producer
            assert isinstance(node, Node)
            node.result.type = node.result.tensor.with_shape((7, 7))
            return True


def write(folder: Path, text: str) -> Path:
    file = folder / "case.lir"
    file.write_text(text)
    return file


def test_right_expectation_passes(tmp_path: Path) -> None:
    check_file(write(tmp_path, BEFORE.format(run="test-twice") + "// ---\n" + AFTER), 0)


def test_no_change_is_said_shortly(tmp_path: Path) -> None:
    check_file(write(tmp_path, "// RUN: test-twice\n" + AFTER + "// ---\n...unchanged...\n"), 0)
    check_file(write(tmp_path, "// RUN: test-twice\n" + AFTER + "// ---\n" + AFTER), 0)
    with pytest.raises(GoldenError, match="expected"):
        check_file(write(tmp_path, BEFORE.format(run="test-twice") + "// ---\n...unchanged...\n"), 0)


def test_other_text_fails_with_a_diff(tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match=r"-  %y = tanh\(%x\)(.|\n)*\+  %y = relu\(%x\)"):
        check_file(write(tmp_path, BEFORE.format(run="test-twice") + "// ---\n" + AFTER.replace("relu", "tanh")), 0)


@pytest.mark.parametrize(("run", "message"), [
    ("test-wrong", "the answers changed: result 0: off by"),
    ("test-liar", "says that it changed nothing"),
    ("test-renames", "output %y has become %other"),
])
def test_broken_passes_are_seen_whatever_the_text(tmp_path: Path, run: str, message: str) -> None:
    with pytest.raises(GoldenError, match=message):
        check_file(write(tmp_path, BEFORE.format(run=run)), 0, update=True)


def test_broken_interfaces_are_seen(tmp_path: Path) -> None:
    text = "// RUN: test-swaps-inputs\ngraph @g(%x: f32[2], %y: f32[2]) {\n  %0 = sub(%x, %y)\n  return %0\n}\n"
    with pytest.raises(GoldenError, match="inputs or outputs were"):
        check_file(write(tmp_path, text), 0)


def test_broken_graphs_are_seen(tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match="has type f32"):
        check_file(write(tmp_path, BEFORE.format(run="test-stale-type")), 0)


def test_a_reproducer_becomes_a_test_by_updating(tmp_path: Path) -> None:
    text = BEFORE.format(run="test-twice") + "// ===\n// Nothing to do here.\n" + AFTER
    file = write(tmp_path, text)
    with pytest.raises(GoldenError, match="no expectation"):
        check_file(file, 0)
    check_file(file, 0, update=True)
    check_file(file, 1, update=True)
    written = file.read_text()
    assert [c.expected for c in read_cases(written)] == [AFTER.strip(), "...unchanged..."]
    assert written.startswith(BEFORE.format(run="test-twice"))
    check_file(file, 0)
    check_file(file, 1)


def test_errors_can_be_expected(tmp_path: Path) -> None:
    text = "// RUN: test-twise\n" + AFTER + "// ---\nerror: unknown pass 'test-twise'\n"
    check_file(write(tmp_path, text), 0)
    with pytest.raises(GoldenError, match="test-twise"):
        check_file(write(tmp_path, text.replace("error: unknown", "error: known")), 0)


def test_lines_of_errors_are_lines_of_the_file(tmp_path: Path) -> None:
    text = BEFORE.format(run="test-twice") + "// ===\ngraph @h(%x: f32[3]) {\n  return %z\n}\n"
    with pytest.raises(LeptonError, match=r"case.lir:10:10: unknown value %z"):
        check_file(write(tmp_path, text), 1)


def test_case_format() -> None:
    one = "// RUN: a\n// SIZES: N=3, M=4\n// ACCURACY: 0.5\nA\n// ---\nB\n"
    text = one + "\n// ===\n// RUN: b\n// ACCURACY: exact\nC\n// ---\nD\n"
    first, second = read_cases(text)
    assert (first.run, first.sizes, first.accuracy, first.expected) == ("a", (("N", 3), ("M", 4)), 0.5, "B")
    assert (second.run, second.sizes, second.accuracy, second.expected) == ("b", None, "exact", "D")
    assert with_expected(text, 0, "B") == text
    assert with_expected(text, 1, "D") == text
    for wrong in ("// SIZES: N\n", "// ACCURACY: high\n"):
        with pytest.raises(LeptonError):
            read_cases(wrong)


def test_hand_written_text_is_lenient() -> None:
    assert show(parse(AFTER.replace(" : f32[N,3]\n", "\n"))) == AFTER
