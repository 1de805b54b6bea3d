"""Exact arithmetic on what small tensors hold: dims, and quotients of dims where the model goes through floats."""
from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isfinite
from typing import TypeAlias

from lepton.frontends.onnx.bounds import certainly, larger, lower, smaller
from lepton.ir import dims
from lepton.ir.dims import Dim, Expr


class Undecided(Exception):
    """The value depends on what is only known when the model runs."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """num / den with den > 0, not an integer as far as is known."""

    num: Dim
    den: Dim


Number: TypeAlias = int | Expr | Ratio


def ratio(num: Dim, den: Dim) -> Number:
    """num / den in lowest terms. Raises Undecided unless den is certainly not 0."""
    if isinstance(den, int) and den < 0:
        num, den = -num, -den
    if (least := lower(den)) is None or least < 1:
        raise Undecided
    if dims.mod(num, den) == 0:
        return dims.floordiv(num, den)
    if isinstance(num, int) and isinstance(den, int):
        common = gcd(num, den)
        num, den = num // common, den // common
    return Ratio(num, den)


def from_float(value: float) -> Number:
    """The exact value of a float. Raises Undecided for those that are no number."""
    if not isfinite(value):
        raise Undecided
    exact = Fraction(value)
    return ratio(exact.numerator, exact.denominator)


def parts(x: Number) -> tuple[Dim, Dim]:
    return (x.num, x.den) if isinstance(x, Ratio) else (x, 1)


def add(a: Number, b: Number) -> Number:
    (n, d), (m, e) = parts(a), parts(b)
    return ratio(n * e + m * d, d * e)


def sub(a: Number, b: Number) -> Number:
    return add(a, neg(b))


def neg(a: Number) -> Number:
    n, d = parts(a)
    return ratio(-n, d)


def mul(a: Number, b: Number) -> Number:
    (n, d), (m, e) = parts(a), parts(b)
    return ratio(n * m, d * e)


def true_div(a: Number, b: Number) -> Number:
    (n, d), (m, e) = parts(a), parts(b)
    return ratio(n * e, d * m)


def floor(a: Number) -> Dim:
    n, d = parts(a)
    return dims.floordiv(n, d)


def ceil(a: Number) -> Dim:
    n, d = parts(a)
    return -dims.floordiv(-n, d) if isinstance(n, int) and isinstance(d, int) else dims.ceildiv(n, d)


def trunc(a: Number) -> Dim:
    """Toward zero, as integers are divided and floats are cast."""
    n, d = parts(a)
    if (least := lower(n)) is not None and least >= 0:
        return dims.floordiv(n, d)
    if (most := lower(-n)) is not None and most >= 0:
        return -dims.floordiv(-n, d)
    return dims.floordiv(dims.dim_max(n, 0), d) - dims.floordiv(dims.dim_max(-n, 0), d)


def int_div(a: Number, b: Number) -> Dim:
    """Integer division of ONNX."""
    return trunc(true_div(a, b))


def mod(a: Number, b: Number) -> Dim:
    """The remainder with the sign of b; b must be positive."""
    if isinstance(a, Ratio) or isinstance(b, Ratio) or (least := lower(b)) is None or least < 1:
        raise Undecided
    return dims.mod(a, b)


def power(a: Number, b: Number) -> Number:
    if not isinstance(b, int) or not 0 <= b <= 16:
        raise Undecided
    result: Number = 1
    for _ in range(b):
        result = mul(result, a)
    return result


def less(a: Number, b: Number) -> bool:
    return _compare(a, "<", b)


def less_equal(a: Number, b: Number) -> bool:
    return _compare(a, "<=", b)


def equal(a: Number, b: Number) -> bool:
    return _compare(a, "==", b)


def _compare(a: Number, relation: str, b: Number) -> bool:
    (n, d), (m, e) = parts(a), parts(b)
    known = certainly(n * e, relation, m * d)
    if known is None:
        raise Undecided
    return known


def minimum(a: Number, b: Number) -> Number:
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return a if less(a, b) else b
    return smaller(a, b)


def maximum(a: Number, b: Number) -> Number:
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return b if less(a, b) else a
    return larger(a, b)
