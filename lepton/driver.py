"""The compiler on one page: model file -> graph -> program -> objects -> a running model or a .so."""
from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lepton
from lepton import debug, plugins, ranges
from lepton.bundle import compile_models
from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.build import Objects, build, plan_memory
from lepton.codegen.cuda import lowering as _cuda_lowerings  # noqa: F401  (fills those of the family)
from lepton.codegen.cuda.device import DeviceCode, compiled, device_code
from lepton.codegen.group import LowerOptions
from lepton.codegen.lower.coded import held
from lepton.codegen.plan import check_supported, plan
from lepton.codegen.program import Program, Storage
from lepton.codegen.schedule import Table
from lepton.codegen.target import Target, parse_targets, runs_here
from lepton.ir import ops
from lepton.ir.core import Graph, clone
from lepton.ir.diagnostics import Exit, LeptonError, ParseError, ResourceError, UsageError, VerifyError
from lepton.ir.files import check_destination
from lepton.ir.mapped import forget_pages
from lepton.ir.structure import Spec
from lepton.ir.verify import verify
from lepton.passes.base import Math
from lepton.passes.default import pipeline_for
from lepton.passes.halves import Precision
from lepton.passes.instruments import Reproducer
from lepton.passes.pipeline import Pipeline, parse_pipeline
from lepton.ranges import Dims
from lepton.reproducer import kept
from lepton.sizes import check_sizes, warn_of_nothing
from lepton.terminal import not_installed
from lepton.tuning import cache as tuning_cache
from lepton.tuning import search as tuning

if TYPE_CHECKING:
    from lepton.artifact import Model

Source = Any  # a path, bytes, an onnx.ModelProto or a Graph
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Everything that decides what comes out; the command line and `lepton.compile` fill the same record."""

    target: str = "native"               # rows of codegen/target.py, separated by commas
    level: int = 2                       # -O0 … -O3
    math: Math = "default"               # strict | default | fast
    precision: Precision = "f32"         # f32 | bf16 | fp16: of what f32 products read
    dims: Dims = field(default_factory=dict)  # a size, or (least, usual, largest)
    values: Mapping[str, Any] = field(default_factory=dict)  # contents of inputs that leave the signature
    structure: Mapping[str, Spec] = field(default_factory=dict)  # what sequences and optionals among the inputs hold
    threads: int = 0                     # the artifact's default; 0: one per core it may use
    passes: str = ""                     # a pipeline in words, in place of the level's
    seed: int = 0                        # what random draws start from in a new session
    tune: float = 0.0                    # seconds to measure how kernels are best cut; 0: not at all
    tune_cache: str = ""                 # the file of what was measured; "": with `tune`, one of the user's
    plugins: tuple[str, ...] = ()        # Python files that bring passes, operators, functions
    dump_dir: str = ""
    verify_each: bool = False
    time_passes: bool = False
    self_check: bool = False
    repro_dir: str = ""                  # where a bug's reproducer goes; "": dump_dir, or here

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Options from keywords. Raises UsageError for unknown names and values out of range."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(options.keys() - known):
            raise UsageError(f"unknown option {', '.join(unknown)}", help=f"known: {', '.join(sorted(known))}")
        made = cls(**options)
        _check_kinds(made, cls())
        if made.level not in (0, 1, 2, 3):
            raise UsageError(f"optimisation level {made.level}; there are 0, 1, 2 and 3")
        if made.math not in ("strict", "default", "fast"):
            raise UsageError(f"math policy {made.math!r}; there are strict, default and fast")
        if made.precision not in ("f32", "bf16", "fp16"):
            raise UsageError(f"precision {made.precision!r}; there are f32, bf16 and fp16")
        if not 0 <= made.seed < 2**64:
            raise UsageError(f"seed {made.seed}; it must fit 64 bits without a sign")
        if not made.tune >= 0:  # nor NaN
            raise UsageError(f"{made.tune} seconds of tuning; it must be 0 or more")
        if made.tune and not made.tune_cache:
            made = replace(made, tune_cache=str(tuning_cache.default_path()))
        if not 0 <= made.threads < 2**31:
            raise UsageError(f"{made.threads} threads; 0 stands for one per core")
        return made


def _check_kinds(made: Options, usual: Options) -> None:
    """Raises UsageError for an option that is not of the kind its default is of."""
    kinds: dict[type, Any] = {
        str: (str, os.PathLike), int: Integral, float: Real, bool: bool, tuple: Sequence, dict: Mapping}
    for f in fields(made):
        value, kind = getattr(made, f.name), type(getattr(usual, f.name))
        if not isinstance(value, kinds[kind]) or (kind is tuple and isinstance(value, str)):
            raise UsageError(f"{f.name} is {value!r}, a {type(value).__name__}; it must be a {kind.__name__}")


@dataclass
class Report:
    """What a compile did, for the summary, `--json` and the artifact's metadata."""

    seconds: dict[str, float] = field(default_factory=dict)
    ops_before: dict[str, int] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    tuning: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by target, for each of its programs
    size: int = 0
    models: dict[str, Report] = field(default_factory=dict)  # of a file of several

    @contextmanager
    def stage(self, name: str, progress: Progress | None) -> Iterator[None]:
        if progress is not None:
            progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(eq=False)
