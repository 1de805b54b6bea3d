"""Arithmetic, comparisons, activations, casts: operators that work element by element."""
from __future__ import annotations

from functools import reduce

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.strings import converted
from lepton.frontends.onnx.registry import Rule, imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType

_UNARY = {
    "Abs": ops.abs_, "Acos": ops.acos, "Acosh": ops.acosh, "Asin": ops.asin, "Asinh": ops.asinh, "Atan": ops.atan,
    "Atanh": ops.atanh, "BitwiseNot": ops.bit_not, "Ceil": ops.ceil, "Cos": ops.cos, "Cosh": ops.cosh, "Erf": ops.erf,
    "Exp": ops.exp, "Floor": ops.floor, "HardSwish": ops.hard_swish, "IsNaN": ops.is_nan, "Log": ops.log,
    "Mish": ops.mish, "Neg": ops.neg, "Not": ops.logical_not, "Reciprocal": ops.reciprocal, "Relu": ops.relu,
    "Round": ops.round_, "Sigmoid": ops.sigmoid, "Sign": ops.sign, "Sin": ops.sin, "Sinh": ops.sinh,
    "Softplus": ops.softplus, "Softsign": ops.softsign, "Sqrt": ops.sqrt, "Tan": ops.tan, "Tanh": ops.tanh,
}
_BINARY = {
    "Add": ops.add, "Sub": ops.sub, "Mul": ops.mul, "Div": ops.div, "And": ops.logical_and, "Or": ops.logical_or,
    "Xor": ops.logical_xor, "Equal": ops.equal, "Less": ops.less, "LessOrEqual": ops.less_equal,
    "Greater": ops.greater, "GreaterOrEqual": ops.greater_equal, "BitwiseAnd": ops.bit_and, "BitwiseOr": ops.bit_or,
    "BitwiseXor": ops.bit_xor, "Pow": ops.pow_,
}
# Operator -> op, and its float attributes: ONNX's name, ours, default.
_PARAMETERS: dict[str, tuple[Op, dict[str, tuple[str, float]]]] = {
    "LeakyRelu": (ops.leaky_relu, {"alpha": ("alpha", 0.01)}),
    "Elu": (ops.elu, {"alpha": ("alpha", 1.0)}),
    "Celu": (ops.celu, {"alpha": ("alpha", 1.0)}),
    "Selu": (ops.selu, {"alpha": ("alpha", 1.67326319217681884765625), "gamma": ("gamma", 1.05070102214813232421875)}),
    "HardSigmoid": (ops.hard_sigmoid, {"alpha": ("alpha", 0.2), "beta": ("beta", 0.5)}),
    "ThresholdedRelu": (ops.thresholded_relu, {"alpha": ("alpha", 1.0)}),
    "Shrink": (ops.shrink, {"lambd": ("lambd", 0.5), "bias": ("bias", 0.0)}),
    "Swish": (ops.swish, {"alpha": ("alpha", 1.0)}),
}


def _unary(op: Op) -> Rule:
    def rule(c: Call) -> Value:
        c.ignore("consumed_inputs")  # opset 1: a hint about memory
        return c(op, c.x())

    return rule


def _binary(op: Op) -> Rule:
    def rule(c: Call) -> Value:
        a, b = c.x(0), c.x(1)
        if c.opset < 7:
            b = aligned(c, a, b)
        return c(op, a, b)

    return rule


def aligned(c: Call, a: Value, b: Value) -> Value:
    """b as opset 1 to 6 broadcast it: its axes are those of a from `axis` on."""
    c.ignore("consumed_inputs", "broadcast")
    axis = c.i("axis", None)
    if axis is None or not b.tensor.shape:
        return b
    after = a.tensor.rank - c.axes_of((axis,), a.tensor.rank)[0] - b.tensor.rank
    return c.reshape(b, (*b.tensor.shape, *[1] * max(0, after)))


def _parameterised(op: Op, parameters: dict[str, tuple[str, float]]) -> Rule:
    def rule(c: Call) -> Value:
        c.ignore("consumed_inputs")
        return c(op, c.x(), **{ours: c.f(name, default) for name, (ours, default) in parameters.items()})

    return rule


for _name, _op in _UNARY.items():
    imports(_name)(_unary(_op))
for _name, _op in _BINARY.items():
    imports(_name)(_binary(_op))
for _name, (_op, _attributes) in _PARAMETERS.items():
    imports(_name)(_parameterised(_op, _attributes))


@imports("Gelu", since=20)
def gelu(c: Call) -> Value:
    return c(ops.gelu, c.x(), approximate=c.s("approximate", "none"))


@imports("Sum", "Max", "Min")
def folded(c: Call) -> Value:
    op = {"Sum": ops.add, "Max": ops.maximum, "Min": ops.minimum}[c.node.op_type]
    c.ignore("consumed_inputs")
    return reduce(lambda a, b: c(op, a, b), c.all())


