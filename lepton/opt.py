"""lepton-opt: text IR in, passes, text IR out. The bench for passes, and the player of reproducers.

A file's cases (`// ===` between them, expectations below `// ---` ignored) are run one by one; without --passes each
by its RUN line. An ONNX model may be given as well.
"""
from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from lepton import plugins
from lepton.ir.core import Graph
from lepton.ir.diagnostics import Exit, LeptonError, ParseError, UsageError
from lepton.ir.files import check_destination, replacing
from lepton.ir.parser import parse_all
from lepton.ir.printer import show
from lepton.ir.sidecar import SUFFIX, beside, load_constants, save_constants
from lepton.ir.verify import verify
from lepton.passes.base import ALLOWED
from lepton.passes.cases import BETWEEN_CASES, read_cases
from lepton.passes.instruments import Statistics, Timing, bisect
from lepton.passes.pipeline import Pipeline, parse_pipeline
from lepton.passes.registry import load_all
from lepton.terminal import Parser, count

EXAMPLES = """examples:
  lepton-opt model.lir --passes canonicalise,fold,cse --verify-each
  lepton-opt model.onnx --passes 'fold{max-bytes=64}' -o folded.lir --dump-dir steps
  lepton-opt lepton-repro-fuse.lir                 play a reproducer (by its RUN line)
  lepton-opt model.onnx -O2 --bisect               which pass breaks this model?
"""


@dataclass(frozen=True)
class Input:
    """One graph to work on and the pipeline its file asks for."""

    graph: Graph
    run: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    try:
        return int(_run(_arguments(argv)))
    except LeptonError as error:
        print(f"lepton-opt: error: {error}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:
        print("lepton-opt: interrupted", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        return int(Exit.OK)
    except Exception:
        traceback.print_exc()
        print("lepton-opt: internal error: this is a bug in Lepton", file=sys.stderr)
        return int(Exit.INTERNAL)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("lepton-opt", description="Run passes on text IR.", epilog=EXAMPLES)
    add = parser.add_argument
    add("input", nargs="?", default="-", help="a .lir file or an ONNX model; - for standard input")
    add("-o", dest="output", default="-", metavar="FILE", help="where the text goes (default: -, standard output)")
    add("--passes", metavar="SPEC", help='such as "fold,fuse{max=3}"; "" only verifies and formats')
    add("-O", dest="level", type=int, choices=range(4), help="run the passes leptonc runs at this level")
    add("--family", default="x86", choices=("x86", "aarch64", "cuda"), help="what -O is for (default: x86)")
    add("--math", choices=list(ALLOWED), help="which rewrites may move results (default: what the passes say)")
    add("--max-passes", type=count, metavar="N", help="run the first N passes only")
    add("--verify-each", action="store_true", help="verify after each pass")
    add("--self-check", action="store_true", help="compare answers on random inputs after each pass")
    add("--bisect", action="store_true", help="find the first pass that breaks or changes the answers")
    add("--time-passes", action="store_true", help="print the seconds each pass takes")
    add("--statistics", action="store_true", help="print what each pass did")
    add("--dump-dir", default="", metavar="DIR", help="write the graph after each pass that changed it")
    add("--load-plugin", "--load-pass", dest="plugins", action="append", default=[], metavar="FILE.py",
        help="passes and operators of your own")
    add("--full-constants", action="store_true", help="write all constants out instead of their hashes")
    add("--list-passes", action="store_true", help="print all passes and exit")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> Exit:
    plugins.load(options.plugins)
    if options.list_passes:
        for name, pass_ in load_all().items():
            print(f"{name:24} {(pass_.__doc__ or '').strip().splitlines()[0] if pass_.__doc__ else ''}")
        return Exit.OK
    if _is_file(options.output):
        check_destination(Path(options.output), [options.input] if options.input.endswith(".onnx") else [])
    inputs = _read(options.input)
    if options.bisect:
        return max(map(lambda given: _bisect(given, options), inputs), default=Exit.OK)
    graphs = [_optimise(given, options) for given in inputs]
    _write(graphs, options)
    return Exit.OK


def _pipeline(given: Input, options: argparse.Namespace) -> Pipeline:
    if options.level is not None and options.passes is None:
        from lepton.passes.default import pipeline_for

        return Pipeline(pipeline_for(options.family, options.level, options.math or "default"))
    if options.passes is None:
        return parse_pipeline(given.run, options.math)
    try:
        return parse_pipeline(options.passes, options.math)
    except ParseError as error:
        raise UsageError(f"cannot read the pipeline {options.passes!r}: {error.message}", help=error.help) from error


def _optimise(given: Input, options: argparse.Namespace) -> Graph:
    pipeline = _pipeline(given, options)
    verify(given.graph)
    quiet = argparse.Namespace(**{**vars(options), "time_passes": False})
    pipeline = pipeline.instrumented(quiet)
    statistics, timing = Statistics(), Timing()
    extra = [*([statistics] if options.statistics else []), *([timing] if options.time_passes else [])]
    pipeline = Pipeline(pipeline.passes, [*pipeline.instruments, *extra])
    pipeline.run(given.graph, max_passes=options.max_passes)
    verify(given.graph)
    if options.statistics:
        print(statistics, file=sys.stderr)
    return given.graph


def _bisect(given: Input, options: argparse.Namespace) -> Exit:
    blame = bisect(_pipeline(given, options), given.graph)
    if blame is None:
        print(f"'{given.graph.name}': the answers stay the same")
        return Exit.OK
    print(f"'{given.graph.name}': pass {blame.step.number}, {blame.step.pass_}: {blame.message}")
    return Exit.WRONG


def _read(name: str) -> list[Input]:
    if name == "-":
        text, constants = sys.stdin.read(), {}
    elif name.endswith(".onnx"):
        from lepton import frontends  # needs the onnx package

        return [Input(frontends.load(name), "")]
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UsageError(f"cannot read {name}: {reason}") from error
        constants = load_constants(beside(Path(name)))
    shown = "<stdin>" if name == "-" else name
    found = [Input(graph, case.run) for case in read_cases(text)
             for graph in parse_all(case.before, shown, constants=constants)]
    if not found:
        raise UsageError(f"{shown} holds no graph", help="text IR, as `leptonc --emit graph` and `lepton-opt` write it")
    return found


def _is_file(output: str) -> bool:
    """Whether it is to be a file that may hold something already: neither stdout nor a device."""
    return output != "-" and (not Path(output).exists() or Path(output).is_file() or Path(output).is_dir())


def _write(graphs: Sequence[Graph], options: argparse.Namespace) -> None:
    text = BETWEEN_CASES.join(show(graph, full_constants=options.full_constants) for graph in graphs)
    path = Path(options.output)
    if not _is_file(options.output):
        with nullcontext(sys.stdout) if options.output == "-" else path.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
        return
    for graph in graphs if not options.full_constants else ():
        save_constants(graph, path.with_name(path.stem + SUFFIX))
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
