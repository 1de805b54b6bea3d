"""Programs in memory: what the JIT hands over."""
from __future__ import annotations

import ctypes
import gc
import struct
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.artifact import from_program
from lepton.ir.diagnostics import LeptonError
from tests.runtime import handmade

X = np.array([0, 1, 2, 3], np.float32)


def _in_memory(folder: Path, name: str) -> tuple[Any, int]:
    """A loaded library and the address of its hand-made lpt_program, which has no weights of its own."""
    text = handmade.source(name).replace("STATIC_PROGRAM(lpt_weights)", "STATIC_PROGRAM(0)")
    text += '__attribute__((visibility("default"))) const void *where(void) { return &linked; }\n'
    (folder / "p.c").write_text(text)
    flags = ["-shared", "-fPIC", "-w", *(f"-I{handmade.RUNTIME / p}" for p in ("include", "src", "tests"))]
    subprocess.run(["cc", *flags, "p.c", "-o", "p.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "p.so"))
    library.where.restype = ctypes.c_void_p
    return library, library.where()


def _aligned(data: bytes) -> Any:
    raw = np.zeros(len(data) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start:start + len(data)] = np.frombuffer(data, np.uint8)
    return raw[start:start + len(data)]


def test_programs_in_memory_run(tmp_path: Path) -> None:
    library, address = _in_memory(tmp_path, "static")
    model = from_program(address, _aligned(struct.pack("<f", 11)), keep_alive=library, threads=2)
    other = from_program(address, _aligned(struct.pack("<f", 12)), keep_alive=library)
    gc.collect()
    np.testing.assert_array_equal(model(X), 2 * X + 11)
    np.testing.assert_array_equal(other.session()(X), 2 * X + 12)
    assert (model.target, model.metadata) == ("test", {"model": "static"})


def test_programs_keep_what_they_are_given(tmp_path: Path) -> None:
    library, address = _in_memory(tmp_path, "static")
    keep = type("Keep", (), {})()
    gone = weakref.ref(keep)
    model = from_program(address, _aligned(struct.pack("<f", 1)), keep_alive=(library, keep))
    session = model.session()
    del model, keep
    gc.collect()
    assert gone() is not None
    np.testing.assert_array_equal(session(X), 2 * X + 1)
    del session
    gc.collect()
    assert gone() is None


def test_programs_need_their_weights(tmp_path: Path) -> None:
    library, address = _in_memory(tmp_path, "static")
    with pytest.raises(LeptonError, match="needs weights and was given none"):
        from_program(address, keep_alive=library)(X)
    with pytest.raises(LeptonError, match="weights must be aligned to 64 bytes"):
        from_program(address, _aligned(bytes(8))[4:], keep_alive=library)(X)
