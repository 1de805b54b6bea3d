"""Rows that a block puts in order, sums up or searches: prelude/order.cuh. What is read and written is loop IR."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.cuda.ctext import apply, c_type, literal
from lepton.codegen.cuda.spell import Geometry, ScratchIn, Spelled, head, text_of
from lepton.codegen.cuda.templates.text import DeviceBody
from lepton.codegen.loops import Buffer, Expr, Let, Stmt, neutral
from lepton.codegen.target import Target
from lepton.ir.types import DType

ROOM = 33 * 8 + 8    # of lp_before, up to a multiple of 16


@dataclass(frozen=True, slots=True)
class Piece:
    """A function of indices: statements, and what it gives, if anything."""

    parameters: tuple[str, ...]
    body: tuple[Stmt, ...]
    result: Expr | None = None


@dataclass(frozen=True, slots=True)
class RowBody(DeviceBody):
    """A task is a row of `n` elements, and a block's. `row`: what follows from the task `t`."""

    buffers: tuple[Buffer, ...]
    row: tuple[Let, ...]
    n: Expr
    threads: int

    def spelled(self, symbol: str, pieces: dict[str, Piece], call: str, shared: int,
                scratch: ScratchIn = ScratchIn.NONE) -> Spelled:
        lines = [*text_of(self.buffers, self.row)[0], *(x for name, p in pieces.items() for x in self.piece(name, p)),
                 call]
        text = [*head(self.buffers, self.n_dims, symbol, self.threads), "  LP_SHARED",
                "  for (i64 v_t = LP_BLOCK; v_t < tasks; v_t += LP_BLOCKS) {", *("    " + x for x in lines), "  }", "}"]
        return Spelled("\n".join(text) + "\n", Geometry(self.threads, 1, shared, scratch))

    def piece(self, name: str, piece: Piece) -> list[str]:
        lines, result = text_of(self.buffers, piece.body, piece.result)
        if piece.result is not None:
            lines = [*lines, f"return {result};"]
        given = ", ".join(f"i64 v_{p}" for p in piece.parameters)
        return [f"auto {name} = [&]({given}) {{", *("  " + line for line in lines), "};"]

    def expr(self, e: Expr) -> str:
        return text_of(self.buffers, (), e)[1]


@dataclass(frozen=True, slots=True)
class Firsts(RowBody):
    """put(j, i) for the first k: lp_firsts, or, without `room`, lp_in_order with all entries in the workspace."""

    k: Expr
    dtype: DType
    falling: bool
    code: Piece
    put: Piece
    room: int
    run: int = 4

    @property
    def key(self) -> str:
        return "u64" if self.dtype.bytes == 8 else "u32"

    @property
    def entry_bytes(self) -> int:
        return 16 if self.dtype.bytes == 8 else 8

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        way = "~" if self.falling else ""
        value = f"auto code = [&](i64 i) {{ return {self.key}({way}lp_code<{c_type(self.dtype)}>(value(i))); }};"
        n, k = self.expr(self.n), self.expr(self.k)
        pieces = {"value": self.code, "put": self.put}
        if self.room:
            call = f"lp_firsts<{self.key}, {self.room}, {self.run}>({n}, {k}, code, put, lp_shared);"
            return self.spelled(symbol, pieces, value + " " + call, ROOM + self.room * self.entry_bytes)
        call = (f"lp_in_order<{self.key}>({n}, {k}, code, put, (lp_entry<{self.key}> *)(scratch + LP_BLOCK * "
                "scratch_stride));")
        return self.spelled(symbol, pieces, value + " " + call, 0, ScratchIn.GLOBAL)


@dataclass(frozen=True, slots=True)
class Running(RowBody):
    """Running sums or products: lp_running."""

    dtype: DType
    op: str
    exclusive: bool
    get: Piece
    put: Piece
    run: int = 4

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        t, start = c_type(self.dtype), neutral(self.op, self.dtype)
        both = apply(self.op, ["x", "y"], [self.dtype] * 2, self.dtype)
        (index, value) = self.put.parameters
        pieces = {"get": self.get}
        lines, _ = text_of(self.buffers, self.put.body)
        put = f"auto put = [&](i64 v_{index}, {t} v_{value}) {{ {' '.join(lines)} }}; "
        call = (f"lp_running<{t}, {self.run}, {str(self.exclusive).lower()}>({self.expr(self.n)}, "
                f"{literal(start.value, self.dtype)}, get, put, lp_shared, []({t} x, {t} y) {{ return {both}; }});")
        return self.spelled(symbol, pieces, put + call, ROOM)


@dataclass(frozen=True, slots=True)
class Found(RowBody):
    """put(place, i) for all hits: lp_find."""

    hit: Piece
    put: Piece
    run: int = 4

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        call = f"lp_find<{self.run}>({self.expr(self.n)}, hit, put, lp_shared);"
        return self.spelled(symbol, {"hit": self.hit, "put": self.put}, call, ROOM)


@dataclass(frozen=True, slots=True)
class Sorted(RowBody):
    """The numbers 0 … n - 1 in `target`, in the order that before(i, j) says: lp_sort."""

    target: str
    before: Piece

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        call = (f"for (i64 i = LP_THREAD; i < {self.expr(self.n)}; i += LP_THREADS) {self.target}[i] = i; "
                f"lp_sort({self.target}, {self.expr(self.n)}, before);")
        return self.spelled(symbol, {"before": self.before}, call, 0)
