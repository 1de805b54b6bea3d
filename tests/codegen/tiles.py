"""Kernels for x86-amx on machines without AMX: their tile instructions become calls of tiles.c."""
from __future__ import annotations

import functools
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from lepton.codegen.target import AMX, TARGETS, Target, runs_here

# The rest of it is what this CPU has, which machines without AMX may be.
EMULATED = replace(TARGETS["x86-amx"], cpu="cooperlake", needs=TARGETS["x86-amx"].needs & ~AMX)
needs_vectors = pytest.mark.skipif(not runs_here(EMULATED), reason="needs AVX-512 BF16")


def is_emulated(target: Target) -> bool:
    return target.cpu == EMULATED.cpu and target.tiles


def with_calls(text: str) -> str:
    """The module with its tile instructions as calls."""
    for name in ("ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64", "tdpbusd", "tdpbssd",
                 "tdpbf16ps"):
        text = text.replace(f"@llvm.x86.{name}(", f"@tiles_{name}(")
    return text


@functools.cache
def library() -> Path:
    """The emulator as a shared library, built once a process."""
    made = Path(tempfile.mkdtemp()) / "libtiles.so"
    source = Path(__file__).with_name("tiles.c")
    subprocess.run(["cc", "-O2", "-march=haswell", "-ffp-contract=off", "-shared", "-fPIC", "-o", made, source, "-lm"],
                   check=True)
    return made
