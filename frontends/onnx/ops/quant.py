"""Quantised tensors and integer products."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.conv import checked_weight, kernel_of, window
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.types import DType


def scalar_if_one(c: Call, value: Value | None) -> Value | None:
    """A parameter of shape [1] as a scalar: exporters write both."""
    return None if value is None else c.reshape(value, ()) if value.tensor.shape == (1,) else value


def _axis(c: Call, scale: Value, rank: int) -> int:
    axis = c.i("axis", 1)
    return 0 if scale.tensor.rank == 0 else c.axes_of((axis,), rank)[0]


def _output_type(c: Call, otherwise: DType) -> DType:
    """The attribute output_dtype, in which 0 stands for none."""
    return c.dtype("output_dtype", REQUIRED) if c.i("output_dtype", 0) else otherwise


@imports("QuantizeLinear", since=10)
def quantize_linear(c: Call) -> Value:
    x, scale, zero = c.x(), scalar_if_one(c, c.x(1)), scalar_if_one(c, c.opt(2))
    assert scale is not None
    to = _output_type(c, DType.U8)
    to = zero.tensor.dtype if zero is not None else to
    c.ignore("precision")
    if not x.tensor.dtype.is_float:
        x = c.cast(x, DType.F32)
    if not c.flag("saturate", True) and not to.is_integer:
        return _unsaturated(c, x, scale, zero, to)
    return c(ops.quantize, x, scale, zero, axis=_axis(c, scale, x.tensor.rank), to=to, block=c.i("block_size", 0))


def _unsaturated(c: Call, x: Value, scale: Value, zero: Value | None, to: DType) -> Value:
    """x / scale + zero as an 8-bit float, what is too large as NaN or infinity."""
    if c.i("block_size", 0):
        c.fail("saturate=0 by blocks")
    axis = _axis(c, scale, x.tensor.rank)

    def spread(v: Value) -> Value:
        shape = [d if a == axis else 1 for a, d in enumerate(x.tensor.shape)] if v.tensor.rank else []
        return c.cast(c.reshape(v, shape), DType.F32)

    ratio = c(ops.div, c.cast(x, DType.F32), spread(scale))
    ratio = ratio if zero is None else c(ops.add, ratio, spread(zero))
    return c(ops.cast, ratio, to=to, saturate=False)


@imports("DequantizeLinear", since=10)
def dequantize_linear(c: Call) -> Value:
    x, scale, zero = c.x(), scalar_if_one(c, c.x(1)), scalar_if_one(c, c.opt(2))
    assert scale is not None
    result = c(ops.dequantize, x, scale, zero, axis=_axis(c, scale, x.tensor.rank), block=c.i("block_size", 0))
    return c.cast(result, _output_type(c, result.tensor.dtype))


@imports("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(c: Call) -> tuple[Value, ...]:
    return c.multi(ops.dynamic_quantize, c.x())


@imports("MatMulInteger", since=10)
def matmul_integer(c: Call) -> Value:
    return c(ops.matmul_integer, c.x(0), c.x(1), row_zero(c, c.opt(2)), scalar_if_one(c, c.opt(3)))


def row_zero(c: Call, zero: Value | None) -> Value | None:
    """A zero point of the left operand: one per row, if more than one."""
    return scalar_if_one(c, zero)


@imports("ConvInteger", since=10)
def conv_integer(c: Call) -> Value:
    w = checked_weight(c)
    return c(ops.conv_integer, c.x(), w, scalar_if_one(c, c.opt(2)), scalar_if_one(c, c.opt(3)),
             **window(c, kernel_of(c, w)).attrs, group=c.positive("group", 1))


@imports("QLinearMatMul", since=10)
def qlinear_matmul(c: Call) -> Value:
    """The integer product, rescaled: round(acc * a_scale * b_scale / y_scale) + y_zero."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (c.x(i) for i in range(8))
    total = c(ops.matmul_integer, a, b, scalar_if_one(c, a_zero), scalar_if_one(c, b_zero))
    dtype = a_scale.tensor.dtype
    left = _column(c, scalar_if_one(c, a_scale))
    scale = c(ops.mul, left, scalar_if_one(c, b_scale))
    return _requantized(c, total, scale, y_scale, y_zero, dtype)


def _column(c: Call, scale: Value | None) -> Value:
    assert scale is not None
    return c.reshape(scale, (*scale.tensor.shape, 1)) if scale.tensor.rank == 1 else scale


def _requantized(c: Call, total: Value, scale: Value, y_scale: Value, y_zero: Value, dtype: DType) -> Value:
    real = c(ops.mul, c.cast(total, dtype), scale)
    return c(ops.quantize, real, scalar_if_one(c, y_scale), scalar_if_one(c, y_zero), axis=0, to=y_zero.tensor.dtype)


@imports("QLinearConv", since=10)
def qlinear_conv(c: Call) -> Value:
    return rescaled_conv(c, channels_last=False)


def rescaled_conv(c: Call, *, channels_last: bool) -> Value:
    """The integer convolution, rescaled; the weights have their channels in front either way."""
    x, x_scale, x_zero, _, w_scale, w_zero, y_scale, y_zero = (c.x(i) for i in range(8))
    w = checked_weight(c, 3)
    total = c(ops.conv_integer, x, w, scalar_if_one(c, x_zero), scalar_if_one(c, w_zero),
              **window(c, kernel_of(c, w), channels_last=channels_last).attrs, group=c.positive("group", 1),
              layout="nhwc" if channels_last else "nchw")
    view = (w.tensor.shape[0], *[1] * (0 if channels_last else w.tensor.rank - 2))
    if (bias := c.opt(8)) is not None:
        total = c(ops.add, total, c.reshape(bias, view))
    per_filter = scalar_if_one(c, w_scale)
    assert per_filter is not None
    per_filter = c.reshape(per_filter, view) if per_filter.tensor.rank == 1 else per_filter
    scale = c(ops.mul, c.reshape(x_scale, ()), per_filter)
    return _requantized(c, total, scale, y_scale, y_zero, x_scale.tensor.dtype)
