"""Matrix products: C[batch, m, n] = Σk A[batch, m, k] B[batch, k, n], then an epilogue over (batch, m, n).

A is read where it lies, with any strides. B is either a constant, packed by `pack_constant` into panels of a few
vectors, or a value: read where it lies if its columns are adjacent and it is used for few rows, else packed panel by
panel into scratch. A task is a block of rows times a block of panels of one batch entry.

Of bytes (`dot`), k counts groups of four, and B in scratch is quads.py's work.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lepton.codegen.kernel import Panels, Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.memory import size
from lepton.codegen.templates.microkernel import Micro, on_tile, stride_arguments
from lepton.codegen.templates.pack import pack_panel
from lepton.codegen.templates.quads import Quads
from lepton.codegen.templates.tiles import Tile
from lepton.ir.tensor import Array
from lepton.ir.types import DType

NEAR_BYTES = 8192     # how far ahead of its reads a panel is prefetched


@dataclass(frozen=True, slots=True)
class Gemm:
    """The body of a matrix product kernel."""

    dtype: DType             # of the sums
    batch: tuple[Size, ...]
    m: Size
    n: Size
    k: Size                  # groups that the dot takes, whole ones
    a: Operand               # over (*batch, m, k)
    b: Operand | int         # over (*batch, k, n); or the buffer of panels made by pack_constant
    epilogue: Epilogue       # over (*batch, m, n)
    tile: Tile
    block_rows: int          # rows of a task, a multiple of the tile's
    block_panels: int        # panels of a task
    rows_fastest: bool       # which blocks follow each other in the order of tasks
    in_place: bool = False   # B is read where it lies: its columns are adjacent
    dot: Dot = FMA
    tail: int = 0            # elements of A's rows after the last whole group
    passes: int = 1          # times A is walked: weights of nine bits lie in two panels
    quads: Quads | None = None   # how B is packed into scratch, where `dot` takes groups

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Gemm(self, module.kernel(symbol), target).run()


def pack_constant(b: Array, target: Target, tile: Tile, dtype: DType) -> Array:
    """[K, N] -> panels [K][vectors*lanes] one after the other, the last one as narrow as its columns need; flat."""
    k, n = b.shape
    p = panels_of(k, n, target, tile, dtype)
    packed = np.empty(p.size, b.dtype)  # written in place: a large matrix is not copied twice
    whole, narrow = in_panels(packed, p)
    whole[...] = b[:, :p.whole].reshape(k, len(whole), p.width).transpose(1, 0, 2)
    narrow[:, :n - p.whole] = b[:, p.whole:]
    narrow[:, n - p.whole:] = 0
    return frozen(packed)


def panels_of(k: int, n: int, target: Target, tile: Tile, dtype: DType) -> Panels:
    """How `pack_constant` lays a [k, n] matrix out."""
    lanes = target.lanes(dtype)
    width = tile.vectors * lanes
    return Panels(k, n, width, -(-(n % width) // lanes) * lanes)


def in_panels(packed: Array, panels: Panels) -> tuple[Array, Array]:
    """Packed elements as [panel][k][width], and those of the last panel as [k][last]."""
    whole, narrow = np.split(packed, [panels.rows * panels.whole])
    return (whole.reshape(panels.whole // panels.width, panels.rows, panels.width),
            narrow.reshape(panels.rows, panels.last))


def frozen(array: Array) -> Array:
    """Read-only from now on, so that nobody needs a copy of it."""
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def heights(tile_rows: int, rows: Size | None) -> tuple[int, ...]:
    """Tile heights that cover the known number of rows, or (None: even where it is known) any, highest first."""
    if isinstance(rows, int):
        return tuple(h for h in (min(tile_rows, rows), rows % tile_rows) if h)
    found = [tile_rows]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return tuple(found)


def cover(fn: Function, count: Int, sizes: tuple[int, ...], body: Callable[[Int, int], None]) -> None:
    """body(start, size) for pieces that cover [0, count): as many of each size as fit, in the order of `sizes`."""
    start: Int = 0
    left = count
    for piece in sizes:
        times = fn.div(left, piece)
        base = start

        def one(i: Int, _: list[Val], base: Int = base, piece: int = piece) -> None:
            body(fn.add(base, fn.mul(i, piece)), piece)

        fn.loop(times, one)
        done = fn.mul(times, piece)
        start, left = fn.add(start, done), fn.sub(left, done)
        if left == 0:
            return


def when(fn: Function, condition: bool | Val, then: Callable[[], None]) -> None:
    """A statement under a condition that may be known."""
    if isinstance(condition, bool):
        if condition:
            then()
        return

    def run() -> list[Val]:
        then()
        return []

    fn.when(condition, run)


def unravel(fn: Function, index: Int, extents: tuple[Int, ...]) -> tuple[Int, ...]:
    """Row-major coordinates of a flat index; the first extent is not read."""
    coords: list[Int] = []
    for extent in reversed(extents[1:]):
        coords.append(fn.rem(index, extent))
        index = fn.div(index, extent)
    return (index, *reversed(coords)) if extents else ()


class Ahead:
    """What the tiles of one panel prefetch: each its share of the panel that follows in memory.

    A panel that is read only once, or is too large to wait in L2, is prefetched a little ahead of its own reads."""

    def __init__(self, fn: Function, target: Target, rows: Int, tile: int, k: Int, pitch: Int, *,
                 distance: int | None = None) -> None:
        self.fn, panel = fn, fn.mul(k, pitch)
        tiles = fn.div(fn.add(rows, tile - 1), tile)
        large = isinstance(panel, int) and panel > target.l2_bytes * 3 // 4
        self.near = distance is None and (tiles == 1 or large)
        self.distance: Int = distance if distance is not None else NEAR_BYTES if self.near else panel
        self.share = pitch if self.near else fn.div(pitch, fn.max(tiles, 1))
        self.part = 0 if self.near else fn.mul(self.share, k)
        least = 1 if self.near else tiles if isinstance(tiles, int) else 2
        self.lines = -(-pitch // max(1, least) // 64) if isinstance(pitch, int) else 1

    def place(self, w: Val, index: Int) -> Val:
        """Where the share of the `index`-th tile begins."""
        return self.fn.gep(w, self.fn.add(self.distance, self.fn.mul(index, self.part)))


class _Gemm:
    def __init__(self, body: Gemm, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.batch = tuple(size(fn, d) for d in body.batch)
        self.m, self.n, self.k = size(fn, body.m), size(fn, body.n), size(fn, body.k)
        self.lanes = target.lanes(body.dtype)
        self.width = body.tile.vectors * self.lanes
        self.pointers = [fn.buffer(o.buffer) for o in body.epilogue.operands]
        self.a = fn.buffer(body.a.buffer)
        self.b = fn.buffer(body.b if isinstance(body.b, int) else body.b.buffer)
        self.on_tile = on_tile(body.epilogue, None, len(body.batch), len(body.batch) + 1)
        self.arguments = stride_arguments(fn, body.epilogue, None, len(body.batch), len(body.batch) + 1)
        self.bytes = body.a.dtype.bytes
        self.row, self.step = (fn.mul(size(fn, s), self.bytes) for s in body.a.strides[-2:])
        self.step = fn.mul(self.step, body.dot.group)
        self.arguments |= {"row": self.row, "step": self.step, "k": self.k, "count0": body.passes, "stride0": 0}
        groups = fn.add(self.k, 1 if body.tail else 0)
        self.depth = fn.add(fn.mul(groups, body.passes), 1 if body.dot.starts else 0)   # rows of a panel

    def run(self) -> None:
        fn = self.fn
        self.full_panels = fn.div(self.n, self.width)
        self.tail = fn.rem(self.n, self.width)
        self.panels = fn.div(fn.add(self.n, self.width - 1), self.width)
        self.blocks_m = fn.div(fn.add(self.m, self.body.block_rows - 1), self.body.block_rows)
        self.blocks_n = fn.div(fn.add(self.panels, self.body.block_panels - 1), self.body.block_panels)
        fn.loop(Val("i64", "%hi"), lambda t, _: self.task(t), start=Val("i64", "%lo"))

    def task(self, index: Int) -> None:
        fn, body = self.fn, self.body
        if body.rows_fastest:
            *batch, nb, mb = unravel(fn, index, (*self.batch, self.blocks_n, self.blocks_m))
        else:
            *batch, mb, nb = unravel(fn, index, (*self.batch, self.blocks_m, self.blocks_n))
        if not batch and self.blocks_m == 1 and body.rows_fastest:
            mb = 0
        row = fn.mul(mb, body.block_rows)
        rows: Int = body.block_rows
        if self.blocks_m == 1:
            rows = self.m
        elif not isinstance(self.m, int) or self.m % body.block_rows:    # else no code for a last, smaller block
            rows = fn.min(fn.sub(self.m, row), body.block_rows)
        first = fn.mul(nb, body.block_panels)
        last = fn.min(fn.add(first, body.block_panels), self.panels) if self.blocks_n != 1 else self.panels
        if self.blocks_n == 1:
            first = 0
        self.sweep(tuple(batch), row, rows, first, last)

    def sweep(self, batch: tuple[Int, ...], row: Int, rows: Int, first: Int, last: Int) -> None:
        """All panels [first, last) for rows [row, row + rows)."""
        fn, full = self.fn, self.full_panels
        fn.loop(fn.min(last, full), lambda p, _: self.panel(batch, row, rows, p, self.width), start=first)
        if self.tail == 0:
            return
        inside: bool | Val = True
        if not (isinstance(last, int) and isinstance(full, int)):
            inside = fn.compare("icmp sgt", fn.i64(last), fn.i64(full))
            if not isinstance(self.tail, int) and last is self.panels:
                inside = fn.compare("icmp sgt", self.tail, Val("i64", "0"))
        when(fn, inside, lambda: self.panel(batch, row, rows, full, self.tail))

    def panel(self, batch: tuple[Int, ...], row: Int, rows: Int, panel: Int, columns: Int) -> None:
        """One panel of `columns` columns for all rows of the block."""
        fn, body = self.fn, self.body
        column = fn.mul(panel, self.width)
        vectors = -(-columns // self.lanes) if isinstance(columns, int) else body.tile.vectors
        w, pitch, padded = self.panel_of_b(batch, panel, column, columns, vectors)
        base = fn.gep(self.a, fn.mul(self.offset(body.a, batch), self.bytes))
        known_row = body.a.strides[-2] if isinstance(body.a.strides[-2], int) else None
        known_step = body.a.strides[-1] if isinstance(body.a.strides[-1], int) else None
        step = None if known_step is None else known_step * self.bytes * body.dot.group
        ahead = self.ahead(rows, pitch)

        def tile(start: Int, height: int) -> None:
            micro = Micro(
                body.dtype, (1, height), vectors,
                None if known_row is None else tuple(r * known_row * self.bytes for r in range(height)), step,
                isinstance(self.k, int) and self.k > 0, int(body.passes > 1), self.on_tile,
                columns if isinstance(columns, int) else None, pitch if isinstance(pitch, int) else None, padded,
                ahead.lines if ahead else 0, not body.in_place, body.dot, body.tail)
            at = fn.add(row, start)
            pointers = [o.at(fn, p, (*batch, at, column))
                        for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
            given = self.arguments | {"pitch": pitch, "columns": columns}
            following = None
            if ahead is not None:
                given |= {"share": ahead.share}
                following = ahead.place(w, fn.div(start, body.tile.rows))
            micro.call(fn, self.target, fn.gep(base, fn.mul(at, self.row)), w, pointers, given, following)

        cover(fn, rows, self.row_sizes(), tile)

    def ahead(self, rows: Int, pitch: Int) -> Ahead | None:
        """What of constant panels is prefetched."""
        body = self.body
        if not isinstance(body.b, int):
            return None
        return Ahead(self.fn, self.target, rows, body.tile.rows, self.depth, pitch)

    def row_sizes(self) -> tuple[int, ...]:
        return heights(self.body.tile.rows, self.body.m)

    def offset(self, operand: Operand, batch: tuple[Int, ...]) -> Int:
        offset: Int = 0
        for i, b in enumerate(batch):
            offset = self.fn.add(offset, self.fn.mul(b, size(self.fn, operand.strides[i])))
        return offset

    def panel_of_b(self, batch: tuple[Int, ...], panel: Int, column: Int, columns: Int,
                   vectors: int) -> tuple[Val, Int, bool]:
        """(address, bytes between its rows, whether whole vectors may be read)."""
        fn, body = self.fn, self.body
        size_of = body.dot.width(body.dtype)
        pitch = vectors * self.lanes * size_of
        if isinstance(body.b, int):
            return fn.gep(self.b, fn.mul(fn.mul(panel, self.depth), self.width * size_of)), pitch, True
        k_stride, n_stride = (size(fn, s) for s in body.b.strides[-2:])
        offset = fn.add(self.offset(body.b, batch), fn.mul(column, n_stride))
        source = fn.gep(self.b, fn.mul(offset, body.b.dtype.bytes))
        if body.quads is not None:
            body.quads.pack(fn, self.target, source, columns, (k_stride, n_stride), Val("ptr", "%scratch"), vectors)
            return Val("ptr", "%scratch"), pitch, True
        if body.in_place:
            padded = isinstance(columns, int) and columns % self.lanes == 0
            return source, fn.mul(k_stride, body.dtype.bytes), padded
        scratch = Val("ptr", "%scratch")
        pack_panel(fn, self.target, body.dtype, source, (self.k, columns), (k_stride, n_stride), scratch, vectors)
        return scratch, pitch, True
