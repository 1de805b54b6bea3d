"""leptonc: model.onnx -> model.so."""
from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.bundle import named
from lepton.ir.diagnostics import Exit, UsageError
from lepton.ir.files import check_destination
from lepton.terminal import (
    EXIT_CODES,
    HelpKnobs,
    Parser,
    Progress,
    Version,
    count,
    duration,
    parse_sizes,
    parse_structure,
    run,
)

if TYPE_CHECKING:
    from lepton.driver import Options, Report

# What `--emit` writes, and the suffix of its file.
EMITS = {"so": ".so", "onnx": ".onnx", "graph": ".lir", "loops": ".loops", "llvm": ".ll", "asm": ".s", "obj": ".o",
         "cuda": ".cu"}
BINARY = ("so", "obj", "onnx")
TUNE_S = 60.0    # how long --tune takes at most, unless told

EXAMPLES = """\
examples:
  leptonc model.onnx -o model.so                          for this machine
  leptonc model.onnx -o model.so --target x86-avx2,x86-avx512    the better of two, chosen when it is loaded
  leptonc model.onnx -o model.so --target cuda-sm90,x86-avx2     for a GPU, and a CPU when it is asked for
  leptonc model.onnx -o model.so --dim N=1 --dim H=224    open dimensions pinned
  leptonc find.onnx read.onnx -o page.so                  two models in one file
  leptonc model.onnx --emit graph -o -                    the graph after all passes, as text
  leptonc model.onnx -o model.so --dump-dir dumps -v      every pass that changed something leaves a file

"""


def parser() -> argparse.ArgumentParser:
    made = Parser("leptonc", description="Compile an ONNX model (or .lir text) to a self-contained shared library.",
                  epilog=EXAMPLES + EXIT_CODES)
    made.add_argument("models", nargs="*", metavar="model", help="model.onnx or graph.lir; several share one file, "
                      "each with a name: find=find.onnx read=read.onnx")
    made.add_argument("-o", "--output", metavar="FILE",
                      help="what to write (default: the model's name, in this folder; -: stdout)")
    made.add_argument("--version", action=Version)
    made.add_argument("--help-knobs", action=HelpKnobs)

    code = made.add_argument_group("the code")
    code.add_argument("--target", default="native", metavar="T[,T]", help="native, x86-sse4, x86-avx2, "
                      "x86-avxvnni, x86-avx512, x86-avx512vnni, x86-avx512bf16, x86-amx, aarch64-neon, "
                      "aarch64-dotprod, cuda-sm80, cuda-sm90, cuda-sm120; several share one file")
    code.add_argument("-O", dest="level", type=int, choices=range(4), default=2, metavar="0..3",
                      help="how much to optimise (default 2)")
    code.add_argument("--math", choices=("strict", "default", "fast"), default="default",
                      help="strict: exact rewrites only; default: sums may be regrouped; fast: approximations too")
    code.add_argument("--precision", choices=("f32", "bf16", "fp16"), default="f32",
                      help="bf16: what products with constant weights read is rounded to bf16, their sums are f32; "
                      "fp16: their weights alone, to f16, and stored so")
    code.add_argument("--dim", action="append", default=[], metavar="N=1",
                      help="give an open dimension a size; N=1..8..64: sizes from 1 to 64, fastest at 8")
    code.add_argument("--value", action="append", default=[], metavar="NAME=X", help="contents of an input, compiled "
                      "in: a number, a list or @FILE.npy; for inputs that sizes depend on")
    code.add_argument("--structure", action="append", default=[], metavar="NAME=N", help="what a sequence or optional "
                      "among the inputs holds: x=3 members, x=[[2,3],[4,3]] their shapes, x=null, x=true")
    code.add_argument("--seed", type=count, default=0, metavar="N", help="of the random draws in a new session "
                      "(default 0)")
    code.add_argument("--load-plugin", "--load-pass", dest="plugins", action="append", default=[], metavar="FILE.py",
                      help="operators, functions and passes of your own")
    code.add_argument("--tune", action="store_true", help="measure how the kernels of this model are best cut")
    code.add_argument("--time", type=duration, metavar="60s", help="how long --tune may take (default 60s)")
    code.add_argument("--tune-cache", default="", metavar="FILE", help="what was measured: --tune adds to it, and a "
                      "compile takes what it holds (default of --tune: ~/.cache/lepton/tuning.jsonl)")
    code.add_argument("--threads-default", type=count, default=0, metavar="N", help="threads of a run (0: all cores)")

    out = made.add_argument_group("what comes out")
    out.add_argument("--emit", choices=tuple(EMITS), default="so", help="which form to write (default so)")
    out.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    out.add_argument("-v", "--verbose", action="store_true", help="say more")
    out.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    _add_work(made)
    return made


