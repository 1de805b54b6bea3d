"""Expressions and types of the loop IR as C++ that NVRTC and g++ both take; the operations stand in prelude/ops.cuh."""
from __future__ import annotations

import math
from collections.abc import Callable

from lepton.codegen import loops
from lepton.codegen.llvm.convert import widened
from lepton.codegen.llvm.narrow import FORMATS, INTEGERS, NARROW, Format
from lepton.ir.types import DType

NAMES: dict[DType, str] = {
    DType.F32: "float", DType.F64: "double", DType.BOOL: "bool", DType.I8: "i8", DType.U8: "u8", DType.I16: "i16",
    DType.U16: "u16", DType.I32: "i32", DType.U32: "u32", DType.I64: "i64", DType.U64: "u64", DType.STRING: "i64",
}
MEMORY: dict[DType, str] = {**NAMES, DType.F16: "u16", DType.BF16: "u16", DType.BOOL: "u8",
                            **dict.fromkeys(NARROW, "u8")}
LoadText = Callable[[loops.Load], str]


def c_type(dtype: DType) -> str:
    """The type of a value in a register."""
    return NAMES[widened(dtype)]


def literal(value: float | int | bool, dtype: DType) -> str:
    """An exact constant."""
    name = c_type(dtype)
    if name == "bool":
        return "true" if value else "false"
    if name in ("float", "double"):
        return _float(float(value), name)
    if name == "i64":
        return f"(i64({value - 1 if value < 0 else value}LL) + 1)" if value == -(1 << 63) else f"{int(value)}LL"
    return f"{name}({int(value)}{'ULL' if name == 'u64' else ''})"


def _float(value: float, name: str) -> str:
    suffix = "f" if name == "float" else ""
    if math.isnan(value) or math.isinf(value):
        bits = {"float": ("u32", "0x7FC00000u", "0x7F800000u", "0xFF800000u"),
                "double": ("u64", "0x7FF8000000000000ull", "0x7FF0000000000000ull", "0xFFF0000000000000ull")}[name]
        which = 1 if math.isnan(value) else 2 if value > 0 else 3
        return f"lp_bitcast<{name}>({bits[which]})"
    text = value.hex()
    return f"({text}{suffix})" if text.startswith("-") else text + suffix


def small(dtype: DType) -> str:
    """The struct of the prelude that reads and writes a small float."""
    if dtype is DType.F8E8M0:
        return "lp_power"
    f: Format = FORMATS[dtype]
    return (f"lp_small<{f.bits}, {f.mantissa}, {f.bias}, {f.largest}, {f.nan}, "
            f"{-1 if f.infinity is None else f.infinity}, {'true' if f.one_zero else 'false'}>")


def from_memory(raw: str, dtype: DType) -> str:
    """What was read from memory, as a register value."""
    if dtype is DType.BOOL:
        return f"({raw} != 0)"
    if dtype in (DType.F16, DType.BF16):
        return f"lp_from_{dtype.value}({raw})"
    if dtype in INTEGERS:
        return _wrapped(f"{NAMES[INTEGERS[dtype]]}({raw})", dtype)
    return f"{small(dtype)}::decode({raw})" if dtype in NARROW else raw


def to_memory(value: str, dtype: DType) -> str:
    """The opposite; values of the small types are ones that `from_memory` gives."""
    if dtype is DType.BOOL:
        return f"u8({value})"
    if dtype in (DType.F16, DType.BF16):
        return f"lp_to_{dtype.value}({value})"
    if dtype in INTEGERS:
        return f"u8(u8({value}) & {(1 << dtype.bits) - 1})"
    if dtype is DType.F8E8M0:
        return f"lp_power::store({value})"
    return f"{small(dtype)}::encode({value}, false)" if dtype in NARROW else value


def _wrapped(value: str, dtype: DType) -> str:
    return f"lp_wrap_{'i' if dtype.is_signed else 'u'}({value}, {8 - dtype.bits})"


def expr(e: loops.Expr, load: LoadText, name_of: Callable[[str], str]) -> str:
    """`e` as C++. `load` spells memory reads, `name_of` names."""
    match e:
        case loops.Const(value, dtype):
            return literal(value, dtype)
        case loops.Ref(name):
            return name_of(name)
        case loops.Dim(index):
            return f"d{index}"
        case loops.Load():
            return load(e)
        case loops.Select(condition, then, otherwise):
            test, yes, no = (expr(x, load, name_of) for x in (condition, then, otherwise))
            return f"({test} ? {yes} : {no})"
        case loops.Cast(value, dtype):
            inner = expr(value, load, name_of)
            return inner if value.dtype is dtype else f"lp_cast<{c_type(dtype)}>({inner})"
        case loops.Apply(op, args, dtype):
            return apply(op, [expr(a, load, name_of) for a in args], [a.dtype for a in args], dtype)
    raise TypeError(e)


INDEX = {"add": "+", "sub": "-", "mul": "*"}  # on i64 sizes and indices, which never overflow


def apply(op: str, args: list[str], dtypes: list[DType], dtype: DType) -> str:
    """One operation on register values."""
    how, _, name = op.partition("_")
    if how == "bitcast":
        return f"lp_bitcast<{c_type(dtype)}>({args[0]})"
    if how in ("round", "loose") and name in _BY_NAME:
        return _rounded(args[0], _BY_NAME[name], how == "round")
    if how == "bits" and name in _BY_NAME:
        return to_memory(args[0], _BY_NAME[name])
    if how == "value" and name in _BY_NAME:
        return from_memory(args[0], _BY_NAME[name])
    if op in INDEX and dtypes[0].is_float:
        return f"({args[0]} {INDEX[op]} {args[1]})"
    function = {"fmod": "fmod_", "udiv": "floordiv", "urem": "floormod", "exp_negative": "exp"}.get(op, op)
    kind = "" if op.startswith("logical") else f"<{c_type(dtypes[0])}>" if function not in _OVERLOADED else ""
    return f"lp_{function}{kind}({', '.join(args)})"


_BY_NAME = {d.value: d for d in (DType.F16, DType.BF16, *NARROW)}
_OVERLOADED = frozenset({  # plain functions for float and double, not templates
    "sqrt", "exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "asinh", "acosh", "atanh", "odd_f32", "flush_bf16"})


def _rounded(value: str, dtype: DType, saturate: bool) -> str:
    if dtype in (DType.F16, DType.BF16):
        return f"lp_round_{dtype.value}({value})"
    if dtype in INTEGERS:
        return _wrapped(value, dtype)
    return f"{small(dtype)}::decode({small(dtype)}::encode({value}, {'true' if saturate else 'false'}))"
