"""ONNX Runtime's operators on quantised tensors: real values in the middle, or integer products rescaled."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.conv import pool_attrs
from lepton.frontends.onnx.ops.matmul import swapped
from lepton.frontends.onnx.ops.microsoft_attention import heads, self_attention
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.ops.quant import dequantize_linear, quantize_linear, rescaled_conv, scalar_if_one
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType

_MS = "com.microsoft"

imports("QuantizeLinear", domain=_MS)(quantize_linear)
imports("DequantizeLinear", domain=_MS)(dequantize_linear)


def real(c: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    return c(ops.dequantize, x, scalar_if_one(c, scale), scalar_if_one(c, zero), axis=0)


def level(c: Call, x: Value, scale: Value, zero: Value | None, to: DType) -> Value:
    to = zero.tensor.dtype if zero is not None else to
    return c(ops.quantize, x, scalar_if_one(c, scale), scalar_if_one(c, zero), axis=0, to=to)


# --- through real values --------------------------------------------------------------------------


@imports("QLinearAdd", domain=_MS)
def qlinear_add(c: Call) -> Value:
    """A, its scale and zero point, B with its own, then the result's. As in ONNX Runtime, the zero point is added
    before rounding, which decides where halves go: A * a/c + (c_zero - a_zero * a/c - b_zero * b/c) + B * b/c."""
    scale, zero = _real_zero(c, 6)
    ratios = [c(ops.div, _real_zero(c, i)[0], scale) for i in (1, 4)]
    start = zero
    for ratio, index in zip(ratios, (1, 4), strict=True):
        start = c(ops.sub, start, c(ops.mul, ratio, _real_zero(c, index)[1]))
    a, b = (c(ops.mul, c.cast(c.x(i), DType.F32), ratio) for i, ratio in zip((0, 3), ratios, strict=True))
    return _rounded(c, c(ops.add, c(ops.add, a, start), b))


@imports("QLinearMul", domain=_MS)
def qlinear_mul(c: Call) -> Value:
    """(A - a_zero) * (B - b_zero) * (a * b / c) + c_zero, rounded."""
    scale, zero = _real_zero(c, 6)
    (a, a_zero), (b, b_zero) = _real_zero(c, 1), _real_zero(c, 4)
    factors = [c(ops.sub, c.cast(c.x(i), DType.F32), z) for i, z in ((0, a_zero), (3, b_zero))]
    ratio = c(ops.div, c(ops.mul, a, b), scale)
    return _rounded(c, c(ops.add, c(ops.mul, c(ops.mul, *factors), ratio), zero))


def _real_zero(c: Call, index: int) -> tuple[Value, Value]:
    """The scale that is operand `index`, and the zero point behind it (absent: 0), as real scalars."""
    zero = c.opt(index + 1)
    scalar = c.const(0.0, DType.F32) if zero is None else c.cast(c.reshape(zero, ()), DType.F32)
    return c.reshape(c.x(index), ()), scalar


def _rounded(c: Call, x: Value) -> Value:
    return c(ops.quantize, x, c.const(1.0, DType.F32), None, axis=0, to=c.x(0).tensor.dtype)


def _through(c: Call, result: Value) -> Value:
    """A result of X (operand 0), rounded to the scale and zero point that are operands 3 and 4."""
    return level(c, result, c.x(3), c.opt(4), c.x(0).tensor.dtype)


def _x(c: Call) -> Value:
    """Operand 0 with its scale and zero point."""
    return real(c, c.x(0), c.x(1), c.opt(2))


@imports("QLinearSigmoid", domain=_MS)
def qlinear_sigmoid(c: Call) -> Value:
    return _through(c, c(ops.sigmoid, _x(c)))


@imports("QLinearLeakyRelu", domain=_MS)
def qlinear_leaky_relu(c: Call) -> Value:
    return _through(c, c(ops.leaky_relu, _x(c), alpha=c.f("alpha", 0.01)))


@imports("QLinearSoftmax", domain=_MS)
def qlinear_softmax(c: Call) -> Value:
    """Over one axis, or (as until opset 12) over all from it on. ONNX Runtime counts with the whole part of 1/scale,
    which is 255 where the scale is a little more than 1/256, and rounds halves up; models were tuned with that."""
    x, rank = _x(c), c.x().tensor.rank
    axis = c.axis(-1)
    if c.i("opset", REQUIRED) >= 13 or axis == rank - 1:
        share = c(ops.softmax, x, axis=axis)
    else:
        shape = x.tensor.shape
        flat = c.reshape(x, (dims.product(shape[:axis]), dims.product(shape[axis:])))
        share = c.reshape(c(ops.softmax, flat, axis=1), shape)
    count = c(ops.floor, c(ops.reciprocal, c.reshape(c.x(3), ())))
    steps = c(ops.floor, c(ops.add, c(ops.mul, share, count), c.const(0.5, DType.F32)))
    return level(c, steps, c.const(1.0, DType.F32), c.opt(4), c.x(0).tensor.dtype)


@imports("QLinearGlobalAveragePool", domain=_MS)
def qlinear_global_average_pool(c: Call) -> Value:
    rank = c.x().tensor.rank
    axes = tuple(range(1, rank - 1)) if c.flag("channels_last") else tuple(range(2, rank))
    return _through(c, c(ops.reduce_mean, _x(c), axes=axes, keepdims=True))


@imports("QLinearReduceMean", domain=_MS)
def qlinear_reduce_mean(c: Call) -> Value:
    rank = c.x().tensor.rank
    axes = tuple(sorted(c.axes_of(c.ints("axes", tuple(range(rank))), rank)))
    return _through(c, c(ops.reduce_mean, _x(c), axes=axes, keepdims=c.flag("keepdims", True)))


@imports("QLinearAveragePool", domain=_MS)
def qlinear_average_pool(c: Call) -> Value:
    last = c.flag("channels_last")
    pooled = c(ops.avg_pool, _x(c), **pool_attrs(c, channels_last=last), layout="nhwc" if last else "nchw",
               count_include_pad=c.flag("count_include_pad"))
    return _through(c, pooled)


@imports("NhwcMaxPool", domain=_MS)
def nhwc_max_pool(c: Call) -> Value:
    return c(ops.max_pool, c.x(), **pool_attrs(c, channels_last=True), layout="nhwc")


@imports("QLinearConcat", domain=_MS)
def qlinear_concat(c: Call) -> Value:
    """The result's scale and zero point, then three operands for each part."""
    if len(c.inputs) < 5 or len(c.inputs) % 3 != 2:
        c.fail(f"{len(c.inputs)} inputs")
    values = [real(c, c.x(i), c.x(i + 1), c.opt(i + 2)) for i in range(2, len(c.inputs), 3)]
    joined = c(ops.concat, *values, axis=c.axis(rank=values[0].tensor.rank))
    return level(c, joined, c.x(0), c.opt(1), c.x(2).tensor.dtype)