class Compiled:
    """One model for its targets, best first: the forms it went through and the objects."""

    original: Graph
    graphs: list[Graph]
    programs: list[tuple[Program, Target]]
    report: Report
    objects: Objects | None = None
    devices: list[DeviceCode | None] = field(default_factory=list)  # beside each program: what GPUs run
    parts: list[Compiled] = field(default_factory=list)  # several models, whose programs these are, in this order
    shelf: dict[str, Any] = field(default_factory=dict)  # what a part's metadata says of its place among them


def load_graph(source: Source, options: Options) -> Graph:
    """Read a model. Raises LeptonError for anything wrong with it."""
    from lepton import frontends

    plugins.load(options.plugins)
    if isinstance(source, Graph):
        return clone(source)
    fixed, _ = ranges.split(options.dims)
    try:
        return frontends.load(source, dims=fixed, values=options.values, structure=options.structure)
    except ModuleNotFoundError as error:
        if (told := not_installed(error)) is None:
            raise
        raise told from None


def checked(source: Source, options: Options) -> Graph:
    """`load_graph`, verified. Text and graphs are written by hand: breaking a rule there is no bug of Lepton's."""
    graph = load_graph(source, options)
    try:
        verify(graph)
    except VerifyError as error:
        by_hand = isinstance(source, Graph) or str(source).endswith(".lir")
        raise VerifyError(error.message, where=error.where, help=error.help,
                          exit=Exit.REFUSED if by_hand else Exit.INTERNAL) from error
    return graph


def pipelines(targets: tuple[Target, ...], options: Options) -> list[Pipeline]:
    """What each target's graph goes through: the passes of the level, or those asked for. Raises UsageError."""
    plugins.load(options.plugins)
    try:
        asked = parse_pipeline(options.passes, options.math) if options.passes.strip() else None
    except ParseError as error:
        raise UsageError(f"cannot read the pipeline {options.passes!r}: {error.message}",
                         help='as in "fold,cse" or "fuse{max=4}"') from error
    return [asked or Pipeline(pipeline_for(t.name.split("-")[0], options.level, options.math, options.precision,
                                           t.tiles, t.float8))
            for t in targets]


def optimise(graph: Graph, pipeline: Pipeline, options: Options) -> Graph:
    """Run the passes on `graph`, in place, watched as the options say. Raises LeptonError; its exit code is REFUSED
    where a verification that was asked for refused, INTERNAL for other bugs."""
    watched = pipeline.instrumented(options)
    instruments = [Reproducer(Path(options.repro_dir)) if isinstance(i, Reproducer) and options.repro_dir else i
                   for i in (*watched.instruments, *debug.instruments())]
    try:
        return Pipeline(watched.passes, instruments).run(graph)
    except LeptonError as error:
        if isinstance(error.__cause__, MemoryError):
            raise ResourceError("out of memory in a pass", help=error.message) from error
        raise


