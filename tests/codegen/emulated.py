"""Runs a kernel for ARM under qemu: its buffers travel in a file, there and back."""
from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module
from lepton.codegen.target import Target
from lepton.ir.tensor import Array

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
HARNESS = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
void kernel(void *const *bufs, const int64_t *dims, void *scratch, int64_t lo, int64_t hi);
int main(int argc, char **argv) {
  int64_t head[5];  /* buffers, sizes, scratch, tasks, shares */
  FILE *f = fopen(argv[1], "rb");
  if (argc != 3 || !f || fread(head, 8, 5, f) != 5) return 2;
  int64_t *sizes = calloc(head[1] + 1, 8), *bytes = calloc(head[0] + 1, 8), *starts = calloc(head[0] + 1, 8);
  if ((int64_t)fread(sizes, 8, head[1], f) != head[1]) return 3;
  char **bufs = calloc(head[0] + 1, sizeof *bufs), **at = calloc(head[0] + 1, sizeof *at);
  for (int64_t i = 0; i < head[0]; i++) {
    if (fread(&bytes[i], 8, 1, f) != 1 || fread(&starts[i], 8, 1, f) != 1) return 4;
    bufs[i] = aligned_alloc(64, (bytes[i] + 127) / 64 * 64);
    if ((int64_t)fread(bufs[i], 1, bytes[i], f) != bytes[i]) return 5;
    at[i] = bufs[i] + starts[i];
  }
  fclose(f);
  void *scratch = aligned_alloc(64, (head[2] + 127) / 64 * 64);
  for (int64_t s = 0; s < head[4]; s++)
    kernel((void *const *)at, sizes, scratch, head[3] * s / head[4], head[3] * (s + 1) / head[4]);
  f = fopen(argv[2], "wb");
  for (int64_t i = 0; i < head[0]; i++) fwrite(bufs[i], 1, bytes[i], f);
  return fclose(f);
}
"""


def run(kernel: Kernel, target: Target, arrays: Sequence[Array], starts: Sequence[int], sizes: Sequence[int],
        scratch: int, tasks: int, shares: int) -> None:
    """Call the kernel on the arrays, in place. Skips the test where the tools are missing."""
    if not all(map(shutil.which, (COMPILER, EMULATOR))):
        pytest.skip(f"needs {COMPILER} and {EMULATOR}")
    with tempfile.TemporaryDirectory() as folder:
        _run_in(Path(folder), kernel, target, arrays, starts, [scratch, tasks, shares, *sizes], len(sizes))


def _run_in(folder: Path, kernel: Kernel, target: Target, arrays: Sequence[Array], starts: Sequence[int],
            numbers: Sequence[int], sizes: int) -> None:
    module = Module()
    kernel.body.emit(module, "kernel", target)
    (folder / "k.o").write_bytes(compile_module(str(module).replace("define hidden", "define"), target))
    (folder / "main.o").write_bytes(_harness())
    subprocess.run([COMPILER, "-static", "-o", folder / "run", folder / "main.o", folder / "k.o", "-lm"], check=True)
    head = np.array([len(arrays), sizes, *numbers], np.int64).tobytes()
    parts = [np.array([a.nbytes, s], np.int64).tobytes() + a.tobytes() for a, s in zip(arrays, starts, strict=True)]
    (folder / "in").write_bytes(head + b"".join(parts))
    subprocess.run([EMULATOR, folder / "run", folder / "in", folder / "out"], check=True, timeout=120)
    result, place = (folder / "out").read_bytes(), 0
    for array in arrays:
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(result, np.uint8, array.nbytes, place)
        place += array.nbytes


@cache
def _harness() -> bytes:
    """The object of the program around a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "main.c"
        source.write_text(HARNESS)
        subprocess.run([COMPILER, "-O1", "-c", "-o", source.with_suffix(".o"), source], check=True)
        return source.with_suffix(".o").read_bytes()
