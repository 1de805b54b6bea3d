"""What happens to an accumulator before it is stored: fused elementwise ops, as loop-IR expressions on registers."""
from __future__ import annotations

from dataclasses import dataclass, replace

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Val
from lepton.codegen.llvm.expr import ScalarEmitter, broadcast
from lepton.codegen.loops import Apply, Expr, Let, Load, Ref, i64, walk
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import Mask, load_lanes, size, store_lanes
from lepton.ir.types import DType

ACCUMULATOR = "acc"
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


def finish(fn: Function, target: Target, epilogue: Epilogue, accumulator: Val, lanes: int, places: list[Place],
           mask: Mask) -> None:
    """Apply the epilogue to one vector and store. `places`: of the loads, then of the stores."""
    loaded: dict[str, Val] = {}

    def load(expr: Load) -> Val:
        if expr.buffer not in loaded:
            j = int(expr.buffer[1:])
            loaded[expr.buffer] = load_lanes(fn, target, epilogue.loads[j].dtype, places[j].pointer, lanes,
                                             places[j].stride, mask)
        return loaded[expr.buffer]

    named = {ACCUMULATOR: accumulator}
    emitter = ScalarEmitter(fn, target, lambda ref: named[ref.name], load)
    for let in epilogue.lets:
        named[let.name] = emitter.emit(let.value)
    for operand, value, place in zip(epilogue.stores, epilogue.values, places[len(epilogue.loads):], strict=True):
        result = broadcast(fn, emitter.emit(value), lanes)
        store_lanes(fn, target, result, operand.dtype, place.pointer, place.stride, mask)