@imports("QLinearWhere", domain=_MS)
def qlinear_where(c: Call) -> Value:
    chosen = c(ops.where, c.x(0), real(c, c.x(1), c.x(2), c.opt(3)), real(c, c.x(4), c.x(5), c.opt(6)))
    return level(c, chosen, c.x(7), c.opt(8), c.x(1).tensor.dtype)


@imports("QEmbedLayerNormalization", domain=_MS)
def qembed_layer_normalization(c: Call) -> list[Value | None]:
    """layer_norm(words[ids] + positions[0…S-1] + segments[ids]) of quantised tables; and the lengths of the masks."""
    ids = c.ranked(0, 2)
    batch, length = ids.tensor.shape

    def parameter(index: int, place: int, rows: Value | None = None) -> Value:
        table = c.x(index) if rows is None else c(ops.gather, c.ranked(index, 2), rows, axis=0)
        return real(c, table, c.x(8 + place), c.opt(13 + place))

    places = parts(c, c.ranked(3, 2), 0, [length])[0]
    total = c(ops.add, parameter(2, 0, ids), real(c, places, c.x(9), c.opt(14)))
    if c.opt(1) is not None:
        total = c(ops.add, total, parameter(4, 2, c.ranked(1, 2)))
    result = c(ops.layer_norm, total, parameter(5, 3), parameter(6, 4), axis=2, epsilon=c.f("epsilon", 1e-12))
    if c.opt(7) is None:
        return [result, c(ops.broadcast_to, c.const(0, DType.I32), shape=(batch,))]
    return [result, c(ops.reduce_sum, c.cast(c.ranked(7, 2), DType.I32), axes=(1,), keepdims=False)]