def lower(source: Source, options: Options, progress: Progress | None = None) -> Compiled:
    """model -> one program per target, not yet spelled."""
    targets = parse_targets(options.target)
    each = pipelines(targets, options)
    report = Report()
    if options.tune and (lost := [t.name for t in targets if t.family != "cpu" or not runs_here(t)]):
        raise UsageError(f"cannot tune for {', '.join(lost)}: candidates are measured on this machine's processor")
    with report.stage("read", progress):
        original = checked(source, options)
        warn_of_nothing(original)
        report.ops_before = count_ops(original)
    done = Compiled(original, [], [], report)
    for target, pipeline in zip(targets, each, strict=True):
        with report.stage("passes", progress):
            graph = optimise(clone(original), pipeline, options)
        forget_pages()  # what passes made of weights is what is packed now
        tune(graph, target, options, report, progress)
        with report.stage("plan", progress), kept(graph, options.repro_dir):
            verify(graph)
            program = program_of(graph, target, options)
            program.limits = ranges.limits(original, options.dims)
        report.targets[target.name] = statistics(graph, program)
        if program.limits and target.family == "cpu" and not draws(program):
            report.targets[target.name]["variants"] = [variant(source, program, target, pipeline, options, report)]
        done.graphs.append(graph)
        done.programs.append((program, target))
    return done


def variant(source: Source, program: Program, target: Target, pipeline: Pipeline, options: Options, report: Report
            ) -> dict[str, Any]:
    """Give a program one beside it for the usual sizes of its ranges; what there is to tell about that."""
    usual = replace(options, dims=ranges.usual(options.dims))
    with report.stage("read", None):
        graph = checked(source, usual)
    with report.stage("passes", None):
        graph = optimise(graph, pipeline, usual)
    tune(graph, target, usual, report, None)
    with report.stage("plan", None), kept(graph, options.repro_dir):
        verify(graph)
        special = program_of(graph, target, usual)
    program.variants.append(special)
    _, given = ranges.split(options.dims)
    told = statistics(graph, special)
    return {"dims": {name: usual.dims[name] for name in sorted(given)},
            **{key: told[key] for key in ("kernels", "bodies", "steps", "flops", "weights", "workspace")}}


def draws(program: Program) -> bool:
    """Whether a program draws at random: then two would have to share where they are."""
    return any(b.storage is Storage.STATE for b in program.buffers)


def program_of(graph: Graph, target: Target, options: Options) -> Program:
    """The plan of an optimised graph, its memory laid out. Raises UnsupportedError."""
    check_supported(graph, target)
    check_sizes(graph)
    program = plan(graph, lower_options(target, options))
    program.flushes = options.math == "fast"
    plan_memory(program)
    debug.show_program(program, target)
    return program


def lower_options(target: Target, options: Options) -> LowerOptions:
    """Raises UsageError for a tuning cache that is none."""
    table = Table(tuning_cache.schedules(target.name, options.threads, options.tune_cache))
    return LowerOptions(target, options.math, winograd=options.level >= 2, seed=options.seed, choose=table)


def tune(graph: Graph, target: Target, options: Options, report: Report, progress: Progress | None) -> None:
    """Measure how the kernels of an optimised graph are best cut, in the time that is left, into the tuning cache.
    Without time, only tell what the cache knows."""
    if not options.tune_cache or target.family != "cpu":
        return
    with report.stage("tune", progress), kept(graph, options.repro_dir):
        verify(graph)
        check_supported(graph, target)
        check_sizes(graph)
        left = max(0.0, options.tune - report.seconds.get("tune", 0.0))
        found = tuning.tune(graph, lower_options(target, options), options.threads,
                            tuning_cache.Cache.open(options.tune_cache), left, progress)
    report.tuning.setdefault(target.name, []).append(found.facts())


def compile_objects(source: Source, options: Options, *, linked: bool, progress: Progress | None = None) -> Compiled:
    """model -> objects. `linked`: for the linker, which brings the weights; else for this process."""
    return spell(lower(source, options, progress), options, linked=linked, progress=progress)


