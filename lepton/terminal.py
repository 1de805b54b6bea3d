"""What the command line tools share: exit codes, error texts, progress, the options that mean the same everywhere."""
from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import lepton
from lepton.ir.diagnostics import Exit, LeptonError, NotInstalledError, UsageError
from lepton.ir.files import FULL
from lepton.knobs import NO_COLOR

MAX_SIZE = 2**63 - 1

EXIT_CODES = """\
exit codes:
  0 done   1 an answer or a budget missed   2 usage   3 unsupported model or device   4 verification refused
  5 a limit on memory or time   70 a bug in Lepton (a reproducer is left)   130 interrupted
"""


# What an installation that only runs artifacts may lack.
COMPILER_NEEDS = frozenset({"onnx", "llvmlite", "ml_dtypes", "networkx", "google"})


def run(tool: str, body: Callable[[], int], argv: Sequence[str], repro: Path | None = None) -> int:
    """Call `body` and turn what it raises into a message on stderr and an exit code; warnings are lines there too.

    A bug leaves a reproducer in `repro` (None: a new folder)."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"{tool}: warning: {message}")
            code = body()
        sys.stdout.flush()
        return code
    except LeptonError as error:
        _say(f"{tool}: error: {error}")
        if error.exit is Exit.INTERNAL:
            _leave_reproducer(tool, argv, repro)
        return int(error.exit)
    except KeyboardInterrupt:
        _say(f"{tool}: interrupted")
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        return int(Exit.OK)
    except ModuleNotFoundError as error:
        if (told := not_installed(error)) is not None:
            _say(f"{tool}: error: {told}")
            return int(told.exit)
        _say(f"{tool}: internal error: {error}")
        _leave_reproducer(tool, argv, repro)
        return int(Exit.INTERNAL)
    except Exception as error:
        if _is_want_of_memory(error):
            _say(f"{tool}: error: out of memory")
            return int(Exit.RESOURCES)
        if isinstance(error, OSError) and error.errno in FULL:
            _forget_stdout()
            _say(f"{tool}: error: cannot write: {error.strerror}")
            return int(Exit.RESOURCES)
        _say(f"{tool}: internal error: {type(error).__name__}: {error}")
        _leave_reproducer(tool, argv, repro)
        return int(Exit.INTERNAL)


def not_installed(error: ModuleNotFoundError) -> NotInstalledError | None:
    """What to say where the runtime or one of the compiler's packages is missing; None: another one, a bug."""
    if error.name == "lepton._rt":
        return NotInstalledError(f"the C runtime of the package in {Path(__file__).parent} is not built",
                                 help="Python takes a checkout it is started in for the installed package: leave it "
                                 "after pip install ., or install with pip install -e .")
    if (error.name or "").partition(".")[0] not in COMPILER_NEEDS:
        return None
    return NotInstalledError(f"{error.name} is not installed", help="this installation can run artifacts; to compile, "
                             "install all of Lepton: pip install . in its checkout")


def _forget_stdout() -> None:
    """Let what is buffered go nowhere; the interpreter would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_want_of_memory(error: BaseException | None) -> bool:
    """Whether it is behind an error that Python gives another name: a library not loaded, a process not started."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _leave_reproducer(tool: str, argv: Sequence[str], folder: Path | None) -> None:
    from lepton import reproducer

    folder = folder or reproducer.fresh_folder()
    try:
        reproducer.write(folder, tool, argv)
        _say(f"  This is a bug in Lepton. What is needed to reproduce it lies in {folder}/ : please report it.")
    except OSError as error:
        _say(f"  This is a bug in Lepton. No reproducer could be written to {folder}: {error.strerror}")


class Progress:
    """Names the stage at work on stderr, if that is a terminal and nobody asked for quiet: in place, with a spinner
    where rich is installed; under -v or NO_COLOR a line for each."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        terminal = sys.stderr.isatty()
        self.show = not quiet and (verbose or terminal)
        self.in_place = terminal and not verbose and not NO_COLOR.on
        self.spinner = _spinner() if self.show and self.in_place else None

    def __call__(self, stage: str) -> None:
        if self.spinner is not None:
            self.spinner.update(f"{stage} …")
            self.spinner.start()
        elif self.show:
            print(f"\r\x1b[K{stage} …" if self.in_place else f"{stage} …", end="" if self.in_place else "\n",
                  file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave an empty line for what comes next, be it an error."""
        if self.spinner is not None:
            self.spinner.stop()
        elif self.show and self.in_place:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _spinner() -> Any:
    """A `rich.status.Status`, or None where rich is not installed."""
    try:
        console: Any = import_module("rich.console")
    except ImportError:
        return None
    return console.Console(stderr=True).status("")


