"""What watches a pipeline: verify, dump, time, count, check the meaning, write a reproducer, find the guilty pass."""
from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from lepton.ir.core import Graph, clone
from lepton.ir.diagnostics import Exit, LeptonError, VerifyError
from lepton.ir.evaluate import evaluate
from lepton.ir.files import disk_errors
from lepton.ir.printer import show
from lepton.ir.rewrite import Accuracy, apply
from lepton.ir.sample import difference, random_run
from lepton.ir.sidecar import SUFFIX, save_constants
from lepton.ir.verify import verify
from lepton.passes.base import LOADED, Pass, RewritePass, counting

if TYPE_CHECKING:
    from lepton.passes.pipeline import Pipeline


class Step(NamedTuple):
    """One pass of a run; `number` counts from 1."""

    number: int
    pass_: Pass


class Instrument:
    """Callbacks around a pipeline's passes; each may raise to stop the run."""

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        """Before the first pass."""

    def before(self, step: Step, graph: Graph) -> None:
        """Before a pass."""

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """After a pass; in the opposite order of `before`."""

    def failed(self, step: Step, error: Exception) -> str:
        """A pass broke. The graph may be in any state. The text becomes part of the error's help."""
        return ""

    def end(self, graph: Graph) -> None:
        """After the last pass."""


class VerifyEach(Instrument):
    """Verify the graph at the beginning and after each pass, also if the pass says it changed nothing."""

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        verify(graph)

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        verify(graph)


@dataclass
class Dump(Instrument):
    """Write `00-input.lir`, and `03-fuse.lir` for each pass that changed something; constants in one zip beside."""

    folder: Path

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.write("00-input", graph)

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        if changed:
            self.write(f"{step.number:02d}-{step.pass_.name}", graph)

    def write(self, name: str, graph: Graph) -> None:
        file = self.folder / f"{name}.lir"
        with disk_errors(file):
            file.write_text(show(graph), encoding="utf-8")
        save_constants(graph, self.folder / SUFFIX.removeprefix("."))


@dataclass
class Timing(Instrument):
    """Seconds spent in each pass, in `rows`; printed at the end unless `out` is None."""

    out: TextIO | None = field(default_factory=lambda: sys.stderr)
    rows: list[tuple[str, float]] = field(default_factory=list)
    _start: float = 0.0

    def before(self, step: Step, graph: Graph) -> None:
        self._start = time.perf_counter()

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        self.rows.append((str(step.pass_), time.perf_counter() - self._start))

    def end(self, graph: Graph) -> None:
        if self.out is not None:
            total = sum(seconds for _, seconds in self.rows)
            for name, seconds in (*self.rows, ("total", total)):
                print(f"{seconds * 1e3:10.2f} ms  {name}", file=self.out)


@dataclass
class Statistics(Instrument):
    """What each pass did: how its rules fired, and how the number of nodes changed, by op."""

    rows: list[tuple[str, dict[str, int], dict[str, int]]] = field(default_factory=list)  # pass, counts, change by op
    _nodes: Counter[str] = field(default_factory=Counter)
    _open: AbstractContextManager[Counter[str]] | None = None
    _counts: Counter[str] = field(default_factory=Counter)

    def before(self, step: Step, graph: Graph) -> None:
        self._nodes = Counter(node.op.name for node in graph.walk())
        self._open = counting()
        self._counts = self._open.__enter__()

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        self.failed(step, RuntimeError())
        now = Counter(node.op.name for node in graph.walk())
        change = {op: now[op] - self._nodes[op] for op in sorted(now | self._nodes) if now[op] != self._nodes[op]}
        self.rows.append((str(step.pass_), dict(self._counts), change))

    def failed(self, step: Step, error: Exception) -> str:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
        return ""

    def __str__(self) -> str:
        texts = []
        for name, counts, change in self.rows:
            fired = ", ".join(f"{what} ×{n}" for what, n in counts.items())
            nodes = ", ".join(f"{op} {n:+d}" for op, n in change.items())
            texts.append(f"{name}: {'; '.join(t for t in (fired, nodes) if t) or 'nothing'}")
        return "\n".join(texts)


