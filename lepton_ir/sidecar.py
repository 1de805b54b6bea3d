"""The constants that text IR elides, in a zip file beside it: `name.lir` and `name.constants.zip`.

Each entry is named by the constant's digest, holds the elements (little-endian, row-major; JSON for strings), and has
the type as its comment. Nothing is compressed, nothing is written twice, several dumps may share one file.
"""
from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.files import replacing
from lepton.ir.literals import Elided, is_elided
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType, parse_type

SUFFIX = ".constants.zip"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same constants give the same file


def beside(text: Path) -> Path:
    """Where the constants of a text IR file are: its own file, or the one its folder shares."""
    own, shared = text.with_name(text.stem + SUFFIX), text.with_name(SUFFIX.removeprefix("."))
    return shared if shared.exists() and not own.exists() else own


def save_constants(graph: Graph, path: Path) -> int:
    """Add to `path` the constants that `show` elides and that it does not hold yet; how many were added. The file is
    replaced by a complete one: a full disk costs nothing that it held. Raises UsageError, ResourceError."""
    wanted = {t.digest: t for t in _constants(graph) if is_elided(t) and not isinstance(t, Elided)}
    if path.exists():
        with _reading(path), zipfile.ZipFile(path) as file:
            there = set(file.namelist())
        wanted = {digest: t for digest, t in wanted.items() if digest not in there}
    if wanted:
        with replacing(path) as whole:
            if path.exists():
                shutil.copyfile(path, whole)
            _append(wanted, whole)
    return len(wanted)


def load_constants(path: Path) -> dict[str, Tensor]:
    """The constants in `path` by digest, each read when first touched; {} where there is no such file. Raises
    UsageError, also when touched, for a file that is none of ours."""
    if not path.exists():
        return {}
    found: dict[str, Tensor] = {}
    with _reading(path), zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            type = parse_type(entry.comment.decode())
            if not isinstance(type, TensorType):
                raise ValueError(f"{entry.filename} is a {type}")
            found[entry.filename] = Tensor(type, partial(_read, path, entry.filename, type))
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises UsageError for what cannot be read, or holds something else."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path} holds no constants: {error}", help="delete it, or write the text anew") from error


def _append(tensors: dict[str, Tensor], path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as file:
        for digest, tensor in tensors.items():
            entry = zipfile.ZipInfo(digest, _EPOCH)
            entry.comment = str(tensor.type).encode()
            file.writestr(entry, _to_bytes(tensor))


def _constants(graph: Graph) -> list[Tensor]:
    return [v for node in graph.walk() for v in node.attrs.values() if isinstance(v, Tensor)]


def _to_bytes(tensor: Tensor) -> bytes:
    if tensor.type.dtype is DType.STRING:
        return json.dumps(tensor.array.reshape(-1).tolist()).encode()
    return tensor.array.tobytes()


def _read(path: Path, digest: str, type: TensorType) -> Array:
    shape = [d for d in type.shape if isinstance(d, int)]
    with _reading(path):
        with zipfile.ZipFile(path) as file:
            data = file.read(digest)
        if type.dtype is DType.STRING:
            array = np.empty(len(strings := json.loads(data)), object)
            array[:] = strings
            return array.reshape(shape)
        return np.frombuffer(data, type.dtype.numpy).reshape(shape)
