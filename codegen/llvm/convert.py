"""Element types in memory and in registers, and the conversions between them.

In registers: bool is i1, floats narrower than f32 are float, integers keep their width but for those of 2 and 4 bits,
which are i8. In memory bool is a byte of 0 or 1, and what is narrower than a byte takes one. A string is its number,
an i64 (docs/architecture.md §4.3).
"""
from __future__ import annotations

from lepton.codegen.llvm.builder import Function, Val, lanes_of, literal, vec
from lepton.codegen.llvm.narrow import INTEGERS, NARROW, decode, encode
from lepton.codegen.target import Target
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.types import DType

REGISTER: dict[DType, str] = {
    DType.F32: "float", DType.F64: "double", DType.F16: "float", DType.BF16: "float", DType.BOOL: "i1",
    DType.I8: "i8", DType.U8: "i8", DType.I16: "i16", DType.U16: "i16", DType.I32: "i32", DType.U32: "i32",
    DType.I64: "i64", DType.U64: "i64", DType.STRING: "i64",
}
REGISTER |= {d: "i8" if d in INTEGERS else "float" for d in NARROW}
MEMORY: dict[DType, str] = {**REGISTER, DType.F16: "i16", DType.BF16: "i16", DType.BOOL: "i8"}
MEMORY |= {d: "i8" for d in NARROW}


def widened(dtype: DType) -> DType:
    """The type in which values of `dtype` are computed."""
    if dtype in INTEGERS:
        return INTEGERS[dtype]
    if dtype is DType.STRING:
        return DType.I64
    return DType.F32 if dtype in (DType.F16, DType.BF16) or dtype in NARROW else dtype


def unsigned(dtype: DType) -> DType:
    """The unsigned integer of as many bytes."""
    return DType(f"u{8 * dtype.bytes}")


def register_type(dtype: DType, lanes: int = 1) -> str:
    """The LLVM type of values of `dtype`. Raises UnsupportedError for types that kernels do not compute with."""
    if dtype not in REGISTER:
        raise UnsupportedError(f"element type {dtype.value} is not supported in compiled code")
    return vec(lanes, REGISTER[dtype])


def memory_type(dtype: DType, lanes: int = 1) -> str:
    register_type(dtype)
    return vec(lanes, MEMORY[dtype])


def has_half(target: Target) -> bool:
    """Whether the hardware converts f16: every row of the table with fma does (F16C came before FMA on x86)."""
    return target.fma


def from_memory(f: Function, target: Target, raw: Val, dtype: DType) -> Val:
    """What was loaded as `memory_type(dtype)`, as a register value."""
    lanes = lanes_of(raw.type)
    match dtype:
        case DType.BOOL:
            return f.compare("icmp ne", raw, literal(raw.type, 0))
        case DType.BF16:
            wide = f.convert("zext", raw, vec(lanes, "i32"))
            return f.convert("bitcast", f.op("shl", wide, literal(wide.type, 16)), vec(lanes, "float"))
        case DType.F16 if has_half(target):
            half = f.convert("bitcast", raw, vec(lanes, "half"))
            return f.convert("fpext", half, vec(lanes, "float"))
        case DType.F16:
            return _half_to_float(f, raw)
    return decode(f, raw, dtype) if dtype in NARROW else raw


def to_memory(f: Function, target: Target, value: Val, dtype: DType) -> Val:
    """The opposite of `from_memory`; halves are rounded to nearest even, NaN stays NaN."""
    lanes = lanes_of(value.type)
    if dtype in (DType.F16, DType.BF16) and value.text in f.halves and f.halves[value.text][0] is dtype:
        return f.halves[value.text][1]
    match dtype:
        case DType.BOOL:
            return f.convert("zext", value, vec(lanes, "i8"))
        case DType.BF16:
            return _float_to_bfloat(f, value)
        case DType.F16 if has_half(target):
            half = f.convert("fptrunc", value, vec(lanes, "half"))
            return f.convert("bitcast", half, vec(lanes, "i16"))
        case DType.F16:
            return _float_to_half(f, value)
    return encode(f, value, dtype, exact=True) if dtype in NARROW else value


def _float_to_bfloat(f: Function, value: Val) -> Val:
    t = vec(lanes_of(value.type), "i32")
    bits = f.convert("bitcast", value, t)
    odd = f.op("and", f.op("lshr", bits, literal(t, 16)), literal(t, 1))
    rounded = f.op("add", bits, f.op("add", odd, literal(t, 0x7FFF)))
    quiet = f.op("or", bits, literal(t, 0x400000))
    is_nan = f.compare("fcmp uno", value, value)
    kept = f.op("lshr", f.select(is_nan, quiet, rounded), literal(t, 16))
    return f.convert("trunc", kept, vec(lanes_of(value.type), "i16"))


