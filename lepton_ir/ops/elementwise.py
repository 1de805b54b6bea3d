"""Arithmetic on elements, conversion and choice. Integers wrap around; floats follow IEEE 754; nothing traps."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import (
    NARROW,
    boolean,
    broadcast_shapes,
    broadcasting,
    fail,
    fits_into,
    number,
    one_dtype,
    same,
    tensor,
    wide_op,
)
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

E, C, I = Trait.ELEMENTWISE, Trait.COMMUTATIVE, Trait.IDEMPOTENT  # noqa: E741


# --- one operand ----------------------------------------------------------------------------------


@wide_op(same(number), E)
def neg(x: Array) -> Array:
    """-x. Integers wrap: the least integer stays what it is. -(0.0) is -0.0."""
    return np.negative(x)


@wide_op(same(number), E, I)
def abs_(x: Array) -> Array:
    """The absolute value. The least integer stays what it is; |-0.0| is 0.0, |NaN| is NaN."""
    return np.abs(x)


@wide_op(same(number), E, I)
def sign(x: Array) -> Array:
    """-1, 0 or 1. Of -0.0: 0; of NaN: NaN."""
    return np.sign(x)


@wide_op(same(number), E, I)
def floor(x: Array) -> Array:
    """Round toward minus infinity; NaN, infinities and integers stay."""
    return np.floor(x) if x.dtype.kind == "f" else x


@wide_op(same(number), E, I)
def ceil(x: Array) -> Array:
    """Round toward plus infinity; NaN, infinities and integers stay. ceil(-0.5) is -0.0."""
    return np.ceil(x) if x.dtype.kind == "f" else x


@wide_op(same(number), E, I)
def round_(x: Array) -> Array:
    """Round to the nearest integer, halves to the even one (2.5 -> 2); NaN, infinities and integers stay."""
    return np.rint(x) if x.dtype.kind == "f" else x


# --- two operands ---------------------------------------------------------------------------------


@wide_op(broadcasting(number), E, C)
def add(a: Array, b: Array) -> Array:
    """a + b."""
    return np.add(a, b)


@wide_op(broadcasting(number), E)
def sub(a: Array, b: Array) -> Array:
    """a - b."""
    return np.subtract(a, b)


@wide_op(broadcasting(number), E, C)
def mul(a: Array, b: Array) -> Array:
    """a * b."""
    return np.multiply(a, b)


@wide_op(broadcasting(number), E)
def div(a: Array, b: Array) -> Array:
    """a / b. Integers truncate toward zero, x / 0 is 0 and the least integer / -1 wraps to itself."""
    if a.dtype.kind == "f":
        return np.true_divide(a, b)
    return truncated_division(a, b)


def truncated_division(a: Array, b: Array) -> Array:
    """Integer division toward zero; by zero: 0."""
    if a.dtype.kind not in "iu":
        return _low_bits(truncated_division(*_whole(a, b)), DType.of(a))
    quotient = np.floor_divide(a, b)  # numpy: x // 0 is 0, min // -1 is min
    if a.dtype.kind == "u":
        return quotient
    inexact = (np.multiply(quotient, b) != a) & (np.asarray(b) != 0)
    return np.asarray(quotient + (inexact & ((np.asarray(a) < 0) != (np.asarray(b) < 0))).astype(a.dtype))


@wide_op(broadcasting(number), E)
def mod(a: Array, b: Array, *, fmod: bool = False) -> Array:
    """The rest of a / b with the sign of b, or of a where `fmod`. Integers % 0: 0. Floats % 0: NaN; infinite a: NaN;
    finite a % infinite b: a where the signs agree (or `fmod`), else b."""
    if a.dtype.kind not in "iuf":
        x, y = _whole(a, b)
        return _low_bits(np.fmod(x, y) if fmod else np.mod(x, y), DType.of(a))
    return np.fmod(a, b) if fmod else np.mod(a, b)


def _whole(a: Array, b: Array) -> tuple[Array, Array]:
    """Sub-byte integers as i64: ml_dtypes warns of divisions by zero without holding the lock, which can crash."""
    return a.astype(np.int64), b.astype(np.int64)


def _power_type(a: Type, b: Type) -> TensorType:
    x, y = tensor(a, number), tensor(b, number)
    return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape, operands=(a, b)))


@wide_op(_power_type, E)
def pow_(a: Array, b: Array) -> Array:
    """a to the power b, with the element type of a; b may have another.

    x**0 and 1**x are 1, NaN included; a negative float to a fraction is NaN. Integers wrap; to a negative integer power
    1 gives 1, -1 gives 1 or -1, all else 0. Mixed types are computed in f64 and converted as `cast` does."""
    if a.dtype == b.dtype and a.dtype.kind == "f":
        return np.power(a, b)
    if DType.of(a).is_integer and DType.of(b).is_integer:
        return _integer_power(a, b)
    return convert(np.power(a.astype(np.float64), b.astype(np.float64)), DType.of(a.dtype))


def _integer_power(a: Array, b: Array) -> Array:
    base, exponent = a.astype(np.int64), b.astype(np.int64)
    result = np.power(base, np.maximum(exponent, 0))
    unit = np.where(exponent % 2 == 0, base * base, base)
    inverse = np.where(np.abs(base) == 1, unit, 0)
    power = np.where(exponent < 0, inverse, result)
    return np.asarray(power.astype(a.dtype)) if a.dtype.kind in "iu" else _low_bits(power, DType.of(a))


@wide_op(broadcasting(number), E, C)
def minimum(a: Array, b: Array) -> Array:
    """The lesser one; NaN if either is NaN. Of 0.0 and -0.0: either."""
    return np.minimum(a, b)


@wide_op(broadcasting(number), E, C)
def maximum(a: Array, b: Array) -> Array:
    """The greater one; NaN if either is NaN. Of 0.0 and -0.0: either."""
    return np.maximum(a, b)


def _prelu_type(x: Type, slope: Type) -> TensorType:
    t, s = tensor(x, number), tensor(slope, number)
    one_dtype(t, s)
    fits_into(s.shape, t.shape, "slope", x, slope)
    return t


@wide_op(_prelu_type, E)
def prelu(x: Array, slope: Array) -> Array:
    """x where x >= 0 or NaN, else slope * x; slope broadcasts to x."""
    return np.where(x < 0, x * slope, x)


# --- choice ---------------------------------------------------------------------------------------


def _where_type(cond: Type, a: Type, b: Type) -> TensorType:
    c, x, y = tensor(cond, boolean), tensor(a), tensor(b)
    return TensorType(one_dtype(x, y), broadcast_shapes(c.shape, x.shape, y.shape, operands=(cond, a, b)))


@op(_where_type, E)
def where(cond: Array, a: Array, b: Array) -> Array:
    """a where cond holds, else b; the three broadcast."""
    return np.where(cond, a, b)


def _clip_type(x: Type, lo: Type | None = None, hi: Type | None = None) -> TensorType:
    t = tensor(x, number)
    for bound in (lo, hi):
        if bound is not None:
            one_dtype(t, tensor(bound, rank=0))
    return t


@wide_op(_clip_type, E, I)
def clip(x: Array, lo: Array | None = None, hi: Array | None = None) -> Array:
    """minimum(maximum(x, lo), hi) with scalar bounds; an absent bound does nothing. NaN stays; lo > hi gives hi."""
    x = x if lo is None else np.maximum(x, lo)
    return x if hi is None else np.minimum(x, hi)


# --- conversion -----------------------------------------------------------------------------------


def _cast_type(x: Type, *, to: DType, saturate: bool, denormals: bool) -> TensorType:
    t = tensor(x)
    if (t.dtype is DType.STRING) != (to is DType.STRING) or t.dtype.is_complex != to.is_complex:
        raise fail(f"cannot cast to {to.value}", x)
    if not denormals and (t.dtype, to) != (DType.F32, DType.BF16):
        raise fail(f"only casts of f32 to bf16 can lose their denormals, not to {to.value}", x)
    return t.with_dtype(to)


@op(_cast_type, E)
def cast(x: Array, *, to: DType, saturate: bool = True, denormals: bool = True) -> Array:
    """Convert each element.

    To floats: round to nearest even, too large gives infinity; 8-bit floats saturate at their largest finite value
    instead, unless `saturate` is False (then NaN, or infinity where the type has it). f8e8m0 keeps magnitudes only,
    rounded up to the next power of two; infinities become NaN and 0 the least power. To bool: x != 0, NaN is True.
    Integers to integers keep the low bits. Floats to integers truncate toward zero; what does not fit (NaN too) becomes
    the least i64 for i64, the least i32 for i32, and for smaller integers the low bits of that i32 conversion; for u32
    the low bits of the i64 conversion; for u64 values of 2**63 and more convert exactly, 2**64 and more and NaN give
    2**63, negative ones the low bits of the i64 conversion. (This is what the x86 instructions do.)

    Without `denormals`, f32 below 2**-126 become zeros of bf16, of their sign: so do the instructions that convert, and
    those that multiply what was converted."""
    return convert(x if denormals else without_denormals(x), to, saturate=saturate)


def without_denormals(x: Array) -> Array:
    """f32 numbers, zeros of their sign in the place of denormal ones."""
    return np.asarray(np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x))


def convert(x: Array, to: DType, *, saturate: bool = True) -> Array:
    """The meaning of `cast`."""
    source, target = np.asarray(x).dtype, to.numpy
    if source == target:
        return x
    if to is DType.BOOL:
        return np.asarray(x != 0)
    if DType.of(source).is_float:
        if to.is_integer:
            return _float_to_integer(x, to)
    if to is DType.F8E8M0:
        return _power_of_two(x, saturate)
    if saturate and to in NARROW[2:]:
        return _saturated(x, to)
    if to.is_integer and to.bits < 8:
        return _low_bits(x.astype(np.int64), to)
    if DType.of(source) in NARROW:  # numpy does not know every pair of them
        x = x.astype(np.float32)
    return x.astype(target)


def _float_to_integer(x: Array, to: DType) -> Array:
    x = np.trunc(x.astype(np.float64))
    if to is DType.U64:
        high = x >= 2.0**63
        low = _truncated(x, 63).view(np.uint64)
        offset = _truncated(np.where(high, x - 2.0**63, 0), 63).view(np.uint64)
        return np.where(high, np.where(x < 2.0**64, offset + np.uint64(2**63), np.uint64(2**63)), low)
    wide = _truncated(x, 63 if to in (DType.I64, DType.U32) else 31)
    return wide.astype(to.numpy) if to.bits >= 8 else _low_bits(wide, to)


def _truncated(x: Array, bits: int) -> Array:
    """Whole f64 numbers to i64; what does not fit `bits` bits and a sign becomes -2**bits."""
    fits = (x >= -(2.0**bits)) & (x < 2.0**bits)
    return np.where(fits, np.where(fits, x, 0).astype(np.int64), np.int64(-(2**bits)))


def _low_bits(x: Array, to: DType) -> Array:
    """i64 to the sub-byte integers: the low bits, sign-extended where the type is signed."""
    low = x & (2**to.bits - 1)
    if to.is_signed:
        low = low - ((low >> (to.bits - 1)) << to.bits)
    return np.asarray(low.astype(np.int8 if to.is_signed else np.uint8).astype(to.numpy))


def _saturated(x: Array, to: DType) -> Array:
    """Finite and infinite values beyond the type's largest become that; NaN stays NaN."""
    finfo: Any = ml_dtypes.finfo  # untyped there
    info = finfo(to.numpy)
    wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    low, high = float(info.min), float(info.max)
    return np.asarray(np.clip(wide, low, high).astype(to.numpy))


def _power_of_two(x: Array, saturate: bool) -> Array:
    """To f8e8m0, which is the exponent byte of an f32: rounded away from zero, the sign dropped, 255 is NaN."""
    bits = x.astype(np.float32).view(np.uint32)
    exponent = (bits >> 23) & 0xFF
    last = 0xFE if saturate else 0xFF
    rounded = np.minimum(exponent + ((bits & 0x7FFFFF) != 0), last)
    return np.where(exponent == 0xFF, 0xFF, rounded).astype(np.uint8).view(DType.F8E8M0.numpy)


def _bitcast_type(x: Type, *, to: DType) -> TensorType:
    t = tensor(x)
    if DType.STRING in (t.dtype, to) or t.dtype.bits != to.bits:
        raise fail(f"cannot read the bits as {to.value}", x)
    return t.with_dtype(to)


@op(_bitcast_type, E)
def bitcast(x: Array, *, to: DType) -> Array:
    """The same bits read as another element type of the same width."""
    return np.ascontiguousarray(x).view(to.numpy).reshape(x.shape)