@imports("Mean")
def mean(c: Call) -> Value:
    c.ignore("consumed_inputs")
    values = c.all()
    total = reduce(lambda a, b: c(ops.add, a, b), values)
    return c(ops.div, total, c.like(len(values), total)) if len(values) > 1 else total


@imports("Mod", since=10)
def mod(c: Call) -> Value:
    return c(ops.mod, c.x(0), c.x(1), fmod=c.flag("fmod"))


@imports("BitShift", since=11)
def bit_shift(c: Call) -> Value:
    direction = c.s("direction", REQUIRED)
    if direction not in ("LEFT", "RIGHT"):
        c.fail(f"direction {direction!r}")
    return c(ops.shift_left if direction == "LEFT" else ops.shift_right, c.x(0), c.x(1))


@imports("IsInf", since=10)
def is_inf(c: Call) -> Value:
    return c(ops.is_inf, c.x(), positive=c.flag("detect_positive", True), negative=c.flag("detect_negative", True))


@imports("PRelu")
def prelu_6(c: Call) -> Value:
    """Until opset 6 a slope of rank 1 holds one entry per channel."""
    c.ignore("consumed_inputs")
    x, slope = c.x(0), c.x(1)
    if slope.tensor.rank == 1 and slope.tensor.shape[0] != 1:
        slope = c.reshape(slope, (*slope.tensor.shape, *[1] * (x.tensor.rank - 2)))
    return c(ops.prelu, x, slope)


@imports("PRelu", since=7)
def prelu(c: Call) -> Value:
    return c(ops.prelu, c.x(0), c.x(1))


@imports("Clip")
def clip_6(c: Call) -> Value:
    c.ignore("consumed_inputs")
    x, lo, hi = c.x(), c.f("min", None), c.f("max", None)
    bounds = [None if v is None else c.like(v, x) for v in (lo, hi)]
    return c(ops.clip, x, *bounds)


@imports("Clip", since=11)
def clip(c: Call) -> Value:
    lo, hi = (None if v is None else c.reshape(v, ()) for v in (c.opt(1), c.opt(2)))
    return c.x() if lo is None and hi is None else c(ops.clip, c.x(), lo, hi)


@imports("Where", since=9)
def where(c: Call) -> Value:
    return c(ops.where, c.x(0), c.x(1), c.x(2))


@imports("Cast")
def cast_1(c: Call) -> Value:
    """Opset 1 to 5 spell the element type."""
    name = c.s("to", REQUIRED)
    by_name = {"FLOAT": DType.F32, "DOUBLE": DType.F64, "FLOAT16": DType.F16, "STRING": DType.STRING,
               **{f"INT{n}": DType(f"i{n}") for n in (8, 16, 32, 64)},
               **{f"UINT{n}": DType(f"u{n}") for n in (8, 16, 32, 64)}, "BOOL": DType.BOOL}
    if name not in by_name:
        c.fail(f"element type {name!r}")
    to = by_name[name]
    return converted(c, c.x(), to) if DType.STRING in (c.x().tensor.dtype, to) else c.cast(c.x(), to)


@imports("Cast", since=6)
def cast(c: Call) -> Value:
    return _convert(c, c.dtype("to", REQUIRED))


@imports("CastLike", since=15)
def cast_like(c: Call) -> Value:
    return _convert(c, c.x(1).tensor.dtype)


def _convert(c: Call, to: DType) -> Value:
    saturate, mode, x = c.flag("saturate", True), c.s("round_mode", "up"), c.x()
    if x.tensor.dtype is to:
        return x
    if DType.STRING in (x.tensor.dtype, to):
        return converted(c, x, to)
    if to is DType.F8E8M0 and mode != "up":
        x = _power_of_two(c, c.cast(x, DType.F32), mode, saturate)
    return c(ops.cast, x, to=to, saturate=saturate)


def _power_of_two(c: Call, x: Value, mode: str, saturate: bool) -> Value:
    """An f32 rounded "down" or to the "nearest" power of two, the sign dropped: what is left is exact for the cast."""
    def bits(value: int) -> Value:
        return c.const(value, DType.U32)

    if mode not in ("down", "nearest"):
        c.fail(f"round_mode {mode!r}")
    infinity = bits(0x7F800000)
    magnitude = c(ops.bit_and, c(ops.bitcast, x, to=DType.U32), bits(0x7FFFFFFF))
    if mode == "nearest":  # halves go up, but the least one, 2**-127, which f32 holds as half of its exponent 1
        denormal = c(ops.less, magnitude, bits(0x00800000))
        raised = c(ops.add, magnitude, c(ops.where, denormal, bits(0x003FFFFF), bits(0x00400000)))
        raised = c(ops.minimum, raised, bits(0x7F7FFFFF)) if saturate else raised
        magnitude = c(ops.where, c(ops.less, magnitude, infinity), raised, infinity)
    return c(ops.bitcast, c(ops.bit_and, magnitude, infinity), to=DType.F32)


@imports("BitCast", since=26)
def bit_cast(c: Call) -> Value:
    return c(ops.bitcast, c.x(), to=c.dtype("to", REQUIRED))
