"""Plug-ins: Python files that bring passes, operators and functions of one's own."""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from lepton import functions
from lepton.ir.diagnostics import LeptonError, UsageError, line_in
from lepton.passes.base import LOADED, PASSES

_LOADED: dict[Path, tuple[int, int]] = {}  # as they were: time of change and size


def load(files: Iterable[str | Path]) -> None:
    """Import plug-ins, each once as long as it stays as it is. Raises UsageError with the line that went wrong."""
    for file in map(Path, files):
        if not file.is_file():
            why = "it is a folder" if file.is_dir() else "there is no such file"
            raise UsageError(f"cannot load {file}: {why}", help="give a Python file")
        status = file.stat()
        state = (status.st_mtime_ns, status.st_size)
        if _LOADED.get(file.resolve()) != state:
            _load(file)
            _LOADED[file.resolve()] = state


def _load(file: Path) -> None:
    from lepton import custom

    before = _declared(custom.DECLARED)
    try:
        _execute(file)
    except LeptonError:
        raise
    except Exception as error:
        raise UsageError(f"cannot load {file}{line_in(error, file)}: {type(error).__name__}: {error}") from error
    if _declared(custom.DECLARED) == before:
        raise UsageError(f"{file} defines no pass, no operator and no function",
                         help="a pass is a subclass of Pass with a `name`; operators: docs/custom-operators.md")


def _execute(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"{LOADED}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"cannot load {file}", help="give a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)


def _declared(operators: Mapping[str, object]) -> list[dict[str, object]]:
    """What there is, by identity: something declared again counts as new."""
    return [dict(PASSES), dict(operators), dict(functions.REGISTERED)]
