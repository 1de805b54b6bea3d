"""Copies whose input and output are contiguous along different dims: square blocks transposed in registers."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import DimTable, Kernel, Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.lower.nest import GRAIN_ELEMENTS, TASK_ELEMENTS, Space, guess
from lepton.codegen.target import Target
from lepton.ir.dims import Dim, ceildiv, product


@dataclass(frozen=True, slots=True)
class TransposeBody:
    """out[o, r, c] = in[o, r, c] where `in` is contiguous along r and `out` along c.

    A task is one index of the outer dims and `block` columns. All strides in elements of `width` bytes."""

    width: int
    outer: tuple[Size, ...]
    outer_in: tuple[Size, ...]
    outer_out: tuple[Size, ...]
    rows: Size
    columns: Size
    in_stride: Size       # of `in` along c
    out_stride: Size      # of `out` along r
    block: int            # columns in a task: a multiple of the largest tile
    chunks: Size          # tasks for each outer index

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Emitter(self, module.kernel(symbol), target).run()


class _Emitter:
    def __init__(self, body: TransposeBody, f: Function, target: Target) -> None:
        self.body, self.f = body, f
        self.tile = min(16, target.vector_bytes // body.width)
        self.line = max(self.tile, 128 // body.width)  # two cache lines, which processors fetch together
        self.type = f"i{8 * body.width}"
        self.source, self.target = f.buffer(0), f.buffer(1)
        self.rows, self.columns = self.size(body.rows), self.size(body.columns)
        self.in_stride, self.out_stride = self.size(body.in_stride), self.size(body.out_stride)

    def size(self, s: Size) -> Int:
        return s if isinstance(s, int) else self.f.dim(s.index)

    def run(self) -> None:
        self.chunks = self.size(self.body.chunks)
        self.outer = [self.size(s) for s in self.body.outer]
        self.strides = [(self.size(a), self.size(b))
                        for a, b in zip(self.body.outer_in, self.body.outer_out, strict=True)]
        self.f.loop(Val("i64", "%hi"), self.task, start=Val("i64", "%lo"))

    def task(self, t: Int, _: list[Val]) -> None:
        f = self.f
        index, chunk = f.div(t, self.chunks), f.rem(t, self.chunks)
        source, target = self.source, self.target
        for n, (a, b) in reversed(list(zip(self.outer, self.strides, strict=True))):
            place = f.rem(index, n)
            source, target = self.at(source, f.mul(place, a)), self.at(target, f.mul(place, b))
            index = f.div(index, n)
        first = f.mul(chunk, self.body.block)
        last = f.min(f.add(first, self.body.block), self.columns)
        whole_rows = self.down(self.rows)
        whole = f.add(first, self.down(f.sub(last, first)))
        f.loop(whole, lambda c, _: self.columns_of(source, target, c, whole, whole_rows), start=first, step=self.line)
        self.single(source, target, (0, self.rows), (whole, last))
        self.single(source, target, (whole_rows, self.rows), (first, whole))

    def columns_of(self, source: Val, target: Val, c: Int, columns: Int, rows: Int) -> None:
        """The tiles of two cache lines of columns, so that lines of the output are filled while they are near."""
        f = self.f
        end = f.min(f.add(c, self.line), columns)

        def row(r: Int, _: list[Val]) -> None:
            start, to = self.at(source, r), self.at(target, f.mul(r, self.out_stride))
            f.loop(end, lambda x, _: self.block(self.at(start, f.mul(x, self.in_stride)), self.at(to, x)),
                   start=c, step=self.tile)

        f.loop(rows, row, step=self.tile)

    def block(self, source: Val, target: Val) -> None:
        """One tile: vectors along r in, vectors along c out."""
        f, n, w = self.f, self.tile, self.body.width
        lines = [f.load(vec(n, self.type), self.at(source, f.mul(i, self.in_stride)), align=w) for i in range(n)]
        for i, line in enumerate(transposed(f, lines)):
            f.store(line, self.at(target, f.mul(i, self.out_stride)), align=w)

    def single(self, source: Val, target: Val, rows: tuple[Int, Int], columns: tuple[Int, Int]) -> None:
        """Element by element, what no tile covers."""
        f, w = self.f, self.body.width

        def column(c: Int, _: list[Val]) -> None:
            start, end = self.at(source, f.mul(c, self.in_stride)), self.at(target, c)

            def row(r: Int, _: list[Val]) -> None:
                f.store(f.load(self.type, self.at(start, r), align=w), self.at(end, f.mul(r, self.out_stride)), align=w)

            f.loop(rows[1], row, start=rows[0])

        f.loop(columns[1], column, start=columns[0])

    def at(self, pointer: Val, elements: Int) -> Val:
        if isinstance(elements, int) and elements == 0:
            return pointer
        return self.f.value("ptr", f"getelementptr {self.type}, {pointer}, {self.f.i64(elements)}")

    def down(self, x: Int) -> Int:
        """x rounded down to whole tiles."""
        return x // self.tile * self.tile if isinstance(x, int) else self.f.op("and", x, Val("i64", str(-self.tile)))


def transposed(f: Function, lines: Sequence[Val]) -> list[Val]:
    """The columns of a square of vectors: halves change places, then quarters …"""
    n = len(lines)
    rows = list(lines)
    d = n // 2
    while d:
        # Of two rows d apart: the first gets the even groups of d lanes of both, the second the odd
        low = [j if j // d % 2 == 0 else n + j - d for j in range(n)]
        high = [j + d if j // d % 2 == 0 else n + j for j in range(n)]
        for i in range(n):
            if i // d % 2 == 0:
                a, b = rows[i], rows[i + d]
                rows[i], rows[i + d] = _shuffle(f, a, b, low), _shuffle(f, a, b, high)
        d //= 2
    return rows


def _shuffle(f: Function, a: Val, b: Val, lanes: Sequence[int]) -> Val:
    mask = ", ".join(f"i32 {i}" for i in lanes)
    return f.value(a.type, f"shufflevector {a}, {b}, <{len(lanes)} x i32> <{mask}>")


def transpose_kernel(group: Group, space: Space, options: LowerOptions) -> Kernel | None:
    """The kernel for a copy, if its two views are contiguous along two dims that are both worth a tile; else None."""
    source, target = space.views
    dtype = group.outputs[0].tensor.dtype
    r = next((i for i, s in enumerate(source) if s == 1), None)
    c = next((i for i, s in enumerate(target) if s == 1), None)
    tile = min(16, options.target.vector_bytes // dtype.bytes)
    if r is None or c is None or r == c or min(guess(space.sizes[r]), guess(space.sizes[c])) < tile or source[c] == 0:
        return None
    table = DimTable()
    outer = [i for i in range(space.rank) if i not in (r, c)]
    columns: Dim = space.sizes[c]
    block = max(16, TASK_ELEMENTS // 2 // guess(space.sizes[r]) // 16 * 16)
    chunks = ceildiv(columns, block)
    body = TransposeBody(
        dtype.bytes, tuple(table.ref(space.sizes[i]) for i in outer), tuple(table.ref(source[i]) for i in outer),
        tuple(table.ref(target[i]) for i in outer), table.ref(space.sizes[r]), table.ref(columns),
        table.ref(source[c]), table.ref(target[r]), block, table.ref(chunks))
    work = 2 * guess(space.sizes[r]) * min(block, guess(columns))
    tasks = product([*(space.sizes[i] for i in outer), chunks])
    return Kernel("transpose", body, (group.inputs[0], group.outputs[0]), tasks, table.dims,
                  grain=max(1, -(-GRAIN_ELEMENTS // work)), writes=group.outputs)