def _half_to_float(f: Function, raw: Val) -> Val:
    """By integers and one exact multiplication: exponents rebased by 2**112, which makes denormals right as well."""
    t, ft = vec(lanes_of(raw.type), "i32"), vec(lanes_of(raw.type), "float")
    wide = f.convert("zext", raw, t)
    magnitude = f.op("shl", f.op("and", wide, literal(t, 0x7FFF)), literal(t, 13))
    scaled = f.op("fmul", f.convert("bitcast", magnitude, ft), literal(ft, 2.0**112))
    special = f.compare("icmp uge", magnitude, literal(t, 0x7C00 << 13))  # inf, NaN
    bits = f.select(special, f.op("or", magnitude, literal(t, 0x7F800000)), f.convert("bitcast", scaled, t))
    sign = f.op("shl", f.op("and", wide, literal(t, 0x8000)), literal(t, 16))
    return f.convert("bitcast", f.op("or", bits, sign), ft)


def _float_to_half(f: Function, value: Val) -> Val:
    """Round to nearest even by integers; denormal halves by adding a number whose last bit is theirs."""
    lanes = lanes_of(value.type)
    t, ft = vec(lanes, "i32"), vec(lanes, "float")
    bits = f.convert("bitcast", value, t)
    sign = f.op("and", f.op("lshr", bits, literal(t, 16)), literal(t, 0x8000))
    magnitude = f.op("and", bits, literal(t, 0x7FFFFFFF))
    odd = f.op("and", f.op("lshr", magnitude, literal(t, 13)), literal(t, 1))
    rebased = f.op("sub", magnitude, literal(t, 112 << 23))
    normal = f.op("lshr", f.op("add", f.op("add", rebased, literal(t, 0xFFF)), odd), literal(t, 13))
    aligned = f.op("fadd", f.convert("bitcast", magnitude, ft), literal(ft, 0.5))  # ulp of 0.5 is 2**-24
    denormal = f.op("sub", f.convert("bitcast", aligned, t), literal(t, 0x3F000000))
    result = f.select(f.compare("icmp ult", magnitude, literal(t, 113 << 23)), denormal, normal)
    result = f.select(f.compare("icmp uge", magnitude, literal(t, 0x47800000)), literal(t, 0x7C00), result)  # 65536
    result = f.select(f.compare("icmp ugt", magnitude, literal(t, 0x7F800000)), literal(t, 0x7E00), result)
    return f.convert("trunc", f.op("or", result, sign), vec(lanes, "i16"))


def cast(f: Function, value: Val, source: DType, to: DType) -> Val:
    """The op `cast` between types of registers: as `lepton.ir.ops.cast` says, out-of-range floats included."""
    lanes = lanes_of(value.type)
    target = register_type(to, lanes)
    if source is to:
        return value
    if to is DType.BOOL:
        kind = "fcmp une" if source.is_float else "icmp ne"
        return f.compare(kind, value, literal(value.type, 0))
    if source is DType.BOOL:
        return f.convert("uitofp" if to.is_float else "zext", value, target)
    if source.is_float and to.is_float:
        return f.convert("fpext" if to is DType.F64 else "fptrunc", value, target)
    if source.is_float:
        return _to_integer(f, value, to)
    if to.is_float:
        return f.convert("sitofp" if source.is_signed else "uitofp", value, target)
    if source.bits < to.bits:
        return f.convert("sext" if source.is_signed else "zext", value, target)
    return f.convert("trunc", value, target) if source.bits > to.bits else value


def _to_integer(f: Function, value: Val, to: DType) -> Val:
    """Truncate toward zero; out of range: as the x86 instructions do (see ops.cast)."""
    lanes = lanes_of(value.type)
    if to is DType.U64:
        high = f.compare("fcmp oge", value, literal(value.type, 2.0**63))
        low = _truncate(f, value, 64)
        offset = _truncate(f, f.op("fsub", value, literal(value.type, 2.0**63)), 64)
        lifted = f.op("xor", offset, literal(offset.type, -(2**63)))
        small = f.compare("fcmp olt", value, literal(value.type, 2.0**64))
        return f.select(high, f.select(small, lifted, literal(low.type, -(2**63))), low)
    wide = _truncate(f, value, 64 if to in (DType.I64, DType.U32) else 32)
    target = register_type(to, lanes)
    return f.convert("trunc", wide, target) if wide.type != target else wide


def _truncate(f: Function, value: Val, bits: int) -> Val:
    t = vec(lanes_of(value.type), f"i{bits}")
    limit = 2.0 ** (bits - 1)
    fits = f.op("and", f.compare("fcmp oge", value, literal(value.type, -limit)),
                f.compare("fcmp olt", value, literal(value.type, limit)))
    return f.select(fits, f.convert("fptosi", value, t), literal(t, -(2 ** (bits - 1))))
