"""lepton: run, measure, look at and check models."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lepton.commands import bench, compare, compress, inspect_, ops
from lepton.commands import run as run_command
from lepton.terminal import EXIT_CODES, HelpKnobs, Parser, Version, run

EXAMPLES = """\
examples:
  leptonc model.onnx -o model.so                      (another command: compiles)
  lepton run model.so -i x=@x.npy
  lepton bench model.so --threads 1
  lepton inspect model.so
  lepton compare model.onnx
  lepton ops conv

`lepton COMMAND --help` tells more.

"""


def parser() -> argparse.ArgumentParser:
    made = Parser("lepton", description="Run, measure, look at and check models.", epilog=EXAMPLES + EXIT_CODES)
    made.add_argument("--version", action=Version)
    made.add_argument("--help-knobs", action=HelpKnobs)
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (run_command, bench, inspect_, compare, compress, ops):
        module.add(commands)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The tool. Gives the exit code; usage errors of argparse exit 2 by themselves."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(argv)
    return run("lepton", lambda: int(args.execute(args)), argv)


def opt(argv: Sequence[str] | None = None) -> int:
    """lepton-opt, which needs the whole compiler: where only artifacts can run, it says so."""
    def body() -> int:
        from lepton.opt import main as passes

        return passes(argv)

    return run("lepton-opt", body, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
