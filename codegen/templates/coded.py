"""Matrix products whose right factor lies in memory as codes of a few bits (codes.py).

For few rows a microkernel decodes in registers: each word it reads gives `per` vectors of weights, each of which is
multiplied with all rows. Sums of a block are scaled when it ends (of more rows: the weights themselves are, because
the registers do not hold two sets of sums). For more rows a panel is decoded into scratch, once for all rows of the
task, and the ordinary microkernel reads it there.
"""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal
from lepton.codegen.llvm.convert import from_memory, memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.codes import Decoder, Form
from lepton.codegen.templates.gemm import Ahead, Gemm, _Gemm, cover, when
from lepton.codegen.templates.memory import fma, load_raw, prefetch, zeros
from lepton.codegen.templates.microkernel import Micro, _Emitter
from lepton.ir.types import DType

HEIGHTS = (4, 2, 1)  # rows of a tile, where weights are decoded in registers
LOWER = (2, 1)       # where zero points or tables take some of few registers
DEFERRED = 2         # rows up to which sums are scaled, not weights
CHAINS = 8           # accumulators that keep the multiply-add units busy
DISTANCE = 4096      # bytes between the codes in use and those asked for


@dataclass(frozen=True, slots=True)
class CodedGemm(Gemm):
    """A product of floats whose `b` is the buffer that `pack_codes` made; k and n are known."""

    form: Form = field(kw_only=True)
    table: int | None = None     # the buffer of `table_of`

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _CodedGemm(self, module.kernel(symbol), target).run()


@dataclass(frozen=True, slots=True)
class CodedMicro:
    """A microkernel that decodes: `k` of its parameters counts whole blocks, `rest` are the rows of a last one."""

    micro: Micro
    form: Form
    rest: int

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"coded{self.form.bits}_{self.micro.shape[1]}x{self.micro.vectors}_{digest}"

    def call(self, fn: Function, target: Target, pointers: Sequence[Val], arguments: dict[str, Int]) -> None:
        """Run one tile. `pointers`: A, the panel, the table, then the epilogue operands at its first element."""
        module = fn.module
        if self.name not in module.functions:
            heads = [("ptr noalias readonly", name) for name in ("a", "w", "table")]
            heads += [("ptr", f"p{i}") for i in range(len(self.micro.epilogue.operands))]
            sizes = [("i64", name) for name in self.micro.parameters()]
            inner = module.function(self.name, heads + sizes, internal=True, attributes="noinline")
            _CodedEmitter(self, inner, target).run()
        values = [*pointers, *(fn.i64(arguments[name]) for name in self.micro.parameters())]
        fn.emit(f"call void @{self.name}({', '.join(map(str, values))})")


class _Block:
    """What begins a block of a panel: scales and zeros of its columns."""

    def __init__(self, fn: Function, target: Target, form: Form, w: Val, vectors: int) -> None:
        self.fn, self.target, self.form, self.vectors = fn, target, form, vectors
        self.lanes = target.lanes(DType.F32)
        self.at = w
        width = vectors * self.lanes
        self.codes = fn.gep(w, form.head(width))
        self.zeros = [self._zero(width, v) for v in range(vectors)] if form.zero is not None else []

    def scale(self, v: int) -> Val:
        dtype = self.form.scale
        raw = load_raw(self.fn, memory_type(dtype), self.at, self.lanes, v * self.lanes * dtype.bytes)
        return from_memory(self.fn, self.target, raw, dtype)

    def _zero(self, width: int, v: int) -> Val:
        form, fn = self.form, self.fn
        assert form.zero is not None
        place = width * form.scale.bytes + v * self.lanes * form.zero.bytes
        raw = load_raw(fn, memory_type(form.zero), self.at, self.lanes, place)
        if form.zero is DType.F32:
            return raw
        return fn.convert("sitofp", raw, f"<{self.lanes} x float>")

    def level(self, decoder: Decoder, word: Val, i: int, v: int) -> Val:
        """A vector of weights, not scaled."""
        level = decoder.decode(word, i)
        return self.fn.op("fsub", level, self.zeros[v]) if self.zeros else level


