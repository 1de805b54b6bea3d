"""Convolutions and products whose weights are mostly zero, in blocks of one input times a panel of filters; of bytes,
of a group of four inputs.

A panel of filters has a list of the inputs that any of its filters reads: byte offsets from a pixel's first tap, made
when the model is compiled. The microkernel walks the list; each turn it loads an offset, the panel's row of weights,
which lie in the order of the list, and multiplies it with that input of every pixel of the tile. Everything else, the
tasks, the copied band, the epilogue, is the direct convolution's.

All panels run over one tile of pixels before the next tile, because the pixels are what is read again and again.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton.codegen.llvm.builder import Function, Int, Module, Val
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Convolution, _Convolution
from lepton.codegen.templates.gemm import cover, frozen, heights, when
from lepton.codegen.templates.memory import prefetch
from lepton.codegen.templates.microkernel import Micro, _Emitter
from lepton.ir.tensor import Array

DISTANCE = 4096        # bytes between a panel's weights in use and those asked for
ROW = 24               # bytes of a panel's entry in the table: where weights and offsets begin, how many there are


@dataclass(frozen=True, slots=True)
class Panels:
    """A sparse matrix as its kernel reads it."""

    weights: Array     # rows that are not zero, behind what sums start from, panel by panel, padded to whole vectors
    offsets: Array     # [rows] i32 bytes into a pixel's window
    table: Array       # [panels, 3] i64: byte offsets into `weights` and `offsets`, number of rows


def active_rows(matrix: Array, width: int) -> Array:
    """[K, panels] bool: whether any of a panel's columns is not zero there."""
    k, n = matrix.shape
    padded = np.zeros((k, -(-n // width) * width), bool)
    padded[:, :n] = matrix != 0
    return np.asarray(padded.reshape(k, -1, width).any(axis=2))


def pack_sparse(matrix: Array, offsets: Array, lanes: int, vectors: int, start: Array | None = None) -> Panels:
    """[K, N] weights, whose k-th row multiplies the element or group `offsets[k]` bytes into a window; `start`: [N]
    what the sums start from."""
    width, n = lanes * vectors, matrix.shape[1]
    active, head = active_rows(matrix, width), 0 if start is None else 1
    weights, places, table, at, seen = [np.zeros(0, matrix.dtype)], [np.zeros(0, np.int32)], [], 0, 0
    for panel in range(active.shape[1]):
        rows = np.flatnonzero(active[:, panel])
        columns = min(width, n - panel * width)
        part = np.zeros((head + len(rows), -(-columns // lanes) * lanes), matrix.dtype)
        if start is not None:
            part[0, :columns] = start[panel * width:panel * width + columns]
        part[head:, :columns] = matrix[rows, panel * width:panel * width + columns]
        table.append((at * matrix.itemsize, seen * 4, len(rows)))
        weights.append(part.reshape(-1))
        places.append(offsets[rows].astype(np.int32))
        at, seen = at + part.size, seen + len(rows)
    weights.append(np.zeros(lanes, matrix.dtype))     # so that nothing is empty
    places.append(np.zeros(1, np.int32))
    return Panels(frozen(np.concatenate(weights)), frozen(np.concatenate(places)), frozen(np.array(table, np.int64)))


@dataclass(frozen=True, slots=True)
class SparseConvolution(Convolution):
    """A convolution of one group whose `w` is the buffer of `Panels.weights`."""

    offsets: int = -1       # buffer of Panels.offsets
    table: int = -1         # buffer of Panels.table

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Sparse(self, module.kernel(symbol), target).run()


@dataclass(frozen=True, slots=True)
class SparseMicro:
    """A microkernel that walks a list of `k` offsets."""

    micro: Micro

    @property
    def name(self) -> str:
        return f"sparse_{self.micro.name}"

    def function(self, module: Module, target: Target) -> str:
        """The symbol, after adding the function to the module if it is not there."""
        if self.name not in module.functions:
            pointers = [("ptr noalias readonly", name) for name in ("a", "w", "list")]
            pointers += [("ptr", f"p{i}") for i in range(len(self.micro.epilogue.operands))]
            sizes = [("i64", name) for name in self.micro.parameters()]
            fn = module.function(self.name, pointers + sizes, internal=True, attributes="noinline")
            _SparseEmitter(self.micro, fn, target).run()
        return self.name

    def call(self, fn: Function, target: Target, pointers: Sequence[Val], arguments: dict[str, Int]) -> None:
        """Run one tile. `pointers`: A, weights, offsets, then the epilogue operands at its first element."""
        symbol = self.function(fn.module, target)
        values = [*pointers, *(fn.i64(arguments[name]) for name in self.micro.parameters())]
        fn.emit(f"call void @{symbol}({', '.join(map(str, values))})")


class _SparseEmitter(_Emitter):
    def sum(self, accumulators: list[Val], w: Val) -> list[Val]:
        fn, count = self.fn, len(accumulators)

        def turn(_: Int, state: list[Val]) -> list[Val]:
            sums, (w, places) = state[:count], state[count:]
            offset = fn.convert("sext", fn.load("i32", places, 0, 4), "i64")
            prefetch(fn, fn.gep(w, DISTANCE))
            after = self.step_k([*sums, fn.gep(Val("ptr", "%a"), offset), w])
            return [*after[:count], after[count + 1], fn.gep(places, 4)]

        return fn.loop(Val("i64", "%k"), turn, [*accumulators, w, Val("ptr", "%list")])[:count]


class _Sparse(_Convolution):
    body: SparseConvolution

    def __init__(self, body: SparseConvolution, fn: Function, target: Target) -> None:
        super().__init__(body, fn, target)
        self.offsets, self.table = fn.buffer(body.offsets), fn.buffer(body.table)

    def sweep(self, at: tuple[Int, Int, Int, Int], group: Int, extent: tuple[Int, Int], first: Int, a: Val) -> None:
        """All tiles of a block, and for each all panels from `first`."""
        fn, body = self.fn, self.body
        full, tail = divmod(body.filters, self.width)
        last = fn.min(fn.add(first, body.block_panels), self.panels) if self.blocks_n != 1 else self.panels

        def tile(y: Int, x: Int, height: int, width: int) -> None:
            fn.loop(fn.min(last, full), lambda p, _: self.tile(at, (y, x), (height, width), p, self.width, a),
                    start=first)
            if tail:
                inside = True if isinstance(last, int) else fn.compare("icmp sgt", last, fn.i64(full))
                when(fn, inside, lambda: self.tile(at, (y, x), (height, width), full, tail, a))

        cover(fn, extent[0], heights(body.tile[0], body.out[1]), lambda y, height: cover(
            fn, extent[1], heights(body.tile[1], body.out[2]), lambda x, width: tile(y, x, height, width)))

    def tile(self, at: tuple[Int, Int, Int, Int], place: tuple[Int, Int], shape: tuple[int, int], panel: Int,
             columns: int, a: Val) -> None:
        fn, body, (n, d, oy, ox), (y, x) = self.fn, self.body, at, place
        entry = fn.gep(self.table, fn.mul(panel, ROW))
        weights, places, rows = (fn.load("i64", entry, 8 * i, 8) for i in range(3))
        coords = (n, d, fn.add(oy, y), fn.add(ox, x), fn.mul(panel, self.width))
        strides = body.window.strides
        step = fn.add(fn.mul(fn.mul(y, strides[1]), self.line), fn.mul(fn.mul(x, strides[2]), self.pixel))
        vectors = -(-columns // self.lanes)
        micro = SparseMicro(self.sparse_micro(shape, vectors, columns))
        operands = [o.at(fn, p, coords) for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
        pointers = [fn.gep(a, fn.mul(step, self.bytes)), fn.gep(self.w, weights), fn.gep(self.offsets, places)]
        micro.call(fn, self.target, [*pointers, *operands], self.arguments | {"k": rows})

    def sparse_micro(self, shape: tuple[int, int], vectors: int, columns: int) -> Micro:
        strides, (height, width) = self.body.window.strides, shape
        assert isinstance(self.pixel, int)
        assert isinstance(self.line, int)
        rows = tuple((y * strides[1] * self.line + x * strides[2] * self.pixel) * self.bytes
                     for y in range(height) for x in range(width))
        return Micro(self.body.dtype, shape, vectors, rows, 0, False, 0, self.on_tile, columns,
                     vectors * self.target.vector_bytes, dot=self.body.dot)
