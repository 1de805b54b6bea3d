"""Between floats and small integers (or 8-bit floats).

`scale` and `zero` are scalars, or hold one entry for each place along `axis`, or, with `block` > 0, have x's shape but
one entry for each `block` elements along `axis`. An absent `zero` is 0."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir import dims
from lepton.ir.op import Trait, op
from lepton.ir.ops.elementwise import convert
from lepton.ir.ops.rules import check_axis, fail, floating, one_dtype, same_shape, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

SMALL_FLOATS = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1)
LEVELS = (DType.U8, DType.I8, DType.U16, DType.I16)


def quantized(dtype: DType) -> bool:
    """integers of at most 32 bits or 8-bit floats"""
    return (dtype.is_integer and dtype.bits <= 32) or dtype in SMALL_FLOATS


def _check_parameters(x: TensorType, scale: Type, zero: Type | None, axis: int, block: int) -> TensorType:
    s = tensor(scale, floating)
    if zero is not None:
        same_shape(s.shape, tensor(zero, quantized).shape, "shapes of scale and zero point", x, scale, zero)
    if s.rank == 0:
        return s
    check_axis(axis, x)
    if block:
        wanted = tuple(dims.ceildiv(d, block) if a == axis else d for a, d in enumerate(x.shape))
        same_shape(s.shape, wanted, "shapes of scale and blocks", x, scale)
    else:
        same_shape(s.shape, (x.shape[axis],), "sizes of scale and the axis", x, scale)
    return s


def spread(parameter: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """The parameter with a shape that broadcasts to `shape`."""
    if parameter.ndim == 0:
        return parameter
    if block:
        return np.repeat(parameter, block, axis=axis)[tuple(slice(0, n) for n in shape)]
    return parameter.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _quantize_type(x: Type, scale: Type, zero: Type | None = None, *, axis: int, to: DType, block: int) -> TensorType:
    t = tensor(x, floating)
    _check_parameters(t, scale, zero, axis, block)
    if not quantized(to):
        raise fail(f"cannot quantize to {to.value}", x)
    if zero is not None and tensor(zero).dtype is not to:
        raise fail(f"the zero point is not {to.value}", x, scale, zero)
    return t.with_dtype(to)


@op(_quantize_type)
def quantize(x: Array, scale: Array, zero: Array | None = None, *, axis: int, to: DType, block: int = 0) -> Array:
    """x / scale rounded (halves to even), plus zero, kept within the range of `to`; NaN gives the least value. To 8-bit
    floats: x / scale + zero converted with saturation, NaN stays. Computed in f32 (f64 operands: in f64)."""
    wide = np.float64 if np.float64 in (x.dtype, scale.dtype) else np.float32
    ratio = x.astype(wide) / spread(scale.astype(wide), x.shape, axis, block)
    offset = np.zeros((), wide) if zero is None else spread(zero.astype(wide), x.shape, axis, block)
    if not to.is_integer:
        return convert(np.asarray(ratio + offset), to)
    low, high = bounds(to)
    level = np.clip(np.rint(ratio) + offset, low, high)
    return np.where(np.isnan(level), low, level).astype(np.int64).astype(to.numpy)


def _to_level_type(x: Type, *, to: DType, zero: int) -> TensorType:
    t = tensor(x, lambda d: d is DType.F32)
    if to not in LEVELS or not bounds(to)[0] <= zero <= bounds(to)[1]:
        raise fail(f"levels of {to.value} with zero point {zero}", x)
    return t.with_dtype(to)


@op(_to_level_type, Trait.ELEMENTWISE)
def to_level(x: Array, *, to: DType, zero: int = 0) -> Array:
    """x rounded (halves to even) plus `zero`, kept within the range of `to`, an integer of 8 or 16 bits; NaN gives the
    least value. `quantize(x, scale, zero)` is to_level(x / scale) where all elements share a zero point."""
    low, high = bounds(to)
    level = np.clip(np.rint(x) + np.float32(zero), low, high)
    return np.where(np.isnan(level), low, level).astype(to.numpy)


def bounds(dtype: DType) -> tuple[int, int]:
    """Least and largest value of an integer type."""
    iinfo: Any = ml_dtypes.iinfo
    info = iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _dequantize_type(x: Type, scale: Type, zero: Type | None = None, *, axis: int, block: int) -> TensorType:
    t = tensor(x, quantized)
    s = _check_parameters(t, scale, zero, axis, block)
    if zero is not None:
        one_dtype(t, tensor(zero))
    return t.with_dtype(s.dtype)


@op(_dequantize_type)
def dequantize(x: Array, scale: Array, zero: Array | None = None, *, axis: int, block: int = 0) -> Array:
    """(x - zero) * scale with the element type of scale. The difference is exact, the product computed in f32 (f64) and
    rounded once."""
    wide = np.float64 if scale.dtype == np.float64 else np.float32
    level = x.astype(np.float64)
    if zero is not None:
        level = level - spread(zero.astype(np.float64), x.shape, axis, block)
    return np.asarray(level.astype(wide) * spread(scale.astype(wide), x.shape, axis, block)).astype(scale.dtype)


def _dynamic_type(x: Type) -> tuple[TensorType, TensorType, TensorType]:
    t = tensor(x, floating)
    return t.with_dtype(DType.U8), TensorType(t.dtype, ()), TensorType(DType.U8, ())


@op(_dynamic_type)
def dynamic_quantize(x: Array) -> tuple[Array, Array, Array]:
    """(y u8, scale, zero u8) with scale = (max - min) / 255 over x and 0, zero = -min / scale rounded (halves to even),
    y = x / scale rounded, plus zero, kept within 0 and 255. Where x is all 0 or empty, scale is 1; where min / scale is
    no number (scale vanishes, or both are infinite), zero is 255."""
    wide = x if x.dtype == np.float64 else x.astype(np.float32)
    low = np.minimum(wide.min(initial=0), 0)
    high = np.maximum(wide.max(initial=0), 0)
    scale = np.where(high == low, 1, (high - low) / wide.dtype.type(255)).astype(wide.dtype)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    zero = np.where(np.isnan(zero), zero.dtype.type(255), zero)
    level = np.clip(np.rint(wide / scale) + zero, 0, 255)
    y = np.where(np.isnan(level), 0, level).astype(np.uint8)
    return y, scale.astype(x.dtype), zero.astype(np.uint8)
