"""Writing files: found out early where that cannot be done, and replaced only by complete ones."""
from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton.ir.diagnostics import ResourceError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_destination(out: Path, sources: Iterable[str | Path] = ()) -> None:
    """Raises UsageError where no file can be made at `out`, or where it is one of the files that are read, before hours
    are spent on what it shall hold."""
    with disk_errors(out):
        if out.is_dir():
            raise UsageError(f"cannot write {out}: it is a folder", help="give the file's name too")
        _check_regular(out)
        if not out.parent.is_dir():
            raise UsageError(f"cannot write {out}: there is no folder {out.parent}", help=f"mkdir -p {out.parent}")
        if out.exists() and any(Path(s).exists() and out.samefile(s) for s in sources):
            raise UsageError(f"cannot write {out}: it is a file that is read", help="name another file")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise ResourceError(f"cannot write {out}: {error.strerror}") from error
        raise UsageError(f"cannot write {out}: no file can be made in {out.parent}: {error.strerror}") from error


def _check_regular(out: Path) -> None:
    """Raises UsageError for a device, a pipe and the like: a file put in its place would take it from all programs."""
    if out.exists() and not out.is_file():
        raise UsageError(f"cannot write {out}: it is no regular file")


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Tells what the disk refuses as a UsageError, or a ResourceError where it is full."""
    try:
        yield
    except OSError as error:
        kind = ResourceError if error.errno in FULL else UsageError
        raise kind(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A place for a file, in a folder of its own, that becomes `out` when the block ends without an error. Until then,
    and after an error, what was there stays. Raises UsageError, ResourceError."""
    with disk_errors(out):
        _check_regular(out)
    with disk_errors(out), tempfile.TemporaryDirectory(prefix=".lepton-", dir=out.parent) as folder:
        partial = Path(folder) / out.name
        yield partial
        os.replace(partial, out)
