"""Random draws: lepton.ir.draws spelled as expressions of loop kernels, and the kernel that says which draw it is."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import Apply, Cast, Const, Expr, For, Load, LoopKind, Select, Stmt, Store, add, i64, mul
from lepton.codegen.lower.indexed import Indexed
from lepton.codegen.lower.nest import Nest
from lepton.ir import draws, ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Number:
    """An expression with Python's operators; integers and floats beside it are constants of its type."""

    e: Expr

    def _apply(self, op: str, other: Number | float) -> Number:
        right = other.e if isinstance(other, Number) else Const(other, self.e.dtype)
        return Number(Apply(op, (self.e, right), self.e.dtype))

    def __add__(self, other: Number | float) -> Number:
        return self._apply("add", other)

    def __sub__(self, other: Number | float) -> Number:
        return self._apply("sub", other)

    def __rsub__(self, other: float) -> Number:
        return Number(Const(other, self.e.dtype)) - self

    def __mul__(self, other: Number | float) -> Number:
        return self._apply("mul", other)

    def __truediv__(self, other: Number | float) -> Number:
        return self._apply("div", other)

    def __and__(self, other: Number | int) -> Number:
        return self._apply("bit_and", other)

    def __or__(self, other: Number | int) -> Number:
        return self._apply("bit_or", other)

    def __xor__(self, other: Number | int) -> Number:
        return self._apply("bit_xor", other)

    def __lshift__(self, other: int) -> Number:
        return self._apply("shift_left", other)

    def __rshift__(self, other: int) -> Number:
        return self._apply("shift_right", other)


@dataclass(frozen=True, slots=True)
class Expressions:
    """draws.Arithmetic of loop expressions; names become statements of the kernel."""

    kernel: Indexed

    def name(self, x: Number) -> Number:
        return Number(self.kernel.name("d", x.e))

    def as_float(self, bits: Number) -> Number:
        return Number(Apply("bitcast_f64", (bits.e,), DType.F64))

    def as_bits(self, x: Number) -> Number:
        return Number(Apply("bitcast_u64", (x.e,), DType.U64))

    def sqrt(self, x: Number) -> Number:
        return Number(Apply("sqrt", (x.e,), DType.F64))

    def where_less(self, a: Number, b: float, then: Number, otherwise: Number) -> Number:
        return Number(Select(Apply("less", (a.e, Const(b, DType.F64)), DType.BOOL), then.e, otherwise.e))

    def minimum(self, x: Number, bound: float) -> Number:
        return x._apply("minimum", bound)

    def maximum(self, x: Number, bound: float) -> Number:
        return x._apply("maximum", bound)


Distribution = Callable[[Expressions, tuple[Number, Number], Indexed], Number]


def _uniform(m: Expressions, bits: tuple[Number, Number], k: Indexed) -> Number:
    a = k.node.attrs
    made: Number = draws.uniform(m, bits, a["low"], a["high"], a["dtype"])
    return made


def _normal(m: Expressions, bits: tuple[Number, Number], k: Indexed) -> Number:
    a = k.node.attrs
    made: Number = draws.normal(m, bits, a["mean"], a["scale"])
    return made


_DISTRIBUTIONS: dict[Op, Distribution] = {ops.random_uniform: _uniform, ops.random_normal: _normal}


@lowers(*_DISTRIBUTIONS)
def draw(group: Group, options: LowerOptions) -> Kernel:
    """Each element of its own, by its place in row-major order."""
    assert group.anchor is not None
    distribution = _DISTRIBUTIONS[group.anchor.op]

    def formula(k: Indexed, point: list[Expr]) -> Expr:
        m, (state,) = Expressions(k), k.node.inputs
        assert state is not None
        place: Expr = i64(0)
        for x, size in zip(point, k.result.shape, strict=True):
            place = add(mul(place, k.nest.size(size)), x)
        key, count = (Number(k.element(state, [i64(i)])) for i in range(2))
        index = Number(Apply("bitcast_u64", (place,), DType.U64))
        value = distribution(m, draws.block(m, key, count, index), k).e
        return value if k.result.dtype is DType.F64 else Cast(value, DType.F32)

    return Indexed(group).kernel(formula)


def next_draw(seed: Value | None, count: Value, state: Value, stream: int, pinned: int) -> Kernel:
    """state = (key, count); count += 1. `seed` is the session's (None: `pinned` is the node's own); all are u64."""
    nest = Nest("draw_state")
    word = DType.U64
    key: Expr = Const(draws.stream_key(pinned, 0), word)
    if seed is not None:
        apart = Const(draws.stream_key(0, stream), word)
        key = Apply("add", (Load(nest.reads(seed, word), i64(0), word), apart), word)
    counter, out = nest.writes(count, word), nest.writes(state, word)
    now = Load(counter, i64(0), word)
    body: tuple[Stmt, ...] = (
        Store(out, i64(0), key), Store(out, i64(1), now),
        Store(counter, i64(0), Apply("add", (now, Const(1, word)), word)))
    return nest.kernel([For("t", i64(0), body, LoopKind.TASKS)], 1, writes=(count, state))