class _CodedEmitter(_Emitter):
    def __init__(self, coded: CodedMicro, fn: Function, target: Target) -> None:
        super().__init__(coded.micro, fn, target)
        self.coded, self.form, self.vectors = coded, coded.form, coded.micro.vectors
        self.count = len(self.rows) * self.vectors
        self.deferred = len(self.rows) <= DEFERRED
        self.parts = max(1, CHAINS // self.count) if self.deferred else 1
        if target.vector_registers < 32:
            self.parts = min(self.parts, max(1, CHAINS // 2 // self.count))
        table = Val("ptr", "%table") if self.form.looks_up(target) else None
        self.decoder = Decoder(fn, target, self.form, table)

    def sum(self, accumulators: list[Val], w: Val) -> list[Val]:
        state = [*accumulators, Val("ptr", "%a"), w]
        state = self.fn.loop(Val("i64", "%k"), lambda _, s: self.block(s, self.form.block), state)
        if self.coded.rest:
            state = self.block(state, self.coded.rest)
        return state[:self.count]

    def block(self, state: list[Val], rows: int) -> list[Val]:
        """The sums, A and the panel after a block of so many rows of codes."""
        fn, form, count = self.fn, self.form, self.count
        totals, (a, w) = state[:count], state[count:]
        block = _Block(fn, self.target, form, w, self.vectors)
        scales = [] if self.deferred else [block.scale(v) for v in range(self.vectors)]
        sums = [zeros(self.sums)] * (count * self.parts) if self.deferred else totals
        whole, last = divmod(rows, form.per)
        inner = fn.loop(whole, lambda _, s: self.word(block, scales, s, form.per), [*sums, a, block.codes])
        if last:
            inner = self.word(block, scales, inner, last)
        sums, (a, w) = inner[:-2], inner[-2:]
        if not self.deferred:
            return [*sums, a, w]
        scales = [block.scale(v) for v in range(self.vectors)]
        for i in range(count):
            found = sums[i]
            for part in range(1, self.parts):
                found = fn.op("fadd", found, sums[part * count + i])
            totals[i] = fma(fn, self.target.fma, found, scales[i % self.vectors], totals[i])
        return [*totals, a, w]

    def word(self, block: _Block, scales: list[Val], state: list[Val], many: int) -> list[Val]:
        """`many` k's whose codes share words."""
        fn, target = self.fn, self.target
        sums, (a, w) = state[:-2], state[-2:]
        words = [fn.load(self.decoder.words, w, v * target.vector_bytes, 4) for v in range(self.vectors)]
        for line in range(max(1, self.row_bytes // 64)):
            prefetch(fn, fn.gep(w, DISTANCE + 64 * line))
        after = [fn.gep(a, fn.mul(self.step, many)), fn.gep(w, self.row_bytes)]
        if scales:
            return [*self.in_loop(block, scales, sums, a, words, many), *after]
        for i in range(many):
            at = fn.gep(a, fn.mul(self.step, i))
            place = i % self.parts * self.count
            for v, word in enumerate(words):
                self.add(sums, place + v, at, block.level(self.decoder, word, i, v))
        return [*sums, *after]

    def in_loop(self, block: _Block, scales: list[Val], sums: list[Val], a: Val, words: list[Val],
                many: int) -> list[Val]:
        """One k a turn, because accumulators fill the registers: LLVM's scheduler shall not see more of them."""
        fn, count = self.fn, self.count

        def turn(_: Int, state: list[Val]) -> list[Val]:
            sums, (at, *words) = list(state[:count]), state[count:]
            for v, word in enumerate(words):
                self.add(sums, v, at, fn.op("fmul", block.level(self.decoder, word, 0, v), scales[v]))
            shift = literal(self.decoder.words, self.form.bits)
            return [*sums, fn.gep(at, self.step), *(fn.op("lshr", word, shift) for word in words)]

        return fn.loop(many, turn, [*sums, a, *words])[:count]

    def add(self, sums: list[Val], first: int, at: Val, weight: Val) -> None:
        """Add the products of a vector of weights and A's elements at one k to sums[first], [first + vectors] …"""
        fn = self.fn
        for r, offset in enumerate(self.rows):
            one = fn.splat(fn.load(self.element, at, offset, 4), self.lanes)
            j = first + r * self.vectors
            sums[j] = fma(fn, self.target.fma, one, weight, sums[j])


@dataclass(frozen=True, slots=True)
class Unpack:
    """A function that decodes a panel into rows of floats, `vectors` vectors each."""

    form: Form
    vectors: int
    rest: int

    @property
    def name(self) -> str:
        return f"unpack{self.form.bits}_{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"

    def call(self, fn: Function, target: Target, w: Val, table: Val, to: Val, blocks: int) -> None:
        module = fn.module
        if self.name not in module.functions:
            heads = [("ptr noalias readonly", "w"), ("ptr noalias readonly", "table"), ("ptr noalias", "to")]
            self.emit(module.function(self.name, [*heads, ("i64", "k")], internal=True, attributes="noinline"), target)
        fn.emit(f"call void @{self.name}({w}, {table}, {to}, i64 {blocks})")

    def emit(self, fn: Function, target: Target) -> None:
        table = Val("ptr", "%table") if self.form.looks_up(target) else None
        decoder = Decoder(fn, target, self.form, table)
        state = [Val("ptr", "%w"), Val("ptr", "%to")]
        state = fn.loop(Val("i64", "%k"), lambda _, s: self.block(fn, target, decoder, s, self.form.block), state)
        if self.rest:
            self.block(fn, target, decoder, state, self.rest)

    def block(self, fn: Function, target: Target, decoder: Decoder, state: list[Val], rows: int) -> list[Val]:
        block = _Block(fn, target, self.form, state[0], self.vectors)
        scales = [block.scale(v) for v in range(self.vectors)]
        row_bytes = self.vectors * target.vector_bytes

        def word(state: list[Val], many: int) -> list[Val]:
            w, to = state
            for v in range(self.vectors):
                found = fn.load(decoder.words, w, v * target.vector_bytes, 4)
                for i in range(many):
                    weight = fn.op("fmul", block.level(decoder, found, i, v), scales[v])
                    fn.store(weight, to, i * row_bytes + v * target.vector_bytes, target.vector_bytes)
            return [fn.gep(w, row_bytes), fn.gep(to, many * row_bytes)]

        whole, last = divmod(rows, self.form.per)
        inner = fn.loop(whole, lambda _, s: word(s, self.form.per), [block.codes, state[1]])
        return word(inner, last) if last else inner


class _CodedGemm(_Gemm):
    body: CodedGemm

    def __init__(self, body: CodedGemm, fn: Function, target: Target) -> None:
        super().__init__(body, fn, target)
        assert isinstance(self.k, int)
        self.blocks, self.rest = divmod(self.k, body.form.block)
        self.table = self.b if body.table is None else fn.buffer(body.table)
        self.few, self.most = False, body.form.few(target)

    def sweep(self, batch: tuple[Int, ...], row: Int, rows: Int, first: Int, last: Int) -> None:
        """In registers for few rows, by way of scratch for more."""
        def run(few: bool) -> None:
            self.few = few
            super(_CodedGemm, self).sweep(batch, row, rows, first, last)

        if isinstance(rows, int):
            run(rows <= self.most)
            return
        few = self.fn.compare("icmp sle", rows, literal("i64", self.most))
        when(self.fn, few, lambda: run(True))
        if not isinstance(self.m, int) or self.m > self.most:
            when(self.fn, self.fn.compare("icmp sgt", rows, literal("i64", self.most)), lambda: run(False))

    def panel(self, batch: tuple[Int, ...], row: Int, rows: Int, panel: Int, columns: Int) -> None:
        if self.few:
            self.in_registers(batch, row, rows, panel, columns)
        else:
            super().panel(batch, row, rows, panel, columns)

    def place(self, panel: Int) -> Val:
        """Where a panel begins."""
        assert isinstance(self.k, int)
        return self.fn.gep(self.b, self.fn.mul(panel, self.body.form.panel(self.k, self.width)))

    def ahead(self, rows: Int, pitch: Int) -> Ahead | None:
        return None    # the panel was just written

    def panel_of_b(self, batch: tuple[Int, ...], panel: Int, column: Int, columns: Int,
                   vectors: int) -> tuple[Val, Int, bool]:
        """Decoded into scratch."""
        scratch = Val("ptr", "%scratch")
        Unpack(self.body.form, vectors, self.rest).call(self.fn, self.target, self.place(panel), self.table, scratch,
                                                        self.blocks)
        return scratch, vectors * self.target.vector_bytes, True

    def in_registers(self, batch: tuple[Int, ...], row: Int, rows: Int, panel: Int, columns: Int) -> None:
        fn, body = self.fn, self.body
        assert isinstance(columns, int)
        column = fn.mul(panel, self.width)
        w = self.place(panel)
        base = fn.gep(self.a, fn.mul(self.offset(body.a, batch), self.bytes))
        known_row, known_step = (s if isinstance(s, int) else None for s in body.a.strides[-2:])

        def tile(start: Int, height: int) -> None:
            offsets = None if known_row is None else tuple(r * known_row * self.bytes for r in range(height))
            step = None if known_step is None else known_step * self.bytes
            micro = Micro(DType.F32, (1, height), -(-columns // self.lanes), offsets, step, True, 0, self.on_tile,
                          columns, 0)
            at = fn.add(row, start)
            places = [o.at(fn, p, (*batch, at, column))
                      for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
            pointers = [fn.gep(base, fn.mul(at, self.row)), w, self.table, *places]
            CodedMicro(micro, body.form, self.rest).call(fn, self.target, pointers, self.arguments | {"k": self.blocks})

        cover(fn, rows, LOWER if body.form.crowds(self.target) else HEIGHTS, tile)
