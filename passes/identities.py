"""Rules that drop arithmetic without effect and bring what is left into one form."""
from __future__ import annotations

import math

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.op import Trait
from lepton.ir.rewrite import Rule, capture, const, pat, rule, splat, var
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.common import constant_like, elements, node_of, scalar_of
from lepton.passes.magnitudes import has_reciprocals, least_normal

x, y, cond = var("x y cond")
c, d = const("c"), const("d")
zero, one = const(None, splat(0.0)), const(None, splat(1.0))
lowest, highest = const(None, splat(-math.inf)), const(None, splat(math.inf))


def _if_same_type(x: Value, r: Value) -> Value | None:
    return x if x.type == r.type else None


# --- without effect -------------------------------------------------------------------------------


@rule(pat(ops.add)(x, zero).named("r"), pat(ops.sub)(x, zero).named("r"), pat(ops.mul)(x, one).named("r"),
      pat(ops.div)(x, one).named("r"), pat(ops.pow_)(x, one).named("r"),
      pat(ops.maximum)(x, lowest).named("r"), pat(ops.minimum)(x, highest).named("r"))
def neutral_operand(x: Value, r: Value) -> Value | None:
    """x + 0, x - 0, x * 1, x / 1, x ** 1, max(x, -inf), min(x, inf)  ->  x   (-0.0 + 0.0 stays -0.0)"""
    return _if_same_type(x, r)


@rule(pat(ops.neg)(pat(ops.neg)(x)), pat(ops.logical_not)(pat(ops.logical_not)(x)),
      pat(ops.bit_not)(pat(ops.bit_not)(x)))
def double_inverse(x: Value) -> Value:
    """-(-x), not not x, ~~x  ->  x"""
    return x


@rule(pat(Trait.IDEMPOTENT)(pat(Trait.IDEMPOTENT)(x, ...).named("inner"), ...).named("r"))
def idempotent(x: Value, inner: Value, r: Value) -> Value | None:
    """relu(relu(x))  ->  relu(x), and so for every idempotent elementwise op with equal attributes and operands"""
    first, second = node_of(inner), node_of(r)
    same = first.op is second.op and first.attrs == second.attrs and first.inputs[1:] == second.inputs[1:]
    return inner if same and first.op.has(Trait.ELEMENTWISE) else None


@rule(pat(ops.cast, to=capture("to"))(x))
def cast_to_same(x: Value, to: DType) -> Value | None:
    """cast(x, to=the type of x)  ->  x"""
    return x if x.tensor.dtype is to else None


# Conversions that lose nothing, so that casting back gives the same elements.
_WIDER = {
    (DType.F16, DType.F32), (DType.BF16, DType.F32), (DType.F32, DType.F64), (DType.F16, DType.F64),
    (DType.I32, DType.I64), (DType.BOOL, DType.I32), (DType.BOOL, DType.I64), (DType.BOOL, DType.F32),
    (DType.I32, DType.F64), (DType.U8, DType.I32), (DType.U8, DType.F32), (DType.I8, DType.I32), (DType.I8, DType.F32),
    (DType.U8, DType.I64), (DType.I8, DType.I64),
}


@rule(pat(ops.cast, to=capture("to"))(pat(ops.cast, to=capture("middle"))(x)))
def cast_of_cast(x: Value, middle: DType, to: DType) -> Value | None:
    """cast(cast(x, to=wider), to=t)  ->  cast(x, to=t)"""
    if (x.tensor.dtype, middle) not in _WIDER:
        return None
    return x if to is x.tensor.dtype else ops.cast(x, to=to)


@rule(pat(ops.where)(cond, x, x).named("r"))
def where_same(cond: Value, x: Value, r: Value) -> Value | None:
    """where(cond, x, x)  ->  x"""
    return _if_same_type(x, r)


@rule(pat(ops.where)(const("c"), x, y).named("r"))
def where_known(c: Value, x: Value, y: Value, r: Value) -> Value | None:
    """where(constant, x, y)  ->  x if it is true throughout, y if it is false throughout"""
    truth = elements(c)
    if truth.size == 0 or truth.any() != truth.all():
        return None
    return _if_same_type(x if truth.all() else y, r)


@rule(pat(ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod, axes=capture("axes"))(x)
      .named("r"))
def reduce_nothing(x: Value, axes: tuple[int, ...], r: Value) -> Value | None:
    """reduce(x) over axes of size 1  ->  reshape(x)"""
    if any(x.tensor.shape[a] != 1 for a in axes):
        return None
    return x if x.type == r.type else ops.reshape(x, shape=r.tensor.shape)


# --- one form -------------------------------------------------------------------------------------


@rule(pat(ops.sub)(x, c))
def sub_constant(x: Value, c: Value) -> Value | None:
    """x - constant  ->  x + -constant"""
    if not (c.tensor.dtype.is_float or c.tensor.dtype.is_signed):
        return None
    return ops.add(x, constant_like(-elements(c), c))


@rule(pat(ops.div)(x, const("c", lambda t: t.type.dtype.is_float)))
def div_power_of_two(x: Value, c: Value) -> Value | None:
    """x / constant  ->  x * (1 / constant), where that is exact: powers of two"""
    values = elements(c).astype(np.float64)
    mantissas, exponents = np.frexp(values)
    if values.size == 0 or not ((np.abs(mantissas) == 0.5) & (np.abs(exponents) < 14)).all():
        return None
    inverse = constant_like(1 / values, c)
    exact = (elements(inverse).astype(np.float64) == 1 / values).all()  # types of 8 bits do not hold them all
    return ops.mul(x, inverse) if exact else None


