"""The file that remembers what was measured: lines of JSON, the first of which says that it is one.

A row counts for the machine, compiler, target and number of threads it was measured with; a file holds any of them.
It is always replaced by a complete one.
"""
from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import lepton
from lepton.codegen.schedule import Schedule
from lepton.ir.diagnostics import ParseError, UsageError
from lepton.ir.files import disk_errors, replacing
from lepton.knobs import CACHE_HOME

HEADER = {"lepton_tuning": 1}
FACTS = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")  # of /proc/cpuinfo


@dataclass(frozen=True)
class Row:
    """One kernel's answer. Seconds are of one run of it."""

    cpu: str
    compiler: str
    target: str
    threads: int              # 0: as many as there are
    kernel: str               # the key of its Choice
    schedule: str             # the fastest
    seconds: float
    model: str                # what the cost model takes
    model_seconds: float
    tried: int                # schedules that were measured

    @property
    def place(self) -> tuple[str, str, str, int, str]:
        """What a row answers; there is one row for each."""
        return self.cpu, self.compiler, self.target, self.threads, self.kernel

    @classmethod
    def of(cls, found: Any) -> Row:
        """Raises ValueError for what no row is."""
        if not isinstance(found, dict) or found.keys() != {f.name for f in fields(cls)}:
            raise ValueError("not the fields of a row")
        for f in fields(cls):
            if type(found[f.name]).__name__ != f.type and not (f.type == "float" and type(found[f.name]) is int):
                raise ValueError(f"{f.name} is no {f.type}")
        try:
            Schedule.parse(found["schedule"])
        except ParseError as error:
            raise ValueError(error.message) from error
        return cls(**found)


@cache
def cpu() -> str:
    """This machine's processor, in the words of Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first = dict(reversed([(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]))
    return "; ".join(first[k] for k in FACTS if k in first) or platform.machine()


@cache
def compiler() -> str:
    from llvmlite import binding as llvm

    return f"lepton {lepton.__version__}, LLVM {'.'.join(map(str, llvm.llvm_version_info))}"


def default_path() -> Path:
    """Where results go that no file was named for."""
    return Path(CACHE_HOME.text or Path.home() / ".cache") / "lepton" / "tuning.jsonl"


@dataclass(eq=False)
class Cache:
    """The rows of a file; `damaged` lines are left out, and gone when it is written again."""

    path: Path
    rows: dict[tuple[str, str, str, int, str], Row]
    damaged: int = 0

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Cache:
        """What the file holds; nothing where there is none. Raises UsageError for a file that is no such cache."""
        where = Path(path)
        if where.exists() and not (where.is_file() or where.is_dir()):
            raise UsageError(f"cannot read the tuning cache {where}: it is no regular file")
        try:
            lines = where.read_bytes().split(b"\n")
        except FileNotFoundError:
            return cls(where, {})
        except OSError as error:
            raise UsageError(f"cannot read the tuning cache {where}: {error.strerror}") from error
        if lines == [b""]:
            return cls(where, {})
        head = _json(lines[0])
        if not isinstance(head, dict) or "lepton_tuning" not in head:
            raise UsageError(f"{where} is no tuning cache", help="name another file with --tune-cache")
        if head != HEADER:
            raise UsageError(f"the tuning cache {where} is of another version of Lepton",
                             help="name another file with --tune-cache, or delete this one")
        found, damaged = {}, 0
        for line in filter(None, lines[1:]):
            try:
                row = Row.of(_json(line))
                found[row.place] = row
            except ValueError:
                damaged += 1
        return cls(where, found, damaged)

    def save(self) -> None:
        """Write the file, with what others have added to it meanwhile. Raises UsageError where that cannot be done."""
        self.rows = {**Cache.open(self.path).rows, **self.rows}
        text = "\n".join(json.dumps(r) for r in (HEADER, *(asdict(self.rows[p]) for p in sorted(self.rows)))) + "\n"
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as partial:
            partial.write_text(text)

    def here(self, target: str, threads: int) -> dict[str, Row]:
        """By kernel, what was measured on this machine by this compiler."""
        return chosen(self.rows.values(), {"cpu": cpu(), "compiler": compiler(), "target": target, "threads": threads})


def chosen(rows: Iterable[Row], facts: Mapping[str, object]) -> dict[str, Row]:
    return {r.kernel: r for r in rows if all(getattr(r, name) == fact for name, fact in facts.items())}


@cache
def defaults() -> tuple[Row, ...]:
    """What comes with Lepton, measured on some machine of each target's family."""
    text = resources.files("lepton.tuning").joinpath("defaults.jsonl").read_text()
    return tuple(Row.of(json.loads(line)) for line in text.splitlines()[1:])


def schedules(target: str, threads: int, path: str) -> dict[str, Schedule]:
    """By kernel, what is known for a target: what comes with Lepton, and over it what the cache at `path` (none: "")
    holds for this machine. Raises UsageError for a file that is no cache."""
    found = chosen(defaults(), {"target": target})
    if path:
        known = Cache.open(path)
        found = {**found, **known.here(target, 0), **known.here(target, threads)}
    return {kernel: Schedule.parse(row.schedule) for kernel, row in found.items()}


def _json(line: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
