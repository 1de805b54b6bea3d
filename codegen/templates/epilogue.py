"""What happens to an accumulator before it is stored: fused elementwise ops, as loop-IR expressions on registers."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Val
from lepton.codegen.llvm.expr import ScalarEmitter, broadcast
from lepton.codegen.loops import Apply, Expr, Let, Load, Ref, i64, walk
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import Mask, join, load_lanes, size, slice_of, store_lanes
from lepton.ir.types import DType

ACCUMULATOR = "acc"
ROLL_FROM = 8        # epilogues heavier than this run as a loop over the tile instead of once per register
HEAVY = dict.fromkeys(("exp", "tanh", "erf", "sigmoid", "log", "expm1", "log1p", "sin", "cos", "pow"), 16)


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer seen over a template's coordinates: one stride (in elements) for each, 0 where it is broadcast."""

    buffer: int                  # bufs[buffer]
    dtype: DType
    strides: tuple[Size, ...]
    offset: Size = 0             # elements from the buffer's pointer to coordinate 0

    def at(self, fn: Function, base: Val, coords: tuple[Int, ...]) -> Val:
        """The address of the element at `coords`."""
        offset = fn.mul(size(fn, self.offset), self.dtype.bytes)
        for coord, stride in zip(coords, self.strides, strict=True):
            offset = fn.add(offset, fn.mul(fn.mul(coord, size(fn, stride)), self.dtype.bytes))
        return fn.gep(base, offset)


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Store i gets `values[i]`: an expression of the accumulator `Ref("acc")`, of `Load("e<j>")`, operand j's element
    at the accumulator's coordinates, and of the names that `lets` give to what is used more than once."""

    loads: tuple[Operand, ...]
    stores: tuple[Operand, ...]
    values: tuple[Expr, ...]
    lets: tuple[Let, ...] = ()

    @property
    def weight(self) -> int:
        """Number of operations on each accumulator: what unrolling the epilogue costs in code."""
        every = [*self.values, *(let.value for let in self.lets)]
        return sum(HEAVY.get(e.op, 1) for v in every for e in walk(v) if isinstance(e, Apply))

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.loads + self.stores

    def of_product_with(self, factor: Operand) -> Epilogue:
        """The same of the accumulator times the factor's element: a name that hides the accumulator's own."""
        dtype = factor.dtype
        element = Load(f"e{len(self.loads)}", i64(0), dtype)
        first = Let(ACCUMULATOR, Apply("mul", (Ref(ACCUMULATOR, dtype), element), dtype))
        return replace(self, loads=(*self.loads, factor), lets=(first, *self.lets))


def plain(store: Operand) -> Epilogue:
    """Just store the accumulator."""
    return Epilogue((), (store,), (Ref(ACCUMULATOR, store.dtype),))


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operand's elements for one vector of accumulators lie."""

    pointer: Val
    stride: Int      # between lanes, in elements


@dataclass(frozen=True, slots=True)
class Part:
    """One vector of accumulators, and where its operands lie: the loads', then the stores'."""

    value: Val
    places: list[Place]
    mask: Mask = None


def together(target: Target, epilogue: Epilogue) -> int:
    """How many vectors are finished at once. A chain of dozens of dependent instructions leaves the units idle, and
    fills the scheduler's queue before the next vector's begins: 13 cycles for a swish in place of 8. Chains that stand
    interleaved in the code do not, as long as there are registers for them."""
    if epilogue.weight <= ROLL_FROM:
        return 1
    return 4 if target.vector_registers >= 32 else 2


def finish(fn: Function, target: Target, epilogue: Epilogue, lanes: int, parts: Sequence[Part]) -> None:
    """Apply the epilogue to vectors and store."""
    done, most = 0, together(target, epilogue)
    while done < len(parts):
        count = min(most, 1 << (len(parts) - done).bit_length() - 1)
        _finish(fn, target, epilogue, lanes, parts[done:done + count])
        done += count


def _finish(fn: Function, target: Target, epilogue: Epilogue, lanes: int, parts: Sequence[Part]) -> None:
    """A power of two of vectors as one that is as wide as all: LLVM spells each operation on it once per vector."""
    loaded: dict[str, Val] = {}

    def load(expr: Load) -> Val:
        if expr.buffer not in loaded:
            j = int(expr.buffer[1:])
            loaded[expr.buffer] = join(fn, [
                load_lanes(fn, target, epilogue.loads[j].dtype, part.places[j].pointer, lanes, part.places[j].stride,
                           part.mask) for part in parts])
        return loaded[expr.buffer]

    named = {ACCUMULATOR: join(fn, [part.value for part in parts])}
    emitter = ScalarEmitter(fn, target, lambda ref: named[ref.name], load)
    for let in epilogue.lets:
        named[let.name] = emitter.emit(let.value)
    for j, (operand, value) in enumerate(zip(epilogue.stores, epilogue.values, strict=True), len(epilogue.loads)):
        result = broadcast(fn, emitter.emit(value), lanes * len(parts))
        for part, lane in zip(parts, range(0, len(parts) * lanes, lanes), strict=True):
            place = part.places[j]
            store_lanes(fn, target, slice_of(fn, result, lane, lanes), operand.dtype, place.pointer, place.stride,
                        part.mask)