@rule(pat(ops.div)(x, const("c", lambda t: t.type.dtype.is_float)), accuracy="reassociating")
def div_constant(x: Value, c: Value) -> Value | None:
    """x / constant  ->  x * (1 / constant), rounded"""
    with np.errstate(all="ignore"):
        inverse = constant_like(1 / elements(c).astype(np.float64), c)
    return ops.mul(x, inverse) if c.tensor.size and _are_normal(inverse).all() else None


def _are_normal(c: Value) -> Array:
    """Which elements are finite, and no nearer to 0 than numbers of full precision lie."""
    sizes = np.abs(elements(c).astype(np.float64))
    return np.asarray((sizes >= least_normal(c.tensor.dtype)) & np.isfinite(sizes))


_WIDE = (DType.F16, DType.BF16, DType.F32, DType.F64)   # narrower ones have too few exponents for reciprocals


@rule(pat(ops.div)(x, y), accuracy="reassociating")
def div_by_fewer(x: Value, y: Value) -> Value | None:
    """x / y  ->  x * reciprocal(y), where y has fewer elements, none of them near 0; reciprocal(sqrt(z)) is rsqrt(z)"""
    producer = y.producer
    if x.tensor.dtype not in _WIDE or not _is_smaller(y, x) or (producer is not None and producer.op is ops.constant):
        return None
    if not has_reciprocals(y):
        return None
    if producer is not None and producer.op is ops.sqrt:
        return ops.mul(x, ops.rsqrt(producer.inputs[0]))
    return ops.mul(x, ops.reciprocal(y))


def _is_smaller(y: Value, x: Value) -> bool:
    """Whether y is broadcast along some axis of x that is longer than 1."""
    tail: tuple[Dim, ...] = (1,) * (x.tensor.rank - y.tensor.rank) + y.tensor.shape
    return y.tensor.rank <= x.tensor.rank and any(a == 1 != b for a, b in zip(tail, x.tensor.shape, strict=True))


@rule(pat(ops.reciprocal)(pat(ops.sqrt)(x)), accuracy="reassociating")
def reciprocal_sqrt(x: Value) -> Value:
    """reciprocal(sqrt(x))  ->  rsqrt(x)"""
    return ops.rsqrt(x)


@rule(pat(ops.div)(one, x).named("r"))
def one_over(x: Value, r: Value) -> Value | None:
    """1 / x  ->  reciprocal(x)"""
    return ops.reciprocal(x) if x.type == r.type and x.tensor.dtype.is_float else None


@rule(pat(ops.mul)(pat(ops.mul)(x, c).once, d), accuracy="reassociating")
def mul_constants(x: Value, c: Value, d: Value) -> Value | None:
    """x * c * d  ->  x * (c * d), for constants"""
    both = elements(c).astype(np.float64) * elements(d).astype(np.float64)
    merged = _merged(c, d, both) if x.tensor.dtype.is_float else None
    if merged is None or not (_are_normal(merged) | (elements(c) == 0) | (elements(d) == 0)).all():
        return None
    return ops.mul(x, merged)


@rule(pat(ops.add)(pat(ops.add)(x, c).once, d), accuracy="reassociating")
def add_constants(x: Value, c: Value, d: Value) -> Value | None:
    """x + c + d  ->  x + (c + d), for constants"""
    merged = _merged(c, d, elements(c).astype(np.float64) + elements(d)) if x.tensor.dtype.is_float else None
    return None if merged is None else ops.add(x, merged)


def _merged(c: Value, d: Value, both: Array) -> Value | None:
    """The constant `both`, unless it is larger than the two it replaces or overflows."""
    with np.errstate(over="ignore"):
        merged = constant_like(both, c)
    small = both.size <= max(elements(c).size, elements(d).size)
    return merged if small and np.isfinite(elements(merged).astype(np.float64)).all() else None


@rule(pat(ops.pow_)(x, const("c")).named("r"))
def power(x: Value, c: Value, r: Value) -> Value | None:
    """x ** 2  ->  x * x"""
    if scalar_of(c) != 2 or x.type != r.type:
        return None
    return ops.mul(x, x)


@rule(pat(ops.pow_)(x, const("c")).named("r"), accuracy="reassociating")
def rounded_power(x: Value, c: Value, r: Value) -> Value | None:
    """x ** 0.5, x ** -0.5, x ** -1, x ** 3  ->  sqrt(x), rsqrt(x), reciprocal(x), x * x * x"""
    exponent = scalar_of(c)
    if x.type != r.type or not x.tensor.dtype.is_float:
        return None
    if exponent == 3:
        return ops.mul(ops.mul(x, x), x)
    op = {0.5: ops.sqrt, -0.5: ops.rsqrt, -1.0: ops.reciprocal}.get(exponent) if exponent is not None else None
    return None if op is None else op(x)


IDENTITIES: tuple[Rule, ...] = (
    neutral_operand, double_inverse, idempotent, cast_to_same, cast_of_cast, where_same, where_known, reduce_nothing,
    sub_constant, one_over, div_power_of_two, div_constant, div_by_fewer, reciprocal_sqrt, mul_constants,
    add_constants, power, rounded_power,
)
