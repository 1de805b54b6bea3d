"""Passes as data, their spelling, the registry, and what instruments see."""
from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import Exit, LeptonError, ParseError, UnsupportedError, UsageError
from lepton.ir.parser import parse
from lepton.ir.printer import show
from lepton.ir.rewrite import pat, rule, var
from lepton.passes import instruments as tools
from lepton.passes import registry
from lepton.passes.base import PASSES, Math, Pass, RewritePass, count
from lepton.passes.cases import read_cases
from lepton.passes.pipeline import Pipeline, parse_pipeline

(x,) = var("x")
TEXT = """graph @g(%x: f32[N,3]) {
  %0 = neg(%x) : f32[N,3]
  %1 = neg(%0) : f32[N,3]
  %y = relu(%1) : f32[N,3]
  return %y
}
"""


@pytest.fixture(autouse=True, scope="module")
def _passes() -> Iterator[None]:
    define_rewriting_passes()
    define_plain_passes()
    yield
    for name in [name for name in PASSES if name.startswith("p-")]:
        del PASSES[name]


def define_rewriting_passes() -> None:
    @rule(pat(ops.neg)(pat(ops.neg)(x)))
    def twice(x: Value) -> Value:
        """neg(neg(x)) -> x"""
        return x

    @rule(pat(ops.relu)(x), accuracy="approximate")
    def loose(x: Value) -> Value:
        """relu(x) -> abs(x)"""
        return ops.abs_(x)

    @rule(pat(ops.relu)(x))
    def wrong(x: Value) -> Value:
        """relu(x) -> tanh(x)"""
        return ops.tanh(x)

    class Twice(RewritePass):
        """Drop pairs of negations."""

        name = "p-twice"
        rules = (twice, loose)

    class Wrong(RewritePass):
        name = "p-wrong"
        rules = (twice, wrong)


def define_plain_passes() -> None:
    @dataclass(frozen=True)
    class Configured(Pass):
        name = "p-configured"
        bits: int = 8
        share: float = 0.5
        per_channel: bool = False
        mode: Literal["a", "b"] = "a"
        names: tuple[str, ...] = ()
        limit: int | None = None
        text: str = ""
        math: Math = "default"

        def run(self, graph: Graph) -> bool:
            count("visits", self.bits)
            return False

    @dataclass(frozen=True)
    class Breaks(Pass):
        name = "p-breaks"
        how: str = "crash"

        def run(self, graph: Graph) -> bool:
            node = graph.nodes[0]
            match self.how:
                case "crash":
                    raise KeyError("oops")
                case "type":
                    node.result.type = node.result.tensor.with_shape((9,))
                case "user":
                    raise UnsupportedError("the model wants too much", help="ask for less")
            return True


def run(spec: str, *instruments: tools.Instrument, max_passes: int | None = None, text: str = TEXT) -> Graph:
    return Pipeline(parse_pipeline(spec).passes, instruments).run(parse(text), max_passes=max_passes)


# --- spelling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [
    "p-twice", "p-twice,p-configured,p-twice", "p-configured{bits=4}", "p-configured{share=0.25,per-channel=true}",
    "p-configured{mode=b,names=(one,two)}", "p-configured{names=(one)}", "p-configured{limit=3}",
    "p-twice{math=strict}", "",
    'p-configured{text="with, {all} \\"signs\\""}', 'p-configured{text="none"}', "p-configured{text=a/b-c.d}",
])
def test_pipelines_print_back(spec: str) -> None:
    assert str(parse_pipeline(spec)) == spec
    assert parse_pipeline(str(parse_pipeline(spec))).passes == parse_pipeline(spec).passes


def test_spec_text_is_lenient() -> None:
    assert str(parse_pipeline(" p-twice , p-configured { bits = 4 , per-channel } ")) == \
        "p-twice,p-configured{bits=4,per-channel=true}"
    assert str(parse_pipeline("p-configured{bits=8,limit=none,names=()}")) == "p-configured"


