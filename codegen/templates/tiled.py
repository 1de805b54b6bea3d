"""Products and convolutions on whole tiles (blocks.py): the drivers of gemm.py and convolution.py with other pieces.

A tile holds `height` rows: pixels of a line, or rows of a matrix. Two of them are done at once where there are two.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lepton.codegen.llvm.builder import Function, Int, Module, Val
from lepton.codegen.target import Target
from lepton.codegen.templates.blocks import HIGH, Block, configure, release
from lepton.codegen.templates.convolution import Convolution, _Convolution
from lepton.codegen.templates.epilogue import Epilogue
from lepton.codegen.templates.gemm import Ahead, Gemm, _Gemm
from lepton.codegen.templates.microkernel import on_tile, stride_arguments


def height_of(fn: Function, rows: Int) -> Int:
    """Rows of a tile: of a known number, as even as can be; else as many as there are."""
    if isinstance(rows, int):
        return even_height(rows)
    return fn.max(fn.min(rows, HIGH), 1)


def even_height(rows: int) -> int:
    rows = max(rows, 1)
    return -(-rows // -(-rows // HIGH))


@dataclass(frozen=True, slots=True)
class TiledGemm(Gemm):
    """A product whose panels hold whole chunks; `k` counts groups, in whole chunks; `tail` is bytes."""

    chunk: int = HIGH

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _TiledGemm(self, module.kernel(symbol), target).run()


class _TiledGemm(_Gemm):
    def __init__(self, body: TiledGemm, fn: Function, target: Target) -> None:
        super().__init__(body, fn, target)
        self.tiled = body
        self.height = height_of(fn, self.m)
        chunks = fn.div(self.k, body.chunk)
        self.depth = fn.mul(fn.add(chunks, 1 if body.tail else 0), body.chunk * body.passes)
        self.depth = fn.add(self.depth, 1 if body.dot.starts else 0)
        axis = len(body.batch)
        self.on_tile = on_tile(body.epilogue, axis, axis, axis + 1)
        self.arguments = self.arguments | _strides(fn, body.epilogue, axis, self.height, axis, axis + 1)
        self.arguments |= {"k": chunks, "beyond": fn.mul(self.height, self.row)}

    def run(self) -> None:
        configure(self.fn, self.height, self.tiled.chunk)
        super().run()
        release(self.fn)

    def panel(self, batch: tuple[Int, ...], row: Int, rows: Int, panel: Int, columns: Int) -> None:
        fn, body, chunk = self.fn, self.tiled, self.tiled.chunk
        column = fn.mul(panel, self.width)
        vectors = -(-columns // self.lanes) if isinstance(columns, int) else body.tile.vectors
        w, pitch, _ = self.panel_of_b(batch, panel, column, columns, vectors)
        base = fn.gep(self.a, fn.mul(self.offset(body.a, batch), self.bytes))
        ahead = Ahead(fn, self.target, rows, body.tile.rows, fn.div(self.depth, chunk), fn.mul(pitch, chunk)) \
            if isinstance(body.b, int) else None
        block = Block(
            body.dtype, (0, 0), vectors, None, chunk * 4, isinstance(self.k, int) and self.k > 0,
            int(body.passes > 1), self.on_tile, columns if isinstance(columns, int) else None,
            pitch if isinstance(pitch, int) else None, ahead=ahead.lines if ahead else 0, dot=body.dot,
            tail=body.tail, chunk=chunk)
        given = self.arguments | {"pitch": pitch, "columns": columns} | ({"share": ahead.share} if ahead else {})

        def tile(start: Int, tiles: int) -> None:
            first = start if tiles == 2 else fn.min(start, fn.sub(self.m, self.height))
            pointers = [o.at(fn, p, (*batch, first, column))
                        for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
            own = given | {"skip": fn.sub(start, first), "until": self.height}
            index = fn.div(fn.sub(start, row), body.tile.rows)
            following = None if ahead is None else ahead.place(w, index)
            replace(block, tiles=tiles).call(fn, self.target, fn.gep(base, fn.mul(first, self.row)), w, pointers, own,
                                             following)

        self.pieces(row, rows, body.tile.rows, tile)

    def pieces(self, row: Int, rows: Int, most: int, tile: Callable[[Int, int], None]) -> None:
        """Pairs of tiles, then single ones; the last one may begin before its first new row."""
        fn, height = self.fn, self.height
        done: Int = 0
        if most > HIGH or (isinstance(height, int) and most > height):
            pair = fn.mul(height, 2)
            pairs = fn.div(rows, pair)
            fn.loop(pairs, lambda i, _: tile(fn.add(row, fn.mul(i, pair)), 2))
            done = fn.mul(pairs, pair)
        start = fn.add(row, done)
        singles = fn.div(fn.add(fn.sub(rows, done), fn.sub(height, 1)), height)
        fn.loop(singles, lambda i, _: tile(fn.add(start, fn.mul(i, height)), 1))


def _strides(fn: Function, epilogue: Epilogue, first: int, times: Int, second: int, column: int) -> dict[str, Int]:
    """The strides of epilogue operands, those from tile to tile `times` the ones along `first`."""
    given = stride_arguments(fn, epilogue, first, second, column)
    return {name: fn.mul(value, times) if name.endswith("s0") else value for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class TiledConvolution(Convolution):
    """A convolution whose innermost run of the reduction is whole chunks of adjacent groups. A tile is pixels of one
    line; pairs are of two lines, or of one where there are no two. A copied input has room behind it for HIGH."""

    chunk: int = HIGH

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _TiledConvolution(self, module.kernel(symbol), target).run()


class _TiledConvolution(_Convolution):
    def __init__(self, body: TiledConvolution, fn: Function, target: Target) -> None:
        super().__init__(body, fn, target)
        self.tiled = body
        self.height = height_of(fn, self.out[2])
        self.lines = body.tile[0] > 1
        k, step = self.k, self.step
        if not isinstance(k, int) or step != body.dot.group or k % body.chunk:
            raise ValueError(f"runs of {k} groups {step} apart are no chunks of {body.chunk}")
        times: Int = 1 if self.lines else self.height
        first = 2 if self.lines else 3
        self.on_tile = on_tile(body.epilogue, first, 3, 4)
        self.arguments |= _strides(fn, body.epilogue, first, times, 3, 4)
        strides = body.window.strides
        along = fn.mul(self.line, strides[1]) if self.lines else fn.mul(fn.mul(self.pixel, strides[2]), self.height)
        self.arguments |= {"k": k // body.chunk, "beyond": fn.mul(along, self.bytes)}

    def run(self) -> None:
        configure(self.fn, self.height, self.tiled.chunk)
        super().run()
        release(self.fn)

    def tiles(self, at: tuple[Int, Int, Int, Int], extent: tuple[Int, Int], vectors: int, columns: int, a: Val, w: Val,
              channel: Int) -> None:
        """All tiles of a panel."""
        fn, body, chunk, height = self.fn, self.tiled, self.tiled.chunk, self.height
        n, d, oy, ox = at
        segments = fn.div(fn.add(extent[1], fn.sub(height, 1)), height)
        ahead = Ahead(fn, self.target, fn.mul(fn.div(fn.add(extent[0], 1), 2), segments), 1, body.depth // chunk,
                      vectors * self.target.vector_bytes * chunk)
        block = Block(body.dtype, (0, 0), vectors, None, chunk * 4, True, len(self.nest), self.on_tile, columns,
                      vectors * self.target.vector_bytes, ahead=ahead.lines, dot=body.dot, chunk=chunk)

        def tile(y: Int, x: Int, tiles: int) -> None:
            left = fn.sub(extent[1], x)
            # A copied band goes on behind the last pixel; elsewhere the last tile begins before its first new pixel.
            first = x if body.copied else fn.min(x, fn.sub(fn.sub(self.out[2], height), ox))
            coords = (n, d, fn.add(oy, y), fn.add(ox, first), channel)
            pointers = [o.at(fn, p, coords) for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
            skip = fn.sub(x, first)
            own = self.arguments | {"share": ahead.share, "skip": skip, "until": fn.add(skip, fn.min(left, height))}
            step = fn.add(fn.mul(fn.mul(y, body.window.strides[1]), self.line),
                          fn.mul(fn.mul(first, body.window.strides[2]), self.pixel))
            index = fn.add(fn.mul(fn.div(y, 2), segments), fn.div(x, height))
            replace(block, tiles=tiles).call(fn, self.target, fn.gep(a, fn.mul(step, self.bytes)), w, pointers, own,
                                             ahead.place(w, index))

        self.pieces(extent, segments, tile)

    def pieces(self, extent: tuple[Int, Int], segments: Int, tile: Callable[[Int, Int, int], None]) -> None:
        fn, height = self.fn, self.height
        if self.lines:
            pairs = fn.div(extent[0], 2)
            fn.loop(pairs, lambda i, _: fn.loop(
                segments, lambda j, _: tile(fn.mul(i, 2), fn.mul(j, height), 2)) and None)
            rest = fn.mul(pairs, 2)
            fn.loop(extent[0], lambda y, _: fn.loop(
                segments, lambda j, _: tile(y, fn.mul(j, height), 1)) and None, start=rest)
            return

        def line(y: Int) -> None:
            pairs = fn.div(fn.div(extent[1], height), 2)
            fn.loop(pairs, lambda j, _: tile(y, fn.mul(fn.mul(j, 2), height), 2))
            fn.loop(segments, lambda j, _: tile(y, fn.mul(j, height), 1), start=fn.mul(pairs, 2))

        fn.loop(extent[0], lambda y, _: line(y))
