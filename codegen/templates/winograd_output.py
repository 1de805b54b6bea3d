"""The last step of Winograd's convolution: from 36 sums to 4x4 outputs, with the epilogue."""
from __future__ import annotations

import hashlib

from lepton.codegen.llvm.builder import Function, Int, Val, literal, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.epilogue import ROLL_FROM, Epilogue, Part, Place, finish
from lepton.codegen.templates.gemm import when
from lepton.codegen.templates.memory import Mask, fma, mask_of
from lepton.codegen.templates.microkernel import on_tile, repeat, stride_arguments
from lepton.codegen.templates.winograd_filters import FAR, NEAR
from lepton.ir.types import DType

INPUT, OUTPUT = 6, 4


class Output:
    """Writes tiles: whole ones from registers where the epilogue is light, others through a tile on the stack."""

    def __init__(self, fn: Function, target: Target, epilogue: Epilogue, dtype: DType, plane: int) -> None:
        self.fn, self.target, self.whole, self.dtype, self.plane = fn, target, epilogue, dtype, plane
        self.seen = on_tile(epilogue, 2, 3, 4)
        self.arguments = stride_arguments(fn, epilogue, 2, 3, 4)
        self.lanes = target.lanes(dtype)
        self.type = vec(self.lanes, memory_type(dtype))
        self.bases = [fn.buffer(o.buffer) for o in epilogue.operands]

    def write(self, m: Val, at: tuple[Int, ...], extent: tuple[Int, Int], filters: Int, tail: int) -> None:
        """One tile at coordinates `at`; `extent`: rows and columns inside the image; `tail`: filters modulo lanes."""
        fn = self.fn
        pointers = [o.at(fn, b, at) for o, b in zip(self.whole.operands, self.bases, strict=True)]
        names = sorted(self.arguments)
        given = [m, *pointers, *(fn.i64(x) for x in (*extent, filters)), *(fn.i64(self.arguments[n]) for n in names)]

        def run(unrolled: bool) -> None:
            name = self.function(names, tail, unrolled)
            fn.emit(f"call void @{name}({', '.join(map(str, given))})")

        if self.seen.weight > ROLL_FROM:
            run(False)
        elif extent == (OUTPUT, OUTPUT):
            run(True)
        else:
            whole = fn.compare("icmp eq", fn.i64(fn.add(*extent)), Val("i64", str(2 * OUTPUT)))
            when(fn, whole, lambda: run(True))
            when(fn, fn.op("xor", whole, Val("i1", "true")), lambda: run(False))

    def function(self, names: list[str], tail: int, unrolled: bool) -> str:
        key = hashlib.sha256(repr((self.seen, self.dtype, self.plane, tail, unrolled)).encode()).hexdigest()[:12]
        name = f"winograd_output_{key}"
        if name not in self.fn.module.functions:
            args = [("ptr noalias readonly", "m"), *(("ptr", f"p{i}") for i in range(len(self.seen.operands))),
                    ("i64", "rows"), ("i64", "columns"), ("i64", "filters"), *(("i64", n) for n in names)]
            fn = self.fn.module.function(name, args, internal=True, attributes="noinline")
            _Function(self, fn, tail, unrolled).run()
        return name