class Parser(argparse.ArgumentParser):
    """argparse's, that tells a mistake in the words the other errors have, without the list of all options."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                         **settings)

    def error(self, message: str) -> NoReturn:
        """Exit by the code of usage errors."""
        self.exit(int(Exit.USAGE), f"{self.prog}: error: {message}\n  = help: {self.prog} --help shows all options\n")


class Version(argparse.Action):
    """`--version`: Lepton, LLVM, onnx. Where only artifacts can run, Lepton alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the versions of Lepton, LLVM and onnx, and stop", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        try:
            from lepton.driver import versions

            found = versions()
            behind = f"LLVM {found['llvm']}, onnx {found['onnx']}"
        except ModuleNotFoundError as error:
            if not_installed(error) is None:
                raise
            behind = "runs artifacts; the compiler is not installed"
        print(f"{parser.prog.split()[0]} {lepton.__version__} ({behind})")
        parser.exit(int(Exit.OK))


class HelpKnobs(argparse.Action):
    """`--help-knobs`: the environment variables."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the environment variables, and stop", **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from lepton.knobs import describe_knobs

        print(describe_knobs(), end="")
        parser.exit(int(Exit.OK))


def duration(text: str) -> float:
    """`90`, `60s`, `1.5m`: seconds. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|)", text, re.ASCII)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected a time such as 60s or 2m, got {text!r}")
    return float(match[1]) * (60 if match[2] == "m" else 1)


def count(text: str) -> int:
    """An argparse type: a number that is not negative."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 0 or more")
    return int(text)


def parse_dims(words: Sequence[str]) -> dict[str, int]:
    """["N=1", "H=224"] -> {"N": 1, "H": 224}. Raises UsageError."""
    dims: dict[str, int] = {}
    for word in words:
        name, equals, size = word.rpartition("=")
        if not equals or not name or not (size.isascii() and size.isdecimal()):
            raise UsageError(f"--dim {word}: expected NAME=SIZE, as in --dim N=1")
        if int(size) > MAX_SIZE:
            raise UsageError(f"--dim {word}: no dimension can be that large")
        if dims.setdefault(name, int(size)) != int(size):
            raise UsageError(f"--dim {word}: {name} is {dims[name]} already")
    return dims


def parse_sizes(words: Sequence[str]) -> dict[str, int | tuple[int, int, int]]:
    """The same, with ranges: ["N=1..8..64"] -> {"N": (1, 8, 64)}. Raises UsageError."""
    plain = [word for word in words if ".." not in word.rpartition("=")[2]]
    sizes: dict[str, int | tuple[int, int, int]] = {**parse_dims(plain)}
    for word in words:
        name, _, text = word.rpartition("=")
        parts = text.split("..")
        if len(parts) == 1:
            continue
        if len(parts) != 3 or name in sizes:
            raise UsageError(f"--dim {word}: expected NAME=LEAST..USUAL..LARGEST, once, as in --dim N=1..8..64")
        least, usual, largest = (parse_dims([f"{name}={part}"])[name] for part in parts)
        sizes[name] = least, usual, largest
    return sizes


def parse_structure(words: Sequence[str]) -> dict[str, Any]:
    """["x=3", "y=null", "z=[[2, 3], [4, 3]]"]: what inputs that are sequences or optionals hold. Raises UsageError."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            if not name or not equals or name in found:
                raise ValueError("given twice" if name in found else "no NAME=")
            found[name] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--structure {word}: {error}",
                             help="x=3 members, x=[[2,3],[4,3]] their shapes, x=null none, x=true one") from error
    return found


def human(amount: float, unit: str) -> str:
    """1234567 -> "1.23 M<unit>"."""
    for prefix in ("", "k", "M", "G"):
        if abs(amount) < 999.5:
            return f"{amount:.3g} {prefix}{unit}"
        amount /= 1000
    return f"{amount:.4g} T{unit}"
