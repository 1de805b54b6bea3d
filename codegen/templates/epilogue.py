"""What happens to an accumulator before it is stored: fused elementwise ops, as loop-IR expressions on registers."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Val
from lepton.codegen.llvm.expr import ScalarEmitter, broadcast
from lepton.codegen.loops import Expr, Load, Ref, walk
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import Mask, load_lanes, size, store_lanes
from lepton.ir.types import DType

ACCUMULATOR = "acc"


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer seen over a template's coordinates: one stride (in elements) for each, 0 where it is broadcast."""

    buffer: int                  # bufs[buffer]
    dtype: DType
    strides: tuple[Size, ...]

    def at(self, fn: Function, base: Val, coords: tuple[Int, ...]) -> Val:
        """The address of the element at `coords`."""
        offset: Int = 0
        for coord, stride in zip(coords, self.strides, strict=True):
            offset = fn.add(offset, fn.mul(fn.mul(coord, size(fn, stride)), self.dtype.bytes))
        return fn.gep(base, offset)


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Store i gets `values[i]`: an expression of the accumulator `Ref("acc")` and of `Load("e<j>")`, operand j's element
    at the accumulator's coordinates."""

    loads: tuple[Operand, ...]
    stores: tuple[Operand, ...]
    values: tuple[Expr, ...]

    @property
    def weight(self) -> int:
        """Number of operations on each accumulator: what unrolling the epilogue costs in code."""
        heavy = {"exp": 12, "tanh": 20, "erf": 20, "sigmoid": 16, "log": 14, "pow": 40, "gelu": 30, "mish": 40}
        return sum(heavy.get(getattr(e, "op", ""), 1) for v in self.values for e in walk(v)
                   if not isinstance(e, Ref | Load))

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.loads + self.stores


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

    emitter = ScalarEmitter(fn, target, lambda _: accumulator, load)
    for operand, value, place in zip(epilogue.stores, epilogue.values, places[len(epilogue.loads):], strict=True):
        result = broadcast(fn, emitter.emit(value), lanes)
        store_lanes(fn, target, result, operand.dtype, place.pointer, place.stride, mask)
