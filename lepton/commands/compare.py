"""`lepton compare`: are a compiled model's answers right?"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton.commands.common import (
    add_code,
    add_inputs,
    add_parser,
    add_threads,
    check_source,
    code_options,
    load_artifact,
)
from lepton.ir.diagnostics import Exit, UsageError
from lepton.terminal import count, parse_dims, parse_sizes

if TYPE_CHECKING:
    from lepton.artifact import Model
    from lepton.compare import Comparison
    from lepton.driver import Options

REFERENCES = ("onnxruntime", "interpreter")
EXAMPLES = """\
  lepton compare model.onnx                           compiled here; against ONNX Runtime and the interpreter
  lepton compare model.onnx --so model.so --dim H=64
  lepton compare model.onnx --target x86-avx2 -O 3 --math fast --rtol 1e-3
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "compare", "compare a compiled model's answers with others'", EXAMPLES)
    parser.add_argument("model", help="model.onnx or graph.lir")
    parser.add_argument("--so", metavar="FILE", help="what leptonc made of it (default: compile it in this process)")
    parser.add_argument("--model", dest="which", metavar="NAME", help="of an --so that holds several: which one")
    add_inputs(parser)
    add_threads(parser)
    parser.add_argument("--seed", "--random", type=count, default=0, metavar="N",
                        help="of the random inputs, which stand for what is not given (default 0)")
    add_code(parser)
    parser.add_argument("--against", choices=REFERENCES, action="append",
                        help="which reference (default: ONNX Runtime if it is installed, and the interpreter)")
    parser.add_argument("--rtol", type=float, metavar="X", help="allowed error as a share of the reference's largest "
                        "magnitude (default 1e-4; 1e-2 with fp16, 0.1 with bf16)")
    parser.add_argument("--atol", type=float, default=1e-6, metavar="X", help="allowed besides (default 1e-6)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """WRONG where an output differs by more than is allowed. Raises LeptonError."""
    from lepton import ranges
    from lepton.compare import RTOL, Request, Tolerance, compare

    if not (args.rtol is None or args.rtol >= 0) or not args.atol >= 0:
        raise UsageError("--rtol and --atol must be 0 or more")
    if args.model.endswith(".so"):
        raise UsageError(f"{args.model} is not a model to compile",
                         help="lepton compare model.onnx --so model.so compares what was compiled of it")
    given = parse_dims(args.dim) if args.so else {}
    artifact, options = _asked(args)
    pinned, open_ = ranges.split(options.dims)
    if other := [name for name in given if pinned.get(name, given[name]) != given[name]]:
        raise UsageError(f"--dim {other[0]}={given[other[0]]}: {args.so} was compiled for {pinned[other[0]]}")
    sizes = ranges.usual(open_) | {name: size for name, size in given.items() if name not in pinned}
    rtol = RTOL[options.precision] if args.rtol is None else args.rtol
    request = Request(args.model, artifact, options, sizes, tuple(args.input), args.seed,
                      Tolerance(rtol, args.atol), tuple(args.against or ()), exactly=args.rtol is not None)
    found = compare(request)
    print(json.dumps(found.record()) if args.json else text(found))
    return Exit.OK if found.agrees else Exit.WRONG


def _asked(args: argparse.Namespace) -> tuple[Model | None, Options]:
    """The .so, if one is given, and how it (or else the model) is compiled. Raises LeptonError."""
    from lepton.driver import Options

    if not args.so:
        check_source(args)
        return None, Options.of(code_options(args, parse_sizes(args.dim)))
    model = load_artifact(args.so, args)
    facts = model.metadata
    return model, Options.of({
        "target": model.target or "native", "level": facts["level"], "math": facts["math"],
        "precision": facts["precision"], "threads": args.threads, "plugins": tuple(args.plugins),
        "dims": {name: size if isinstance(size, int) else tuple(size) for name, size in facts["dims"].items()}})


def text(found: Comparison) -> str:
    """A table for each reference, and where it went wrong."""
    inputs = ", ".join(f"{name}: {words}" for name, words in found.inputs.items())
    lines = [f"{found.model} for {found.target}, {inputs}"]
    for reference, rows in found.references.items():
        lines += ["", f"against {reference}:", *_table([
            ("output", "max |Δ|", "mean |Δ|", "max rel", "mean rel", "allowed", ""),
            *((r.output, _short(r.max_abs), _short(r.mean_abs), _short(r.max_rel), _short(r.mean_rel),
               _short(r.allowed), r.problem or ("ok" if r.agrees else "WRONG")) for r in rows)])]
    lines += [f"\n{note}" for note in found.notes]
    return "\n".join([*lines, "", "they agree" if found.agrees else "they DISAGREE"])


def _short(number: float) -> str:
    return f"{number:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(w) if i in (0, len(widths) - 1) else cell.rjust(w)
                             for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
