"""What the installed commands call. It imports next to nothing, so that an interrupt while Python reads the rest of
a command (tenths of a second) ends as a later one does: in a line and exit code 130, not in Python's traceback."""
from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # lepton.ir.diagnostics.Exit.INTERRUPTED, before that can be imported


def leptonc() -> int:
    return _command("leptonc", "lepton.cli", "main")


def lepton() -> int:
    return _command("lepton", "lepton.tool", "main")


def lepton_opt() -> int:
    return _command("lepton-opt", "lepton.tool", "opt")


def _command(name: str, module: str, function: str) -> int:
    """Import the command and run it; its exit code."""

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        # At once: an exception might be swallowed, or renamed, by whatever is being imported. Nothing has begun yet.
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else whoever started us ignores interrupts
    if mine:
        signal.signal(signal.SIGINT, leave)
    body = getattr(import_module(module), function)
    try:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return int(body())
    except KeyboardInterrupt:  # outside of what the command itself looks after
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
