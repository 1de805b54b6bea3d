"""leptonc: model.onnx -> model.so."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.ir.diagnostics import Exit, UsageError
from lepton.terminal import Progress, Version, human, parse_dims, run

if TYPE_CHECKING:
    from lepton.driver import Options, Report

EMITS = ("so", "graph", "loops", "llvm", "asm", "obj")
JSON_VERSION = 1

EXAMPLES = """\
examples:
  leptonc model.onnx -o model.so                          for this machine
  leptonc model.onnx -o model.so --target x86-avx2,x86-avx512    the better of two, chosen when it is loaded
  leptonc model.onnx -o model.so --dim N=1 --dim H=224    open dimensions pinned
  leptonc model.onnx --emit graph -o -                    the graph after all passes, as text
  leptonc model.onnx -o model.so --dump-dir dumps -v      every pass that changed something leaves a file

exit codes:
  0 done   1 an answer or a budget missed   2 usage   3 unsupported model or device   4 verification refused
  5 a limit on memory or time   70 a bug in Lepton (a reproducer is left)   130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="leptonc", description="Compile an ONNX model (or .lir text) to a self-contained shared library.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", nargs="?", help="model.onnx or graph.lir")
    made.add_argument("-o", "--output", metavar="FILE", help="what to write (default: the model's name; -: stdout)")
    made.add_argument("--version", action=Version)
    made.add_argument("--help-knobs", action="store_true", help="print the environment variables and stop")

    code = made.add_argument_group("the code")
    code.add_argument("--target", default="native", metavar="T[,T]", help="native, x86-sse4, x86-avx2, x86-avx512, "
                      "x86-avx512vnni, x86-amx, aarch64-neon; several share one file")
    code.add_argument("-O", dest="level", type=int, choices=range(4), default=2, metavar="0..3",
                      help="how much to optimise (default 2)")
    code.add_argument("--math", choices=("strict", "default", "fast"), default="default",
                      help="strict: exact rewrites only; default: sums may be regrouped; fast: approximations too")
    code.add_argument("--dim", action="append", default=[], metavar="N=1", help="give an open dimension a size")
    code.add_argument("--threads-default", type=int, default=0, metavar="N", help="threads of a run (0: all cores)")

    out = made.add_argument_group("what comes out")
    out.add_argument("--emit", choices=EMITS, default="so", help="which form to write (default so)")
    out.add_argument("--json", action="store_true", help="the summary as JSON on stdout")
    out.add_argument("-v", "--verbose", action="store_true", help="say more")
    out.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")

    work = made.add_argument_group("working on passes")
    work.add_argument("--passes", default="", metavar="SPEC", help='a pipeline in place of the level\'s: "fold,cse"')
    work.add_argument("--load-pass", default="", metavar="FILE.py", help="passes of your own")
    work.add_argument("--dump-dir", default="", metavar="DIR", help="write the graph after each pass that changed it")
    work.add_argument("--time-passes", action="store_true", help="how long each pass took")
    work.add_argument("--verify-each", action="store_true", help="verify the graph after each pass")
    work.add_argument("--self-check", action="store_true", help="compare answers before and after each pass")

    limits = made.add_argument_group("limits")
    limits.add_argument("--timeout", type=int, default=0, metavar="S", help="give up after this many seconds")
    limits.add_argument("--max-memory", type=int, default=0, metavar="MB", help="address space the compiler may use")
    return made


def options_of(args: argparse.Namespace) -> Options:
    from lepton.driver import Options

    return Options.of({
        "target": args.target, "level": args.level, "math": args.math, "dims": parse_dims(args.dim),
        "threads": args.threads_default, "passes": args.passes, "load_pass": args.load_pass,
        "dump_dir": args.dump_dir, "verify_each": args.verify_each, "time_passes": args.time_passes,
        "self_check": args.self_check})


def main(argv: Sequence[str] | None = None) -> int:
    """The tool. Gives the exit code; usage errors of argparse exit 2 by themselves."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(argv)
    return run("leptonc", lambda: compile_file(args), argv)


def compile_file(args: argparse.Namespace) -> int:
    if args.help_knobs:
        from lepton.knobs import describe_knobs

        print(describe_knobs(), end="")
        return int(Exit.OK)
    if not args.model:
        raise UsageError("no model given", help="leptonc model.onnx -o model.so; leptonc --help shows more")
    from lepton.limits import limited

    with limited(args.timeout, args.max_memory):
        return emit(args, options_of(args))


def emit(args: argparse.Namespace, options: Options) -> int:
    from lepton.driver import compile_to

    out = args.output or str(Path(args.model).with_suffix(".so" if args.emit == "so" else f".{args.emit}").name)
    check_writable(out, args)
    progress = Progress(args.quiet, args.verbose)
    if args.emit == "so":
        settings = {name: getattr(options, name) for name in options.__dataclass_fields__}
        report = compile_to(args.model, out, progress, **settings)
        progress.done()
        tell(report, out, args)
        return int(Exit.OK)
    from lepton.emit import FORMS, write

    forms = FORMS[args.emit](args.model, options, progress)
    progress.done()
    write(forms, out)
    return int(Exit.OK)


def check_writable(out: str, args: argparse.Namespace) -> None:
    """Find out before a long compile what would stop its result from being written. Raises UsageError."""
    if out == "-":
        if args.emit in ("so", "obj"):
            raise UsageError(f"--emit {args.emit} is no text and cannot go to stdout", help="give a file: -o model.so")
        return
    path = Path(out)
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"{out} is a folder", help="give the file's name too: -o folder/model.so")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", help=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {folder}", help="choose another folder with -o")
    if path.exists() and path.resolve() == Path(args.model).resolve():
        raise UsageError(f"{out} is the model itself")


def tell(report: Report, out: str, args: argparse.Namespace) -> None:
    """The summary: on stdout as JSON if asked for, else on stderr unless quiet."""
    if args.json:
        print(json.dumps({"version": JSON_VERSION, "output": out, "size": report.size, "seconds": report.seconds,
                          "ops_before": report.ops_before, "targets": report.targets}))
    if args.quiet or (args.json and not args.verbose):
        return
    total = sum(report.seconds.values())
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report.seconds.items())
    lines = [f"{out}: {human(report.size, 'B')}, compiled in {total:.2f} s ({stages})"]
    for name, row in report.targets.items():
        lines += summary(name, row, report)
        if args.verbose:
            lines.append("  ops: " + ", ".join(f"{op} {n}" for op, n in row["ops"].items()))
    print("\n".join(lines), file=sys.stderr)


def summary(name: str, row: dict[str, Any], report: Report) -> list[str]:
    """Two lines about one target."""
    flops = row["flops"]
    work = human(flops, "FLOP") if isinstance(flops, int) else f"{flops} FLOP"
    space = "depends on input shapes" if row["workspace"] is None else human(row["workspace"], "B")
    return [
        f"  {name}: {sum(report.ops_before.values())} ops -> {row['kernels']} kernels ({row['bodies']} distinct, "
        f"{row['fusions']} fused groups), {work if len(work) < 60 else 'work depends on input shapes'}",
        f"  weights {human(row['weights'], 'B')}, workspace {space}",
    ]


if __name__ == "__main__":
    sys.exit(main())
