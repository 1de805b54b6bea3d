"""Element types of a byte or less: how their codes become values and values become codes, by integer arithmetic.

Floats are described by rows of a table. Values live in f32 registers (integers of 2 and 4 bits: in i8), codes in bytes.
Encoding rounds to nearest even; what is too large becomes the largest value (`saturate`) or infinity or NaN.
"""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.llvm.builder import Function, Val, lanes_of, literal, vec
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Format:
    """A small float: codes are sign, exponent, mantissa from the top."""

    bits: int
    mantissa: int
    bias: int
    largest: int              # the code of the largest finite value
    nan: int                  # what NaN is written as
    infinity: int | None      # None: overflow gives NaN, or the largest value where there is no NaN either
    one_zero: bool = False    # no -0.0; its code is NaN


FORMATS: dict[DType, Format] = {
    DType.F8E4M3FN: Format(8, 3, 7, 0x7E, 0x7F, None),
    DType.F8E4M3FNUZ: Format(8, 3, 8, 0x7F, 0x80, None, True),
    DType.F8E5M2: Format(8, 2, 15, 0x7B, 0x7E, 0x7C),
    DType.F8E5M2FNUZ: Format(8, 2, 16, 0x7F, 0x80, None, True),
    DType.F4E2M1: Format(4, 1, 1, 0x7, 0x8, 0x7),
}
INTEGERS = {DType.I4: DType.I8, DType.I2: DType.I8, DType.U4: DType.U8, DType.U2: DType.U8}
NARROW = frozenset({*FORMATS, *INTEGERS, DType.F8E8M0})


def decode(f: Function, raw: Val, dtype: DType) -> Val:
    """Bytes -> values."""
    if dtype in INTEGERS:
        return wrap(f, raw, dtype)
    lanes = lanes_of(raw.type)
    t, ft = vec(lanes, "i32"), vec(lanes, "float")
    code = f.convert("zext", raw, t)
    nan = literal(t, 0x7FC00000)
    if dtype is DType.F8E8M0:
        bits = f.op("shl", code, literal(t, 23))
        bits = f.select(f.compare("icmp eq", code, literal(t, 0)), literal(t, 1 << 22), bits)
        return f.convert("bitcast", f.select(f.compare("icmp eq", code, literal(t, 255)), nan, bits), ft)
    form = FORMATS[dtype]
    sign_bit = 1 << (form.bits - 1)
    magnitude = f.op("and", code, literal(t, sign_bit - 1))
    shifted = f.convert("bitcast", f.op("shl", magnitude, literal(t, 23 - form.mantissa)), ft)
    bits = f.convert("bitcast", f.op("fmul", shifted, literal(ft, 2.0 ** (127 - form.bias))), t)
    if form.infinity is not None and form.infinity > form.largest:
        special = f.op("or", f.op("shl", magnitude, literal(t, 23 - form.mantissa)), literal(t, 0x7F800000))
        bits = f.select(f.compare("icmp uge", magnitude, literal(t, form.infinity)), special, bits)
    elif form.nan < sign_bit:
        bits = f.select(f.compare("icmp eq", magnitude, literal(t, form.nan)), nan, bits)
    sign = f.op("shl", f.op("and", code, literal(t, sign_bit)), literal(t, 32 - form.bits))
    bits = f.op("or", bits, sign)
    if form.one_zero:
        bits = f.select(f.compare("icmp eq", code, literal(t, form.nan)), literal(t, 0xFFC00000), bits)
    return f.convert("bitcast", bits, ft)


def encode(f: Function, value: Val, dtype: DType, saturate: bool = False, exact: bool = False) -> Val:
    """Values -> bytes. `exact`: the values are ones that `decode` gives."""
    lanes = lanes_of(value.type)
    if dtype in INTEGERS:
        return f.op("and", value, literal(value.type, (1 << dtype.bits) - 1))
    t = vec(lanes, "i32")
    bits = f.convert("bitcast", value, t)
    if dtype is DType.F8E8M0:
        code = _encode_power(f, bits, saturate)
        if exact:  # 2**-127 is denormal in f32: the cast rounds it up, a store must not
            code = f.select(f.compare("icmp eq", bits, literal(t, 1 << 22)), literal(t, 0), code)
    else:
        code = _encode_float(f, bits, FORMATS[dtype], saturate)
    return f.convert("trunc", code, vec(lanes, "i8"))


