"""Attention: softmax(scale * q kᵀ + mask) v for a block of rows of one head at a time, scores never leaving the cache.

A task is a block of rows of one (batch, head). K is transposed into panels and V copied into panels in scratch; tasks
that follow each other on the same head share them. Then, in scratch: scores = q kᵀ (scaled and masked by the
microkernel where there is a mask), e = 2^(c (score - highest of its row)) with c = log₂e, times the scale if it has not
been applied, and the product with V, whose microkernel divides by Σe, applies the group's epilogue and stores.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.arith import Arith, reduce_lanes
from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.llvm.math import F32, exp2_negative
from lepton.codegen.loops import Apply, Const, Expr, Load, Ref, i64
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import ACCUMULATOR, Epilogue, Operand, plain
from lepton.codegen.templates.gemm import cover, heights, unravel, when
from lepton.codegen.templates.memory import Mask, load_raw, mask_of, size, store_raw
from lepton.codegen.templates.microkernel import Micro, on_tile, stride_arguments
from lepton.codegen.templates.pack import pack_panel
from lepton.codegen.templates.tiles import Tile
from lepton.ir.types import DType

PAD = 64     # bytes between rows of scores, so that their pitch is no power of two
ABREAST = 4  # rows of scores whose exponentials are computed side by side, which hides their latency


@dataclass(frozen=True, slots=True)
class Attention:
    """The body of an attention kernel: q [B,H,S,D], k [B,H,T,D], v [B,H,T,E] -> [B,H,S,E]."""

    dtype: DType
    heads: tuple[Size, Size]        # B, H
    s: Size
    t: Size
    d: Size
    e: Size
    q: Operand                      # over (b, h, s, d)
    k: Operand                      # over (b, h, t, d)
    v: Operand                      # over (b, h, t, e)
    mask: Operand | None            # over (b, h, s, t)
    scale: float
    epilogue: Epilogue              # over (b, h, s, e)
    scores: Tile
    output: Tile
    block: int                      # rows of a task

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Attention(self, module.kernel(symbol), target).run()


class _Attention:
    def __init__(self, body: Attention, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.lanes, self.bytes = target.lanes(body.dtype), body.dtype.bytes
        self.type = vec(self.lanes, memory_type(body.dtype))
        self.heads = tuple(size(fn, h) for h in body.heads)
        self.s, self.t, self.d, self.e = (size(fn, x) for x in (body.s, body.t, body.d, body.e))
        self.arith = Arith(fn, target)
        self.bases = {o: fn.buffer(o.buffer) for o in (body.q, body.k, body.v, body.mask) if o is not None}
        self.pointers = [fn.buffer(o.buffer) for o in body.epilogue.operands]
        self.width, self.out_width = body.scores.vectors * self.lanes, body.output.vectors * self.lanes
        self.scaled_late = body.mask is None and body.scale >= 0
        self.weighing = self._weighing()
        self.share = Operand(0, body.dtype, (0, 0, 1, 0))
        self._scratch()

    def _weighing(self) -> Epilogue:
        """What becomes of a score before it is stored."""
        body, store = self.body, Operand(0, self.body.dtype, (0, 0, -1, 1))
        if self.scaled_late:
            return plain(store)
        value: Expr = Apply("mul", (Ref(ACCUMULATOR, body.dtype), Const(body.scale, body.dtype)), body.dtype)
        if body.mask is None:
            return Epilogue((), (store,), (value,))
        return Epilogue((body.mask,), (store,), (Apply("add", (value, Load("e0", i64(0), body.dtype)), body.dtype),))

    def _scratch(self) -> None:
        """Where the scores, K's and V's panels and 1/Σe lie; the same sum as `scratch_bytes`."""
        fn = self.fn
        panels = fn.div(fn.add(self.t, self.width - 1), self.width)
        self.pitch = fn.add(fn.mul(panels, self.width * self.bytes), PAD)
        base = Val("ptr", "%scratch")
        self.p = base
        self.kt = fn.gep(base, fn.mul(self.pitch, self.body.block))
        self.vp = fn.gep(self.kt, fn.mul(fn.mul(panels, self.width * self.bytes), self.d))
        out = fn.div(fn.add(self.e, self.out_width - 1), self.out_width)
        self.shares = fn.gep(self.vp, fn.mul(fn.mul(out, self.out_width * self.bytes), self.t))

    def run(self) -> None:
        fn, block = self.fn, self.body.block
        blocks = fn.div(fn.add(self.s, block - 1), block)

        def task(index: Int, last: list[Val]) -> list[Val]:
            head, row_block = (index, 0) if blocks == 1 else (fn.div(index, blocks), fn.rem(index, blocks))
            at = unravel(fn, head, self.heads)
            changed = fn.compare("icmp ne", fn.i64(head), last[0])
            when(fn, changed, lambda: self.pack(at))
            row = fn.mul(row_block, block)
            rows = fn.min(fn.sub(self.s, row), block)
            self.multiply_scores(at, row, rows)
            cover(fn, rows, (ABREAST, 1), self.softmax)
            self.multiply_values(at, row, rows)
            return [fn.i64(head)]

        fn.loop(Val("i64", "%hi"), task, [Val("i64", "-1")], start=Val("i64", "%lo"))

    def offset(self, operand: Operand, coords: tuple[Int, ...]) -> Int:
        """Bytes to the element at the first coordinates, the rest 0."""
        total: Int = 0
        for x, stride in zip(coords, operand.strides, strict=False):
            total = self.fn.add(total, self.fn.mul(self.fn.mul(x, size(self.fn, stride)), operand.dtype.bytes))
        return total

    def stride(self, operand: Operand, axis: int) -> Int:
        return size(self.fn, operand.strides[axis])

    # --- packing ---

    def pack(self, at: tuple[Int, ...]) -> None:
        fn, body, vectors = self.fn, self.body, self.body.scores.vectors
        k = fn.gep(self.bases[body.k], self.offset(body.k, at))
        v = fn.gep(self.bases[body.v], self.offset(body.v, at))
        self.panels(self.t, self.width, lambda p, columns: pack_panel(
            fn, self.target, body.dtype, fn.gep(k, fn.mul(fn.mul(p, self.width), self._bytes(body.k, 2))),
            (self.d, columns), (self.stride(body.k, 3), self.stride(body.k, 2)),
            fn.gep(self.kt, fn.mul(fn.mul(p, self.width * self.bytes), self.d)), vectors))
        self.panels(self.e, self.out_width, lambda p, columns: pack_panel(
            fn, self.target, body.dtype, fn.gep(v, fn.mul(fn.mul(p, self.out_width), self._bytes(body.v, 3))),
            (self.t, columns), (self.stride(body.v, 2), self.stride(body.v, 3)), self._v_panel(p), body.output.vectors))

    def _bytes(self, operand: Operand, axis: int) -> Int:
        return self.fn.mul(self.stride(operand, axis), operand.dtype.bytes)

    def _v_panel(self, p: Int) -> Val:
        return self.fn.gep(self.vp, self.fn.mul(self.fn.mul(p, self.out_width * self.bytes), self.t))

    def panels(self, columns: Int, width: int, each: Callable[[Int, Int], None]) -> None:
        """each(panel, its columns): the full ones, then what is left."""
        fn = self.fn
        full, rest = fn.div(columns, width), fn.rem(columns, width)
        fn.loop(full, lambda p, _: each(p, width))
        if rest != 0:
            inside = True if isinstance(rest, int) else fn.compare("icmp sgt", rest, Val("i64", "0"))
            when(fn, inside, lambda: each(full, rest))

    # --- products ---

    def multiply_scores(self, at: tuple[Int, ...], row: Int, rows: Int) -> None:
        """p = q kᵀ, scaled and masked if there is a mask. What lies behind column t is never read."""
        fn, body = self.fn, self.body
        q = fn.gep(self.bases[body.q], self.offset(body.q, (*at, row)))
        row_bytes, step = self._bytes(body.q, 2), self._bytes(body.q, 3)
        seen = on_tile(self.weighing, None, 2, 3)
        given = {"row": row_bytes, "step": step, "k": self.d, **stride_arguments(fn, self.weighing, None, 2, 3)}
        given[f"o{len(seen.loads)}s1"] = fn.div(self.pitch, self.bytes)

        def panel(p: Int, columns: Int) -> None:
            w = fn.gep(self.kt, fn.mul(fn.mul(p, self.width * self.bytes), self.d))
            vectors = -(-columns // self.lanes) if isinstance(columns, int) else body.scores.vectors
            shown: Int = columns if body.mask is not None else vectors * self.lanes

            def tile(start: Int, height: int) -> None:
                micro = self.micro(height, vectors, row_bytes, step, self.d, seen, shown,
                                   body.scores.vectors * self.target.vector_bytes)
                to = fn.gep(self.p, fn.add(fn.mul(start, self.pitch), fn.mul(p, self.width * self.bytes)))
                coords = (*at, fn.add(row, start), fn.mul(p, self.width))
                masks = [o.at(fn, self.bases[o], coords) for o in self.weighing.loads]
                micro.call(fn, self.target, fn.gep(q, fn.mul(start, row_bytes)), w, [*masks, to],
                           given | {"columns": shown})

            cover(fn, rows, heights(body.scores.rows, body.s), tile)

        self.panels(self.t, self.width, panel)

    def multiply_values(self, at: tuple[Int, ...], row: Int, rows: Int) -> None:
        """The epilogue of p v, divided by the rows' sums."""
        fn, body = self.fn, self.body
        seen = on_tile(body.epilogue.of_product_with(self.share), None, 2, 3)
        given = {"row": self.pitch, "step": self.bytes, "k": self.t}
        given |= stride_arguments(fn, body.epilogue.of_product_with(self.share), None, 2, 3)
        loads = len(body.epilogue.loads)

        def panel(p: Int, columns: Int) -> None:
            def tile(start: Int, height: int) -> None:
                vectors = body.output.vectors
                micro = self.micro(height, vectors, self.pitch, self.bytes, self.t, seen, columns,
                                   vectors * self.target.vector_bytes)
                coords = (*at, fn.add(row, start), fn.mul(p, self.out_width))
                pointers = [o.at(fn, b, coords) for o, b in zip(body.epilogue.operands, self.pointers, strict=True)]
                pointers.insert(loads, fn.gep(self.shares, fn.mul(start, self.bytes)))
                micro.call(fn, self.target, fn.gep(self.p, fn.mul(start, self.pitch)), self._v_panel(p), pointers,
                           given | {"columns": columns})

            cover(fn, rows, heights(body.output.rows, body.s), tile)

        self.panels(self.e, self.out_width, panel)

    def micro(self, height: int, vectors: int, row: Int, step: Int, k: Int, epilogue: Epilogue, columns: Int,
              pitch: int) -> Micro:
        return Micro(self.body.dtype, (1, height), vectors,
                     tuple(r * row for r in range(height)) if isinstance(row, int) else None,
                     step if isinstance(step, int) else None, isinstance(k, int) and k > 0, 0, epilogue,
                     columns if isinstance(columns, int) else None, pitch)

    # --- softmax ---

    def softmax(self, start: Int, rows: int) -> None:
        """p = exp(p - highest of the row), share = 1 / Σ, for rows [start, start + rows) of the block."""
        fn, dtype = self.fn, self.body.dtype
        lines = [fn.gep(self.p, fn.mul(fn.add(start, r), self.pitch)) for r in range(rows)]
        low, zero = literal(self.type, float("-inf")), literal(self.type, 0.0)

        def load(line: Val, place: Int) -> Val:
            return load_raw(fn, memory_type(dtype), line, self.lanes, place)

        def highest(place: Int, lanes: Mask, state: list[Val]) -> list[Val]:
            found = [load(line, place) for line in lines]
            found = found if lanes is None else [fn.select(lanes, x, low) for x in found]
            return [fn.select(fn.compare("fcmp ogt", x, top), x, top) for x, top in zip(found, state, strict=True)]

        tops = [fn.splat(reduce_lanes(self.arith, "maximum", top, dtype), self.lanes)
                for top in self.each_vector(highest, [low] * rows)]

        def power(place: Int, lanes: Mask, state: list[Val]) -> list[Val]:
            sums = []
            for line, top, total in zip(lines, tops, state, strict=True):
                y = self.power(fn.op("fsub", load(line, place), top))
                store_raw(fn, y, line, place)
                sums.append(fn.op("fadd", total, y if lanes is None else fn.select(lanes, y, zero)))
            return sums

        one = literal(memory_type(dtype), 1.0)
        for r, total in enumerate(self.each_vector(power, [zero] * rows)):
            total = reduce_lanes(self.arith, "add", total, dtype)
            nothing = literal(memory_type(dtype), 0.0)
            empty = fn.compare("fcmp oeq", total, nothing)   # no columns at all: the sum of no values is 0
            share = fn.select(empty, nothing, fn.op("fdiv", one, total))
            fn.store(share, self.shares, fn.mul(fn.add(start, r), self.bytes))

    def power(self, x: Val) -> Val:
        """exp(scale x) for x <= 0; without the scale where the scores have it already."""
        fn, scale = self.fn, self.body.scale if self.scaled_late else 1.0
        if self.body.dtype is not DType.F32:
            return self.arith.apply("exp", [fn.op("fmul", x, literal(self.type, scale))], self.body.dtype)
        y = fn.op("fmul", x, literal(self.type, scale / math.log(2)))
        return exp2_negative(F32(fn, self.lanes, self.target.fma), y)

    def each_vector(self, body: Callable[[Int, Mask, list[Val]], list[Val]], state: list[Val]) -> list[Val]:
        """body(byte offset, mask, state) over the vectors of a row of scores."""
        fn = self.fn
        whole = fn.div(self.t, self.lanes)
        state = fn.loop(whole, lambda i, s: body(fn.mul(i, self.target.vector_bytes), None, s), state)
        rest = fn.rem(self.t, self.lanes)
        if rest == 0:
            return state
        if isinstance(rest, int):
            return body(fn.mul(whole, self.target.vector_bytes), mask_of(fn, rest, 0, self.lanes), state)
        some = fn.compare("icmp sgt", rest, Val("i64", "0"))
        return fn.when(some, lambda: body(fn.mul(whole, self.target.vector_bytes),
                                          mask_of(fn, rest, 0, self.lanes), state), state)
