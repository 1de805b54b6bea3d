"""Comparisons, logic and bits."""
from __future__ import annotations

import numpy as np

from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import anything, boolean, broadcasting, floating, integer, number, same, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

E, C = Trait.ELEMENTWISE, Trait.COMMUTATIVE
_comparison = broadcasting(number, DType.BOOL)


@op(broadcasting(anything, DType.BOOL), E, C)
def equal(a: Array, b: Array) -> Array:
    """a == b; NaN equals nothing, 0.0 equals -0.0."""
    return np.equal(a, b).astype(np.bool_)


@wide_op(_comparison, E)
def less(a: Array, b: Array) -> Array:
    """a < b; False if either is NaN."""
    return np.less(a, b)


@wide_op(_comparison, E)
def less_equal(a: Array, b: Array) -> Array:
    """a <= b; False if either is NaN."""
    return np.less_equal(a, b)


@wide_op(_comparison, E)
def greater(a: Array, b: Array) -> Array:
    """a > b; False if either is NaN."""
    return np.greater(a, b)


@wide_op(_comparison, E)
def greater_equal(a: Array, b: Array) -> Array:
    """a >= b; False if either is NaN."""
    return np.greater_equal(a, b)


def _predicate(x: Type, **_attrs: bool) -> TensorType:
    return tensor(x, floating).with_dtype(DType.BOOL)


@wide_op(_predicate, E)
def is_nan(x: Array) -> Array:
    """Whether x is NaN."""
    return np.isnan(x)


@wide_op(_predicate, E)
def is_inf(x: Array, *, positive: bool = True, negative: bool = True) -> Array:
    """Whether x is inf (if `positive`) or -inf (if `negative`)."""
    return np.isinf(x) & (((x > 0) & positive) | ((x < 0) & negative))


@op(same(boolean), E)
def logical_not(x: Array) -> Array:
    """not x."""
    return np.logical_not(x)


@op(broadcasting(boolean), E, C)
def logical_and(a: Array, b: Array) -> Array:
    """a and b."""
    return np.logical_and(a, b)


@op(broadcasting(boolean), E, C)
def logical_or(a: Array, b: Array) -> Array:
    """a or b."""
    return np.logical_or(a, b)


@op(broadcasting(boolean), E, C)
def logical_xor(a: Array, b: Array) -> Array:
    """Whether exactly one of a and b holds."""
    return np.logical_xor(a, b)


@op(same(integer), E)
def bit_not(x: Array) -> Array:
    """Every bit inverted."""
    return np.bitwise_not(x)


@op(broadcasting(integer), E, C)
def bit_and(a: Array, b: Array) -> Array:
    """Bitwise and."""
    return np.bitwise_and(a, b)


@op(broadcasting(integer), E, C)
def bit_or(a: Array, b: Array) -> Array:
    """Bitwise or."""
    return np.bitwise_or(a, b)


@op(broadcasting(integer), E, C)
def bit_xor(a: Array, b: Array) -> Array:
    """Bitwise exclusive or."""
    return np.bitwise_xor(a, b)


@op(broadcasting(integer), E)
def shift_left(a: Array, b: Array) -> Array:
    """a * 2**b, losing high bits; a count of the width or more (or a negative one) gives 0."""
    return np.left_shift(a, b)


@op(broadcasting(integer), E)
def shift_right(a: Array, b: Array) -> Array:
    """a // 2**b, rounding down; a count of the width or more (or a negative one) gives 0, or -1 where a < 0."""
    return np.right_shift(a, b)
