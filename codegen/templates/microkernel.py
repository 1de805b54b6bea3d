"""The register-blocked inner product that matmul, convolution, Winograd and attention are made of.

    acc[row][column] = Σ over the nest, Σ over k:  A[row + nest offset + k] * W[k][column]      then the epilogue stores

One internal function per distinct `Micro`; equal ones are shared by all kernels of a module. A is read by broadcasts
of single elements, so its rows may lie anywhere; W is read in order, one row of `vectors` vectors per k. Trip counts
and the strides of epilogue operands are arguments: measured, constants there buy nothing. Row offsets of A are
constants where they are known, because they then fold into the addresses of the loads.

The whole reduction is one loop with one k per turn. Unrolling it, or nesting loops, gains nothing and makes LLVM spill
accumulators: with 28 of 32 registers in use its scheduler must not see more than one k at a time.

Long sums of floats are made in parts of equal length, which are added up in memory: the error of a sum grows with the
number of its terms, that of a sum of parts with the parts' length (Higham, "The accuracy of floating point summation",
1993). The parts depend on the number of terms alone, so that every tile gives the same bits.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import ROLL_FROM, Epilogue, Operand, Part, Place, finish, together
from lepton.codegen.templates.memory import load_raw, mask_of, prefetch, size, zeros
from lepton.ir.types import DType

PART = 192           # terms that are summed in registers before they join the others: costs a tile up to 1.7 %


Turn = Callable[[list[Val]], list[Val]]


@dataclass(frozen=True, slots=True)
class Micro:
    """What the code of a microkernel depends on. Byte offsets and byte strides throughout."""

    dtype: DType                         # of the accumulators; of A and W too, unless `dot` takes groups
    shape: tuple[int, int]               # the tile's rows as a grid (y, x): how epilogue operands see them
    vectors: int
    rows: tuple[int, ...] | None         # offset of each row of A, as in the grid; None: one stride, an argument
    step: int | None                     # of A from one k to the next; None: an argument
    sure: bool                           # whether there is at least one k
    depth: int                           # loops of the reduction around k, each with a count and a stride of A
    epilogue: Epilogue                   # strides of its operands: 0, 1 or anything else (given by arguments)
    columns: int | None = None           # valid columns; None: an argument
    pitch: int | None = None             # from one row of W to the next; None: an argument
    padded: bool = True                  # W's rows may be read to the end of the last vector
    ahead: int = 0                       # cache lines asked for at each k: from `next` on, `share` bytes further each
    packed: bool = True                  # W is a panel of Lepton's own, which begins where a vector may
    dot: Dot = FMA                       # what one step multiplies
    tail: int = 0                        # elements of A after the last whole group
    parted: bool = False                 # whether the sum is made in parts

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"micro_{self.shape[0]}x{self.shape[1]}x{self.vectors}_{digest}"

    def parameters(self) -> tuple[str, ...]:
        """Names of the i64 arguments, after A, W and the epilogue operands' pointers."""
        names = [f"{kind}{d}" for d in range(self.depth) for kind in ("count", "stride")]
        names += ["row"] if self.rows is None else []
        names += ["step"] if self.step is None else []
        names += ["k", "part"] if self.parted else ["k"]
        names += ["pitch"] if self.pitch is None else []
        names += ["columns"] if self.columns is None else []
        names += ["share"] if self.ahead else []
        for i, operand in enumerate(self.epilogue.operands):
            names += [f"o{i}s{axis}" for axis, stride in enumerate(operand.strides) if not _known(axis, stride)]
        return tuple(names)

    @property
    def rounds(self) -> bool:
        """Whether sums lose bits that parts of them would keep; what is read as bf16 has lost more."""
        return self.dtype is DType.F32 and self.dot.group == 1

    def function(self, module: Module, target: Target) -> str:
        """The symbol, after adding the function to the module if it is not there."""
        if self.name not in module.functions:
            pointers = [("ptr noalias readonly", "a"), ("ptr noalias readonly", "w")]
            pointers += [("ptr", "next")] if self.ahead else []
            pointers += [("ptr", f"p{i}") for i in range(len(self.epilogue.operands))]
            sizes = [("i64", name) for name in self.parameters()]
            self.emit(module.function(self.name, pointers + sizes, internal=True, attributes="noinline"), target)
        return self.name

    def emit(self, fn: Function, target: Target) -> None:
        """The function's code."""
        _Emitter(self, fn, target).run()

    def call(self, fn: Function, target: Target, a: Val, w: Val, pointers: Sequence[Val],
             arguments: Mapping[str, Int], following: Val | None = None) -> None:
        """Run one tile. `pointers`: the epilogue operands at its first element; `following`: what to prefetch."""
        part = part_of(fn, [arguments[name] for name in self.parameters() if name.startswith("count") or name == "k"])
        micro = self if part is None or not self.rounds else replace(self, parted=True)
        given = arguments if part is None else {**arguments, "part": part}
        symbol = micro.function(fn.module, target)
        extra = [following or w] if self.ahead else []
        values = [a, w, *extra, *pointers, *(fn.i64(given[name]) for name in micro.parameters())]
        fn.emit(f"call void @{symbol}({', '.join(map(str, values))})")


