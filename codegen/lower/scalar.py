"""The elementwise part of a group as loop-IR expressions: one table from ops to scalar formulas.

    lets: list[Let] = []
    e = scalar(value, leaf, lets)

`leaf(v)` gives the Expr of a body input or of an anchor's result. With `lets`, values that are used more than once get
a name and the statement that computes them is appended there; without, they are shared as objects (ScalarEmitter emits
a shared node once). Types narrower than f32 (and integers narrower than i8) are computed in wider ones; each op's
result is rounded to its type, but for what is stored next, which the store rounds.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lepton.codegen.kernel import Access
from lepton.codegen.llvm.convert import register_type, unsigned, widened
from lepton.codegen.loops import Apply, Cast, Const, Expr, Let, Load, Ref, Select, add, i64, mul
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim
from lepton.ir.op import Op, Trait
from lepton.ir.ops.quant import bounds
from lepton.ir.types import DType

Args = Sequence[Expr]
Builder = Callable[[Args, Node], Expr]


def scalar(value: Value, leaf: Callable[[Value], Expr], lets: list[Let] | None = None, *, prefix: str = "v") -> Expr:
    """The element of `value` in terms of the elements that `leaf` gives."""
    return Elements(leaf, lets, prefix).expr(value)


class Elements:
    """Expressions for several values of one body, sharing what they have in common."""

    def __init__(self, leaf: Callable[[Value], Expr], lets: list[Let] | None = None, prefix: str = "v",
                 rounded: bool = True) -> None:
        """`rounded`: see Group."""
        self.leaf, self.lets, self.prefix, self.rounded = leaf, lets, prefix, rounded
        self._names: Iterator[int] = itertools.count()
        self._done: dict[Value, Expr] = {}

    def expr(self, value: Value) -> Expr:
        if value not in self._done:
            e = self._make(value)
            e = self._fitted(e, value)
            self._done[value] = self.name(e) if len(value.uses) > 1 else e
        return self._done[value]

    def level_as_float(self, node: Node) -> Expr:
        """cast(to_level(x)) without the way through bytes: levels are whole floats."""
        made = node.inputs[0]
        assert made is not None
        assert made.producer is not None
        (x,) = made.producer.inputs
        assert x is not None
        to, zero = made.tensor.dtype, made.producer.attrs["zero"]
        level = ap("round", in_range(self.name(self.expr(x)), to, zero))
        return ap("add", level, c(zero, level)) if zero else level

    def name(self, e: Expr) -> Expr:
        """`e`, computed once: under a name where there is a list for the statements."""
        if self.lets is None or isinstance(e, Const | Ref):
            return e
        name = f"{self.prefix}{next(self._names)}"
        self.lets.append(Let(name, e))
        return Ref(name, e.dtype)

    def _fitted(self, e: Expr, value: Value) -> Expr:
        """`e` as a value of its type, where an op reads it; a store rounds by itself."""
        node, dtype = value.producer, value.tensor.dtype
        if node is None or widened(dtype) is dtype or isinstance(e, Const):
            return e
        exact = node.op in EXACT and not (node.op in EXTREMES and dtype.bits < 16)
        if exact or (node.op in (ops.neg, ops.abs_) and dtype.is_float):
            return e
        if dtype is DType.F8E8M0 and node.op.has(Trait.ELEMENTWISE):
            raise UnsupportedError(f"{node.op.name} of {dtype.value} is not supported in compiled code",
                                   where=node.loc[0] if node.loc else None)
        if not any(isinstance(user, Node) for user in value.users) or not (self.rounded or dtype.bits < 16):
            return e
        return ap(f"{'loose' if dtype.is_float and dtype.bits < 16 else 'round'}_{dtype.value}", e)

    def _make(self, value: Value) -> Expr:
        node = value.producer
        if node is None or not (node.op.has(Trait.ELEMENTWISE) or node.op is ops.constant):
            return self.leaf(value)
        if node.op is ops.constant:
            return scalar_constant(node)
        if node.op is ops.cast and node.attrs["to"] is DType.F32 and _makes_level(node.inputs[0]):
            return self.level_as_float(node)
        args = [self.expr(v) if v is not None else None for v in node.inputs]
        if node.op in SIMPLE:
            return simple(SIMPLE[node.op], args)
        if node.op not in FORMULAS:
            raise UnsupportedError(f"elementwise op {node.op.name} has no formula for compiled code",
                                   where=node.loc[0] if node.loc else None)
        return FORMULAS[node.op]([self.name(a) if a is not None else None for a in args], node)


def scalar_constant(node: Node) -> Const:
    """A `constant` node of one element."""
    array = node.attrs["value"].array
    dtype = widened(node.results[0].tensor.dtype)
    if array.size != 1:
        raise ValueError(f"a constant of {array.size} elements inside a fused body")
    register_type(dtype)
    return Const(array.reshape(-1).astype(dtype.numpy)[0].item(), dtype)


def simple(op: str, args: Sequence[Expr | None]) -> Expr:
    given = tuple(a for a in args if a is not None)
    predicate = op in ("equal", "less", "less_equal", "greater", "greater_equal", "is_nan")
    return Apply(op, given, DType.BOOL if predicate else given[0].dtype)


# --- formulas -------------------------------------------------------------------------------------


def c(value: float, like: Expr) -> Const:
    return Const(float(value) if like.dtype.is_float else int(value), like.dtype)


def ap(op: str, *args: Expr) -> Expr:
    return simple(op, args)


def times(x: Expr, factor: float) -> Expr:
    return x if factor == 1 else ap("mul", x, c(factor, x))


def exp_m1(x: Expr, alpha: float, divide: float = 1.0) -> Expr:
    inner = x if divide == 1 else ap("div", x, c(divide, x))
    return times(ap("expm1", inner), alpha)


def positive_or(x: Expr, otherwise: Expr, compare: str = "greater") -> Expr:
    return Select(ap(compare, x, c(0, x)), x, otherwise)


def clamped(x: Expr, low: float, high: float) -> Expr:
    return ap("minimum", ap("maximum", x, c(low, x)), c(high, x))


def softplus(x: Expr) -> Expr:
    return ap("add", ap("maximum", x, c(0, x)), ap("log1p", ap("exp", ap("neg", ap("abs", x)))))


def mish(a: Args, n: Node) -> Expr:
    """tanh(log(1 + e)) is (e*e + 2e) / (e*e + 2e + 2); beyond e**40 it is 1."""
    e = ap("exp", ap("minimum", a[0], c(40, a[0])))
    top = ap("mul", e, ap("add", e, c(2, e)))
    return ap("mul", a[0], ap("div", top, ap("add", top, c(2, e))))


def gelu(a: Args, n: Node) -> Expr:
    x = a[0]
    if n.attrs["approximate"] == "tanh":
        cube = ap("mul", ap("mul", ap("mul", x, c(0.044715, x)), x), x)
        inner = ap("tanh", times(ap("add", x, cube), math.sqrt(2 / math.pi)))
    else:
        inner = ap("erf", times(x, math.sqrt(0.5)))
    return ap("mul", times(x, 0.5), ap("add", inner, c(1, x)))


def swish(a: Args, n: Node) -> Expr:
    return ap("mul", a[0], ap("sigmoid", times(a[0], n.attrs["alpha"])))


def shrink(a: Args, n: Node) -> Expr:
    x = a[0] if a[0].dtype.is_float else Cast(a[0], DType.F64)
    lambd, bias = n.attrs["lambd"], n.attrs["bias"]
    inner = Select(ap("greater", x, c(lambd, x)), ap("sub", x, c(bias, x)), c(0, x))
    result = Select(ap("less", x, c(-lambd, x)), ap("add", x, c(bias, x)), inner)
    return result if result.dtype is a[0].dtype else Cast(result, a[0].dtype)


def is_inf(a: Args, n: Node) -> Expr:
    x = a[0]
    found: Expr = Const(False, DType.BOOL)
    for wanted, value in (("positive", math.inf), ("negative", -math.inf)):
        if n.attrs[wanted]:
            hit = ap("equal", x, c(value, x))
            found = hit if isinstance(found, Const) else ap("logical_or", found, hit)
    return found


def clip(a: Args, n: Node) -> Expr:
    x, low, high = (*a, None, None)[:3]
    assert x is not None
    x = x if low is None else ap("maximum", x, low)
    return x if high is None else ap("minimum", x, high)


def power(a: Args, n: Node) -> Expr:
    x, y = a
    if isinstance(y, Const) and x.dtype.is_float:
        return power_of_known(x, float(y.value))
    if x.dtype is y.dtype and x.dtype.is_float:
        return ap("pow", x, y)
    kinds = x.dtype, y.dtype
    wide = DType.I64 if not (kinds[0].is_float or kinds[1].is_float) else DType.F64
    if kinds == (DType.F32, DType.I32) or (kinds[0] is DType.F32 and kinds[1].is_integer):
        wide = DType.F32 if kinds[1].bits <= 16 else DType.F64
    return to_dtype(ap("pow", to_dtype(x, wide), to_dtype(y, wide)), x.dtype)


def to_dtype(e: Expr, dtype: DType) -> Expr:
    if isinstance(e, Const) and e.dtype is DType.I64 and dtype.is_float:
        return Const(float(e.value), dtype)
    return e if e.dtype is dtype else Cast(e, dtype)


def power_of_known(x: Expr, y: float) -> Expr:
    """Small exponents by multiplication and roots; x is atomic or shared."""
    if y == 0:
        return c(1, x)
    if y == 0.5:
        return ap("sqrt", x)
    if y in (1, 2, 3, 4):
        square = ap("mul", x, x)
        return {1: x, 2: square, 3: ap("mul", square, x), 4: ap("mul", square, square)}[int(y)]
    if y in (-1, -2):
        return ap("reciprocal", x if y == -1 else ap("mul", x, x))
    return ap("pow", x, c(y, x))


def cast(a: Args, n: Node) -> Expr:
    """Halves live in f32 registers: going to one rounds, unless the value is of that type already."""
    x, to = a[0], n.attrs["to"]
    register_type(to)
    source = n.inputs[0].tensor.dtype if n.inputs[0] is not None else to
    if to is source:
        return x
    if x.dtype is DType.F64 and to is DType.F16:
        x = ap("odd_f32", x)  # numpy rounds once, so the step through f32 must not
    e = to_dtype(x, widened(to))
    if widened(to) is to:
        return e
    if not n.attrs["denormals"]:
        return ap("flush_bf16", e)
    loose = not n.attrs["saturate"] and to not in (DType.F16, DType.BF16) and to.is_float
    return ap(f"{'loose' if loose else 'round'}_{to.value}", e)


def to_level(a: Args, n: Node) -> Expr:
    """Kept in range before it is rounded, so that the conversion needs no look."""
    to, zero = n.attrs["to"], n.attrs["zero"]
    level: Expr = Apply("nearest_i32", (in_range(a[0], to, zero),), DType.I32)
    level = ap("add", level, Const(zero, DType.I32)) if zero else level
    return Cast(level, to)


def in_range(x: Expr, to: DType, zero: int) -> Expr:
    """x, or the nearest that is a level of `to` less `zero`; of NaN `greater` says no."""
    low, high = bounds(to)
    x = Select(ap("greater", x, c(low - zero, x)), x, c(low - zero, x))
    return Select(ap("less", x, c(high - zero, x)), x, c(high - zero, x))


def _makes_level(value: Value | None) -> bool:
    return value is not None and value.producer is not None and value.producer.op is ops.to_level


def bitcast(a: Args, n: Node) -> Expr:
    """By way of the unsigned integer whose value is what lies in memory. A signalling NaN may become a quiet one."""
    assert n.inputs[0] is not None
    source, to = n.inputs[0].tensor.dtype, n.attrs["to"]
    register_type(source), register_type(to)
    return a[0] if source is to else _from_code(_code(a[0], source), to)


def _code(x: Expr, source: DType) -> Expr:
    whole = unsigned(source)
    if source is DType.BOOL:
        return Cast(x, whole)
    if source.is_float and widened(source) is not source:
        return Apply(f"bits_{source.value}", (x,), whole)
    raw = x if x.dtype is whole else Apply(f"bitcast_{whole.value}", (x,), whole)
    return raw if source.bits >= 8 else ap("bit_and", raw, c((1 << source.bits) - 1, raw))


def _from_code(code: Expr, to: DType) -> Expr:
    if to is DType.BOOL:
        return ap("logical_not", ap("equal", code, c(0, code)))
    if to.is_float and widened(to) is not to:
        return Apply(f"value_{to.value}", (code,), DType.F32)
    wide = widened(to)
    raw = code if wide is code.dtype else Apply(f"bitcast_{wide.value}", (code,), wide)
    return raw if wide is to else ap(f"round_{to.value}", raw)


_SAME = ("neg abs sign floor ceil round sqrt rsqrt reciprocal exp log log1p expm1 sin cos tan asin acos atan sinh cosh "
         "asinh acosh atanh tanh erf sigmoid bit_not logical_not add sub mul div minimum maximum logical_and "
         "logical_or logical_xor bit_and bit_or bit_xor shift_left shift_right equal less less_equal greater "
         "greater_equal is_nan")
SIMPLE: dict[Op, str] = {getattr(ops, n, None) or getattr(ops, f"{n}_"): n for n in _SAME.split()}
FORMULAS: dict[Op, Callable[[Any, Node], Expr]] = {
    ops.relu: lambda a, n: ap("maximum", a[0], c(0, a[0])),
    ops.leaky_relu: lambda a, n: positive_or(a[0], times(a[0], n.attrs["alpha"]), "greater_equal"),
    ops.elu: lambda a, n: positive_or(a[0], exp_m1(a[0], n.attrs["alpha"])),
    ops.selu: lambda a, n: times(positive_or(a[0], exp_m1(a[0], n.attrs["alpha"])), n.attrs["gamma"]),
    ops.celu: lambda a, n: positive_or(a[0], exp_m1(a[0], n.attrs["alpha"], n.attrs["alpha"])),
    ops.hard_sigmoid: lambda a, n: clamped(
        ap("add", times(a[0], n.attrs["alpha"]), c(n.attrs["beta"], a[0])), 0, 1),
    ops.hard_swish: lambda a, n: ap("mul", a[0], clamped(ap("add", times(a[0], 1 / 6), c(0.5, a[0])), 0, 1)),
    ops.softplus: lambda a, n: softplus(a[0]),
    ops.softsign: lambda a, n: ap("div", a[0], ap("add", ap("abs", a[0]), c(1, a[0]))),
    ops.mish: mish,
    ops.gelu: gelu, ops.swish: swish, ops.shrink: shrink, ops.is_inf: is_inf, ops.clip: clip, ops.pow_: power,
    ops.cast: cast, ops.bitcast: bitcast, ops.to_level: to_level,
    ops.thresholded_relu: lambda a, n: Select(ap("greater", a[0], c(n.attrs["alpha"], a[0])), a[0], c(0, a[0])),
    ops.prelu: lambda a, n: Select(ap("less", a[0], c(0, a[0])), ap("mul", a[0], a[1]), a[0]),
    ops.mod: lambda a, n: ap("fmod" if n.attrs["fmod"] else "mod", a[0], a[1]),
    ops.where: lambda a, n: Select(a[0], a[1], a[2]),
}

# What gives only values that its operands have, or rounds by itself.
EXACT = frozenset({
    ops.constant, ops.cast, ops.bitcast, ops.where, ops.clip, ops.minimum, ops.maximum, ops.relu, ops.thresholded_relu,
    ops.floor, ops.ceil, ops.round_, ops.sign, ops.gather, ops.gather_elements, ops.gather_nd, ops.pad, ops.trilu,
    ops.one_hot, ops.max_pool, ops.reduce_max, ops.reduce_min, ops.reshape, ops.transpose, ops.slice_, ops.concat,
    ops.broadcast_to})
# Of nothing these give an infinity, which most floats of eight bits and fewer lack.
EXTREMES = frozenset({ops.reduce_max, ops.reduce_min, ops.max_pool})


# --- indices --------------------------------------------------------------------------------------


def index_of(access: Access, coords: Sequence[Expr], size: Callable[[Dim], Expr]) -> Expr:
    """The index of an element of a value that broadcasts to the shape `coords` runs over: missing and size-1 dims do
    not move. `size` turns a Dim into an Expr (DimTable.ref)."""
    missing = len(coords) - len(access.shape)
    total: Expr = i64(0)
    for extent, stride, coord in zip(access.shape, access.strides, coords[missing:], strict=True):
        if extent != 1:
            total = add(total, mul(coord, size(stride)))
    return total


def element(buffer: str, access: Access, coords: Sequence[Expr], size: Callable[[Dim], Expr]) -> Load:
    """The element of a value at `coords`."""
    return Load(buffer, index_of(access, coords, size), widened(access.dtype))
