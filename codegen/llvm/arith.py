"""The scalar ops of the loop IR (`loops.Apply`) as LLVM instructions, for any number of lanes.

Meanings are those of the ops of the same name in lepton.ir.ops; operands have one dtype. Beyond them: `floordiv` and
`floormod` by positive divisors (index arithmetic), `fmod` (mod with the sign of the dividend), `nearest_i32` (of an f32
in the range of i32), `exp_negative` (exp of what is at most 0), `round_f16` and the like (a register's value after a
cast to a narrower type; `loose_` instead of `round_`: without saturation), `larger` (the maximum of a number and what
may be NaN, which does not count: one instruction), `flush_bf16` (`round_bf16` with zeros for denormals).
"""
from __future__ import annotations

import re
from collections.abc import Callable

from lepton.codegen.llvm.builder import Function, Val, lanes_of, literal, vec
from lepton.codegen.llvm.convert import REGISTER, from_memory, to_memory, unsigned, widened
from lepton.codegen.llvm.math import LIBM, VECTOR, math_function
from lepton.codegen.llvm.narrow import NARROW, rounded
from lepton.codegen.target import Target
from lepton.ir.types import DType


class Arith:
    """Spells ops into one function for one target."""

    def __init__(self, f: Function, target: Target) -> None:
        self.f, self.target = f, target

    def apply(self, op: str, args: list[Val], dtype: DType) -> Val:
        """`dtype` is that of the operands. Raises KeyError for an op that does not exist."""
        if op in _COMPARE:
            return self._compare(op, args[0], args[1], dtype)
        if op in _BITS:
            return self.f.op(_BITS[op], args[0], args[1])
        if op in _METHODS:
            return _METHODS[op](self, args, dtype)
        if op in ROUNDINGS:
            return self.through_narrow(args[0], op)
        if op in CODES:
            how, _, name = op.partition("_")
            convert = to_memory if how == "bits" else from_memory
            return convert(self.f, self.target, args[0], DType(name))
        if op in VECTOR or op in LIBM:
            return math_function(self.f, op, args, self.target.fma)
        raise KeyError(op)

    def _c(self, like: Val, value: float | int) -> Val:
        return literal(like.type, value)

    def _compare(self, op: str, a: Val, b: Val, dtype: DType) -> Val:
        name = _COMPARE[op]
        if dtype.is_float:
            return self.f.compare(f"fcmp {'oeq' if name == 'eq' else 'o' + name}", a, b)
        if name != "eq":
            name = ("s" if dtype.is_signed else "u") + name
        return self.f.compare(f"icmp {name}", a, b)

    def plain(self, args: list[Val], dtype: DType, op: str) -> Val:
        return self.f.op(("f" if dtype.is_float else "") + op, args[0], args[1])

    def neg(self, args: list[Val], dtype: DType) -> Val:
        x = args[0]
        return self.f.value(x.type, f"fneg {x}") if dtype.is_float else self.f.op("sub", self._c(x, 0), x)

    def abs(self, args: list[Val], dtype: DType) -> Val:
        x = args[0]
        if dtype.is_float:
            return self.f.intrinsic("llvm.fabs", x)
        if not dtype.is_signed:
            return x
        return self.f.select(self.f.compare("icmp slt", x, self._c(x, 0)), self.neg(args, dtype), x)

    def sign(self, args: list[Val], dtype: DType) -> Val:
        x, f = args[0], self.f
        zero, one = self._c(x, 0), self._c(x, 1)
        if not dtype.is_float and not dtype.is_signed:
            return f.select(f.compare("icmp ne", x, zero), one, zero)
        kind = "fcmp o" if dtype.is_float else "icmp s"
        result = f.select(f.compare(f"{kind}gt", x, zero), one, zero)
        result = f.select(f.compare(f"{kind}lt", x, zero), self._c(x, -1), result)
        return f.select(f.compare("fcmp uno", x, x), x, result) if dtype.is_float else result

    def rounding(self, args: list[Val], dtype: DType, intrinsic: str) -> Val:
        return self.f.intrinsic(intrinsic, args[0]) if dtype.is_float else args[0]

    def sqrt(self, args: list[Val], _dtype: DType) -> Val:
        return self.f.intrinsic("llvm.sqrt", args[0])

    def reciprocal(self, args: list[Val], _dtype: DType) -> Val:
        return self.f.op("fdiv", self._c(args[0], 1.0), args[0])

    def rsqrt(self, args: list[Val], dtype: DType) -> Val:
        return self.reciprocal([self.sqrt(args, dtype)], dtype)

    def extreme(self, args: list[Val], dtype: DType, name: str) -> Val:
        """llvm.maximum keeps NaN; `nsz`: of 0.0 and -0.0 either will do."""
        a, b = args
        if dtype is DType.BOOL:
            return self.f.op("or" if name == "max" else "and", a, b)
        if not dtype.is_float:
            return self.f.intrinsic(f"llvm.{'s' if dtype.is_signed else 'u'}{name}", a, b)
        if not self.target.is_x86:
            return self.f.intrinsic(f"llvm.{name}imum", a, b)
        return self._x86_extreme(a, b, "ogt" if name == "max" else "olt")

    def _x86_extreme(self, a: Val, b: Val, kind: str) -> Val:
        """maxps gives its second operand if either is NaN; so a NaN in the first needs a look, unless that is known."""
        for x, y in ((a, b), (b, a)):
            if _is_number(x):  # maxps(number, y): NaN in y wins
                return self.f.select(self.f.compare(f"fcmp {kind}", x, y), x, y)
        result = self.f.select(self.f.compare(f"fcmp {kind}", a, b), a, b)
        return self.f.select(self.f.compare("fcmp uno", a, a), a, result)

    def larger(self, args: list[Val], _dtype: DType) -> Val:
        a, b = args
        if not self.target.is_x86:
            return self.f.intrinsic("llvm.maxnum", a, b)
        return self.f.select(self.f.compare("fcmp ogt", b, a), b, a)   # maxps(b, a): a if either is NaN

    # --- division ---

    def div(self, args: list[Val], dtype: DType) -> Val:
        a, b = args
        if dtype.is_float:
            return self.f.op("fdiv", a, b)
        zero, one = self._c(b, 0), self._c(b, 1)
        nothing = self.f.compare("icmp eq", b, zero)
        if not dtype.is_signed:
            quotient = self.f.op("udiv", a, self.f.select(nothing, one, b))
            return self.f.select(nothing, zero, quotient)
        minus = self.f.compare("icmp eq", b, self._c(b, -1))  # least / -1 would trap
        safe = self.f.select(self.f.op("or", nothing, minus), one, b)
        quotient = self.f.op("sdiv", a, safe)
        quotient = self.f.select(minus, self.f.op("sub", zero, a), quotient)
        return self.f.select(nothing, zero, quotient)

    def fmod(self, args: list[Val], dtype: DType) -> Val:
        a, b = args
        if dtype.is_float:
            return math_function(self.f, "fmod", args, self.target.fma)
        quotient = self.div(args, dtype)
        rest = self.f.op("sub", a, self.f.op("mul", quotient, b))
        return self.f.select(self.f.compare("icmp eq", b, self._c(b, 0)), self._c(b, 0), rest)

    def mod(self, args: list[Val], dtype: DType) -> Val:
        """The rest with the sign of the divisor."""
        f, (_, b) = self.f, args
        rest = self.fmod(args, dtype)
        if not dtype.is_float and not dtype.is_signed:
            return rest
        zero = self._c(b, 0)
        kind = "fcmp o" if dtype.is_float else "icmp s"
        differ = f.op("xor", f.compare(f"{kind}lt", rest, zero), f.compare(f"{kind}lt", b, zero))
        nonzero = f.compare("fcmp one" if dtype.is_float else "icmp ne", rest, zero)
        lifted = f.op("fadd" if dtype.is_float else "add", rest, b)
        result = f.select(f.op("and", differ, nonzero), lifted, rest)
        if dtype.is_float:  # a zero rest takes the divisor's sign
            zeros = f.compare("fcmp oeq", rest, zero)
            result = f.select(zeros, f.intrinsic("llvm.copysign", zero, b), result)
        return result

    def floordiv(self, args: list[Val], _dtype: DType) -> Val:
        a, b = args
        power = _power_of_two(b)
        if power is not None:
            return self.f.op("ashr", a, self._c(a, power)) if power else a
        quotient = self.f.op("sdiv", a, self._positive(b))
        rest = self.f.op("sub", a, self.f.op("mul", quotient, b))
        below = self.f.compare("icmp slt", rest, self._c(a, 0))
        return self.f.op("add", quotient, self.f.convert("sext", below, a.type))

    def floormod(self, args: list[Val], _dtype: DType) -> Val:
        a, b = args
        power = _power_of_two(b)
        if power is not None:
            return self.f.op("and", a, self._c(a, (1 << power) - 1))
        rest = self.f.op("srem", a, self._positive(b))
        below = self.f.compare("icmp slt", rest, self._c(a, 0))
        return self.f.select(below, self.f.op("add", rest, b), rest)

    def udiv(self, args: list[Val], dtype: DType, name: str) -> Val:
        """floordiv, floormod of what is known not to be negative."""
        if _power_of_two(args[1]) is not None:
            return self.floordiv(args, dtype) if name == "udiv" else self.floormod(args, dtype)
        return self.f.op(name, args[0], self._positive(args[1]))

    def _positive(self, b: Val) -> Val:
        """Sizes may be 0 where nothing is computed with the result; the division must not trap even then."""
        if b.text.isdigit() or b.text.startswith("splat"):
            return b
        return self.f.intrinsic("llvm.umax", b, self._c(b, 1))

    # --- bits and predicates ---

    def bit_not(self, args: list[Val], _dtype: DType) -> Val:
        return self.f.op("xor", args[0], self._c(args[0], -1))

    def logical_not(self, args: list[Val], _dtype: DType) -> Val:
        return self.f.op("xor", args[0], self._c(args[0], 1))

    def shift(self, args: list[Val], dtype: DType, left: bool) -> Val:
        a, b = args
        inside = self.f.compare("icmp ult", b, self._c(b, dtype.bits))
        count = self.f.select(inside, b, self._c(b, 0))
        if left or not dtype.is_signed:
            return self.f.select(inside, self.f.op("shl" if left else "lshr", a, count), self._c(a, 0))
        return self.f.op("ashr", a, self.f.select(inside, b, self._c(b, dtype.bits - 1)))

    def is_nan(self, args: list[Val], _dtype: DType) -> Val:
        return self.f.compare("fcmp uno", args[0], args[0])

    def pow(self, args: list[Val], dtype: DType) -> Val:
        if dtype.is_float:
            return math_function(self.f, "pow", args, self.target.fma)
        return self._integer_power(args[0], args[1], dtype)

    def _integer_power(self, a: Val, b: Val, dtype: DType) -> Val:
        """By squaring, over the bits of the exponent; exponents below 0 give what 1 / a**|b| truncates to."""
        f, one, zero = self.f, self._c(a, 1), self._c(a, 0)
        result, square = one, a
        for bit in range(dtype.bits - (1 if dtype.is_signed else 0)):
            taken = f.compare("icmp ne", f.op("and", b, self._c(b, 1 << bit)), zero)
            result = f.select(taken, f.op("mul", result, square), result)
            square = f.op("mul", square, square)
        if not dtype.is_signed:
            return result
        odd = f.compare("icmp ne", f.op("and", b, one), zero)
        unit = f.select(odd, a, f.op("mul", a, a))
        is_unit = f.op("or", f.compare("icmp eq", a, one), f.compare("icmp eq", a, self._c(a, -1)))
        return f.select(f.compare("icmp slt", b, zero), f.select(is_unit, unit, zero), result)

    def through_narrow(self, x: Val, op: str) -> Val:
        """round_<type> saturates, loose_<type> does not."""
        return rounded(self.f, x, DType(op.partition("_")[2]), op.startswith("round"))

    def odd_f32(self, args: list[Val], _dtype: DType) -> Val:
        """An f64 as an f32's value, cut off, the last bit set if anything is lost: rounding it again rounds once."""
        f, x = self.f, args[0]
        lanes = lanes_of(x.type)
        t = vec(lanes, "i32")
        near = f.convert("fptrunc", x, vec(lanes, "float"))
        back = f.convert("fpext", near, x.type)
        above = f.compare("fcmp ogt", f.intrinsic("llvm.fabs", back), f.intrinsic("llvm.fabs", x))
        bits = f.op("sub", f.convert("bitcast", near, t), f.convert("zext", above, t))
        bits = f.op("or", bits, f.convert("zext", f.compare("fcmp one", back, x), t))
        return f.convert("fpext", f.convert("bitcast", bits, near.type), x.type)

    def nearest(self, args: list[Val], _dtype: DType) -> Val:
        """An f32 in the range of i32 as the nearest i32, halves to even."""
        x = args[0]
        lanes = lanes_of(x.type)
        if lanes == 1 or not self.target.is_x86:
            return self.f.convert("fptosi", self.f.intrinsic("llvm.roundeven", x), vec(lanes, "i32"))
        return self.f.call(vec(lanes, "i32"), f"llvm.lrint.v{lanes}i32.v{lanes}f32", [x])

    def through_half(self, args: list[Val], dtype: DType) -> Val:
        raw = to_memory(self.f, self.target, args[0], dtype)
        value = from_memory(self.f, self.target, raw, dtype)
        self.f.halves[value.text] = dtype, raw    # so that storing it does not round again
        return value

    def flushed(self, args: list[Val], _dtype: DType) -> Val:
        """To bf16 as vcvtneps2bf16 does it, which takes denormals for zeros."""
        f, x = self.f, args[0]
        whole = self.target.lanes(DType.F32)
        if not self.target.bf16 or lanes_of(x.type) % whole:
            zero = f.intrinsic("llvm.copysign", self._c(x, 0.0), x)
            tiny = f.compare("fcmp olt", f.intrinsic("llvm.fabs", x), self._c(x, 2.0**-126))
            return self.through_half([f.select(tiny, zero, x)], DType.BF16)
        raw = _flushed_bfloat(f, x, whole)
        value = from_memory(f, self.target, raw, DType.BF16)
        f.halves[value.text] = DType.BF16, raw
        return value