@pytest.mark.parametrize(("spec", "message"), [
    ("p-twise", "unknown pass 'p-twise'; did you mean 'p-twice'?"),
    ("p-configured{bit=3}", "pass 'p-configured' has no option 'bit'"),
    ("p-configured{bits=many}", "option bits=many"),
    ("p-configured{mode=c}", "expected one of a, b"),
    ("p-configured{per-channel=maybe}", "expected true or false"),
    ("p-configured{bits=3", "expected ','"),
    ("p-twice p-twice", "expected ','"),
    ("p-twice,,p-twice", "a pass's name"),
])
def test_bad_specs_are_the_users_fault(spec: str, message: str) -> None:
    with pytest.raises((UsageError, ParseError), match=re.escape(message)):
        parse_pipeline(spec)


def test_math_goes_to_the_passes_that_ask() -> None:
    pipeline = parse_pipeline("p-twice,p-configured,p-breaks", "fast")
    assert str(pipeline) == "p-twice{math=fast},p-configured{math=fast},p-breaks"
    with pytest.raises(UsageError, match="unknown math policy"):
        pipeline.with_math("quick")  # type: ignore[arg-type]


@pytest.mark.parametrize(("math", "ops_left"), [("strict", ["relu"]), ("default", ["relu"]), ("fast", ["abs"])])
def test_math_chooses_the_rules(math: Math, ops_left: list[str]) -> None:
    graph = parse_pipeline("p-twice", math).run(parse(TEXT))
    assert [n.op.name for n in graph.nodes] == ops_left


# --- finding passes -----------------------------------------------------------------------------------


def test_two_passes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="pass 'p-twice' is defined in"):
        type("Other", (Pass,), {"name": "p-twice", "__module__": "elsewhere"})


def test_own_passes_are_imported_on_demand() -> None:
    assert registry.find("cse").__module__ == "lepton.passes.cse"
    for name, pass_ in registry.load_all().items():
        assert parse_pipeline(name).passes == [pass_()]
        assert (pass_.__doc__ or name.startswith("p-")), f"{name} says nothing about itself"


def test_passes_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "p-plugged"

        def load(self) -> type[Pass]:
            return type("Plugged", (Pass,), {"name": "p-plugged", "run": lambda self, graph: False})

    def entries(group: str, name: str | None = None) -> list[Entry]:
        assert group == "lepton.passes"
        return [Entry()] if name in (None, "p-plugged") else []

    monkeypatch.setattr(registry, "entry_points", entries)
    assert registry.find("p-plugged").name == "p-plugged"


# --- running and watching -----------------------------------------------------------------------------


def test_passes_run_in_order_and_can_be_cut_short() -> None:
    timing = tools.Timing(out=None)
    run("p-configured,p-twice,p-configured{bits=1}", timing, max_passes=2)
    assert [name for name, seconds in timing.rows if seconds >= 0] == ["p-configured", "p-twice"]


def test_leftover_readers_go_before_the_first_pass() -> None:
    graph = parse(TEXT)
    ops.exp(graph.nodes[0].result)
    parse_pipeline("").run(graph)
    assert len(graph.nodes[0].result.uses) == 1


def test_timing_prints() -> None:
    out = io.StringIO()
    run("p-twice", tools.Timing(out=out))
    assert re.fullmatch(r" +\d+\.\d\d ms  p-twice\n +\d+\.\d\d ms  total\n", out.getvalue())


def test_statistics() -> None:
    statistics = tools.Statistics()
    run("p-twice,p-configured{bits=3},p-twice", statistics)
    assert str(statistics) == "p-twice: twice ×1; neg -2\np-configured{bits=3}: visits ×3\np-twice: nothing"


def test_dumps_are_numbered_and_only_of_changes(tmp_path: Path) -> None:
    run("p-configured,p-twice,p-twice", tools.Dump(tmp_path / "d"))
    assert sorted(f.name for f in (tmp_path / "d").iterdir()) == ["00-input.lir", "02-p-twice.lir"]
    assert show(parse((tmp_path / "d" / "00-input.lir").read_text())) == TEXT