def spell(done: Compiled, options: Options, *, linked: bool, progress: Progress | None = None) -> Compiled:
    """programs -> objects, filled in."""
    parts = done.parts or [done]
    with done.report.stage("code", progress), kept(done.graphs[0], options.repro_dir):
        done.devices = [compiled(device_code(p, t), t) if t.family == "cuda" else None for p, t in done.programs]
        rows = [(model, part, i) for model, part in enumerate(parts) for i in range(len(part.programs))]
        for (_, part, i), device in zip(rows, done.devices, strict=True):
            if device is not None:
                part.report.targets[part.programs[i][1].name]["cuda"] = device.facts()
        words = [json.dumps(describe(part, i, options), sort_keys=True) for _, part, i in rows]
        done.objects = build(done.programs, words, options.threads, linked, done.devices, [m for m, _, _ in rows])
    debug.show_objects(done.objects)
    debug.show_times(done.report.seconds)
    return done


def compile_to(source: Source | Mapping[str, Source], out: str | os.PathLike[str], progress: Progress | None = None,
               **options: Any) -> Report:
    """model -> `out`, a self-contained shared library; several models by their names -> one file that holds them all.
    Raises LeptonError; an existing file is replaced only by a complete one."""
    made = Options.of(options)
    check_destination(Path(out))  # before a long compile
    if isinstance(source, Mapping):
        return compile_models(source, out, made, progress)
    return link_to(compile_objects(source, made, linked=True, progress=progress), Path(out), progress)


def link_to(done: Compiled, out: Path, progress: Progress | None = None) -> Report:
    """objects -> `out`. Raises LeptonError."""
    from lepton.codegen.link import link

    assert done.objects is not None
    with done.report.stage("link", progress):
        weights = done.objects.weights
        link(done.objects.objects, weights.pieces(), out, done.objects.triple, steering=weights.steering)
    done.report.size = os.path.getsize(out)
    return done.report


def compile(source: Source, progress: Progress | None = None, **options: Any) -> Model:
    """model -> a Model running in this process. No linker, no file. Options as in `Options`."""
    made = Options.of(options)
    return run_here(lower(source, made, progress), made, progress)


def run_here(done: Compiled, options: Options, progress: Progress | None = None) -> Model:
    """programs -> a Model in this process: the best of them that this machine can run, else the best, which then says
    what is missing."""
    from lepton.artifact import from_program
    from lepton.codegen.jit import Loaded

    best = next((i for i, (_, target) in enumerate(done.programs) if runs_here(target)), 0)
    done = Compiled(done.original, [done.graphs[best]], [done.programs[best]], done.report)
    spell(done, options, linked=False, progress=progress)
    assert done.objects is not None
    loaded = Loaded(done.objects)
    return from_program(loaded.program, loaded.weights, keep_alive=loaded)


# --- what is told about a compile -----------------------------------------------------------------


def describe(done: Compiled, index: int, options: Options) -> dict[str, Any]:
    """The artifact's metadata: nothing in it may depend on the day, the path or the machine."""
    _program, target = done.programs[index]
    return {
        **versions(), "model": dict(sorted(done.original.metadata.items())), "target": target.name,
        "targets": [t.name for _, t in done.programs], "math": options.math,
        "precision": options.precision, "level": options.level, "threads": options.threads,
        "dims": dict(sorted(options.dims.items())), "values": sorted(options.values),
        "statistics": done.report.targets[target.name], **done.shelf,
    }


def versions() -> dict[str, str]:
    """Lepton's version and those of what its output depends on."""
    from llvmlite import binding as llvm

    return {"lepton": lepton.__version__, "llvm": ".".join(map(str, llvm.llvm_version_info)),
            "onnx": metadata.version("onnx")}


def count_ops(graph: Graph) -> dict[str, int]:
    """How often each op occurs, regions included, most frequent first; constants left out."""
    counts = Counter(node.op.name for node in graph.walk() if node.op is not ops.constant)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def statistics(graph: Graph, program: Program) -> dict[str, Any]:
    """Sizes and counts of a program; what depends on input shapes is given in words, or null."""
    flops = sum((k.flops for k in program.kernels), 0)
    constants = [b.size for b in program.buffers if b.storage is Storage.CONSTANT]
    return {
        "ops": count_ops(graph), "fusions": sum(n.op is ops.fusion for n in graph.walk()),
        "kernels": len(program.kernels), "bodies": len({k.body for k in program.kernels}),
        "steps": len(program.steps), "flops": flops if isinstance(flops, int) else str(flops),
        "weights": sum(s for s in constants if isinstance(s, int)), "coded": held(program.kernels),
        "workspace": program.workspace if program.is_static else None,
    }