# --- integer products -----------------------------------------------------------------------------


@imports("QLinearConv", domain=_MS)
def qlinear_conv(c: Call) -> Value:
    return rescaled_conv(c, channels_last=c.flag("channels_last"))


@imports("MatMulInteger16", domain=_MS)
def matmul_integer_16(c: Call) -> Value:
    """16-bit integers, summed in i32, which wraps."""
    return c(ops.matmul, c.cast(c.x(0), DType.I32), c.cast(c.x(1), DType.I32))


@imports("MatMulIntegerToFloat", domain=_MS)
def matmul_integer_to_float(c: Call) -> Value:
    total = c(ops.matmul_integer, c.x(0), c.x(1), scalar_if_one(c, c.opt(4)), scalar_if_one(c, c.opt(5)))
    return _scaled(c, total, c.x(2), c.x(3), c.opt(6))


@imports("DynamicQuantizeMatMul", domain=_MS)
def dynamic_quantize_matmul(c: Call) -> Value:
    rows, scale, zero = c.multi(ops.dynamic_quantize, c.x(0))
    total = c(ops.matmul_integer, rows, c.x(1), zero, scalar_if_one(c, c.opt(3)))
    return _scaled(c, total, scale, c.x(2), c.opt(4))


def _scaled(c: Call, total: Value, left: Value, right: Value, bias: Value | None) -> Value:
    """left * right * total + bias: scales of the rows (or of all) and of the columns (or of all)."""
    left, right = (scalar_if_one(c, v) or v for v in (left, right))
    left = c.reshape(left, (*left.tensor.shape, 1)) if left.tensor.rank == 1 else left
    result = c(ops.mul, c.cast(total, left.tensor.dtype), c(ops.mul, left, right))
    return result if bias is None else c(ops.add, result, bias)


@imports("QGemm", domain=_MS)
def qgemm(c: Call) -> Value:
    """alpha * a_scale * b_scale * (A' @ B' + C), rounded where the result has a scale; C is i32."""
    a, b = c.ranked(0, 2), c.ranked(3, 2)
    a = swapped(c, a) if c.flag("transA") else a
    b = swapped(c, b) if c.flag("transB") else b
    total = c(ops.matmul_integer, a, b, scalar_if_one(c, c.opt(2)), scalar_if_one(c, c.opt(5)))
    total = total if c.opt(6) is None else c(ops.add, total, c.x(6))
    left, alpha = c.reshape(c.x(1), ()), c.f("alpha", 1.0)
    left = left if alpha == 1.0 else c(ops.mul, left, c.like(alpha, left))
    result = _scaled(c, total, left, c.x(4), None)
    if c.opt(7) is None:
        return result
    return level(c, result, c.x(7), c.opt(8), a.tensor.dtype)


@imports("QAttention", domain=_MS)
def qattention(c: Call) -> list[Value]:
    """Attention whose product for queries, keys and values is one of 8-bit integers; past and present are real."""
    count = c.positive("num_heads", REQUIRED)
    if c.flag("past_present_share_buffer") or c.flag("do_rotary"):
        c.fail("a cache of fixed size, or rotary positions")
    total = c(ops.matmul_integer, c.ranked(0, 3), c.ranked(1, 2), scalar_if_one(c, c.opt(6)),
              scalar_if_one(c, c.opt(7)))
    projected = _scaled(c, total, c.x(3), c.x(4), c.x(2))
    width = projected.tensor.shape[2]
    if not isinstance(width, int) or width % (3 * count):
        raise LeptonError(f"weights {c.x(1).tensor} for {count} heads", where=c.where)
    q, k, v = (heads(c, piece, count) for piece in parts(c, projected, 2, [width // 3] * 3))
    return self_attention(c, q, k, v, mask=5, past=8, added=9)
