"""Bytes of a right operand as a panel for a microkernel: groups of four k's of each column, made in scratch.

    row 0       what the sums start from: -zero * Σk b[k, column], in i32
    row 1 + g   the four bytes b[4g … 4g+3, column] of each column; beyond the last k they are 0
"""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.llvm.builder import Function, Int, Val, literal, vec
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FLIP, Dot
from lepton.codegen.templates.memory import load_lanes, mask_of
from lepton.codegen.templates.pack import pack_panel
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Zero:
    """A zero point: a number, plus an element of a buffer."""

    number: int = 0
    buffer: int | None = None
    dtype: DType = DType.U8

    def value(self, fn: Function) -> Val:
        """As an i32."""
        if self.buffer is None:
            return Val("i32", str(self.number))
        kind = "sext" if self.dtype.is_signed else "zext"
        loaded = fn.convert(kind, fn.load("i8", fn.buffer(self.buffer)), "i32")
        return fn.op("add", loaded, Val("i32", str(self.number))) if self.number else loaded

    def byte(self, fn: Function) -> Val:
        """As an element of the buffer's type."""
        return fn.convert("trunc", self.value(fn), "i8")


@dataclass(frozen=True, slots=True)
class Quads:
    """B is [k, n] of bytes, unsigned ones 128 too large (`flip`); `zero` is the zero point of A as the dots see it."""

    k: int
    flip: bool
    zero: Zero

    def pack(self, fn: Function, machine: Target, source: Val, columns: Int, strides: tuple[Int, Int], target: Val,
             vectors: int) -> None:
        """Fill the panel at `target`; strides of the source in bytes."""
        panel = fn.gep(target, vectors * machine.vector_bytes)
        whole, tail = divmod(self.k, 4)
        steps = strides[1]
        if strides[0] == 1 and isinstance(steps, int) and steps % 4 == 0:
            pack_panel(fn, machine, DType.I32, source, (whole, columns), (1, steps // 4), panel, vectors)
        else:
            fn.loop(whole, lambda g, _: self._group(fn, machine, source, columns, strides, panel, vectors, g, 4))
        if tail:
            self._group(fn, machine, source, columns, strides, panel, vectors, whole, tail)
        self._finish(fn, machine, panel, target, vectors, whole, tail)

    def _group(self, fn: Function, machine: Target, source: Val, columns: Int, strides: tuple[Int, Int], panel: Val,
               vectors: int, group: Int, count: int) -> None:
        """One row of the panel, of `count` rows of B."""
        lanes = machine.lanes(DType.I32)
        wide = vec(lanes, "i32")
        for v in range(vectors):
            mask = mask_of(fn, columns, v, lanes)
            total: Val | None = None
            for i in range(count):
                offset = fn.add(fn.mul(fn.add(fn.mul(group, 4), i), strides[0]), fn.mul(strides[1], v * lanes))
                one = load_lanes(fn, machine, DType.U8, fn.gep(source, offset), lanes, strides[1], mask)
                one = fn.convert("zext", one, wide)
                one = fn.op("shl", one, literal(wide, 8 * i)) if i else one
                total = one if total is None else fn.op("or", total, one)
            assert total is not None
            fn.store(total, panel, fn.add(fn.mul(group, vectors * machine.vector_bytes), v * machine.vector_bytes))

    def _finish(self, fn: Function, machine: Target, panel: Val, target: Val, vectors: int, whole: int,
                tail: int) -> None:
        """Signs changed, sums of columns found, the first row written."""
        wide = vec(machine.lanes(DType.I32), "i32")
        dot, pitch = Dot(4), vectors * machine.vector_bytes
        ones = dot.left(fn, machine, literal(wide, 0x01010101))

        def row(g: Int, sums: list[Val], flip: int = FLIP) -> list[Val]:
            found = []
            for v, total in enumerate(sums):
                place = fn.gep(panel, fn.add(fn.mul(g, pitch), v * machine.vector_bytes))
                value = fn.load(wide, place)
                if self.flip:
                    value = fn.op("xor", value, literal(wide, flip - (1 << 32 if flip >> 31 else 0)))
                    fn.store(value, place)
                found.append(dot.accumulate(fn, machine, ones, dot.right(fn, machine, value), total))
            return found

        sums = fn.loop(whole, row, [literal(wide, 0)] * vectors)
        if tail:
            sums = row(whole, sums, FLIP & ((1 << 8 * tail) - 1))
        zero = fn.splat(fn.op("sub", Val("i32", "0"), self.zero.value(fn)), machine.lanes(DType.I32))
        for v, total in enumerate(sums):
            fn.store(fn.op("mul", total, zero), target, v * machine.vector_bytes)
