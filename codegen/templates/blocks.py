"""The inner product in whole tiles (AMX): C[16 x 16] += A[16 x chunk groups] * W[chunk groups x 16].

The same panels as the microkernel's: a tile of W is `chunk` rows of a panel, 64 bytes of each, and a tile of A is rows
that lie at one distance from each other, `chunk` groups of four bytes of each. What the sums start from is a row of the
panel, loaded at stride 0. Two tiles of rows times two of columns, or one times up to four, stay in registers over the
reduction; then they go through memory on the stack to the epilogue, one vector at a time.

    registers 0 … 3  sums        4, 5  A        6, 7  W

Rows of a tile are a property of the kernel (`configure`), so that no code depends on them. Rows that are left are made
up for by rows before them, computed again: `skip` says how many of a tile's rows are not to be stored.

What remains of a row of A after the last whole chunk is copied with zeros behind it; panels hold rows of zeros there.
"""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lepton.codegen.llvm.builder import Function, Int, Val, vec
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import load_raw, mask_of, prefetch
from lepton.codegen.templates.microkernel import Micro, _Emitter, repeat

HIGH, WIDE = 16, 64                # rows of a tile, bytes of a row
FIRST_A, FIRST_W = 4, 6            # registers
TILE_BYTES = HIGH * WIDE


@dataclass(frozen=True, slots=True)
class Block(Micro):
    """A microkernel of tiles. `k` counts chunks; `tail` is bytes; `shape` and `rows` say nothing.

    Arguments beyond a microkernel's: `row`, the distance of A's rows; `beyond`, that of the second tile of A from the
    first; the epilogue is for the rows [skip, until) of each tile. Axis 0 of its operands goes from tile to tile."""

    tiles: int = 1
    chunk: int = HIGH              # groups

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"block_{self.tiles}x{self.vectors}_{digest}"

    def parameters(self) -> tuple[str, ...]:
        more = ("beyond",) if self.tiles > 1 else ()
        return (*super(Block, self).parameters(), *more, "skip", "until")

    def emit(self, fn: Function, target: Target) -> None:
        _Tiles(self, fn, target).run()


def configure(fn: Function, rows: Int, chunk: int) -> None:
    """Give the tile registers their sizes: `rows` of sums and of A (1 to 16), `chunk` groups of W."""
    known = rows if isinstance(rows, int) else 0
    widths = [WIDE] * FIRST_A + [4 * chunk] * 2 + [WIDE] * 2
    heights = [known] * FIRST_W + [chunk] * 2
    data = bytes([1, *[0] * 15]) + b"".join(w.to_bytes(2, "little") for w in widths) + bytes(16)
    data += bytes(heights) + bytes(8)
    text = "[64 x i8] [" + ", ".join(f"i8 {b if b < 128 else b - 256}" for b in data) + "]"
    place = fn.module.constant(f"tiles_{known}x{chunk}", text)
    if not isinstance(rows, int):
        fn.lines.insert(0, "  %tiles = alloca [64 x i8], align 64")
        config, one = Val("ptr", "%tiles"), fn.convert("trunc", rows, "i8")
        fn.store(fn.load("<64 x i8>", place), config, 0, 64)
        for register in range(FIRST_W):
            fn.store(one, config, 48 + register)
        place = config
    fn.call("void", "llvm.x86.ldtilecfg", [place])


def release(fn: Function) -> None:
    """Leave the tile registers, so that the system need not save them."""
    fn.call("void", "llvm.x86.tilerelease", [])


def _tile(number: int) -> Val:
    return Val("i8", str(number))


