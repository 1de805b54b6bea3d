"""Products with a constant matrix whose few weights lie anywhere: vectors hold rows of A, weights come one by one.

    C[batch, m, n] = Σ over the k that column n has:  A[batch, m, k] * weight

A task transposes a tile of A's rows into scratch, so that one input of all of them is a few vectors; each column of the
result then walks its list of weights and places, several at a time so that their latencies overlap. The results of as
many columns as a vector has lanes are transposed back and meet the epilogue as rows.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand, Part, Place, finish
from lepton.codegen.templates.gemm import frozen, unravel
from lepton.codegen.templates.memory import fma, mask_of, size, transpose, zeros
from lepton.codegen.templates.pack import pack_panel
from lepton.ir.tensor import Array
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Lists:
    """A sparse matrix column by column; every list is a multiple of the weights taken at a time."""

    weights: Array     # [entries]
    places: Array      # [entries] i32 bytes into the transposed tile; what fills up a list reads its row of zeros
    turns: Array       # [columns, up to whole vectors] i64


def lists_of(matrix: Array, pitch: int, together: int, lanes: int) -> Lists:
    """[K, N] weights; rows of the tile are `pitch` bytes apart, the one after the last is zero."""
    k, n = matrix.shape
    weights, places, turns = [], [], np.zeros(-(-n // lanes) * lanes, np.int64)
    for column in range(n):
        rows = np.flatnonzero(matrix[:, column])
        turns[column] = -(-len(rows) // together)
        fill = int(turns[column]) * together - len(rows)
        weights += [matrix[rows, column], np.zeros(fill, matrix.dtype)]
        places += [rows * pitch, np.full(fill, k * pitch)]
    return Lists(frozen(np.concatenate([*weights, np.zeros(1, matrix.dtype)])),
                 frozen(np.concatenate([*places, np.zeros(1, int)]).astype(np.int32)), frozen(turns))


@dataclass(frozen=True, slots=True)
class Scattered:
    """The body of the kernel. Buffers: those of `Lists`."""

    dtype: DType
    batch: tuple[Size, ...]
    m: Size
    n: int
    k: int
    a: Operand                # over (*batch, m, k)
    epilogue: Epilogue        # over (*batch, m, n)
    vectors: int              # of A's rows in a tile
    together: int             # weights of a column at a time
    block: int                # rows of a task: tiles
    weights: int
    places: int
    turns: int

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Scattered(self, module.kernel(symbol), target).run()


def scratch_bytes(k: int, vectors: int, lanes: int, dtype: DType) -> int:
    """The tile with its row of zeros, and a square of results for each of its vectors."""
    return (k + 1 + lanes) * vectors * lanes * dtype.bytes


class _Scattered:
    def __init__(self, body: Scattered, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.batch, self.m = tuple(size(fn, d) for d in body.batch), size(fn, body.m)
        self.lanes, self.bytes = target.lanes(body.dtype), body.dtype.bytes
        self.vector = vec(self.lanes, memory_type(body.dtype))
        self.rows = body.vectors * self.lanes
        self.pitch = self.rows * self.bytes
        self.a = fn.buffer(body.a.buffer)
        self.pointers = [fn.buffer(o.buffer) for o in body.epilogue.operands]
        self.weights, self.places, self.turns = (fn.buffer(b) for b in (body.weights, body.places, body.turns))
        self.tile = Val("ptr", "%scratch")
        self.results = fn.gep(self.tile, (body.k + 1) * self.pitch)

    def run(self) -> None:
        fn, each = self.fn, self.body.block * self.rows
        self.blocks = fn.div(fn.add(self.m, each - 1), each)
        for v in range(self.body.vectors):
            fn.store(zeros(self.vector), self.tile, self.body.k * self.pitch + v * self.target.vector_bytes)
        fn.loop(Val("i64", "%hi"), lambda t, _: self.task(t), start=Val("i64", "%lo"))

    def task(self, index: Int) -> None:
        fn, each = self.fn, self.body.block * self.rows
        *batch, block = unravel(fn, index, (*self.batch, self.blocks))
        first = fn.mul(block, each)
        last = fn.min(fn.add(first, each), self.m)
        tiles = fn.div(fn.add(fn.sub(last, first), self.rows - 1), self.rows)
        fn.loop(tiles, lambda i, _: self.rows_from(tuple(batch), fn.add(first, fn.mul(i, self.rows)), last))

    def rows_from(self, batch: tuple[Int, ...], row: Int, last: Int) -> None:
        """One tile of rows: all columns."""
        fn, body = self.fn, self.body
        count = fn.min(fn.sub(last, row), self.rows)
        strides = (size(fn, body.a.strides[-1]), size(fn, body.a.strides[-2]))
        source = body.a.at(fn, self.a, (*batch, row, 0))
        pack_panel(fn, self.target, body.dtype, source, (body.k, count), strides, self.tile, body.vectors)
        full, rest = divmod(body.n, self.lanes)
        state = fn.loop(full, lambda g, s: self.group(batch, row, count, g, self.lanes, s), [self.weights, self.places])
        if rest:
            self.group(batch, row, count, full, rest, state)

    def group(self, batch: tuple[Int, ...], row: Int, count: Int, group: Int, columns: int,
              state: list[Val]) -> list[Val]:
        """As many columns as a vector has lanes, of which `columns` are there."""
        fn, start = self.fn, self.fn.mul(group, self.lanes)
        state = fn.loop(columns, lambda c, s: self.column(fn.add(start, c), c, s), state)
        for v in range(self.body.vectors):
            self.turn_back(v)
        mask = mask_of(fn, columns, 0, self.lanes)
        epilogue = self.body.epilogue

        def one(i: Int, _: list[Val]) -> None:
            at = (*batch, fn.add(row, i), start)
            places = [Place(o.at(fn, p, at), size(fn, o.strides[-1]))
                      for o, p in zip(epilogue.operands, self.pointers, strict=True)]
            value = fn.load(self.vector, self.results, fn.mul(i, self.target.vector_bytes))
            finish(fn, self.target, epilogue, self.lanes, [Part(value, places, mask)])

        fn.loop(count, one)
        return state

    def column(self, column: Int, within: Int, state: list[Val]) -> list[Val]:
        """One column of the result for all rows of the tile, into its place among the results."""
        fn, body = self.fn, self.body
        many, together = body.vectors, body.together

        def turn(_: Int, values: list[Val]) -> list[Val]:
            sums, (w, list_) = values[:-2], values[-2:]
            done = []
            for u in range(together):
                place = fn.gep(self.tile, fn.convert("sext", fn.load("i32", list_, 4 * u, 4), "i64"))
                weight = fn.splat(fn.load(memory_type(body.dtype), w, self.bytes * u, self.bytes), self.lanes)
                for v in range(many):
                    x = fn.load(self.vector, place, v * self.target.vector_bytes)
                    done.append(fma(fn, self.target.fma, x, weight, sums[u * many + v]))
            return [*done, fn.gep(w, self.bytes * together), fn.gep(list_, 4 * together)]

        turns = fn.load("i64", self.turns, fn.mul(column, 8), 8)
        *sums, w, places = fn.loop(turns, turn, [zeros(self.vector)] * (many * together) + state)
        for v in range(many):
            total = sums[v]
            for u in range(1, together):
                total = fn.op("fadd", total, sums[u * many + v])
            # Square v holds lanes x lanes results, a row for each column.
            offset = fn.add(fn.mul(within, self.target.vector_bytes), v * self.lanes * self.target.vector_bytes)
            fn.store(total, self.results, offset)
        return [w, places]

    def turn_back(self, v: int) -> None:
        """Transpose a square of results: a row for each of A's rows."""
        fn, step = self.fn, self.target.vector_bytes
        base = v * self.lanes * step
        lines = [fn.load(self.vector, self.results, base + i * step) for i in range(self.lanes)]
        for i, line in enumerate(transpose(fn, lines)):
            fn.store(line, self.results, base + i * step)