def test_verifying_names_the_pass() -> None:
    message = r"internal error in pass 'p-breaks\{how=type\}': (neg|relu) has type"
    with pytest.raises(LeptonError, match=message) as caught:
        run("p-twice,p-breaks{how=type}", tools.VerifyEach())
    assert caught.value.exit is Exit.REFUSED
    assert "this is a bug in Lepton" in str(caught.value)
    run("p-twice,p-breaks{how=type}")  # nobody looks


def test_self_check_names_pass_and_rule() -> None:
    run("p-twice", tools.SelfCheck())
    with pytest.raises(LeptonError, match=r"error in pass 'p-wrong': rule wrong changed the meaning: result 0"):
        run("p-twice,p-wrong", tools.SelfCheck())


def test_what_a_pass_says_to_the_user_is_not_a_bug(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the model wants too much"):
        run("p-breaks{how=user}", tools.Reproducer(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_a_reproducer(tmp_path: Path) -> None:
    with pytest.raises(LeptonError, match=r"internal error in pass 'p-breaks': KeyError: 'oops'") as caught:
        run("p-twice,p-breaks,p-twice", tools.Reproducer(tmp_path))
    file = tmp_path / "lepton-repro-p-breaks.lir"
    assert f"reproduce with `lepton-opt {file}`" in str(caught.value)
    assert re.search(r"--> .*test_pipeline\.py:\d+\n", str(caught.value))
    (case,) = read_cases(file.read_text())
    assert case.run == "p-breaks"
    graph = parse(case.before)
    assert [n.op.name for n in graph.nodes] == ["relu"]  # as it was before the pass that crashed
    with pytest.raises(LeptonError, match="p-breaks"):
        parse_pipeline(case.run).run(graph)


def test_a_reproducer_carries_constants(tmp_path: Path) -> None:
    from lepton.ir.sidecar import beside, load_constants

    text = TEXT.replace("  return %y", "  %k = constant(value=dense<[{}] : f32[40]>)\n  return %y, %k".format(
        ",".join(f"{i}.5" for i in range(40))))
    with pytest.raises(LeptonError, match="oops"):
        run("p-breaks", tools.Reproducer(tmp_path), text=text)
    file = tmp_path / "lepton-repro-p-breaks.lir"
    assert "hash=" in file.read_text()
    graph = parse(file.read_text(), constants=load_constants(beside(file)))
    assert graph.nodes[-1].attrs["value"].array[39] == 39.5


def test_a_reproducer_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LeptonError, match=r"oops") as caught:
        run("p-breaks", tools.Reproducer(tmp_path / "file" / "folder"))
    assert "no reproducer could be written" in str(caught.value)


def test_settings_choose_the_instruments(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Settings:
        verify_each: bool = False
        time_passes: bool = False
        self_check: bool = False
        dump_dir: str = ""

    def kinds(**settings: Any) -> set[str]:
        return {type(i).__name__ for i in Pipeline([]).instrumented(Settings(**settings)).instruments}

    assert kinds() == {"Reproducer"}
    assert kinds(verify_each=True, time_passes=True, self_check=True, dump_dir=str(tmp_path)) == {
        "Reproducer", "VerifyEach", "Timing", "SelfCheck", "Dump"}


@pytest.mark.parametrize(("spec", "guilty"), [
    ("p-twice,p-configured,p-wrong,p-twice,p-configured", 3),
    ("p-wrong", 1),
    ("p-twice,p-twice,p-twice,p-breaks", 4),
    ("p-twice,p-breaks{how=type},p-configured", 2),
])
def test_bisect_finds_the_guilty_pass(spec: str, guilty: int) -> None:
    pipeline, graph = parse_pipeline(spec), parse(TEXT)
    blame = tools.bisect(pipeline, graph)
    assert blame is not None
    assert blame.step == (guilty, pipeline.passes[guilty - 1])
    assert show(graph) == TEXT


def test_bisect_of_a_good_pipeline() -> None:
    assert tools.bisect(parse_pipeline("p-twice,p-configured"), parse(TEXT)) is None
    assert tools.bisect(parse_pipeline(""), parse(TEXT)) is None