class _Tiles(_Emitter):
    """Writes the code of a `Block`."""

    def __init__(self, block: Block, fn: Function, target: Target) -> None:
        super().__init__(block, fn, target)
        self.block = block
        self.row = Val("i64", "%row")

    def run(self) -> None:
        fn, block = self.fn, self.block
        vectors = vec(self.lanes, "i32")
        fn.lines.insert(0, f"  %tile = alloca [{block.tiles * HIGH * block.vectors} x {vectors}], align 64")
        if block.tail:
            fn.lines.insert(0, f"  %edge = alloca [{block.tiles * TILE_BYTES} x i8], align 64")
        self.sum([], self.start(Val("ptr", "%w")))
        tile = Val("ptr", "%tile")
        for t in range(block.tiles):
            for v in range(block.vectors):
                place = fn.gep(tile, t * HIGH * self.row_bytes + v * WIDE)
                fn.call("void", "llvm.x86.tilestored64", [_tile(self.register(t, v)), place, fn.i64(self.row_bytes)])
        places = self.pointers()
        for t in range(block.tiles):
            self.finish_tile(fn.gep(tile, t * HIGH * self.row_bytes), places)
            if t + 1 < block.tiles:
                places = self.advance(places, 0)

    def register(self, tile: int, vector: int) -> int:
        return tile * self.block.vectors + vector

    def load(self, number: int, place: Val, stride: Int) -> None:
        self.fn.call("void", "llvm.x86.tileloadd64", [_tile(number), place, self.fn.i64(stride)])

    def start(self, w: Val) -> Val:
        """Sums begin as the panel's first row, or as zeros; where the panel goes on."""
        for t in range(self.block.tiles):
            for v in range(self.block.vectors):
                if self.block.dot.starts:
                    self.load(self.register(t, v), self.fn.gep(w, v * WIDE), 0)
                else:
                    self.fn.call("void", "llvm.x86.tilezero", [_tile(self.register(t, v))])
        return self.fn.gep(w, self.pitch) if self.block.dot.starts else w

    def step_k(self, state: list[Val], tail: int = 0) -> list[Val]:
        """One chunk: state is (a, w) and what is prefetched. `tail`: of this many bytes of each row."""
        fn, block = self.fn, self.block
        a, w, *following = state
        sources = [a] if block.tiles == 1 else [a, fn.gep(a, Val("i64", "%beyond"))]
        stride: Int = self.row
        if tail:
            sources, stride = self.copied(sources, tail), WIDE
        for t, source in enumerate(sources):
            self.load(FIRST_A + t, source, stride)
            for v in range(block.vectors):
                if t == 0:
                    self.load(FIRST_W + v % 2, fn.gep(w, v * WIDE), self.pitch)
                sums = _tile(self.register(t, v))
                fn.call("void", f"llvm.x86.{block.dot.matrix}", [sums, _tile(FIRST_A + t), _tile(FIRST_W + v % 2)])
        for line in range(block.ahead):
            prefetch(fn, fn.gep(following[0], 64 * line))
        after = [fn.gep(f, Val("i64", "%share")) for f in following]
        return [fn.gep(a, self.step), fn.gep(w, fn.mul(self.pitch, block.chunk)), *after]

    def copied(self, sources: Sequence[Val], tail: int) -> list[Val]:
        """The rest of each row, with zeros behind it. Only the rows that are stored are read."""
        fn, edge = self.fn, Val("ptr", "%edge")
        mask = mask_of(fn, tail, 0, WIDE)
        made = []
        for t, source in enumerate(sources):
            to = fn.gep(edge, t * TILE_BYTES)

            def line(i: Int, _: list[Val], source: Val = source, to: Val = to) -> None:
                value = load_raw(fn, "i8", fn.gep(source, fn.mul(i, self.row)), WIDE, 0, mask)
                fn.store(value, fn.gep(to, fn.mul(i, WIDE)), 0, WIDE)

            fn.loop(Val("i64", "%until"), line, start=Val("i64", "%skip"))
            made.append(to)
        return made

    def finish_tile(self, tile: Val, places: list[Val]) -> None:
        """The epilogue over the rows of a tile."""
        fn, skip = self.fn, Val("i64", "%skip")
        bytes_of = [o.dtype.bytes for o in self.block.epilogue.operands]
        first = [fn.gep(p, fn.mul(fn.mul(skip, self.stride(i, 1)), bytes_of[i])) for i, p in enumerate(places)]

        def one(values: list[Val]) -> list[Val]:
            sums = [fn.load(self.sums, values[0], v * WIDE, WIDE) for v in range(self.block.vectors)]
            self.finish(self.in_place(sums, values[1:]))
            return [fn.gep(values[0], self.row_bytes), *self.advance(values[1:], 1)]

        count = fn.sub(Val("i64", "%until"), skip)
        repeat(fn, fn.i64(count), one, [fn.gep(tile, fn.mul(skip, self.row_bytes)), *first])
