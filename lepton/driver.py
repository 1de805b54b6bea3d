"""The compiler on one page: model file -> graph -> program -> objects -> a running model or a .so."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.build import Objects, build, plan_memory
from lepton.codegen.group import LowerOptions
from lepton.codegen.plan import check_supported, plan
from lepton.codegen.program import Program, Storage
from lepton.codegen.target import Target, parse_targets
from lepton.ir.core import Graph, clone
from lepton.ir.verify import verify
from lepton.passes.default import pipeline_for
from lepton.passes.pipeline import Pipeline, parse_pipeline

Source = Any  # a path, bytes, an onnx.ModelProto or a Graph
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Everything that decides what comes out; the command line and `lepton.compile` fill the same record."""

    target: str = "native"
    level: int = 2
    math: str = "default"
    dims: Mapping[str, int] = field(default_factory=dict)
    threads: int = 0                     # the artifact's default; 0: one per core it may use
    passes: str = ""                     # a pipeline in words, in place of the level's
    dump_dir: str = ""
    verify_each: bool = False
    time_passes: bool = False
    self_check: bool = False


@dataclass
class Report:
    """What a compile did, for the summary and the artifact's metadata."""

    seconds: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, progress: Progress | None) -> Iterator[None]:
        if progress is not None:
            progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def load_graph(source: Source, options: Options) -> Graph:
    """Read a model. Raises LeptonError for anything wrong with it."""
    from lepton import frontends

    if isinstance(source, Graph):
        return clone(source)
    return frontends.load(source, dims=options.dims)


def optimise(graph: Graph, target: Target, options: Options) -> Graph:
    """Run the passes of the level (or those asked for) in place."""
    if options.passes:
        passes: Pipeline = parse_pipeline(options.passes)
    else:
        passes = Pipeline(pipeline_for(target.name.split("-")[0], options.level, options.math))
    passes.instrumented(options).run(graph)
    return graph


def compile_objects(source: Source, options: Options, *, linked: bool, progress: Progress | None = None
                    ) -> tuple[Objects, list[tuple[Program, Target]], Report]:
    """model -> objects; one program per target."""
    report = Report()
    with report.stage("read", progress):
        original = load_graph(source, options)
        verify(original)
    programs: list[tuple[Program, Target]] = []
    for target in parse_targets(options.target):
        with report.stage("passes", progress):
            graph = optimise(clone(original), target, options)
            verify(graph)
            check_supported(graph)
        with report.stage("plan", progress):
            program = plan(graph, LowerOptions(target, options.math))
            plan_memory(program)
        programs.append((program, target))
    with report.stage("code", progress):
        words = [json.dumps(describe(original, p, t, options), sort_keys=True) for p, t in programs]
        objects = build(programs, words, options.threads, linked)
    return objects, programs, report


def describe(original: Graph, program: Program, target: Target, options: Options) -> dict[str, Any]:
    """The artifact's metadata: nothing in it may depend on the day, the path or the machine."""
    import llvmlite
    from llvmlite import binding as llvm

    return {
        "lepton": metadata.version("lepton-compiler"), "llvmlite": llvmlite.__version__,
        "llvm": ".".join(map(str, llvm.llvm_version_info)), "model": dict(sorted(original.metadata.items())),
        "target": target.name, "math": options.math, "level": options.level, "dims": dict(sorted(options.dims.items())),
        "statistics": statistics(program),
    }


def statistics(program: Program) -> dict[str, Any]:
    """Sizes and counts of a program, for summaries."""
    flops = sum((k.flops for k in program.kernels), 0)
    constants = {id(b): b.size for b in program.buffers if b.storage is Storage.CONSTANT}
    return {
        "kernels": len(program.kernels), "bodies": len({k.body for k in program.kernels}),
        "steps": len(program.steps), "flops": flops if isinstance(flops, int) else str(flops),
        "weights": sum(s for s in constants.values() if isinstance(s, int)),
        "workspace": program.workspace if program.is_static else None,
    }


def compile_to(source: Source, out: str | os.PathLike[str], progress: Progress | None = None, **options: Any) -> Report:
    """model -> out, a self-contained shared library. Raises LeptonError; an existing file is lost only to success."""
    from lepton.codegen.link import link

    settings = Options(**options)
    objects, programs, report = compile_objects(source, settings, linked=True, progress=progress)
    with report.stage("link", progress):
        link(objects.objects, objects.weights.pieces(), Path(out), objects.triple)
    report.statistics = {t.name: statistics(p) for p, t in programs}
    report.statistics["size"] = os.path.getsize(out)
    return report


def compile(source: Source, *, threads: int = 0, progress: Progress | None = None, **options: Any) -> Any:
    """model -> a Model running in this process. No linker, no file."""
    from lepton.artifact import from_program
    from lepton.codegen.jit import Loaded

    settings = Options(threads=threads, **options)
    objects, _programs, _report = compile_objects(source, settings, linked=False, progress=progress)
    loaded = Loaded(objects)
    return from_program(loaded.program, loaded.weights, keep_alive=loaded)