def part_of(fn: Function, counts: Sequence[Int]) -> Int | None:
    """Terms of each of the fewest equal parts of a sum over so many; None: it is short."""
    terms: Int = 1
    for count in counts:
        terms = fn.mul(terms, count)
    if isinstance(terms, int) and terms <= PART:
        return None
    parts = fn.max(fn.div(fn.add(terms, PART - 1), PART), 1)
    return fn.max(fn.div(fn.add(terms, fn.sub(parts, 1)), parts), 1)


def _known(axis: int, stride: Size) -> bool:
    return stride == 0 or (axis == 2 and stride == 1)


def on_tile(epilogue: Epilogue, y: int | None, x: int, column: int) -> Epilogue:
    """The epilogue as a microkernel sees it: over the coordinates `y` (None: a tile is one line), `x` and `column`.

    Strides become 0, 1 (columns) or -1: "an argument", so that layers of different sizes share the code."""

    def seen(operand: Operand) -> Operand:
        axes = [0 if y is None else operand.strides[y], operand.strides[x], operand.strides[column]]
        kept = tuple(s if isinstance(s, int) and _known(i, s) else -1 for i, s in enumerate(axes))
        return Operand(0, operand.dtype, kept)

    return replace(epilogue, loads=tuple(map(seen, epilogue.loads)), stores=tuple(map(seen, epilogue.stores)))


def stride_arguments(fn: Function, epilogue: Epilogue, y: int | None, x: int, column: int) -> dict[str, Int]:
    """The arguments that `on_tile` asks for."""
    axes = [(axis, of) for axis, of in enumerate((y, x, column)) if of is not None]
    return {f"o{i}s{axis}": size(fn, operand.strides[of])
            for i, operand in enumerate(epilogue.operands) for axis, of in axes}


