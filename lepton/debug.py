"""LEPTON_DEBUG: what a compile thinks, on stderr. 1: stages and their times; 2: also the graph after each pass that
changed it; 3: also the program and its kernels; 4: also LLVM's text."""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from lepton.codegen.build import Objects
from lepton.codegen.kernel import Body
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.loops_text import print_kernel
from lepton.codegen.program import Program
from lepton.codegen.target import Target
from lepton.ir.core import Graph
from lepton.ir.printer import show
from lepton.knobs import DEBUG
from lepton.passes.base import Pass
from lepton.passes.instruments import Instrument, Step


class ShowChanges(Instrument):
    """Print the graph at the beginning and after each pass that changed it."""

    def begin(self, graph: Graph, passes: Sequence[Pass]) -> None:
        _tell("graph as read", show(graph))

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        if changed:
            _tell(f"graph after pass {step.number}, {step.pass_}", show(graph))


def instruments() -> list[Instrument]:
    """What the level adds to a pipeline."""
    return [ShowChanges()] if DEBUG.level >= 2 else []


def show_program(program: Program, target: Target) -> None:
    if DEBUG.level >= 3:
        _tell(f"program for {target.name}", program_text(program))


def show_objects(objects: Objects) -> None:
    if DEBUG.level >= 4:
        for text in objects.llvm:
            _tell("LLVM IR", text)


def show_times(seconds: Mapping[str, float]) -> None:
    if DEBUG.level >= 1:
        for stage, spent in seconds.items():
            print(f"[lepton] {spent * 1e3:9.2f} ms  {stage}", file=sys.stderr)


def _tell(title: str, text: str) -> None:
    print(f"[lepton] {title}\n{text.rstrip()}", file=sys.stderr)


def program_text(program: Program) -> str:
    """The steps with the numbers of their kernels' bodies, then each body: loop kernels as loop IR, templates by their
    parameters."""
    number: dict[Body, int] = {}
    names: list[dict[str, None]] = []
    lines = []
    for line, step in zip(str(program).splitlines(), program.steps, strict=True):
        if step.kernel is not None:
            i = number.setdefault(step.kernel.body, len(number))
            names += [{}] if i == len(names) else []
            names[i][step.kernel.name] = None
            line += f"  // body {i}"
        lines.append(line)
    for body, i in number.items():
        text = print_kernel(body.kernel) if isinstance(body, LoopBody) else repr(body)
        lines.append(f"\n// body {i}: {', '.join(names[i])}\n{text.rstrip()}")
    return "\n".join(lines) + "\n"
