"""Elementwise ops, casts and levels."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton.frontends.onnx.export.writer import CODES, EMITTERS, Emit, Writer, emits
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.op import Op
from lepton.ir.types import DType

# Ops whose operands are ONNX's and that have no attributes.
_SAME: dict[Op, str] = {
    ops.abs_: "Abs", ops.acos: "Acos", ops.acosh: "Acosh", ops.asin: "Asin", ops.asinh: "Asinh", ops.atan: "Atan",
    ops.atanh: "Atanh", ops.bit_not: "BitwiseNot", ops.ceil: "Ceil", ops.cos: "Cos", ops.cosh: "Cosh", ops.erf: "Erf",
    ops.exp: "Exp", ops.floor: "Floor", ops.hard_swish: "HardSwish", ops.is_nan: "IsNaN", ops.log: "Log",
    ops.mish: "Mish", ops.neg: "Neg", ops.logical_not: "Not", ops.reciprocal: "Reciprocal", ops.relu: "Relu",
    ops.round_: "Round", ops.sigmoid: "Sigmoid", ops.sign: "Sign", ops.sin: "Sin", ops.sinh: "Sinh",
    ops.softplus: "Softplus", ops.softsign: "Softsign", ops.sqrt: "Sqrt", ops.tan: "Tan", ops.tanh: "Tanh",
    ops.add: "Add", ops.sub: "Sub", ops.mul: "Mul", ops.div: "Div", ops.logical_and: "And", ops.logical_or: "Or",
    ops.logical_xor: "Xor", ops.equal: "Equal", ops.less: "Less", ops.less_equal: "LessOrEqual",
    ops.greater: "Greater", ops.greater_equal: "GreaterOrEqual", ops.bit_and: "BitwiseAnd", ops.bit_or: "BitwiseOr",
    ops.bit_xor: "BitwiseXor", ops.pow_: "Pow", ops.minimum: "Min", ops.maximum: "Max", ops.prelu: "PRelu",
    ops.where: "Where", ops.clip: "Clip", ops.matmul: "MatMul", ops.matmul_integer: "MatMulInteger", ops.det: "Det",
}
# Ops with float attributes, called the same.
_WITH_FLOATS: dict[Op, str] = {
    ops.leaky_relu: "LeakyRelu", ops.elu: "Elu", ops.celu: "Celu", ops.selu: "Selu", ops.hard_sigmoid: "HardSigmoid",
    ops.thresholded_relu: "ThresholdedRelu", ops.shrink: "Shrink",
}


def _same(kind: str) -> Emit:
    return lambda w, n: str(w.op(kind, *n.inputs))


def _with_floats(kind: str) -> Emit:
    def emit(w: Writer, n: Node) -> str:
        attrs: dict[str, Any] = {k: float(v) for k, v in n.attrs.items()}
        return str(w.op(kind, *n.inputs, **attrs))

    return emit


EMITTERS.update({op: _same(kind) for op, kind in _SAME.items()})
EMITTERS.update({op: _with_floats(kind) for op, kind in _WITH_FLOATS.items()})


def _like(w: Writer, n: Node, number: float) -> str:
    assert n.inputs[0] is not None
    return w.constant(np.float64(number), n.inputs[0].tensor.dtype)


@emits(ops.rsqrt)
def rsqrt(w: Writer, n: Node) -> str:
    return str(w.op("Reciprocal", w.op("Sqrt", *n.inputs)))


@emits(ops.gelu)
def gelu(w: Writer, n: Node) -> str:
    return str(w.op("Gelu", *n.inputs, approximate=n.attrs["approximate"]))


@emits(ops.swish)
def swish(w: Writer, n: Node) -> str:
    """x * sigmoid(alpha * x): Swish itself is of opset 24."""
    alpha = n.attrs["alpha"]
    inner = n.inputs[0] if alpha == 1 else w.op("Mul", n.inputs[0], _like(w, n, alpha))
    return str(w.op("Mul", n.inputs[0], w.op("Sigmoid", inner)))


@emits(ops.mod)
def mod(w: Writer, n: Node) -> str:
    return str(w.op("Mod", *n.inputs, fmod=int(n.attrs["fmod"])))


@emits(ops.is_inf)
def is_inf(w: Writer, n: Node) -> str:
    return str(w.op("IsInf", *n.inputs, detect_positive=int(n.attrs["positive"]),
                    detect_negative=int(n.attrs["negative"])))


@emits(ops.shift_left, ops.shift_right)
def shift(w: Writer, n: Node) -> str:
    return str(w.op("BitShift", *n.inputs, direction="LEFT" if n.op is ops.shift_left else "RIGHT"))


@emits(ops.cast)
def cast(w: Writer, n: Node) -> str:
    return str(w.op("Cast", *n.inputs, to=CODES[n.attrs["to"]], saturate=None if n.attrs["saturate"] else 0))


@emits(ops.quantize)
def quantize(w: Writer, n: Node) -> str:
    """QuantizeLinear; the zero point says the type of the levels."""
    x, scale, zero = (*n.inputs, None)[:3]
    return str(w.op("QuantizeLinear", x, scale, zero, axis=n.attrs["axis"], block_size=n.attrs["block"] or None,
                    output_dtype=CODES[n.attrs["to"]] if zero is None else None))


@emits(ops.dequantize)
def dequantize(w: Writer, n: Node) -> str:
    return str(w.op("DequantizeLinear", *n.inputs, axis=n.attrs["axis"], block_size=n.attrs["block"] or None))


@emits(ops.dynamic_quantize)
def dynamic_quantize(w: Writer, n: Node) -> list[str]:
    found: list[str] = w.op("DynamicQuantizeLinear", *n.inputs, outputs=3)
    return found


@emits(ops.log1p, ops.expm1)
def near_zero(w: Writer, n: Node) -> str:
    one = _like(w, n, 1.0)
    if n.op is ops.log1p:
        return str(w.op("Log", w.op("Add", n.inputs[0], one)))
    return str(w.op("Sub", w.op("Exp", n.inputs[0]), one))


@emits(ops.shape_values)
def shape_values(w: Writer, n: Node) -> str:
    sizes = n.attrs["dims"]
    name = w.vector(sizes) if sizes else w.constant(np.zeros(0, np.int64))
    name = w.op("Reshape", name, w.constant(np.zeros(0, np.int64))) if n.attrs["scalar"] else name
    wanted = n.result.tensor.dtype
    return str(name) if wanted is DType.I64 else w.cast(name, wanted)


@emits(ops.iota)
def iota(w: Writer, n: Node) -> str:
    scalar = w.constant(np.zeros(0, np.int64))
    limit = w.op("Reshape", w.size(n.attrs["size"]), scalar)
    found = str(w.op("Range", w.constant(0), limit, w.constant(1)))
    wanted = n.result.tensor.dtype
    return found if wanted is DType.I64 else w.cast(found, wanted)
