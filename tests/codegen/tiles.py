"""Kernels for x86-amx on machines without AMX: their tile instructions become calls of tiles.c.

    python -m tests.codegen.tiles MODEL.onnx …

compiles models for x86-amx, runs them so, and compares them with AVX-512's in f32 (quantised ones are equal)."""
from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from llvmlite import binding as llvm

import lepton
from lepton.codegen import build
from lepton.codegen.llvm.machine import compile_module
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
def library() -> ctypes.CDLL:
    """The emulator, built once a process; kernels that are linked in memory find its functions."""
    source = Path(__file__).with_name("tiles.c")
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/libtiles.so"
        subprocess.run(["cc", "-O2", "-march=haswell", "-ffp-contract=off", "-shared", "-fPIC", "-o", made, source,
                        "-lm"], check=True)
        llvm.load_library_permanently(made)
        return ctypes.CDLL(made)


@contextmanager
def emulating() -> Iterator[None]:
    """The target x86-amx runs here."""
    library()
    with mock.patch.dict(TARGETS, {"x86-amx": EMULATED}), mock.patch.object(
            build, "compile_module", lambda text, target: compile_module(with_calls(text), target)):
        yield


def main() -> None:
    from benchmarks.precision import distance, feeds

    def run(path: Path, **options: Any) -> list[np.ndarray]:
        answers = lepton.compile(path, threads=1, level=3, **options)(*feeds(path).values())
        return [np.asarray(a) for a in (answers if isinstance(answers, list | tuple) else [answers])]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="ONNX files")
    for path in parser.parse_args().models:
        want = run(path, target="x86-avx512vnni")
        with emulating():
            for options in ({}, {"precision": "bf16"}, {"math": "fast"}):
                got = run(path, target="x86-amx", **options)
                print(f"{path.stem:24s} {options or 'f32'!s:24} {distance(got, want):.2e}", flush=True)


if __name__ == "__main__":
    main()