class SelfCheck(Instrument):
    """Run the graph on random inputs at the beginning and after each pass that changed it; the answers must agree.

    When they do not and the pass consists of rules, it is run again rule by rule to name the wrong one."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.inputs: list[Any] = []
        self.want: list[Any] = []
        self.previous: Graph | None = None

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        self.inputs, self.want = random_run(graph, self.seed)

    def before(self, step: Step, graph: Graph) -> None:
        self.previous = clone(graph)

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        got = evaluate(graph, *self.inputs)
        if text := difference(self.want, got, tolerance_of(step.pass_)):
            if isinstance(step.pass_, RewritePass) and self.previous is not None:
                apply(self.previous, step.pass_.allowed, check=True)
            raise VerifyError(f"the answers changed: {text}", exit=Exit.INTERNAL)
        self.want = got  # each pass may move them a little


def plugin_of(pass_: Pass) -> Path | None:
    """The plug-in that a pass comes from."""
    return source_of(pass_) if type(pass_).__module__.startswith(LOADED) else None


def source_of(pass_: Pass) -> Path | None:
    """The Python file that a pass is written in."""
    file = getattr(sys.modules.get(type(pass_).__module__), "__file__", None)
    return Path(file).resolve() if file else None


class Reproducer(Instrument):
    """When a pass breaks, write the graph as it was before that pass, in the form of a golden test.

    Only the graph at the beginning is kept; the passes before the failing one are run again on it."""

    MAX_BYTES = 64 << 20

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start: Graph | None = None
        self.passes: Sequence[Pass] = ()

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        self.start, self.passes = clone(graph), passes

    def failed(self, step: Step, error: Exception) -> str:
        assert self.start is not None
        graph, spec = clone(self.start), str(step.pass_)
        try:
            for pass_ in self.passes[:step.number - 1]:
                pass_.run(graph)
            text = show(graph)
        except Exception:  # then the passes before it break too when run alone: give all of them
            graph, spec = self.start, ",".join(map(str, self.passes[:step.number]))
            text = show(graph)
        path = self.folder / f"lepton-repro-{step.pass_.name}.lir"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"// RUN: {spec}\n// {_one_line(error)}\n{text}", encoding="utf-8")
            left_out = self.constants(graph, path)
        except (OSError, LeptonError) as problem:
            return f"no reproducer could be written: {problem}"
        loaded = "".join(f" --load-plugin {file}" for file in dict.fromkeys(map(plugin_of, self.passes)) if file)
        return f"reproduce with `lepton-opt{loaded} {path}`{left_out}"

    def constants(self, graph: Graph, path: Path) -> str:
        total = sum(t.nbytes for n in graph.walk() if (t := n.attrs.get("value")) is not None)
        if total > self.MAX_BYTES:
            return f" (without its {total >> 20} MiB of constants)"
        save_constants(graph, path.with_name(path.stem + SUFFIX))
        return ""


class Blame(NamedTuple):
    """The first pass after which the answers are wrong or which breaks."""

    step: Step
    message: str


def bisect(pipeline: Pipeline, graph: Graph, seed: int = 0) -> Blame | None:
    """Find the pass that breaks or changes the meaning, by running fewer and fewer passes; None if all is well.

    Looks at log2(passes) prefixes of the pipeline; the graph itself stays as it is."""
    inputs, want = random_run(graph, seed)

    def problem(count: int) -> str:
        copy = clone(graph)
        tolerances = [tolerance_of(p) for p in pipeline.passes[:count]]
        loosest = max(tolerances, key=_ORDER.index)
        try:
            pipeline.run(copy, max_passes=count)
            verify(copy)
            return difference(want, evaluate(copy, *inputs), loosest)
        except Exception as error:
            return _one_line(error)

    low, high = 0, len(pipeline.passes)  # `low` passes are fine, `high` are not
    if not high or not (message := problem(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if text := problem(middle):
            high, message = middle, text
        else:
            low = middle
    return Blame(Step(high, pipeline.passes[high - 1]), message)


_ORDER: tuple[Accuracy, ...] = ("exact", "reassociating", "approximate")


def tolerance_of(pass_: Pass) -> Accuracy:
    """How far a pass may move the results: its class's word, or what its math policy says."""
    match getattr(pass_, "math", None):
        case "fast":
            return "approximate"
        case "strict":
            return "exact"
        case _:
            return pass_.accuracy


def _one_line(error: Exception) -> str:
    text = error.message if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"
    return text.split("\n")[0]
