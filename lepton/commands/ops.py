"""`lepton ops`: the manual of the graph IR's ops, printed from the ops themselves."""
from __future__ import annotations

import argparse
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.commands.common import add_parser
from lepton.ir.diagnostics import Exit, UsageError
from lepton.ir.files import check_destination, replacing

if TYPE_CHECKING:
    from lepton.ir.op import Op

EXAMPLES = """\
  lepton ops                                          all of them, a line each
  lepton ops conv
  lepton ops --markdown docs/operators.md             the page of ONNX's operators, from a checkout
"""


def add(commands: Any) -> None:
    parser = add_parser(commands, "ops", "print the manual of the graph IR's ops", EXAMPLES)
    parser.add_argument("name", nargs="*", help="which (default: all, in short)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table of ONNX operators")
    parser.add_argument("--check", metavar="FILE", help="say whether FILE still holds that table; 1 if not")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> Exit:
    """Raises UsageError for unknown names."""
    if args.markdown or args.check:
        return table(args.markdown, args.check)
    from lepton.ir import ops as _ops  # noqa: F401  (fills OPS)
    from lepton.ir.op import OPS

    for name in args.name:
        if name not in OPS:
            near = get_close_matches(name, OPS, 1)
            raise UsageError(f"there is no op '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                             help="lepton ops lists them")
    if args.name:
        print("\n\n".join(page(OPS[name]) for name in args.name))
    else:
        width = max(map(len, OPS))
        for name, op in sorted(OPS.items()):
            print(f"{name:<{width}}  {first_sentence(op.doc)}")
    return Exit.OK


def table(write: str | None, check: str | None) -> Exit:
    """Write or check the page of operators. Raises UsageError where the file cannot be read or written."""
    from lepton.commands import operators

    try:
        if write:
            root = Path(write).resolve().parents[1]
            text = operators.markdown(root if (root / "tests/conformance/record.txt").exists() else None)
            check_destination(Path(write))
            with replacing(Path(write)) as partial:
                partial.write_text(text, encoding="utf-8")
        if check and (lines := operators.stale(Path(check).read_text(encoding="utf-8"))):
            print("\n".join([f"{check} is not current; lepton ops --markdown {check} writes it anew", *lines]))
            return Exit.WRONG
    except OSError as error:
        raise UsageError(f"{write or check}: {error.strerror}") from error
    return Exit.OK


def first_sentence(doc: str) -> str:
    text = " ".join(doc.split("\n\n")[0].split())
    end = text.find(". ")
    return text if end < 0 else text[:end + 1]


def page(op: Op) -> str:
    """Name, operands, attributes with their defaults, traits, meaning."""
    parts = [headline(op)]
    if traits := ", ".join(sorted(t.name.lower() for t in op.traits)):
        parts.append(f"  traits: {traits}")
    parts += [f"  {line}".rstrip() for line in op.doc.splitlines()]
    return "\n".join(parts)


def headline(op: Op) -> str:
    """`conv(x, w, bias?, strides, group=1)`: operands, then attributes, as in text IR."""
    words = []
    for parameter in op.signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        many = parameter.kind is parameter.VAR_POSITIONAL
        words.append(f"{'*' * many}{parameter.name}{'?' * (parameter.default is not parameter.empty)}")
    for name, default in op.attributes.items():
        words.append(name if default is inspect.Parameter.empty else f"{name}={default!r}")
    return f"{op.name}({', '.join(words)})"
