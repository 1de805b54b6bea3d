"""Products of levels: what dequantized operands multiply to, by integers.

Levels of 8 bits are multiplied as they are, summed in i32. A level of 16 bits is two digits, 256 * high + low, and so
its products are two: each sum of unsigned bytes times weights is exact in i32 (`_by_digits` sees to that), where 16-bit
levels times bytes would leave it after some 500 products."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.ops.quant import spread
from lepton.ir.rewrite import opt, pat, rule, var
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.common import array_of, constant, elements, node_of

x, w = var("x w")
BYTES = (DType.U8, DType.I8)
WIDE = (DType.U16, DType.I16)
SAME_SCALE = 1e-5        # relative: exporters compute a bias' scale from those of its factors in any order
FEWEST = 64              # factors of a sum: below, taking 16-bit levels apart costs more than it saves


@dataclass(frozen=True)
class Levels:
    """What a dequantize reads, where its scales are known and it has no blocks."""

    value: Value
    scale: Array
    zero: Value | None
    axis: int

    @classmethod
    def of(cls, value: Value | None) -> Levels | None:
        node = None if value is None else value.producer
        if node is None or node.op is not ops.dequantize or node.attrs["block"]:
            return None
        level, scale, zero = (*node.inputs, None)[:3]
        known = array_of(scale)
        if level is None or known is None or known.dtype != np.float32 or not np.isfinite(known).all():
            return None
        return cls(level, known, zero, node.attrs["axis"])

    @property
    def dtype(self) -> DType:
        return self.value.tensor.dtype

    @property
    def offset(self) -> Value | None:
        """The zero point, unless it is known to be 0."""
        known = array_of(self.zero)
        return None if known is not None and not known.any() else self.zero

    def levels(self, axis: int) -> Array:
        """Constant levels less their zero points, which lie along `axis`: i64."""
        known, zero = elements(self.value).astype(np.int64), array_of(self.zero)
        return known if zero is None else known - spread(zero.astype(np.int64), known.shape, axis, 0)


@rule(pat(ops.conv)(pat(ops.dequantize)(x, ...).named("a"), pat(ops.dequantize)(w, ...).named("f"),
                    opt("b")).named("r"), accuracy="reassociating")
def conv_of_levels(x: Value, w: Value, a: Value, f: Value, b: Value | None, r: Value) -> Value | None:
    """conv(dequantize(x), dequantize(w), b)  ->  cast(conv_integer(x, w) + b / scale) * scale"""
    image, filters, attrs = Levels.of(a), Levels.of(f), node_of(r).attrs
    if image is None or filters is None or filters.dtype not in BYTES or image.scale.ndim:
        return None
    if array_of(w) is None or (filters.scale.ndim and filters.axis != 0):
        return None
    if filters.zero is not None and array_of(filters.zero) is None:
        return None
    view = (-1, *[1] * (r.tensor.rank - 2)) if attrs["layout"] == "nchw" else (-1,)
    if image.dtype in BYTES:
        total: Value | None = ops.conv_integer(x, w, image.offset, filters.offset, **attrs)
    else:
        padded = any((*attrs["pads_begin"], *attrs["pads_end"]))

        def product(digit: Value, zero: int, sums: Array) -> Value:
            if padded:
                return ops.conv_integer(digit, w, constant(np.uint8(zero)), filters.offset, **attrs)
            return _less(ops.conv_integer(digit, w, None, filters.offset, **attrs), zero * sums.reshape(view))

        levels = filters.levels(0)
        total = _by_digits(image, levels.reshape(len(levels), math.prod(levels.shape[1:])).T, product)
    return None if total is None else _scaled(total, image.scale * filters.scale, b, view)


def _scaled(total: Value, scale: Array, bias: Value | None, view: tuple[int, ...]) -> Value:
    """total * scale + bias as f32; a bias with levels of just that scale is added to integers."""
    scale = scale.astype(np.float32).reshape(view) if scale.ndim else scale.astype(np.float32)
    levels = Levels.of(bias)
    known = array_of(levels.value) if levels is not None and total.tensor.dtype is DType.I32 else None
    if levels is not None and known is not None and levels.offset is None and levels.dtype is DType.I32:
        if np.allclose(levels.scale.reshape(-1), scale.reshape(-1), rtol=SAME_SCALE, atol=0):
            total, bias = ops.add(total, constant(known.reshape(view))), None
    result = ops.mul(_float(total), constant(scale))
    if bias is None:
        return result
    return ops.add(result, ops.reshape(bias, shape=(bias.tensor.shape[0], *view[1:])))


@rule(pat(ops.matmul)(pat(ops.dequantize)(x, ...).named("a"), pat(ops.dequantize)(w, ...).named("f")).named("r"),
      accuracy="reassociating")
def matmul_of_levels(x: Value, w: Value, a: Value, f: Value, r: Value) -> Value | None:
    """matmul(dequantize(x), dequantize(w))  ->  cast(matmul_integer(x, w)) * scale"""
    left, right = Levels.of(a), Levels.of(f)
    if left is None or right is None or right.dtype not in BYTES or left.scale.ndim:
        return None
    rank = w.tensor.rank
    if x.tensor.rank < 2 or rank < 2 or (right.scale.ndim and (right.axis != rank - 1 or rank != 2)):
        return None
    zero = array_of(right.zero)
    if right.zero is not None and zero is None:
        return None
    if left.dtype in WIDE:
        total = _of_wide(left, right)
    elif left.dtype not in BYTES:
        return None
    elif array_of(w) is not None:
        total = ops.matmul_integer(x, w, left.offset, right.offset)
    elif right.scale.ndim == 0:
        total = _of_values(left, right, 0 if zero is None else int(zero))
    else:
        return None
    return None if total is None else _scaled(total, left.scale * right.scale, None, (-1,))


def _of_wide(left: Levels, right: Levels) -> Value | None:
    """The sums of 16-bit levels times constant weights [K,N], as f32."""
    if array_of(right.value) is None or right.value.tensor.rank != 2:
        return None

    def product(digit: Value, zero: int, sums: Array) -> Value:
        return _less(ops.matmul_integer(digit, right.value, None, right.offset), zero * sums)

    return _by_digits(left, right.levels(1), product)


def _by_digits(left: Levels, weights: Array, product: Callable[[Value, int, Array], Value]) -> Value | None:
    """Σ (x - z) w  =  256 * Σ (high - high z) w + Σ (low - low z) w  in f32, for weights [K,N] less their zero points.

    `product` gives such a sum in i32 of a digit, its zero point and Σ w. None where a sum might leave i32, and where
    so few products are added up that floats are faster. Both sums are exact, 256 * high is too: what is rounded are
    the sums as they become f32, and their sum, each at most by 2**-24 of its size."""
    zero, sums = array_of(left.zero), weights.sum(0)
    known = left.zero is None or (zero is not None and zero.size == 1)
    if left.dtype not in WIDE or not known or len(weights) < FEWEST or 255 * np.abs(weights).sum(0).max() >= 2**31:
        return None
    number, level = 0 if zero is None else int(zero.reshape(())), left.value
    if left.dtype is DType.I16:
        level, number = ops.bit_xor(ops.cast(level, to=DType.U16), constant(np.uint16(1 << 15))), number + (1 << 15)
    digits = ops.shift_right(level, constant(np.uint16(8))), level
    high, low = (_float(product(ops.cast(digit, to=DType.U8), n, sums))
                 for digit, n in zip(digits, divmod(number, 256), strict=True))
    return ops.add(ops.mul(high, constant(np.float32(256))), low)


def _less(total: Value, number: Array) -> Value:
    return ops.sub(total, constant(number.astype(np.int32))) if number.any() else total


def _float(value: Value) -> Value:
    return value if value.tensor.dtype is DType.F32 else ops.cast(value, to=DType.F32)


def _of_values(left: Levels, right: Levels, zero: int) -> Value:
    """Σ (a - za)(w - zw) with w taken as signed bytes: the rest of zw meets the sums of a's rows."""
    middle = 0 if right.dtype.is_signed else 128
    given = None if right.dtype.is_signed else constant(np.array(middle, np.uint8))
    total = ops.matmul_integer(left.value, right.value, left.offset, given)
    if zero == middle:
        return total
    level = ops.cast(left.value, to=DType.I32)
    if left.offset is not None:
        level = ops.sub(level, ops.cast(left.offset, to=DType.I32))
    row = ops.reduce_sum(level, axes=(left.value.tensor.rank - 1,), keepdims=True)
    return ops.add(total, ops.mul(row, constant(np.array(middle - zero, np.int32))))