def _encode_power(f: Function, bits: Val, saturate: bool) -> Val:
    """f8e8m0: the exponent byte, rounded away from zero; the sign is dropped; infinities and NaN give NaN."""
    t = bits.type
    exponent = f.op("and", f.op("lshr", bits, literal(t, 23)), literal(t, 0xFF))
    inexact = f.compare("icmp ne", f.op("and", bits, literal(t, 0x7FFFFF)), literal(t, 0))
    rounded = f.op("add", exponent, f.convert("zext", inexact, t))
    rounded = f.intrinsic("llvm.umin", rounded, literal(t, 0xFE if saturate else 0xFF))
    return f.select(f.compare("icmp eq", exponent, literal(t, 0xFF)), literal(t, 0xFF), rounded)


def _encode_float(f: Function, bits: Val, form: Format, saturate: bool) -> Val:
    """Normal codes by rounding the f32's bits, denormal ones by adding a number whose last bit is theirs."""
    t, ft = bits.type, vec(lanes_of(bits.type), "float")
    drop = 23 - form.mantissa
    magnitude = f.op("and", bits, literal(t, 0x7FFFFFFF))
    odd = f.op("and", f.op("lshr", magnitude, literal(t, drop)), literal(t, 1))
    rebased = f.op("sub", magnitude, literal(t, (127 - form.bias) << 23))
    normal = f.op("lshr", f.op("add", f.op("add", rebased, literal(t, (1 << (drop - 1)) - 1)), odd), literal(t, drop))
    step = 2.0 ** (1 - form.bias - form.mantissa + 23)
    aligned = f.convert("bitcast", f.op("fadd", f.convert("bitcast", magnitude, ft), literal(ft, step)), t)
    start = f.convert("bitcast", literal(ft, step), t)
    denormal = f.op("sub", aligned, start)
    code = f.select(f.compare("icmp ult", magnitude, literal(t, (128 - form.bias) << 23)), denormal, normal)
    too_large = form.largest if saturate else form.nan if form.infinity is None else form.infinity
    code = f.select(f.compare("icmp ugt", code, literal(t, form.largest)), literal(t, too_large), code)
    sign = f.op("and", f.op("lshr", bits, literal(t, 32 - form.bits)), literal(t, 1 << (form.bits - 1)))
    if form.one_zero:
        sign = f.select(f.compare("icmp eq", code, literal(t, 0)), literal(t, 0), sign)
    is_nan = f.compare("icmp ugt", magnitude, literal(t, 0x7F800000))
    return f.select(is_nan, _encode_nan(f, bits, form), f.op("or", code, sign))


def _encode_nan(f: Function, bits: Val, form: Format) -> Val:
    """The sign stays, and of several NaNs the one with the f32's upper bits. f4e2m1 has none: numpy makes it a zero."""
    t = bits.type
    if form.one_zero:
        return literal(t, form.nan)
    sign = f.op("and", f.op("lshr", bits, literal(t, 32 - form.bits)), literal(t, 1 << (form.bits - 1)))
    code = literal(t, form.nan)
    if form.infinity is not None and form.infinity > form.largest:
        payload = f.op("and", f.op("lshr", bits, literal(t, 23 - form.mantissa)), literal(t, (1 << form.mantissa) - 1))
        nothing = f.compare("icmp eq", payload, literal(t, 0))
        code = f.select(nothing, code, f.op("or", payload, literal(t, form.infinity)))
    return f.op("xor", code, sign)


def wrap(f: Function, value: Val, dtype: DType) -> Val:
    """The low bits of an i8, sign-extended where the type is signed."""
    shift = literal(value.type, 8 - dtype.bits)
    return f.op("ashr" if dtype.is_signed else "lshr", f.op("shl", value, shift), shift)


def rounded(f: Function, value: Val, dtype: DType, saturate: bool) -> Val:
    """The value a register holds after a cast to `dtype`."""
    if dtype in INTEGERS:
        return wrap(f, value, dtype)
    return decode(f, encode(f, value, dtype, saturate), dtype)