def _add_work(made: argparse.ArgumentParser) -> None:
    work = made.add_argument_group("working on passes")
    work.add_argument("--passes", default="", metavar="SPEC", help='a pipeline in place of the level\'s: "fold,cse"')
    work.add_argument("--dump-dir", default="", metavar="DIR", help="write the graph after each pass that changed it")
    work.add_argument("--time-passes", action="store_true", help="how long each pass took")
    work.add_argument("--verify-each", action="store_true", help="verify the graph after each pass")
    work.add_argument("--self-check", action="store_true", help="compare answers before and after each pass")

    limits = made.add_argument_group("limits")
    limits.add_argument("--timeout", type=count, default=0, metavar="S", help="give up after this many seconds")
    limits.add_argument("--max-memory", type=count, default=0, metavar="MB", help="address space the compiler may use")


def main(argv: Sequence[str] | None = None) -> int:
    """The tool. Gives the exit code; usage errors of argparse exit 2 by themselves."""
    from lepton.limits import limited
    from lepton.reproducer import fresh_folder

    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(argv)
    repro = fresh_folder()

    def work() -> int:
        return run("leptonc", lambda: compile_file(args, repro), argv, repro)

    return run("leptonc", lambda: limited(work, args.timeout, args.max_memory), argv, repro)


def compile_file(args: argparse.Namespace, repro: Path) -> int:
    """Compile what the arguments name. Raises LeptonError."""
    if not args.models:
        raise UsageError("no model given", help="leptonc model.onnx -o model.so; leptonc --help shows more")
    args.several = several = named(args.models) if len(args.models) > 1 or _is_named(args.models[0]) else {}
    if several and (args.emit != "so" or not args.output):
        raise UsageError("several models share one .so", help="leptonc find.onnx read.onnx -o page.so")
    args.model = args.models[0]
    for file in several.values() or args.models:
        if Path(file).is_dir():
            raise UsageError(f"cannot read '{file}': it is a folder")
    out = args.output or Path(args.model).with_suffix(EMITS[args.emit]).name
    check_output(out, args)
    options = options_of(args, repro)
    if args.quiet:
        warnings.simplefilter("ignore")
    with Progress(args.quiet, args.verbose) as progress:
        if args.emit == "so":
            from lepton.driver import compile_to

            settings = {name: getattr(options, name) for name in options.__dataclass_fields__}
            report, files = compile_to(several or args.model, out, progress, **settings), [Path(out)]
        else:
            from lepton.emit import FORMS, write

            emitted = FORMS[args.emit](args.model, options, progress)
            report, files = emitted.report, write(emitted.forms, out)
    tell(report, files, args)
    return int(Exit.OK)


def _is_named(word: str) -> bool:
    """Whether a model is given a name: `find=find.onnx`."""
    return "=" in word and not Path(word).exists() and Path(word.partition("=")[2]).exists()


def options_of(args: argparse.Namespace, repro: Path) -> Options:
    from lepton.driver import Options
    from lepton.inputs import parse_values

    if args.time is not None and not args.tune:
        raise UsageError("--time is how long --tune may take", help="leptonc model.onnx --tune --time 60s")
    return Options.of({
        "tune": (args.time or TUNE_S) if args.tune else 0.0, "tune_cache": args.tune_cache,
        "values": parse_values(args.value), "structure": parse_structure(args.structure),
        "target": args.target, "level": args.level, "math": args.math,
        "precision": args.precision, "dims": parse_sizes(args.dim),
        "threads": args.threads_default, "seed": args.seed, "passes": args.passes, "plugins": tuple(args.plugins),
        "dump_dir": args.dump_dir, "verify_each": args.verify_each, "time_passes": args.time_passes,
        "self_check": args.self_check, "repro_dir": str(repro)})


def check_output(out: str, args: argparse.Namespace) -> None:
    """Find out before a long compile what would stop its result from being written. Raises UsageError."""
    if out == "-":
        if args.emit in BINARY:
            raise UsageError(f"--emit {args.emit} is no text and cannot go to stdout", help="give a file: -o model.so")
        if args.json:
            raise UsageError("--json and the output cannot both go to stdout", help="give a file with -o")
        return
    check_destination(Path(out), (args.model, *args.several.values()))


def tell(report: Report, files: Sequence[Path], args: argparse.Namespace) -> None:
    """The summary: on stdout as JSON if asked for, else on stderr unless quiet."""
    from lepton.summary import as_json, as_text

    if args.json:
        print(json.dumps(as_json(args.model, args.emit, files, report)))
    if not args.quiet and (args.verbose or not args.json):
        print(as_text(files, report, args.verbose), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
