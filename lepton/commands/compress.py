"""`lepton compress`: smaller and faster within a budget of accuracy."""
from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.commands.common import add_parser
from lepton.ir.diagnostics import Exit, UsageError
from lepton.ir.files import check_destination, replacing
from lepton.terminal import Progress, count, duration, parse_dims

if TYPE_CHECKING:
    from lepton.compress.searching import Result

EXAMPLES = """\
  lepton compress model.onnx --data samples.npz --metric top1 --budget -0.5% -o model.so
  lepton compress model.onnx --data runs/ --metric own.py --budget ">=0.9" --objective size -o model.so
  lepton compress model.onnx --data x.npy --metric cosine --budget ">=0.999" --onnx model.int8.onnx -o model.so

--data: a folder of .npz files (each a run, arrays by input), an .npz (first axes count samples), an .npy or .csv (one
input); an array `labels` holds the labels. Half of it is used to choose, the other half to certify the choice.
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "compress", "quantise and prune a model within a budget of accuracy", EXAMPLES)
    # argparse takes only plain numbers for values that begin with a minus; "-0.5%" is one too.
    setattr(parser, "_negative_number_matcher", re.compile(r"^-\d*\.?\d+%?$"))  # noqa: B010
    parser.add_argument("model", help="model.onnx or graph.lir, not quantised yet")
    parser.add_argument("--data", required=True, metavar="PATH", help="inputs, and labels if the metric needs them")
    parser.add_argument("--metric", default="cosine", metavar="M",
                        help="top1, f1, cosine, correlation, psnr or own.py (default cosine)")
    parser.add_argument("--budget", required=True, metavar="B",
                        help="-0.5%%: what the metric may lose; >=0.98: what it must be")
    parser.add_argument("--objective", choices=("latency", "size", "both"), default="latency",
                        help="what to make small (default latency)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.so", help="the compiled model")
    parser.add_argument("--onnx", metavar="FILE.onnx", help="the quantised model as ONNX, too")
    parser.add_argument("--report", metavar="FILE", help="a page about the search: .md or .html")
    parser.add_argument("--search", choices=("tpe", "random", "grid"), default="tpe", help="how to choose trials")
    parser.add_argument("--trials", type=count, default=24, metavar="N", help="at most (default 24)")
    parser.add_argument("--time", type=duration, default=600.0, metavar="S",
                        help="how long it may take, about: 90, 60s, 2m (default 10m)")
    parser.add_argument("--study", metavar="FILE", help="remembers the trials, so that a stopped search goes on "
                        "(default: the output's name with .study; removed at the end)")
    parser.add_argument("--dim", action="append", default=[], metavar="N=1", help="give an open dimension a size")
    parser.add_argument("--target", default="native", metavar="T", help="what to compile for")
    parser.add_argument("-O", dest="level", type=int, choices=range(4), default=2, metavar="0..3",
                        help="how much to optimise (default 2)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="of a run (default 1)")
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="of the search (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """Search, certify, write. Raises LeptonError; BudgetError (exit 1) where nothing is within the budget."""
    from lepton.compress.metrics import Budget, metric_of
    from lepton.compress.searching import BudgetError, Plan, Search
    from lepton.frontends.onnx.export import to_onnx

    check_destination(Path(args.output))
    kept = args.study or str(Path(args.output).with_suffix(".study"))
    check_outputs(args, kept)
    plan = Plan(Budget.of(args.budget), args.objective, args.search, args.trials, args.time, kept, args.seed,
                parse_dims(args.dim), args.target, args.level, args.threads).checked()
    with Progress(args.quiet, verbose=False) as progress:
        try:
            search = Search(args.model, args.data, metric_of(args.metric), plan, progress)
            if args.onnx:
                to_onnx(search.calibration.graph)   # what cannot be written is said before the search, not after it
            result = search.run()
        except BudgetError:
            forget(args, kept)
            raise
        size = write(result, args, plan.options)
    forget(args, kept)
    tell(result, size, args)
    return Exit.OK


def check_outputs(args: argparse.Namespace, study: str) -> None:
    """Raises UsageError where a file cannot be written, or would be written over another one that matters."""
    read = [args.model, args.data, *([args.metric] if args.metric.endswith(".py") else [])]
    taken: list[Path] = []
    for out in map(Path, filter(None, (args.output, args.onnx, args.report, study))):
        check_destination(out, read)
        if out.resolve() in taken:
            raise UsageError(f"{out} is named for two outputs")
        taken.append(out.resolve())


def forget(args: argparse.Namespace, study: str) -> None:
    """The search has ended: its trials are kept only where that is asked for."""
    if not args.study:
        Path(study).unlink(missing_ok=True)


def write(result: Result, args: argparse.Namespace, options: dict[str, Any]) -> int:
    """The compiled model, and what else is wanted; the artifact's bytes."""
    from lepton.compress.page import html_page, markdown
    from lepton.driver import compile_to
    from lepton.frontends.onnx.export import to_onnx

    texts: dict[str, bytes] = {}
    if args.onnx:
        texts[args.onnx] = to_onnx(result.graph).SerializeToString(deterministic=True)
    if args.report:
        page = html_page if args.report.endswith(".html") else markdown
        texts[args.report] = page(result.report).encode()
    done = compile_to(result.graph, args.output, **options)
    for path, text in texts.items():
        _write(Path(path), text)
    assert done.size is not None
    return done.size


def tell(result: Result, size: int, args: argparse.Namespace) -> None:
    from lepton.compress.page import markdown

    if args.json:
        print(json.dumps({**result.report, "size": size}))
    elif not args.quiet:
        print(markdown(result.report).split("\n## ")[0].rstrip())
        print(f"\n{args.output}: {size} bytes")


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)
