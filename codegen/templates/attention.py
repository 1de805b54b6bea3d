"""Attention: softmax(scale * q kᵀ + mask) v for a block of rows of one head at a time, scores never leaving the cache.

A task is a block of rows of one (batch, head). K is transposed into panels and V copied into panels in scratch; tasks
that follow each other on the same head share them. Then, in scratch: scores = q kᵀ, softmax of each row in three
passes, and the product with V, whose microkernel applies the group's epilogue and stores.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.arith import Arith, reduce_lanes
from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import Epilogue, Operand, plain
from lepton.codegen.templates.gemm import cover, heights, unravel, when
from lepton.codegen.templates.memory import Mask, load_lanes, load_raw, mask_of, size, store_raw
from lepton.codegen.templates.microkernel import Micro, on_tile, stride_arguments
from lepton.codegen.templates.pack import pack_panel
from lepton.codegen.templates.tiles import Tile
from lepton.ir.types import DType

PAD = 64     # bytes between rows of scores, so that their pitch is no power of two


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
        self._scratch()

    def _scratch(self) -> None:
        """Where K's and V's panels and the scores lie; the same sum as `scratch_bytes`."""
        fn = self.fn
        panels = fn.div(fn.add(self.t, self.width - 1), self.width)
        self.pitch = fn.add(fn.mul(panels, self.width * self.bytes), PAD)
        base = Val("ptr", "%scratch")
        self.p = base
        self.kt = fn.gep(base, fn.mul(self.pitch, self.body.block))
        self.vp = fn.gep(self.kt, fn.mul(fn.mul(panels, self.width * self.bytes), self.d))

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
            fn.loop(rows, lambda r, _: self.softmax(at, fn.add(row, r), fn.gep(self.p, fn.mul(r, self.pitch))))
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
        """p = q kᵀ, in whole panels: what lies behind column t is never read."""
        fn, body = self.fn, self.body
        q = fn.gep(self.bases[body.q], self.offset(body.q, (*at, row)))
        row_bytes, step = self._bytes(body.q, 2), self._bytes(body.q, 3)
        store = plain(Operand(0, body.dtype, (0, -1, 1)))
        count = fn.div(fn.add(self.t, self.width - 1), self.width)
        given = {"row": row_bytes, "step": step, "k": self.d, "o0s1": fn.div(self.pitch, self.bytes)}

        def panel(p: Int, _: list[Val]) -> None:
            w = fn.gep(self.kt, fn.mul(fn.mul(p, self.width * self.bytes), self.d))

            def tile(start: Int, height: int) -> None:
                micro = self.micro(height, body.scores.vectors, row_bytes, step, self.d, store, self.width)
                to = fn.gep(self.p, fn.add(fn.mul(start, self.pitch), fn.mul(p, self.width * self.bytes)))
                micro.call(fn, self.target, fn.gep(q, fn.mul(start, row_bytes)), w, [to], given)

            cover(fn, rows, heights(body.scores.rows, body.s), tile)

        fn.loop(count, panel)

    def multiply_values(self, at: tuple[Int, ...], row: Int, rows: Int) -> None:
        """The epilogue of p v."""
        fn, body = self.fn, self.body
        seen = on_tile(body.epilogue, None, 2, 3)
        given = {"row": self.pitch, "step": self.bytes, "k": self.t, **stride_arguments(fn, body.epilogue, None, 2, 3)}

        def panel(p: Int, columns: Int) -> None:
            def tile(start: Int, height: int) -> None:
                micro = self.micro(height, body.output.vectors, self.pitch, self.bytes, self.t, seen, columns)
                coords = (*at, fn.add(row, start), fn.mul(p, self.out_width))
                pointers = [o.at(fn, b, coords) for o, b in zip(body.epilogue.operands, self.pointers, strict=True)]
                micro.call(fn, self.target, fn.gep(self.p, fn.mul(start, self.pitch)), self._v_panel(p), pointers,
                           given | {"columns": columns})

            cover(fn, rows, heights(body.output.rows, body.s), tile)

        self.panels(self.e, self.out_width, panel)

    def micro(self, height: int, vectors: int, row: Int, step: Int, k: Int, epilogue: Epilogue, columns: Int) -> Micro:
        return Micro(self.body.dtype, (1, height), vectors,
                     tuple(r * row for r in range(height)) if isinstance(row, int) else None,
                     step if isinstance(step, int) else None, isinstance(k, int) and k > 0, 0, epilogue,
                     columns if isinstance(columns, int) else None, vectors * self.target.vector_bytes)

    # --- softmax ---

    def softmax(self, at: tuple[Int, ...], row: Int, p: Val) -> None:
        """p[:t] = exp(x - max x) / Σ, where x = scale * p + mask."""
        fn, body = self.fn, self.body
        low = literal(self.type, float("-inf"))
        zero = literal(self.type, 0.0)
        mask_row = None
        if body.mask is not None:
            mask_row = fn.gep(self.bases[body.mask], self.offset(body.mask, (*at, row)))

        def weigh(place: Int, lanes: Mask, state: list[Val]) -> list[Val]:
            x = fn.op("fmul", load_raw(fn, memory_type(body.dtype), p, self.lanes, place), self.number(body.scale))
            if mask_row is not None and body.mask is not None:
                x = fn.op("fadd", x, self.load_mask(body.mask, mask_row, place, lanes))
            store_raw(fn, x, p, place)
            shown = x if lanes is None else fn.select(lanes, x, low)
            return [fn.select(fn.compare("fcmp ogt", shown, state[0]), shown, state[0])]

        top = reduce_lanes(self.arith, "maximum", self.each_vector(weigh, [low])[0], body.dtype)
        top_row = fn.splat(top, self.lanes)

        def power(place: Int, lanes: Mask, state: list[Val]) -> list[Val]:
            x = fn.op("fsub", load_raw(fn, memory_type(body.dtype), p, self.lanes, place), top_row)
            y = self.arith.apply("exp", [x], body.dtype)
            store_raw(fn, y, p, place)
            return [fn.op("fadd", state[0], y if lanes is None else fn.select(lanes, y, zero))]

        total = reduce_lanes(self.arith, "add", self.each_vector(power, [zero])[0], body.dtype)
        one = literal(memory_type(body.dtype), 1.0)
        share = fn.splat(fn.op("fdiv", one, total), self.lanes)

        def divide(place: Int, lanes: Mask, state: list[Val]) -> list[Val]:
            store_raw(fn, fn.op("fmul", load_raw(fn, memory_type(body.dtype), p, self.lanes, place), share), p, place)
            return []

        self.each_vector(divide, [])

    def number(self, value: float) -> Val:
        return literal(self.type, value)

    def load_mask(self, mask: Operand, row: Val, place: Int, lanes: Mask) -> Val:
        stride = self.stride(mask, 3)
        at = self.fn.gep(row, self.fn.mul(place, stride))
        return load_lanes(self.fn, self.target, mask.dtype, at, self.lanes, stride, lanes)

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
