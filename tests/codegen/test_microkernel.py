"""The code of the microkernels: no accumulator leaves its register, nothing is called; and they run on NEON."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.loops import Apply, Const, Expr, Load, Ref, i64
from lepton.codegen.target import TARGETS, Target
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand, plain
from lepton.codegen.templates.gemm import Gemm, pack_constant
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.tiles import WIDTHS, Tile, choose, most_rows
from lepton.ir.types import DType

ACC = Ref(ACCUMULATOR, DType.F32)


def add(a: Expr, b: Expr) -> Expr:
    return Apply("add", (a, b), DType.F32)


RESIDUAL = Epilogue(
    (Operand(0, DType.F32, (0, 0, 1)), Operand(0, DType.F32, (-1, -1, 1))), (Operand(0, DType.F32, (-1, -1, 1)),),
    (Apply("maximum", (add(add(ACC, Load("e0", i64(0), DType.F32)), Load("e1", i64(0), DType.F32)),
                       Const(0.0, DType.F32)), DType.F32),))


def assembly(micro: Micro, target: Target) -> str:
    module = Module()
    micro.function(module, target)
    return compile_module(str(module).replace("define internal", "define"), target, asm=True)


@pytest.mark.parametrize("target", ["x86-sse4", "x86-avx2", "x86-avx512", "x86-amx"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_no_spills_and_no_calls(target: str, depth: int) -> None:
    """The highest tile of every width, in plain products and in nests, with and without bias, residual and relu."""
    machine = TARGETS[target]
    for vectors in WIDTHS:
        rows = most_rows(machine, vectors)
        if rows < 1:
            continue
        for epilogue in (plain(Operand(0, DType.F32, (-1, -1, 1))), RESIDUAL):
            micro = Micro(DType.F32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 4, True, depth, epilogue,
                          vectors * machine.lanes(DType.F32), vectors * machine.vector_bytes, ahead=1)
            text = assembly(micro, machine)
            assert count_spills(text)[micro.name] == 0, (rows, vectors)
            assert calls(text)[micro.name] == [], (rows, vectors)


def test_tiles_use_the_registers() -> None:
    """The cost model finds the tiles that measurement found."""
    for name, least in (("x86-avx512", 24), ("x86-avx2", 10), ("x86-sse4", 8), ("aarch64-neon", 20)):
        tile = choose(TARGETS[name], 3136, 256, 64, DType.F32, row_stride=256)
        assert tile.rows * tile.vectors >= least, (name, tile)
    aliasing = choose(TARGETS["x86-avx512"], 784, 128, 512, DType.F32, row_stride=4096)
    assert aliasing.rows <= 6


def test_equal_microkernels_are_shared() -> None:
    module = Module()
    store = plain(Operand(0, DType.F32, (0, -1, 1)))
    names = {Micro(DType.F32, (1, 4), 2, (0, 64, 128, 192), 4, True, 0, store, 8, 64).function(
        module, TARGETS["x86-avx2"]) for _ in range(2)}
    assert len(names) == len(module.functions) == 1


HARNESS = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
void kernel(void *const *bufs, const int64_t *dims, void *scratch, int64_t lo, int64_t hi);
int main(void) {
  enum { M = %(m)d, N = %(n)d, K = %(k)d };
  float *a = malloc(sizeof(float) * M * K), *b = malloc(%(packed)d), *c = malloc(sizeof(float) * M * N);
  FILE *f = fopen("%(data)s", "rb");
  if (!f || fread(a, 4, M * K, f) != M * K || fread(b, 1, %(packed)d, f) != %(packed)d) return 2;
  void *bufs[] = {a, b, c};
  kernel(bufs, 0, 0, 0, %(tasks)d);
  float want;
  for (int i = 0; i < M * N; i++) {
    if (fread(&want, 4, 1, f) != 1) return 3;
    if (!(fabsf(want - c[i]) < 1e-3f)) { printf("%%d: %%g against %%g\n", i, c[i], want); return 1; }
  }
  return 0;
}
"""


@pytest.mark.qemu
def test_neon(tmp_path: Path) -> None:
    """A product with remainders in every direction, run by qemu."""
    if not all(map(shutil.which, ("aarch64-linux-gnu-gcc", "qemu-aarch64"))):
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    target, (m, n, k) = TARGETS["aarch64-neon"], (29, 45, 37)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    tile = Tile(6, 3)
    packed = pack_constant(b, target, tile, DType.F32)
    (tmp_path / "data").write_bytes(a.tobytes() + packed.tobytes() + (a @ b).tobytes())
    x, y = Operand(0, DType.F32, (k, 1)), Operand(2, DType.F32, (n, 1))
    body = Gemm(DType.F32, (), m, n, k, x, 1, plain(y), tile, 12, 2, True)
    module = Module()
    body.emit(module, "kernel", target)
    (tmp_path / "k.o").write_bytes(compile_module(str(module).replace("define hidden", "define"), target))
    values = {"m": m, "n": n, "k": k, "packed": packed.nbytes, "data": tmp_path / "data", "tasks": 3 * 2}
    (tmp_path / "main.c").write_text(HARNESS % values)
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", tmp_path / "run", tmp_path / "main.c",
                    tmp_path / "k.o", "-lm"], check=True)
    done = subprocess.run(["qemu-aarch64", tmp_path / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("vectors", WIDTHS)
def test_neon_does_not_spill(vectors: int) -> None:
    target = TARGETS["aarch64-neon"]
    rows = most_rows(target, vectors)
    store = plain(Operand(0, DType.F32, (0, -1, 1)))
    micro = Micro(DType.F32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 4, True, 1, store, vectors * 4,
                  vectors * 16)
    text = assembly(micro, target)
    assert count_spills(text)[micro.name] == 0
    assert calls(text)[micro.name] == []
