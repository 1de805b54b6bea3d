"""`--emit`: the forms a model takes on its way, as text or objects."""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton.codegen.target import parse_targets
from lepton.debug import program_text
from lepton.driver import (
    Compiled,
    Options,
    Progress,
    Report,
    Source,
    checked,
    compile_objects,
    count_ops,
    lower,
    optimise,
    pipelines,
)
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.files import disk_errors, replacing
from lepton.ir.sidecar import SUFFIX, save_constants


@dataclass(frozen=True)
class Form:
    """One file's worth: `suffix` tells several apart (the target's name)."""

    suffix: str
    content: str | bytes
    graph: Graph | None = None     # of text IR: whose large constants go to a file of their own

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


@dataclass(frozen=True)
class Emitted:
    """The forms of a model, and the report of the compile so far."""

    forms: list[Form]
    report: Report


def graphs(source: Source, options: Options, progress: Progress) -> Emitted:
    """Text IR after all passes, one for each target."""
    from lepton.ir.printer import show

    done = lower(source, options, progress)
    named = zip(done.graphs, (t.name for _, t in done.programs), strict=True)
    return Emitted([Form(name, show(graph), graph) for graph, name in named], done.report)


def loops(source: Source, options: Options, progress: Progress) -> Emitted:
    """The program's steps and each distinct kernel body, for each target."""
    done = lower(source, options, progress)
    return Emitted([Form(target.name, program_text(program)) for program, target in done.programs], done.report)


def modules(source: Source, options: Options, progress: Progress) -> Emitted:
    """LLVM IR: one module for each target, and the tables."""
    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    return Emitted([Form(n, text) for n, text in zip(_names(done), done.objects.llvm, strict=True)], done.report)


def assembly(source: Source, options: Options, progress: Progress) -> Emitted:
    """What LLVM makes of the modules, as assembly."""
    from lepton.codegen.llvm.machine import compile_module

    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    targets = [t for _, t in done.programs] + [done.programs[0][1]]
    return Emitted([Form(name, compile_module(text, target, asm=True))
                    for name, text, target in zip(_names(done), done.objects.llvm, targets, strict=True)], done.report)


def objects(source: Source, options: Options, progress: Progress) -> Emitted:
    """Relocatable objects; the weights are the symbol lpt_weights that the linker brings."""
    done = compile_objects(source, options, linked=True, progress=progress)
    assert done.objects is not None
    return Emitted([Form(n, data) for n, data in zip(_names(done), done.objects.objects, strict=True)], done.report)


def _names(done: Compiled) -> list[str]:
    return [t.name for _, t in done.programs] + ["tables"]


def model(source: Source, options: Options, progress: Progress) -> Emitted:
    """ONNX again, of the graph as it was read and went through the passes that were asked for; none of the level's,
    which make what ONNX has no operators for."""
    from lepton.frontends.onnx.export import to_onnx

    report = Report()
    with report.stage("read", progress):
        graph = checked(source, options)
        report.ops_before = count_ops(graph)
    if options.passes.strip():
        with report.stage("passes", progress):
            graph = optimise(graph, pipelines(parse_targets(options.target), options)[0], options)
    with report.stage("write", progress):
        return Emitted([Form("", to_onnx(graph).SerializeToString(deterministic=True))], report)


def device_text(source: Source, options: Options, progress: Progress) -> Emitted:
    """CUDA C: all kernels of each CUDA target, as NVRTC gets them. Needs no NVRTC."""
    from lepton.codegen.cuda.device import device_code

    done = lower(source, options, progress)
    found = [Form(target.name, device_code(program, target).source) for program, target in done.programs
             if target.family == "cuda"]
    if not found:
        raise UsageError("--emit cuda needs a CUDA target", help="as in --target cuda-sm90")
    return Emitted(found, done.report)


FORMS: dict[str, Callable[[Source, Options, Progress], Emitted]] = {
    "onnx": model, "graph": graphs, "loops": loops, "llvm": modules, "asm": assembly, "obj": objects,
    "cuda": device_text,
}


def write(forms: Sequence[Form], out: str) -> list[Path]:
    """One form goes to `out`; of several, each to `out` with its suffix before the extension ("-": all, in turn, to
    stdout). The files written; each is replaced only by a complete one. Raises LeptonError."""
    if out == "-":
        for form in forms:
            sys.stdout.write(str(form.content))
        sys.stdout.flush()
        return []
    path = Path(out)
    names = [path if len(forms) == 1 else path.with_name(f"{path.stem}.{f.suffix}{path.suffix}") for f in forms]
    for name, form in zip(names, forms, strict=True):
        if form.graph is not None:
            with disk_errors(name):
                save_constants(form.graph, name.with_name(name.stem + SUFFIX))
        with replacing(name) as partial:
            partial.write_bytes(form.data)
    return names