class _Emitter:
    def __init__(self, micro: Micro, fn: Function, target: Target) -> None:
        self.micro, self.fn, self.target = micro, fn, target
        self.element = memory_type(micro.dtype) if micro.dot.group == 1 else "i32"
        self.lanes = target.lanes(micro.dtype)
        self.type = vec(self.lanes, memory_type(micro.dot.stored) if micro.dot.stored else self.element)
        self.sums = vec(self.lanes, memory_type(micro.dtype))
        self.row_bytes = micro.vectors * target.vector_bytes
        self.columns: Int = Val("i64", "%columns") if micro.columns is None else micro.columns
        self.pitch: Int = Val("i64", "%pitch") if micro.pitch is None else micro.pitch
        self.step: Int = Val("i64", "%step") if micro.step is None else micro.step
        count = micro.shape[0] * micro.shape[1]
        self.rows: list[Int] = list(micro.rows or [fn.mul(Val("i64", "%row"), r) for r in range(count)])

    def run(self) -> None:
        micro = self.micro
        w = Val("ptr", "%w")
        start = [zeros(self.sums)] * micro.vectors
        if micro.dot.starts:
            start = [self.fn.load(self.sums, w, v * self.target.vector_bytes, self.target.vector_bytes)
                     for v in range(micro.vectors)]
            w = self.fn.gep(w, self.pitch)
        accumulators = self.sum(start * len(self.rows), w)
        if micro.epilogue.weight > ROLL_FROM and len(accumulators) > 1:
            self.finish_in_loop(accumulators)
        else:
            self.finish_unrolled(accumulators)

    # --- the sum ---

    def sum(self, accumulators: list[Val], w: Val) -> list[Val]:
        place = [Val("ptr", "%a"), w, *([Val("ptr", "%next")] if self.micro.ahead else [])]
        turn, counters, total = self.nest() if self.micro.depth else (self.step_k, [], Val("i64", "%k"))
        if self.micro.parted:
            return self.in_parts(turn, total, len(accumulators), [*place, *counters])
        state = [*accumulators, *place, *counters]
        if self.micro.sure or counters:
            state = repeat(self.fn, total, turn, state)
        else:
            state = self.fn.loop(total, lambda _, values: turn(values), state)
        if self.micro.tail:
            state = self.step_k(state[:len(accumulators) + len(place)], self.micro.tail)
        return state[:len(accumulators)]

    def in_parts(self, turn: Turn, total: Val, count: int, carried: list[Val]) -> list[Val]:
        """The sums of all terms, by parts that are added up on the stack."""
        fn, size = self.fn, self.target.vector_bytes
        fn.lines.insert(0, f"  %sums = alloca [{count} x {self.sums}], align 64")
        sums = Val("ptr", "%sums")
        for i in range(count):
            fn.store(zeros(self.sums), sums, i * size, size)

        def part(_: Int, state: list[Val]) -> list[Val]:
            left, carried = state[0], state[1:]
            terms = fn.i64(fn.min(left, Val("i64", "%part")))
            after = repeat(fn, terms, turn, [*[zeros(self.sums)] * count, *carried])
            for i, value in enumerate(after[:count]):
                fn.store(fn.op("fadd", fn.load(self.sums, sums, i * size, size), value), sums, i * size, size)
            return [fn.op("sub", left, terms), *after[count:]]

        parts = fn.div(fn.add(total, fn.sub(Val("i64", "%part"), 1)), Val("i64", "%part"))
        fn.loop(parts, part, [total, *carried])
        return [fn.load(self.sums, sums, i * size, size) for i in range(count)]

    def nest(self) -> tuple[Turn, list[Val], Val]:
        """Nested reductions as one loop: A's pointer jumps where an inner loop would end. (what a turn does, the
        counters that it carries behind the rest, the number of turns)"""
        fn, depth = self.fn, self.micro.depth
        counts = [*(Val("i64", f"%count{d}") for d in range(depth)), Val("i64", "%k")]
        strides: list[Int] = [*(Val("i64", f"%stride{d}") for d in range(depth)), self.step]
        jumps = [fn.sub(strides[d], fn.mul(counts[d + 1], strides[d + 1])) for d in range(depth)]
        total: Int = 1
        for count in counts:
            total = fn.mul(total, count)

        def turn(values: list[Val]) -> list[Val]:
            left = values[-depth:]
            following: list[Val] = []
            state = self.step_k(values[:-depth])
            place = len(self.rows) * self.micro.vectors
            a = state[place]
            step = Val("i64", "1")
            for d in reversed(range(depth)):
                rest = fn.op("sub", left[d], step)
                done = fn.compare("icmp eq", rest, Val("i64", "0"))
                following.insert(0, fn.select(done, counts[d + 1], rest))
                a = fn.gep(a, fn.select(done, fn.i64(jumps[d]), Val("i64", "0")))
                step = fn.convert("zext", done, "i64") if d else step
            state[place] = a
            return [*state, *following]

        return turn, counts[1:], fn.i64(total)

    def step_k(self, state: list[Val], tail: int = 0) -> list[Val]:
        """One k: state is (*accumulators, a, w) and what is prefetched. `tail`: of this many elements of A."""
        fn, micro, dot, target = self.fn, self.micro, self.micro.dot, self.target
        count = len(self.rows) * micro.vectors
        sums, (a, w, *following) = list(state[:count]), state[count:]
        row = [dot.right(fn, target, self.load_w(w, v)) for v in range(micro.vectors)]
        for r, offset in enumerate(self.rows):
            if tail:
                group = dot.load_tail(fn, fn.gep(a, offset), tail)
            else:
                group = fn.load(self.element, a, offset, micro.dtype.bytes // dot.group)
            one = dot.left(fn, target, fn.splat(group, self.lanes))
            for v in range(micro.vectors):
                i = r * micro.vectors + v
                sums[i] = dot.accumulate(fn, target, one, row[v], sums[i])
        for line in range(micro.ahead):
            prefetch(fn, fn.gep(following[0], 64 * line))
        after = [fn.gep(f, Val("i64", "%share")) for f in following]
        return [*sums, fn.gep(a, self.step), fn.gep(w, self.pitch), *after]

    def load_w(self, w: Val, vector: int) -> Val:
        size = self.micro.dot.width(self.micro.dtype)
        whole = self.lanes * size
        offset = vector * whole
        if self.micro.padded:
            pitch = self.pitch if self.micro.packed else None
            aligned = isinstance(pitch, int) and pitch % whole == 0
            return self.fn.load(self.type, w, offset, whole if aligned else size)
        mask = mask_of(self.fn, self.columns, vector, self.lanes)
        return load_raw(self.fn, self.element, w, self.lanes, offset, mask)

    # --- the end ---

    def finish_unrolled(self, accumulators: list[Val]) -> None:
        height, width = self.micro.shape
        lines = self.pointers()
        for y in range(height):
            places = list(lines)
            for x in range(width):
                at = (y * width + x) * self.micro.vectors
                self.finish(self.in_place(accumulators[at:at + self.micro.vectors], places))
                if x + 1 < width:
                    places = self.advance(places, 1)
            if y + 1 < height:
                lines = self.advance(lines, 0)

    def finish_in_loop(self, accumulators: list[Val]) -> None:
        """Through memory on the stack, so that the epilogue's code stands there once."""
        fn, (height, width) = self.fn, self.micro.shape
        fn.lines.insert(0, f"  %tile = alloca [{len(accumulators)} x {self.sums}], align 64")
        tile = Val("ptr", "%tile")
        for i, accumulator in enumerate(accumulators):
            fn.store(accumulator, tile, i * self.target.vector_bytes, self.target.vector_bytes)

        def rows(count: int, values: list[Val]) -> list[Val]:
            (tile, *places), parts = values, []
            for _ in range(count):
                sums = [fn.load(self.sums, tile, v * self.target.vector_bytes, self.target.vector_bytes)
                        for v in range(self.micro.vectors)]
                parts += self.in_place(sums, places)
                tile, places = fn.gep(tile, self.row_bytes), self.advance(places, 1)
            self.finish(parts)
            return [tile, *places]

        def line(values: list[Val]) -> list[Val]:
            at_once = max(1, min(width, together(self.target, self.micro.epilogue) // self.micro.vectors))
            after = repeat(fn, Val("i64", str(width // at_once)), lambda state: rows(at_once, state), values)
            if width % at_once:
                after = rows(width % at_once, after)
            return [after[0], *self.advance(values[1:], 0)]

        repeat(fn, Val("i64", str(height)), line, [tile, *self.pointers()])

    def pointers(self) -> list[Val]:
        return [Val("ptr", f"%p{i}") for i in range(len(self.micro.epilogue.operands))]

    def stride(self, operand: int, axis: int) -> Int:
        known = self.micro.epilogue.operands[operand].strides[axis]
        if isinstance(known, int) and _known(axis, known):
            return known
        return Val("i64", f"%o{operand}s{axis}")

    def advance(self, places: list[Val], axis: int) -> list[Val]:
        """The operands' pointers one row further along the grid."""
        bytes_of = [o.dtype.bytes for o in self.micro.epilogue.operands]
        return [self.fn.gep(p, self.fn.mul(self.stride(i, axis), bytes_of[i])) for i, p in enumerate(places)]

    def in_place(self, accumulators: list[Val], places: list[Val]) -> list[Part]:
        """The vectors of one row that hold columns, each with its operands' places."""
        fn, parts = self.fn, []
        for vector, value in enumerate(accumulators):
            if self.micro.columns is not None and vector * self.lanes >= self.micro.columns:
                break
            found = []
            for i, (operand, pointer) in enumerate(zip(self.micro.epilogue.operands, places, strict=True)):
                stride = self.stride(i, 2)
                found.append(Place(fn.gep(pointer, fn.mul(stride, vector * self.lanes * operand.dtype.bytes)), stride))
            parts.append(Part(value, found, mask_of(fn, self.columns, vector, self.lanes)))
        return parts

    def finish(self, parts: list[Part]) -> None:
        finish(self.fn, self.target, self.micro.epilogue, self.lanes, parts)


def repeat(fn: Function, count: Val, body: Callable[[list[Val]], list[Val]], carried: Sequence[Val]) -> list[Val]:
    """`body` count times, count >= 1: tested at the bottom, so that nothing is merged around the loop."""
    if count.text == "1":
        return body(list(carried))
    before, head, done = fn.block, fn.new_label("repeat"), fn.new_label("after")
    fn.branch(head)
    fn.label(head)
    place = len(fn.lines)
    fn._values += 1
    mark = fn._values
    index = Val("i64", f"%n{mark}")
    phis = [Val(c.type, f"%r{mark}_{i}") for i, c in enumerate(carried)]
    results = body(list(phis))
    following = fn.value("i64", f"add i64 {index.text}, -1")
    again = fn.compare("icmp ne", following, Val("i64", "0"))
    latch = fn.block
    fn.branch_if(again, head, done)
    rows = [f"  {index.text} = phi i64 [ {count.text}, %{before} ], [ {following.text}, %{latch} ]"]
    rows += [f"  {p.text} = phi {p.type} [ {c.text}, %{before} ], [ {r.text}, %{latch} ]"
             for p, c, r in zip(phis, carried, results, strict=True)]
    fn.lines[place:place] = rows
    fn.label(done)
    return results