def _is_number(x: Val) -> bool:
    """Whether x is a literal other than NaN."""
    nan = re.search(r"0x[7F]FF(?!0{13}\b)", x.text)  # of either sign; infinity has no bits behind
    return not x.text.startswith("%") and nan is None


def _power_of_two(x: Val) -> int | None:
    text = x.text.removeprefix("splat (i64 ").removesuffix(")")
    if not text.isdigit() or int(text) & (int(text) - 1) or int(text) == 0:
        return None
    return int(text).bit_length() - 1


_COMPARE = {"equal": "eq", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge"}
_BITS = {"bit_and": "and", "bit_or": "or", "bit_xor": "xor", "logical_and": "and", "logical_or": "or",
         "logical_xor": "xor"}
_METHODS: dict[str, Callable[[Arith, list[Val], DType], Val]] = {
    "add": lambda s, a, d: s.plain(a, d, "add"), "sub": lambda s, a, d: s.plain(a, d, "sub"),
    "mul": lambda s, a, d: s.plain(a, d, "mul"), "div": Arith.div, "mod": Arith.mod, "fmod": Arith.fmod,
    "neg": Arith.neg, "abs": Arith.abs, "sign": Arith.sign, "sqrt": Arith.sqrt, "rsqrt": Arith.rsqrt,
    "reciprocal": Arith.reciprocal,
    "floor": lambda s, a, d: s.rounding(a, d, "llvm.floor"), "ceil": lambda s, a, d: s.rounding(a, d, "llvm.ceil"),
    "round": lambda s, a, d: s.rounding(a, d, "llvm.roundeven"),
    "trunc": lambda s, a, d: s.rounding(a, d, "llvm.trunc"),
    "maximum": lambda s, a, d: s.extreme(a, d, "max"), "minimum": lambda s, a, d: s.extreme(a, d, "min"),
    "larger": Arith.larger, "floordiv": Arith.floordiv, "floormod": Arith.floormod,
    "udiv": lambda s, a, d: s.udiv(a, d, "udiv"), "urem": lambda s, a, d: s.udiv(a, d, "urem"),
    "bit_not": Arith.bit_not, "logical_not": Arith.logical_not, "pow": Arith.pow, "is_nan": Arith.is_nan,
    "shift_left": lambda s, a, d: s.shift(a, d, True), "shift_right": lambda s, a, d: s.shift(a, d, False),
    "odd_f32": Arith.odd_f32, "nearest_i32": Arith.nearest,
    "round_f16": lambda s, a, d: s.through_half(a, DType.F16),
    "round_bf16": lambda s, a, d: s.through_half(a, DType.BF16), "flush_bf16": Arith.flushed,
}
BITCASTS = frozenset(f"bitcast_{d.value}" for d in DType if d in REGISTER)
ROUNDINGS = frozenset(f"{how}_{d.value}" for d in NARROW for how in ("round", "loose"))
# bits_<type>: what a value is in memory, as an unsigned integer; value_<type>: the value of that.
CODES = frozenset(f"{how}_{d.value}" for d in REGISTER if d.is_float and widened(d) is not d
                  for how in ("bits", "value"))
OPS = frozenset({*CODES, *_COMPARE, *_BITS, *_METHODS, *VECTOR, *LIBM, *BITCASTS, *ROUNDINGS})


def reread_as(op: str) -> DType | None:
    """The type that an op of BITCASTS or CODES gives; None for any other op."""
    if op == "nearest_i32":
        return DType.I32
    if op in BITCASTS:
        return DType(op.removeprefix("bitcast_"))
    if op in CODES:
        how, _, name = op.partition("_")
        return (unsigned if how == "bits" else widened)(DType(name))
    return None


def reduce_lanes(arith: Arith, op: str, value: Val, dtype: DType) -> Val:
    """All lanes of a vector combined by an associative op, as a scalar: halves, then quarters …"""
    f, lanes = arith.f, lanes_of(value.type)
    element = value.type[1:-1].split(" x ")[1] if lanes > 1 else value.type
    while lanes > 1:
        lanes //= 2
        low, high = halves(f, value)
        value = arith.apply(op, [low, high], dtype)
    if value.type.startswith("<"):
        return f.value(element, f"extractelement {value}, i64 0")
    return value


def halves(f: Function, value: Val) -> tuple[Val, Val]:
    """The lower and the upper lanes of a vector (of one lane each where it has two: then scalars)."""
    lanes = lanes_of(value.type)
    element = value.type[1:-1].split(" x ")[1]
    if lanes == 2:
        return (f.value(element, f"extractelement {value}, i64 0"), f.value(element, f"extractelement {value}, i64 1"))
    half = lanes // 2
    parts = []
    for start in (0, half):
        mask = ", ".join(f"i32 {start + i}" for i in range(half))
        parts.append(f.value(vec(half, element),
                             f"shufflevector {value}, {value.type} poison, <{half} x i32> <{mask}>"))
    return parts[0], parts[1]


def _flushed_bfloat(f: Function, value: Val, whole: int) -> Val:
    """As bf16 in memory, `whole` lanes at a time by the instruction for it, which takes denormals for zeros."""
    lanes = lanes_of(value.type)
    if lanes == whole:
        made = f.call(vec(lanes, "bfloat"), f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}", [value])
        return f.convert("bitcast", made, vec(lanes, "i16"))
    low, high = (_flushed_bfloat(f, half, whole) for half in halves(f, value))
    order = ", ".join(f"i32 {i}" for i in range(lanes))
    return f.value(vec(lanes, "i16"), f"shufflevector {low}, {high}, <{lanes} x i32> <{order}>")
