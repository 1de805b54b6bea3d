"""What the command line tools share: exit codes, error texts, progress."""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lepton.ir.diagnostics import Exit, LeptonError, UsageError


def run(tool: str, body: Callable[[], int], argv: Sequence[str]) -> int:
    """Call `body` and turn what it raises into a message on stderr and an exit code."""
    try:
        return body()
    except LeptonError as error:
        print(f"{tool}: error: {error}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return int(Exit.OK)
    except MemoryError:
        print(f"{tool}: error: out of memory", file=sys.stderr)
        return int(Exit.RESOURCES)
    except Exception as error:
        print(f"{tool}: internal error: {type(error).__name__}: {error}\n"
              f"  This is a bug in Lepton. What is needed to reproduce it lies in {reproducer(tool, argv)}",
              file=sys.stderr)
        return int(Exit.INTERNAL)


def reproducer(tool: str, argv: Sequence[str]) -> Path:
    """A folder with the command line, the versions and the traceback of the exception being handled."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="lepton-repro-", dir="."))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="lepton-repro-"))
    (folder / "command.txt").write_text(" ".join([tool, *argv]) + "\n")
    (folder / "traceback.txt").write_text(traceback.format_exc())
    try:
        from lepton.driver import versions

        (folder / "versions.json").write_text(json.dumps({**versions(), "python": sys.version}, indent=1) + "\n")
    except Exception as error:  # the bug may be the very thing that makes versions fail
        (folder / "versions.json").write_text(json.dumps({"python": sys.version, "error": str(error)}) + "\n")
    return folder


class Progress:
    """Names the stage at work on stderr, if that is a terminal and nobody asked for quiet."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.show = not quiet and (verbose or sys.stderr.isatty())
        self.in_place = sys.stderr.isatty() and not verbose and not os.environ.get("NO_COLOR")

    def __call__(self, stage: str) -> None:
        if self.show:
            print(f"\r\x1b[K{stage} …" if self.in_place else f"{stage} …", end="" if self.in_place else "\n",
                  file=sys.stderr, flush=True)

    def done(self) -> None:
        if self.show and self.in_place:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Version(argparse.Action):
    """`--version`: Lepton, LLVM, onnx."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the versions of Lepton, LLVM and onnx, and stop", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from lepton.driver import versions

        found = versions()
        print(f"{parser.prog} {found['lepton']} (LLVM {found['llvm']}, onnx {found['onnx']})")
        parser.exit(int(Exit.OK))


def parse_dims(words: Sequence[str]) -> dict[str, int]:
    """["N=1", "H=224"] -> {"N": 1, "H": 224}. Raises UsageError."""
    dims = {}
    for word in words:
        name, equals, size = word.partition("=")
        if not equals or not name or not size.isdigit():
            raise UsageError(f"--dim {word}: expected NAME=SIZE, as in --dim N=1")
        dims[name] = int(size)
    return dims


def human(count: float, unit: str, base: int = 1000) -> str:
    """1234567 -> "1.23 M<unit>"."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(count) < base or prefix == "T":
            return f"{count:.3g} {prefix}{unit}"
        count /= base
    raise AssertionError
