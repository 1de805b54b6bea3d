"""VECTOR loops: several vectors per turn, then one, then the rest under a mask or in ever fewer lanes."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton.codegen import loops
from lepton.codegen.llvm.arith import halves, reduce_lanes
from lepton.codegen.llvm.builder import Int, Val, lanes_of, literal, vec
from lepton.codegen.llvm.expr import broadcast
from lepton.codegen.llvm.lanes import Lanes, LoopFacts, analyse

if TYPE_CHECKING:
    from lepton.codegen.llvm.spell import Speller

BIG = 40  # a body of more instructions is not written out again for each power of two of the rest


def vector_loop(speller: Speller, loop: loops.For) -> None:
    facts = analyse(loop, speller.buffers, speller.lets, speller.target)
    speller.hoist(loop)
    _VectorLoop(speller, loop, facts).run(speller.extent(loop))


@dataclass
class _VectorLoop:
    speller: Speller
    loop: loops.For
    facts: LoopFacts

    def run(self, count: Int) -> None:
        outer = {name: self.speller.variables[name] for name in self.facts.accumulators}
        if isinstance(count, int) and count <= 0:
            return
        for name, op in self.facts.accumulators.items():
            start = loops.neutral(op, self.speller.types[name])
            self.speller.variables[name] = literal(outer[name].type, start.value)
        if isinstance(count, int):
            self._known(count)
        else:
            self._unknown(count)
        self._narrow(1)
        for name, value in outer.items():
            both = [value, self.speller.variables[name]]
            op = self.facts.accumulators[name]
            self.speller.variables[name] = self.speller.arith.apply(op, both, self.speller.types[name])

    def _known(self, count: int) -> None:
        lanes = self.facts.lanes
        if count < lanes and self.facts.maskable:
            lanes = 1 << (count - 1).bit_length()
        unroll = self.facts.unroll
        while unroll > 1 and count < lanes * unroll:
            unroll //= 2
        wide = count - count % (lanes * unroll)
        main = count - count % lanes
        if unroll > 1:
            self._phase(lanes * unroll, 0, wide)
        else:
            wide = 0
        if main > wide:
            self._phase(lanes, wide, main)
        rest = count - main
        if rest == 1:
            self._phase(1, main, count)
            return
        if rest and self.facts.maskable:
            self._masked(lanes, main, count)
        elif rest and self.facts.cost > BIG:
            self._phase(1, main, count)
        while rest and not self.facts.maskable and self.facts.cost <= BIG:
            part = 1 << (rest.bit_length() - 1)
            self._phase(part, count - rest, count - rest + part)
            rest -= part

    def _unknown(self, count: Val) -> None:
        f, lanes, unroll = self.speller.f, self.facts.lanes, self.facts.unroll
        count = f.call("i64", "llvm.smax.i64", [count, Val("i64", "0")])
        start: Int = 0
        for width in dict.fromkeys((lanes * unroll, lanes)):
            end = f.op("and", count, Val("i64", str(-width))) if width > 1 else count
            self._phase(width, start, end)
            start = end
        if lanes == 1:
            return
        if not self.facts.maskable:
            self._phase(1, start, count)
            return
        names = list(self.facts.accumulators)
        begin = f.i64(start)
        before = [self._wide(name, lanes) for name in names]
        self.speller.variables.update(zip(names, before, strict=True))
        some = f.compare("icmp slt", begin, count)
        results = f.when(some, lambda: self._masked(lanes, begin, count), before)
        self.speller.variables.update(zip(names, results, strict=True))

    def _phase(self, lanes: int, start: Int, end: Int) -> None:
        """Turns of `lanes` lanes from start to end (a multiple of lanes apart)."""
        self._narrow(lanes)
        self._in_lanes(lanes, None, lambda: self.speller.carry(self.loop, start, end, lanes), start)

    def _masked(self, lanes: int, start: Int, count: Int) -> list[Val]:
        """The last, partial turn; gives the accumulators after it."""
        self._narrow(lanes)
        names = list(self.facts.accumulators)
        values = [self.speller.variables[n] for n in names]
        result: list[Val] = []
        mask = self._mask(lanes, start, count)
        self._in_lanes(lanes, mask, lambda: result.extend(self.speller.turn(self.loop, start, names, values)), start)
        return result

    def _mask(self, lanes: int, start: Int, count: Int) -> Val:
        if isinstance(start, int) and isinstance(count, int):
            bits = ", ".join(f"i1 {int(i < count - start)}" for i in range(lanes))
            return Val(vec(lanes, "i1"), f"<{bits}>")
        f = self.speller.f
        left = f.convert("trunc", f.i64(f.sub(count, start)), "i32")
        steps = Val(vec(lanes, "i32"), "<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">")
        return f.compare("icmp ult", steps, broadcast(f, left, lanes))

    def _in_lanes(self, lanes: int, mask: Val | None, body: Callable[[], None], start: Int) -> None:
        speller = self.speller
        if lanes == 1:
            body()
            return
        speller.lanes = Lanes(self.loop.var, speller.f.i64(start), lanes, self.facts, mask)
        try:
            body()
        finally:
            speller.lanes = None

    def _narrow(self, lanes: int) -> None:
        """Bring the accumulators to `lanes` lanes: wider ones fold their halves, a literal start is splat."""
        for name in self.facts.accumulators:
            self.speller.variables[name] = self._wide(name, lanes)

    def _wide(self, name: str, lanes: int) -> Val:
        speller, op = self.speller, self.facts.accumulators[name]
        value, dtype = speller.variables[name], speller.types[name]
        if lanes == 1:
            return reduce_lanes(speller.arith, op, value, dtype)
        while lanes_of(value.type) > lanes:
            value = speller.arith.apply(op, list(halves(speller.f, value)), dtype)
        return broadcast(speller.f, value, lanes)
