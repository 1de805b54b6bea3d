"""Roots, exponentials, logarithms, trigonometry, erf: floats in, the same floats out.

Outside its domain a function gives NaN; NaN gives NaN; nothing traps. f16, bf16 and f8 are computed in f32."""
from __future__ import annotations

import math

import numpy as np

from lepton.ir.op import Trait
from lepton.ir.ops.rules import floating, same, wide_op
from lepton.ir.tensor import Array

E = Trait.ELEMENTWISE
_erf = np.frompyfunc(math.erf, 1, 1)


@wide_op(same(floating), E)
def sqrt(x: Array) -> Array:
    """The square root; of -0.0: -0.0; of x < 0: NaN."""
    return np.sqrt(x)


@wide_op(same(floating), E)
def rsqrt(x: Array) -> Array:
    """1 / sqrt(x); of 0.0: inf; of -0.0: -inf; of inf: 0; of x < 0: NaN."""
    return np.divide(1, np.sqrt(x))


@wide_op(same(floating), E)
def reciprocal(x: Array) -> Array:
    """1 / x; of 0.0: inf, of -0.0: -inf."""
    return np.divide(1, x)


@wide_op(same(floating), E)
def exp(x: Array) -> Array:
    """e**x; overflows to inf, underflows to 0."""
    return np.exp(x)


@wide_op(same(floating), E)
def log(x: Array) -> Array:
    """The natural logarithm; of 0: -inf; of x < 0: NaN."""
    return np.log(x)


@wide_op(same(floating), E)
def log1p(x: Array) -> Array:
    """log(1 + x) without cancellation; of -1: -inf; of x < -1: NaN."""
    return np.log1p(x)


@wide_op(same(floating), E)
def expm1(x: Array) -> Array:
    """exp(x) - 1 without cancellation; of -inf: -1."""
    return np.expm1(x)


@wide_op(same(floating), E)
def sin(x: Array) -> Array:
    """The sine of x radians; of infinities: NaN."""
    return np.sin(x)


@wide_op(same(floating), E)
def cos(x: Array) -> Array:
    """The cosine of x radians; of infinities: NaN."""
    return np.cos(x)


@wide_op(same(floating), E)
def tan(x: Array) -> Array:
    """The tangent of x radians; of infinities: NaN."""
    return np.tan(x)


@wide_op(same(floating), E)
def asin(x: Array) -> Array:
    """The inverse sine in [-pi/2, pi/2]; where |x| > 1: NaN."""
    return np.arcsin(x)


@wide_op(same(floating), E)
def acos(x: Array) -> Array:
    """The inverse cosine in [0, pi]; where |x| > 1: NaN."""
    return np.arccos(x)


@wide_op(same(floating), E)
def atan(x: Array) -> Array:
    """The inverse tangent in [-pi/2, pi/2]."""
    return np.arctan(x)


@wide_op(same(floating), E)
def sinh(x: Array) -> Array:
    """The hyperbolic sine; overflows to infinity of x's sign."""
    return np.sinh(x)


@wide_op(same(floating), E)
def cosh(x: Array) -> Array:
    """The hyperbolic cosine; overflows to inf."""
    return np.cosh(x)


@wide_op(same(floating), E)
def asinh(x: Array) -> Array:
    """The inverse hyperbolic sine."""
    return np.arcsinh(x)


@wide_op(same(floating), E)
def acosh(x: Array) -> Array:
    """The inverse hyperbolic cosine, >= 0; where x < 1: NaN."""
    return np.arccosh(x)


@wide_op(same(floating), E)
def atanh(x: Array) -> Array:
    """The inverse hyperbolic tangent; of 1: inf; of -1: -inf; where |x| > 1: NaN."""
    return np.arctanh(x)


@wide_op(same(floating), E)
def tanh(x: Array) -> Array:
    """The hyperbolic tangent; of infinities: 1 or -1."""
    return np.tanh(x)


@wide_op(same(floating), E)
def erf(x: Array) -> Array:
    """The error function, computed in f64 and rounded; of infinities: 1 or -1."""
    return np.asarray(_erf(x.astype(np.float64))).astype(x.dtype)
