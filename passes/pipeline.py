"""A pipeline is a list of passes, written "canonicalise,fold{max-bytes=64},cse", with instruments around it.

    parse_pipeline("fold,cse").run(graph)
    Pipeline([Fold(), Cse()], [VerifyEach(), Timing()]).run(graph)
"""
from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lepton.ir.core import Graph
from lepton.ir.diagnostics import Exit, LeptonError, TypeRuleError, UsageError, VerifyError, line_in
from lepton.ir.rewrite import sweep
from lepton.ir.scanner import Scanner
from lepton.passes import instruments as tools
from lepton.passes.base import ALLOWED, Math, Pass
from lepton.passes.instruments import Instrument, Step
from lepton.passes.registry import find

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Settings(Protocol):
    """The options of a compile that are about watching the passes."""

    @property
    def verify_each(self) -> bool: ...
    @property
    def time_passes(self) -> bool: ...
    @property
    def self_check(self) -> bool: ...
    @property
    def dump_dir(self) -> str: ...


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, and the instruments that watch them."""

    passes: Sequence[Pass]
    instruments: Sequence[Instrument] = ()

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def with_math(self, policy: Math) -> Pipeline:
        """The same with the math policy given to every pass that asks for one. Raises UsageError."""
        if policy not in ALLOWED:
            raise UsageError(f"unknown math policy {policy!r}", help=f"one of {', '.join(ALLOWED)}")
        return dataclasses.replace(self, passes=[_with_math(p, policy) for p in self.passes])

    def instrumented(self, settings: Settings) -> Pipeline:
        """The same with the instruments that the settings ask for, and a reproducer in case a pass crashes."""
        wanted: list[Instrument] = [tools.Reproducer(Path(settings.dump_dir or "."))]
        if settings.verify_each:
            wanted.append(tools.VerifyEach())
        if settings.self_check:
            wanted.append(tools.SelfCheck())
        if settings.dump_dir:
            wanted.append(tools.Dump(Path(settings.dump_dir)))
        if settings.time_passes:
            wanted.append(tools.Timing())
        return dataclasses.replace(self, instruments=[*self.instruments, *wanted])

    def run(self, graph: Graph, *, max_passes: int | None = None) -> Graph:
        """Run the passes (the first `max_passes` of them) on the graph, in place; the graph.

        Raises LeptonError: what a pass says to the user, or which pass broke and how to reproduce it."""
        passes = self.passes[:max_passes]
        sweep(graph)
        for instrument in self.instruments:
            instrument.begin(graph, passes)
        for number, pass_ in enumerate(passes, 1):
            self._step(Step(number, pass_), graph)
        for instrument in self.instruments:
            instrument.end(graph)
        return graph

    def _step(self, step: Step, graph: Graph) -> None:
        try:
            for instrument in self.instruments:
                instrument.before(step, graph)
            changed = step.pass_.run(graph)
            for instrument in reversed(self.instruments):
                instrument.after(step, graph, changed)
        except Exception as error:
            if not _is_bug(error):
                raise
            helps = [text for instrument in self.instruments if (text := instrument.failed(step, error))]
            raise self._broken(step, error, "; ".join(helps)) from error

    def _broken(self, step: Step, error: Exception, help: str) -> LeptonError:
        """What a bug in a pass is told as: refused where a verification that was asked for found it."""
        said = error.message if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"
        where, file, source = getattr(error, "where", None), tools.plugin_of(step.pass_), tools.source_of(step.pass_)
        if file is not None and not isinstance(error, LeptonError):
            return UsageError(f"in pass '{step.pass_}' of {file}{line_in(error, file)}: {said}", help=help)
        if source is not None and not isinstance(error, LeptonError) and (line := line_in(error, source)):
            where = f"{source}{line}"
        asked = any(isinstance(i, tools.VerifyEach | tools.SelfCheck) for i in self.instruments)
        return LeptonError(f"internal error in pass '{step.pass_}': {said}", where=where,
                           exit=Exit.REFUSED if asked and isinstance(error, VerifyError) else Exit.INTERNAL,
                           help=f"this is a bug in {file or 'Lepton'}{'; ' if help else ''}{help}")


def parse_pipeline(text: str, math: Math | None = None) -> Pipeline:
    """The inverse of `str(pipeline)`; an option without a value is true. Raises UsageError, ParseError."""
    scanner = Scanner(text, "passes")
    passes: list[Pass] = []
    while not scanner.end():
        if passes:
            scanner.expect(",")
        name = scanner.need(_NAME, "a pass's name")[0]
        options = dict(_options(scanner)) if scanner.take("{") else {}
        passes.append(find(name).of(options))
    pipeline = Pipeline(passes)
    return pipeline if math is None else pipeline.with_math(math)


def _options(scanner: Scanner) -> Iterator[tuple[str, str]]:
    while not scanner.take("}"):
        name = scanner.need(_NAME, "an option's name")[0]
        yield name, scanner.until_delimiter() if scanner.take("=") else "true"
        if not scanner.peek("}"):
            scanner.expect(",")


def _with_math(p: Pass, policy: Math) -> Pass:
    change: dict[str, Any] = {"math": policy}
    return dataclasses.replace(p, **change) if any(f.name == "math" for f in dataclasses.fields(p)) else p


def _is_bug(error: Exception) -> bool:
    """Passes never see a wrong model: the frontend has checked it. A graph that stops fitting together is our fault."""
    return (not isinstance(error, LeptonError) or error.exit is Exit.INTERNAL
            or isinstance(error, VerifyError | TypeRuleError))
