"""The code of the microkernels: no accumulator leaves its register, and nothing is called."""
from __future__ import annotations

import pytest

from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.loops import Apply, Const, Expr, Load, Ref, i64
from lepton.codegen.target import TARGETS, Target
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand, plain
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.tiles import WIDTHS, choose, most_rows
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
