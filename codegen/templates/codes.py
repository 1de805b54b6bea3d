"""Weights of a few bits in memory, and how a vector of them becomes floats.

A panel of columns lies block after block; a block of K holds
    scales   an element for each column, f32, f16 or bf16
    zeros    an element for each column, i8 or f32, where the form has them
    codes    words of 32 bits, a row of them at a time: a column's next `per` codes, the first one in the low bits
so that a kernel reads one stream, and takes each code to its lane by one shift for a whole vector of columns.

What a code stands for (`Kind`) is its number, signed or not, or the entry of a table. AVX-512 looks up all of them in
registers (vpermps takes the low bits of each lane as they are, so nothing needs masking); AVX2 tables of 16 entries in
two registers; NEON bytes of a table of 16 (tbl). Longer tables are gathered.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lepton.codegen.llvm.builder import Function, Val, literal, vec
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import extract, insert
from lepton.ir.tensor import Array
from lepton.ir.types import DType

Kind = Literal["signed", "unsigned", "table"]
WORD = 32


@dataclass(frozen=True, slots=True)
class Form:
    """How the weights of a product lie in memory."""

    bits: int                     # of a code
    per: int                      # codes of a column in a word
    kind: Kind
    block: int                    # rows that share scales
    scale: DType = DType.F32
    zero: DType | None = None

    def words(self, rows: int) -> int:
        """Rows of words that hold so many rows of codes."""
        return -(-rows // self.per)

    def head(self, width: int) -> int:
        """Bytes of a block's scales and zeros, for so many columns."""
        return width * (self.scale.bytes + (self.zero.bytes if self.zero else 0))

    def panel(self, k: int, width: int) -> int:
        """Bytes of a panel of so many columns."""
        whole, rest = divmod(k, self.block)
        words = whole * self.words(self.block) + self.words(rest)
        return words * width * 4 + -(-k // self.block) * self.head(width)

    def looks_up(self, target: Target) -> bool:
        """Whether decoding reads a table, of numbers where codes are those."""
        return self.kind == "table" or (target.vector_bytes == 64 and self.bits <= 4)

    def crowds(self, target: Target) -> bool:
        """Whether zero points or a table leave no room for the sums of many rows."""
        return target.vector_bytes < 64 and (self.zero is not None or self.looks_up(target))

    def few(self, target: Target) -> int:
        """Rows up to which decoding them in registers, some at a time, is faster than decoding panels into memory, as
        measured; tables that do not fit in two registers are slow to look up."""
        slow = self.crowds(target) or (self.kind == "table" and self.bits > 5)
        return 8 if slow else 24


def form_of(bits: int, kind: Kind, block: int, scale: DType, zero: DType | None) -> Form:
    """The form with the fewest words for a block, and of those the one whose words are filled most evenly."""
    words = -(-block // (WORD // bits))
    return Form(bits, -(-block // words), kind, block, scale, zero)


def pack_codes(codes: Array, scale: Array, zero: Array | None, form: Form, lanes: int, vectors: int) -> Array:
    """[K,N] codes as small unsigned numbers, [blocks,N] scales and zeros -> u8, panel after panel; the last one is as
    narrow as its columns need."""
    n, width = codes.shape[1], lanes * vectors
    full = n // width * width
    parts = []
    if full:
        parts.append(_panels(codes[:, :full], scale[:, :full], zero if zero is None else zero[:, :full], form, width))
    if rest := n - full:
        pad = [(0, 0), (0, -rest % lanes)]
        codes, scale = np.pad(codes[:, full:], pad), np.pad(scale[:, full:], pad)
        zero = None if zero is None else np.pad(zero[:, full:], pad)
        parts.append(_panels(codes, scale, zero, form, codes.shape[1]))
    whole = np.concatenate(parts)
    whole.flags.writeable = False
    return whole


def _panels(codes: Array, scale: Array, zero: Array | None, form: Form, width: int) -> Array:
    """Panels of one width."""
    count = codes.shape[1] // width
    streams = []
    for b in range(len(scale)):
        rows = codes[b * form.block:(b + 1) * form.block]
        streams.append(_stream(scale[b:b + 1].astype(form.scale.numpy), count))
        if zero is not None and form.zero is not None:
            streams.append(_stream(zero[b:b + 1].astype(form.zero.numpy), count))
        streams.append(_stream(_words(rows, form), count))
    return np.concatenate(streams, axis=1).reshape(-1)


def _stream(rows: Array, count: int) -> Array:
    """[rows, columns] -> [panels, bytes]"""
    apart = rows.reshape(len(rows), count, -1).transpose(1, 0, 2)
    return np.ascontiguousarray(apart).view(np.uint8).reshape(count, -1)


def _words(codes: Array, form: Form) -> Array:
    """[rows, columns] -> u32 [words, columns]"""
    padded = np.zeros((form.words(len(codes)) * form.per, codes.shape[1]), np.uint8)
    padded[:len(codes)] = codes
    words = np.zeros((len(padded) // form.per, codes.shape[1]), np.uint32)
    for i in range(form.per):
        words |= padded[i::form.per].astype(np.uint32) << np.uint32(i * form.bits)
    return words


def table_of(form: Form, entries: Array | None) -> Array:
    """f32: the table that `Decoder` reads, [16] or a longer power of two. Short tables repeat, so that the bits of the
    code behind it do not matter."""
    if entries is None:
        numbers = np.arange(1 << form.bits)
        entries = np.where(numbers >> (form.bits - 1), numbers - (1 << form.bits), numbers) \
            if form.kind == "signed" else numbers
    short = entries[:1 << form.bits].astype(np.float32)
    return np.ascontiguousarray(np.tile(short, max(1, 16 // len(short))))


class Decoder:
    """Code that makes floats of words. `table`: the address of `table_of`, where the form looks up."""

    def __init__(self, fn: Function, target: Target, form: Form, table: Val | None) -> None:
        self.fn, self.target, self.form, self.table = fn, target, form, table
        self.lanes = target.lanes(DType.F32)
        self.words, self.floats = vec(self.lanes, "i32"), vec(self.lanes, "float")
        self.parts: list[Val] = []
        if table is not None and self.permutes:
            step = target.vector_bytes if target.is_x86 else 16
            size = max(self.lanes, 1 << form.bits) * 4 if target.is_x86 else 64
            type = self.floats if target.is_x86 else "<16 x i8>"
            self.parts = [fn.load(type, table, at, 4) for at in range(0, size, step)]

    @property
    def permutes(self) -> bool:
        """Whether the table lies in registers."""
        bits, bytes = self.form.bits, self.target.vector_bytes
        if not self.target.is_x86:
            return bits <= 4
        return bytes == 64 or (bytes == 32 and bits <= 5)

    def decode(self, word: Val, i: int) -> Val:
        """The floats of each lane's i-th code."""
        fn, form = self.fn, self.form
        shift = i * form.bits
        if self.table is None:
            return fn.convert("sitofp", self._number(word, shift), self.floats)
        if not self.permutes:
            return self._gather(self._unsigned(word, shift))
        if not self.target.is_x86:
            return self._bytes(self._unsigned(word, shift))
        moved = fn.op("lshr", word, literal(self.words, shift)) if shift else word
        return self._look_up(moved, self.parts, shift, word)

    def _number(self, word: Val, shift: int) -> Val:
        if self.form.kind == "unsigned":
            return self._unsigned(word, shift)
        fn, up = self.fn, WORD - self.form.bits - shift
        high = fn.op("shl", word, literal(self.words, up)) if up else word
        return fn.op("ashr", high, literal(self.words, WORD - self.form.bits))

    def _unsigned(self, word: Val, shift: int) -> Val:
        fn = self.fn
        low = fn.op("lshr", word, literal(self.words, shift)) if shift else word
        if shift + self.form.bits == WORD:
            return low
        return fn.op("and", low, literal(self.words, (1 << self.form.bits) - 1))

    def _look_up(self, index: Val, parts: Sequence[Val], shift: int, word: Val) -> Val:
        """An entry of each lane's own choice out of registers, by the low bits of `index`."""
        fn, wide = self.fn, self.target.vector_bytes == 64
        if len(parts) == 1:
            name = "llvm.x86.avx512.permvar.sf.512" if wide else "llvm.x86.avx2.permps"
            return fn.call(self.floats, name, [parts[0], index])
        if len(parts) == 2 and wide:
            return fn.call(self.floats, "llvm.x86.avx512.vpermi2var.ps.512", [parts[0], index, parts[1]])
        half = len(parts) // 2
        low, high = (self._look_up(index, p, shift, word) for p in (parts[:half], parts[half:]))
        bit = shift + (half * self.lanes).bit_length() - 1          # which one of the word's chooses
        sign = fn.op("shl", word, literal(self.words, WORD - 1 - bit)) if bit < WORD - 1 else word
        return fn.select(fn.compare("icmp slt", sign, literal(self.words, 0)), high, low)

    def _bytes(self, code: Val) -> Val:
        """NEON: bytes 4*code … 4*code+3 of 64."""
        fn = self.fn
        places = fn.op("add", fn.op("mul", code, literal(self.words, 0x04040404)), literal(self.words, 0x03020100))
        where = fn.convert("bitcast", places, "<16 x i8>")
        found = fn.call("<16 x i8>", "llvm.aarch64.neon.tbl4.v16i8", [*self.parts, where])
        return fn.convert("bitcast", found, self.floats)

    def _gather(self, code: Val) -> Val:
        fn, table = self.fn, self.table
        assert table is not None
        if self.target.vector_bytes == 32:
            every = fn.convert("bitcast", literal(self.words, -1), self.floats)
            return fn.call(self.floats, "llvm.x86.avx2.gather.d.ps.256",
                           [literal(self.floats, 0), table, code, every, Val("i8", "4")], immediates=[4])
        result = Val(self.floats, "poison")
        for lane in range(self.lanes):
            place = fn.convert("zext", extract(fn, code, lane), "i64")
            address = fn.value("ptr", f"getelementptr float, {table}, {place}")
            result = insert(fn, result, fn.load("float", address, 0, 4), lane)
        return result
