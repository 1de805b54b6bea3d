"""Files that `leptonc` wrote: map one, and find the model in it.

Imports numpy, cffi's extension and the standard library only, as `lepton.artifact` does.
"""
from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from io import FileIO
from itertools import count
from typing import Any

import numpy as np

from lepton._rt import ffi, lib
from lepton.artifact import Code, Model, checked_threads, destroy
from lepton.elf import check_artifact, check_weights
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ports import as_input, pointer, read_ports

ABI_VERSION = 1
# What is added to it: which programs of the file are meant, and which of its models (lepton.h).
DEVICES: dict[str | None, int] = {None: 0, "cpu": 1 << 16, "cuda": 2 << 16, "auto": 3 << 16}
MODEL = 24


def _look_up_ahead() -> None:
    """What Python and cffi look up when something is done for the first time: here, while this is imported, or else
    the first model of a process would load and answer a third of a millisecond later."""
    for name in dir(lib):
        getattr(lib, name)
    for struct in ("lepton_api", "lepton_options", "lepton_tensor"):
        assert ffi.typeof(struct).fields
    for made in ("lepton_options *", "lepton_session **", "lepton_tensor[]"):
        ffi.typeof(made)
    name = ffi.new("char[]", b"")
    (port,) = read_ports(1, ffi.new("lepton_port[]", [{"name": name, "dtype": lib.LEPTON_F32, "rank": 1}]))
    pointer(as_input(np.zeros(1, port.dtype), port))
    weakref.finalize(name, json.loads, "{}")()
    assert isinstance({}, Mapping)
    checked_threads(0)


_look_up_ahead()


class _Library:
    """A library that dlopen has mapped; unmapped with its last user."""

    _loads = count()

    def __init__(self, path: str) -> None:
        with _opened(path) as file:
            fd = file.fileno()
            check_artifact(fd, path)
            self.handle = lib.lpt_open(_fresh_name(fd, next(self._loads)))
            if self.handle == ffi.NULL:  # where /proc is not mounted
                self.handle = lib.lpt_open(os.fsencode(path))
        if self.handle == ffi.NULL:
            raise LeptonError(f"cannot load {path}: {ffi.string(lib.lpt_open_error()).decode(errors='replace')}")
        weakref.finalize(self, lib.lpt_close, self.handle).atexit = False


def _opened(path: str) -> FileIO:
    try:
        return FileIO(path)
    except IsADirectoryError:
        raise UsageError(f"cannot load {path}: it is a folder") from None
    except OSError as e:
        raise UsageError(f"cannot load {path}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"cannot load {path!r}: {e}") from e


def verify(path: str | os.PathLike[str]) -> None:
    """Raises LeptonError unless every byte of a compiled model is as it was written. `load` looks at code and tables
    alone, for the weights take as long as reading them."""
    where = os.fspath(path)
    with _opened(where) as file:
        check_artifact(file.fileno(), where)
        check_weights(file.fileno(), where)


def _fresh_name(fd: int, number: int) -> bytes:
    """A name for the open file that dlopen has not heard before.

    dlopen knows libraries by name first: where a file was replaced it would hand out the old one. So each load spells
    the file differently, with the bits of its number as "/" and "/.", which mean nothing in a path.
    """
    bits = "".join("/." if bit == "1" else "/" for bit in f"{number:b}")
    return f"/proc/self/fd{bits}/{fd}".encode()


def load(path: str | os.PathLike[str], *, threads: int = 0, runnable: bool = True, device: str | None = None,
         model: str | None = None) -> Model:
    """The model in a file that `leptonc` wrote.

    `threads`: how many each run may use; 0: what the model was compiled with, or all. `runnable=False` also loads a
    model for instructions this processor lacks, to read its ports and metadata. `device`: of a file that holds code for
    both, "cpu", "cuda" or "auto" (the GPU where there is one that fits); None: what it was compiled for first, and an
    error where that is a GPU that is not there. `model`: which one of a file that holds several. Raises LeptonError.
    """
    where = os.fspath(path)
    if device not in DEVICES:
        raise UsageError(f"device {device!r}; there are cpu, cuda and auto")
    library = _Library(where)
    place = ABI_VERSION | DEVICES[device]
    known = _models(library, where)
    if known and model is None:
        raise UsageError(f"{where} holds {len(known)} models: {', '.join(known)}",
                         help=f"say which: lepton.load(path, model={known[0]!r}), or --model {known[0]}")
    if model is not None and model not in known:
        raise UsageError(f"{where} holds no model '{model}'",
                         help=f"it holds {', '.join(known)}" if known else "it holds one model, without a name")
    code = Code(_table(library, where, place | (known.index(model) << MODEL if model is not None else 0)),
                keep_alive=library)
    if runnable and not code.api.target:
        destroy(code, code.create(1))  # raises, and says what the processor lacks
    return Model(code, threads)


def models(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the models in a file that holds several, in the order in which they were compiled; () for a file of
    one. Raises LeptonError."""
    where = os.fspath(path)
    return _models(_Library(where), where)


def _models(library: _Library, where: str) -> tuple[str, ...]:
    words = _table(library, where, ABI_VERSION | DEVICES["cpu"]).metadata  # which wakes no GPU
    text = ffi.string(words) if words else b""
    return tuple(json.loads(text).get("models", ())) if b'"models"' in text else ()


def _table(library: _Library, where: str, asked: int) -> Any:
    api = lib.lpt_query(library.handle, asked)
    if api == ffi.NULL:
        raise LeptonError(f"cannot load {where}: it does not speak version {ABI_VERSION} of the interface",
                          help="compile the model again with this version of Lepton")
    return api
