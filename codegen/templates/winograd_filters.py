"""The filters' side of Winograd's convolution: U = G w Gᵀ, made when the model runs.

Artifacts so carry the nine taps of a filter and not 36 numbers, and cold weights cost a quarter of the memory traffic;
the transform itself is a few percent of the products that use it. Where several tasks use a filter, it is a step of its
own before them (`FilterTransform`), which all threads share.

The points are reciprocal, which saves a multiplication and keeps rounding errors small: half of those of 0, ±1, ±2
(Alam et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection", 2022; measured here, too).
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import from_memory, memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.gemm import pack_constant, when
from lepton.codegen.templates.memory import fma, prefetch
from lepton.codegen.templates.tiles import Tile
from lepton.ir.tensor import Array
from lepton.ir.types import DType

TAPS, INPUT = 3, 6
NEAR, FAR = 0.7, 1 / 0.7     # the points are 0, ±NEAR, ±FAR and infinity, where polynomials are evaluated
AHEAD = 4096     # bytes between what is transformed and what is prefetched


def pack_taps(w: Array, target: Target, tile: Tile, dtype: DType) -> Array:
    """[O, C, 3, 3] -> panels over O of rows (c, tap); flat."""
    return pack_constant(np.transpose(w, (1, 2, 3, 0)).reshape(-1, w.shape[0]), target, tile, dtype)


@dataclass(frozen=True, slots=True)
class FilterTransform:
    """The body of a step that makes U of all filters. A task is `block` channels of one panel."""

    dtype: DType
    channels: int
    filters: int
    vectors: int             # of a panel
    block: int
    w: int                   # buffer of pack_taps' result
    u: int                   # buffer of the 36 matrices [panels][C][panel]
    matrix: int              # elements between these
    stored: DType | None = None   # of the taps, where that is not `dtype`

    def tasks(self, lanes: int) -> int:
        return -(-self.filters // (self.vectors * lanes)) * -(-self.channels // self.block)

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        fn, size = module.kernel(symbol), target.vector_bytes
        lanes = target.lanes(self.dtype)
        transform = Filters(target, self.dtype, self.matrix * self.dtype.bytes, self.stored)
        w, u, blocks = fn.buffer(self.w), fn.buffer(self.u), -(-self.channels // self.block)
        full, tail = divmod(self.filters, self.vectors * lanes)

        def task(index: Int, _: list[Val]) -> None:
            panel, first = fn.div(index, blocks), fn.mul(fn.rem(index, blocks), self.block)
            count = fn.min(fn.sub(self.channels, first), self.block)
            start = fn.mul(panel, self.channels * self.vectors)

            def run(vectors: int) -> None:
                at = fn.add(start, fn.mul(first, vectors))
                transform.call(fn, fn.gep(w, fn.mul(at, TAPS * TAPS * transform.vector)), fn.gep(u, fn.mul(at, size)),
                               vectors, count)

            last = fn.compare("icmp eq", fn.i64(panel), Val("i64", str(full))) if tail and full else bool(tail)
            when(fn, last, lambda: run(-(-tail // lanes)))
            when(fn, fn.op("xor", last, Val("i1", "true")) if isinstance(last, Val) else not last,
                 lambda: run(self.vectors))

        fn.loop(Val("i64", "%hi"), task, start=Val("i64", "%lo"))


class Filters:
    """Transforms channels of a panel of filters: from [C][9][panel] to 36 matrices [C][panel], `matrix` bytes apart."""

    def __init__(self, target: Target, dtype: DType, matrix: int, stored: DType | None) -> None:
        self.target, self.dtype, self.matrix = target, dtype, matrix
        self.stored = stored or dtype
        self.type = vec(target.lanes(dtype), memory_type(dtype))
        self.vector = target.lanes(dtype) * self.stored.bytes    # bytes of one of taps

    def call(self, fn: Function, source: Val, to: Val, vectors: int, channels: Int) -> None:
        name = f"winograd_filters_{self.stored.value}_{vectors}_{self.matrix}"
        if name not in fn.module.functions:
            self.define(fn, name, vectors)
        fn.emit(f"call void @{name}({source}, {to}, {fn.i64(channels)})")

    def define(self, outer: Function, name: str, vectors: int) -> None:
        args = [("ptr noalias readonly", "w"), ("ptr noalias", "u"), ("i64", "channels")]
        fn = outer.module.function(name, args, internal=True, attributes="noinline")
        size, from_size = self.target.vector_bytes, self.vector
        raw = vec(self.target.lanes(self.dtype), memory_type(self.stored))

        def load(w: Val, number: int) -> Val:
            return from_memory(fn, self.target, fn.load(raw, w, number * from_size, from_size), self.stored)

        def one(i: object, state: list[Val]) -> list[Val]:
            w, u = state
            for line in range(-(-TAPS * TAPS * vectors * from_size // 64)):
                prefetch(fn, fn.gep(w, AHEAD + 64 * line))
            for v in range(vectors):
                taps = [[load(w, (a * TAPS + b) * vectors + v) for b in range(TAPS)] for a in range(TAPS)]
                columns = [self.spread(fn, [taps[a][b] for a in range(TAPS)]) for b in range(TAPS)]
                for a in range(INPUT):
                    for b, value in enumerate(self.spread(fn, [column[a] for column in columns])):
                        fn.store(value, u, (a * INPUT + b) * self.matrix + v * size, size)
            return [fn.gep(w, TAPS * TAPS * vectors * from_size), fn.gep(u, vectors * size)]

        fn.loop(Val("i64", "%channels"), one, [Val("ptr", "%w"), Val("ptr", "%u")])

    def spread(self, fn: Function, g: list[Val]) -> list[Val]:
        """G on three vectors."""

        def scaled(k: float, x: Val) -> Val:
            return fn.op("fmul", x, literal(self.type, k))

        near, far = NEAR * NEAR, FAR * FAR

        def pair(point: float, weight: float) -> list[Val]:
            """(g0 ± point g1 + point² g2) * weight."""
            even = fma(fn, self.target.fma, g[2], literal(self.type, point * point * weight), scaled(weight, g[0]))
            odd = scaled(point * weight, g[1])
            return [fn.op("fadd", even, odd), fn.op("fsub", even, odd)]

        return [g[0], *pair(NEAR, 1 / (2 * near * (near - far))), *pair(FAR, 1 / (2 * far * (far - near))), g[2]]