class _Function:
    def __init__(self, output: Output, fn: Function, tail: int, unrolled: bool) -> None:
        self.output, self.fn, self.tail, self.unrolled = output, fn, tail, unrolled
        self.target, self.lanes, self.type = output.target, output.lanes, output.type
        self.operands = output.seen.operands
        if not unrolled:
            fn.emit(f"%tile = alloca [{OUTPUT * OUTPUT} x {self.type}], align 64")

    def run(self) -> None:
        fn, filters = self.fn, Val("i64", "%filters")
        whole = fn.div(filters, self.lanes)
        fn.loop(whole, lambda v, _: self.vector(v, None))
        if self.tail:
            some = fn.compare("icmp ne", fn.i64(fn.rem(filters, self.lanes)), Val("i64", "0"))
            when(fn, some, lambda: self.vector(whole, mask_of(fn, self.tail, 0, self.lanes)))

    def stride(self, i: int, axis: int) -> Int:
        known = self.operands[i].strides[axis]
        return known if isinstance(known, int) and known >= 0 else Val("i64", f"%o{i}s{axis}")

    def vector(self, v: Int, mask: Mask) -> None:
        """All outputs of one vector of filters."""
        fn = self.fn
        m = fn.gep(Val("ptr", "%m"), fn.mul(v, self.target.vector_bytes))
        columns = []
        for j in range(INPUT):
            column = [fn.load(self.type, m, (i * INPUT + j) * self.output.plane, self.target.vector_bytes)
                      for i in range(INPUT)]
            columns.append(self.combine(column))
        results = [self.combine([column[i] for column in columns]) for i in range(OUTPUT)]
        starts = [fn.gep(Val("ptr", f"%p{i}"), fn.mul(fn.mul(v, self.lanes * o.dtype.bytes), self.stride(i, 2)))
                  for i, o in enumerate(self.operands)]
        if self.unrolled:
            for row in results:
                places = list(starts)
                for value in row:
                    self.finish([self.part(value, places, mask)])
                    places = self.advance(places, 1)
                starts = self.advance(starts, 0)
            return
        tile = Val("ptr", "%tile")
        for i, row in enumerate(results):
            for j, value in enumerate(row):
                fn.store(value, tile, (i * OUTPUT + j) * self.target.vector_bytes, self.target.vector_bytes)
        self.loop_over(tile, starts, mask)

    def loop_over(self, tile: Val, starts: list[Val], mask: Mask) -> None:
        fn, vector_bytes = self.fn, self.target.vector_bytes

        def pixels(count: int, state: list[Val]) -> list[Val]:
            (tile, *places), parts = state, []
            for _ in range(count):
                parts.append(self.part(fn.load(self.type, tile, 0, vector_bytes), places, mask))
                tile, places = fn.gep(tile, vector_bytes), self.advance(places, 1)
            self.finish(parts)
            return [tile, *places]

        def row(state: list[Val]) -> list[Val]:
            def whole() -> None:
                pixels(OUTPUT, state)

            def part() -> None:
                repeat(fn, Val("i64", "%columns"), lambda one: pixels(1, one), state)

            inside = fn.compare("icmp eq", Val("i64", "%columns"), Val("i64", str(OUTPUT)))
            when(fn, inside, whole)
            when(fn, fn.op("xor", inside, Val("i1", "true")), part)
            return [fn.gep(state[0], OUTPUT * vector_bytes), *self.advance(state[1:], 0)]

        repeat(fn, Val("i64", "%rows"), row, [tile, *starts])

    def part(self, value: Val, places: list[Val], mask: Mask) -> Part:
        return Part(value, [Place(p, self.stride(i, 2)) for i, p in enumerate(places)], mask)

    def finish(self, parts: list[Part]) -> None:
        finish(self.fn, self.target, self.output.seen, self.lanes, parts)

    def advance(self, places: list[Val], axis: int) -> list[Val]:
        return [self.fn.gep(p, self.fn.mul(self.stride(i, axis), o.dtype.bytes))
                for i, (p, o) in enumerate(zip(places, self.operands, strict=True))]

    def combine(self, m: list[Val]) -> list[Val]:
        """Aᵀ on six vectors."""
        fn = self.fn

        def scaled(k: float, x: Val, y: Val) -> Val:
            return fma(fn, self.target.fma, x, literal(self.type, k), y)

        s1, d1 = fn.op("fadd", m[1], m[2]), fn.op("fsub", m[1], m[2])
        s2, d2 = fn.op("fadd", m[3], m[4]), fn.op("fsub", m[3], m[4])

        def both(power: int, x: Val, y: Val) -> Val:
            return scaled(FAR**power, y, fn.op("fmul", x, literal(self.type, NEAR**power)))

        return [fn.op("fadd", fn.op("fadd", m[0], s1), s2), both(1, d1, d2), both(2, s1, s2),
                scaled(FAR**3, d2, scaled(NEAR**3, d1, m[5]))]
