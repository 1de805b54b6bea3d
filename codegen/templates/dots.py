"""What one step of a microkernel multiplies: one float, or a group of narrow numbers in the place of one.

A group of A (four bytes that lie together) is broadcast to all lanes; each lane of W holds the group of its own column.
`left` and `right` prepare the two, once for a row and once for a vector of columns; `accumulate` adds their product.

Which instructions do it is a column of the target table, `Target.dots`:
    bytes   vpdpbusd: unsigned bytes of A times signed ones of W, four products and a sum (AVX-512 VNNI, AVX-VNNI)
    signed  sdot: both signed (ARM's dot products)
    pairs   pmaddwd on bytes widened to 16 bits, even and odd ones apart. pmaddubsw would saturate.
    single  plain multiplications of 32 bits
All are exact and wrap as i32 does, so that every machine gives the same bits. Pairs of bf16 (a group of two) are
multiplied by vdpbf16ps where the target has it (`Target.bf16`), else as the floats that they are the upper halves of.
Where A's bytes have the other sign,
their top bits are flipped as they are read, which moves them by 128; the sums' start takes that back.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

from lepton.codegen.llvm.builder import Function, Val, lanes_of, literal, vec
from lepton.codegen.llvm.convert import from_memory
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import fma
from lepton.ir.types import DType

FLIP = 0x80808080


@dataclass(frozen=True, slots=True)
class Dot:
    """`group` elements of A and W make one product of a step."""

    group: int = 1
    flip: bool = False        # A's bytes change their sign as they are read
    starts: bool = False      # W's panels begin with a row of what the sums start from
    matrix: str = ""          # the instruction that multiplies whole tiles of groups (templates/blocks.py)
    stored: DType | None = None   # what W's elements are in memory, where they become floats as they are read

    @property
    def sums(self) -> DType:
        """What products of groups add up to."""
        return DType.I32 if self.group == 4 else DType.F32

    @property
    def kind(self) -> Dot:
        """What its speed depends on, as long as W need not be fetched."""
        return replace(self, stored=None)

    def width(self, dtype: DType) -> int:
        """Bytes of a group of W, for sums of this type."""
        return dtype.bytes if self.stored is None else self.stored.bytes

    def left(self, fn: Function, target: Target, raw: Val) -> list[Val]:
        """A group of A, the same in all lanes."""
        if self.group < 4:
            return [raw] if self.group == 1 else _pair(fn, target, raw)
        value = fn.op("xor", raw, literal(raw.type, FLIP - (1 << 32))) if self.flip else raw
        match target.dots:
            case "pairs":
                halves = fn.convert("bitcast", value, vec(2 * lanes_of(raw.type), "i16"))
                return [fn.op("and", halves, literal(halves.type, 255)), fn.op("lshr", halves, literal(halves.type, 8))]
            case "single":
                parts = [value if i == 0 else fn.op("lshr", value, literal(raw.type, 8 * i)) for i in range(4)]
                return [*(fn.op("and", p, literal(raw.type, 255)) for p in parts[:3]), parts[3]]
        return [_bytes(fn, value)]

    def right(self, fn: Function, target: Target, raw: Val) -> list[Val]:
        """The groups of a vector of columns."""
        if self.stored is not None:
            value = from_memory(fn, target, raw, self.stored)
            floats = vec(lanes_of(raw.type), "float")
            return [fn.convert("sitofp", value, floats) if self.stored.is_integer else value]
        if self.group < 4:
            return [raw] if self.group == 1 else _pair(fn, target, raw)
        match target.dots:
            case "pairs":
                halves = fn.convert("bitcast", raw, vec(2 * lanes_of(raw.type), "i16"))
                eight = literal(halves.type, 8)
                return [fn.op("ashr", fn.op("shl", halves, eight), eight), fn.op("ashr", halves, eight)]
            case "single":
                lifted = [fn.op("shl", raw, literal(raw.type, 24 - 8 * i)) for i in range(3)]
                return [fn.op("ashr", p, literal(raw.type, 24)) for p in (*lifted, raw)]
        return [_bytes(fn, raw)]

    def accumulate(self, fn: Function, target: Target, left: list[Val], right: list[Val], total: Val) -> Val:
        """total + left * right."""
        if self.group == 2 and target.bf16:
            bits = 8 * target.vector_bytes
            return fn.call(total.type, f"llvm.x86.avx512bf16.dpbf16ps.{bits}", [total, left[0], right[0]])
        if self.group < 4:
            for a, w in zip(left, right, strict=True):
                total = fma(fn, target.fma, a, w, total)
            return total
        match target.dots:
            case "bytes":
                bits = 8 * target.vector_bytes
                return fn.call(total.type, f"llvm.x86.avx512.vpdpbusd.{bits}", [total, left[0], right[0]])
            case "signed":
                return fn.call(total.type, "llvm.aarch64.neon.sdot.v4i32.v16i8", [total, left[0], right[0]])
            case "pairs":
                name = {16: "sse2.pmadd.wd", 32: "avx2.pmadd.wd", 64: "avx512.pmaddw.d.512"}[target.vector_bytes]
                for a, w in zip(left, right, strict=True):
                    total = fn.op("add", total, fn.call(total.type, f"llvm.x86.{name}", [a, w]))
                return total
        for a, w in zip(left, right, strict=True):
            total = fn.op("add", total, fn.op("mul", a, w))
        return total

    def load_tail(self, fn: Function, place: Val, count: int) -> Val:
        """The first `count` elements of a group, the others 0: they meet zeros in W."""
        if self.group == 2:
            return fn.convert("zext", fn.load("i16", place), "i32")
        if count == 1:
            return fn.convert("zext", fn.load("i8", place), "i32")
        low = fn.convert("zext", fn.load("i16", place), "i32")
        if count == 2:
            return low
        high = fn.convert("zext", fn.load("i8", place, 2), "i32")
        return fn.op("or", low, fn.op("shl", high, literal("i32", 16)))

    def registers(self, target: Target) -> tuple[int, int]:
        """(registers for a vector of columns, registers for a row of A and what is needed besides)."""
        if self.group < 4:
            apart = self.group == 2 and not target.bf16
            return (2, 5) if apart else (1, 1 if target.fma else 2)
        extra = 1 if self.flip else 0
        # Beyond what is live at once: on ARM loads that broadcast stand alone, and LLVM moves several of them up.
        needed = {"pairs": (2, 4 + extra), "single": (4, 20 + extra), "signed": (1, 8 + extra)}
        return needed.get(target.dots, (1, 1 + 2 * extra))


FMA = Dot()
PAIRS = Dot(2)


def bytes_dot(target: Target, dtype: DType) -> Dot:
    """Products of bytes where A is of this type."""
    return Dot(4, dtype.is_signed != (target.dots == "signed"), True)


def tiles_dot(dtype: DType) -> Dot:
    """Products of whole tiles where A is of this type: of bytes of either sign as they are, of bf16 in pairs."""
    if dtype is DType.BF16:
        return Dot(2, matrix="tdpbf16ps")
    return Dot(4, False, True, "tdpbssd" if dtype.is_signed else "tdpbusd")


def offset_of(dot: Dot, dtype: DType) -> int:
    """What A's bytes are moved by as they are read."""
    return (128 if dtype.is_signed else -128) if dot.flip else 0


def _pair(fn: Function, target: Target, raw: Val) -> list[Val]:
    """Two bf16 in each lane: as the instruction takes them, or both as floats."""
    if target.bf16:
        return [fn.convert("bitcast", raw, vec(2 * lanes_of(raw.type), "bfloat"))]
    floats = vec(lanes_of(raw.type), "float")
    parts = fn.op("shl", raw, literal(raw.type, 16)), fn.op("and", raw, literal(raw.type, -(1 << 16)))
    return [fn.convert("bitcast", p, floats) for p in parts]


def _bytes(fn: Function, value: Val) -> Val:
    return fn.convert("bitcast", value, vec(4 * lanes_of(value.type), "i8"))
