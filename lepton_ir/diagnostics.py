"""Errors the user can act on, and where in the model they arose.

Two kinds of failure exist: `LeptonError` (the message says what failed, where in the *model*, what was
got and expected, what to do) and everything else, which is a bug of Lepton's.
"""
from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Exit(IntEnum):
    """Exit codes of the command line; `LeptonError.exit` picks one."""

    OK = 0
    WRONG = 1           # an answer or a budget missed
    USAGE = 2
    UNSUPPORTED = 3     # model or device
    REFUSED = 4         # verification
    RESOURCES = 5
    INTERNAL = 70
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Location:
    """Where a node comes from: the ONNX node's name and operator, or a line of text IR."""

    name: str
    op: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else (f"{self.file}: " if self.file else "")
        kind = f" ({self.op})" if self.op else ""
        return f"{where}node '{self.name}'{kind}"


class LeptonError(Exception):
    """Something the user can act on.

    `where` names a place in the model, `help` says what to do; both become lines of the message.
    """

    exit: Exit = Exit.UNSUPPORTED

    def __init__(self, message: str, *, where: object = None, help: str = "", exit: Exit | None = None) -> None:
        self.message, self.where, self.help = message, where, help
        if exit is not None:
            self.exit = exit
        lines = [message]
        if where:
            lines.append(f"  --> {where}")
        if help:
            lines.append(f"  = help: {help}")
        super().__init__("\n".join(lines))


class UsageError(LeptonError):
    """The caller asked for something that does not exist or does not fit together."""

    exit = Exit.USAGE


class TypeRuleError(LeptonError):
    """The operands of an op do not fit: shapes, element types, attributes."""


class VerifyError(LeptonError):
    """A graph breaks a rule of the IR."""


class ParseError(LeptonError):
    """Text IR that cannot be read; the message begins with file:line:column."""


class UnsupportedError(LeptonError):
    """The model needs something Lepton cannot do (yet)."""


class NotInstalledError(LeptonError):
    """A package, a library or a tool that this needs is not there."""


class ResourceError(LeptonError):
    """A limit on size, memory or time was met."""

    exit = Exit.RESOURCES


def line_in(error: BaseException, file: Path) -> str:
    """":12", the line of a Python file where an error arose or which it names; "" where there is none."""
    file = file.resolve()
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file]
    line = lines[-1] if lines else getattr(error, "lineno", None)
    return f":{line}" if line else ""
