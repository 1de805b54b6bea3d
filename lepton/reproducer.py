"""What a bug leaves behind: a folder with the command line, the versions, the traceback and the graph."""
from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.ir.diagnostics import Exit

if TYPE_CHECKING:
    from lepton.ir.core import Graph

MAX_CONSTANTS = 64 << 20  # bytes; a graph with more is written without them


def fresh_folder() -> Path:
    """A name for the folder, in this directory or, where nothing can be written here, in the one for temporary files.
    Nothing is made yet."""
    home = Path() if os.access(".", os.W_OK) else Path(tempfile.gettempdir())
    return home / f"lepton-repro-{uuid.uuid4().hex[:8]}"


def write(folder: Path, tool: str, argv: Sequence[str]) -> None:
    """Fill the folder from the exception that is being handled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.txt").write_text(f"cd {shlex.quote(os.getcwd())}\n{shlex.join([tool, *argv])}\n")
    (folder / "traceback.txt").write_text(traceback.format_exc())
    (folder / "versions.json").write_text(json.dumps(_versions(), indent=1) + "\n")


def _versions() -> dict[str, str]:
    python = {"python": sys.version, "platform": " ".join(os.uname())}
    try:
        from lepton.driver import versions

        return {**versions(), **python}
    except Exception as error:  # the bug may be the very thing that makes versions fail
        return {**python, "error": f"{type(error).__name__}: {error}"}


@contextmanager
def kept(graph: Graph, folder: str) -> Iterator[None]:
    """Write `graph` to `folder` ("": nowhere) if what is done with it in here breaks by a bug."""
    try:
        yield
    except Exception as error:
        if folder and getattr(error, "exit", Exit.INTERNAL) is Exit.INTERNAL:
            with suppress(Exception):  # the graph may be what is broken; the first error is the one to tell
                _write_graph(graph, Path(folder) / "planned.lir")
        raise


def _write_graph(graph: Graph, path: Path) -> None:
    from lepton.ir.printer import show
    from lepton.ir.sidecar import SUFFIX, save_constants

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(show(graph), encoding="utf-8")
    if sum(t.nbytes for n in graph.walk() if (t := n.attrs.get("value")) is not None) <= MAX_CONSTANTS:
        save_constants(graph, path.with_name(path.stem + SUFFIX))
