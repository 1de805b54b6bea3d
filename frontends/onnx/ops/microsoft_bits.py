"""ONNX Runtime's operators on weights of a few bits, packed into bytes and scaled block by block.

What a weight stands for is computed by ops of the graph: of constants, when compiling."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.matmul import swapped
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType

_MS = "com.microsoft"


@imports("MatMulNBits", domain=_MS)
def matmul_n_bits(c: Call) -> Value:
    """A [..., K] @ B^T with B [N, blocks, bytes] packed, low bits first; one scale and zero point per block. Where
    `g_idx` [K] is given, it names the block of each column."""
    k, n, size = c.positive("K", REQUIRED), c.positive("N", REQUIRED), c.positive("block_size", REQUIRED)
    bits = c.i("bits", 4)
    c.ignore("accuracy_level")
    if bits not in (2, 4, 8) or c.i("weight_prepacked", 0):
        c.fail(f"{bits} bits, or weights packed for a device")
    dtype = c.x().tensor.dtype
    form = Bits(n, k, size, bits)
    if c.opt(4) is not None:
        rows = unpacked(c, c.reshape(c.x(1), (n, form.blocks, size * bits // 8)), bits, dtype)
        scales = c.cast(c.reshape(c.x(2), (n, form.blocks, 1)), dtype)
        zero = _zero_points(c, c.opt(3), form, dtype)
        values = _regrouped(c, c.reshape(rows, (n, form.blocks * size)), zero, scales, k)
    else:
        values = matrix(c, form, c.x(1), c.x(2), c.opt(3), dtype)
    result = c(ops.matmul, c.x(), swapped(c, values))
    return result if c.opt(5) is None else c(ops.add, result, c.x(5))


@dataclass(frozen=True)
class Bits:
    """How a matrix [n,k] is packed: blocks of `size` columns, each with a scale, of numbers of so many bits."""

    n: int
    k: int
    size: int
    bits: int

    @property
    def blocks(self) -> int:
        return -(-self.k // self.size)


def matrix(c: Call, form: Bits, packed: Value, scales: Value, zero: Value | None, dtype: DType) -> Value:
    """What packed weights stand for: (levels - zero) * scales, [n,k]. A scale, and a zero point, for each block."""
    n, blocks, size = form.n, form.blocks, form.size
    rows = unpacked(c, c.reshape(packed, (n, blocks, size * form.bits // 8)), form.bits, dtype)
    levels = c(ops.sub, rows, _zero_points(c, zero, form, dtype))
    values = c(ops.mul, levels, c.cast(c.reshape(scales, (n, blocks, 1)), dtype))
    return _columns(c, c.reshape(values, (n, blocks * size)), form.k)


def _columns(c: Call, x: Value, count: int) -> Value:
    """The first columns of a matrix."""
    rows, width = x.tensor.shape
    return x if width == count else c(ops.slice_, x, starts=(0, 0), sizes=(rows, count), steps=(1, 1))


def _regrouped(c: Call, rows: Value, zero: Value, scales: Value, k: int) -> Value:
    """Levels [N,K…] with the scale and zero point of the block that g_idx names for each column."""
    groups = c.reshape(c.x(4), (c.x(4).tensor.size,))
    groups = groups if groups.tensor.shape == (k,) else c(ops.slice_, groups, starts=(0,), sizes=(k,), steps=(1,))
    scale, offset = (c.reshape(v, v.tensor.shape[:2]) if v.tensor.rank == 3 else v for v in (scales, zero))
    scale = c(ops.gather, scale, groups, axis=1)
    offset = c(ops.gather, offset, groups, axis=1) if offset.tensor.rank == 2 else offset
    return c(ops.mul, c(ops.sub, _columns(c, rows, k), offset), scale)


def unpacked(c: Call, packed: Value, bits: int, dtype: DType) -> Value:
    """u8 […, bytes] -> […, bytes * 8/bits] as numbers."""
    if bits == 8:
        return c.cast(packed, dtype)
    shape = packed.tensor.shape
    shifts = c.const(range(0, 8, bits), DType.U8)
    apart = c(ops.shift_right, c.reshape(packed, (*shape, 1)), shifts)
    low = c(ops.bit_and, apart, c.const(2**bits - 1, DType.U8))
    return c.reshape(c.cast(low, dtype), (*shape[:-1], dims.product([shape[-1], 8 // bits])))


def _zero_points(c: Call, given: Value | None, form: Bits, dtype: DType) -> Value:
    """[n, blocks, 1], or half the range where there are none."""
    n, blocks, bits = form.n, form.blocks, form.bits
    if given is None:
        return c.const(2 ** (bits - 1), dtype)
    if given.tensor.dtype is not DType.U8:
        return c.cast(c.reshape(given, (n, blocks, 1)), dtype)
    count = -(-blocks * bits // 8)
    rows = c.reshape(unpacked(c, c.reshape(given, (n, 1, count)), bits, dtype), (n, count * 8 // bits))
    return c.reshape(_columns(c, rows, blocks), (n, blocks, 1))


@imports("GatherBlockQuantized", domain=_MS)
def gather_block_quantized(c: Call) -> Value:
    """Slices of a quantised table, gathered as integers, then scaled. An index outside gives zeros."""
    data, ids = c.x(0), c.x(1)
    rank, packed = data.tensor.rank, data.tensor.dtype is DType.U8
    bits = c.i("bits", 4) if packed else 0
    axis = c.axes_of((c.i("gather_axis", 0),), rank)[0]
    blocked = c.axes_of((c.i("quantize_axis", 1),), rank)[0]
    size = c.i("block_size", 128)
    if axis == blocked or size < 1 or (packed and (axis or bits not in (2, 4, 8))):
        c.fail(f"gather_axis {axis}, quantize_axis {blocked}, block_size {size}, {bits} bits on {data.tensor}")
    count = data.tensor.shape[axis]
    ids = c.cast(ids, DType.I64)
    inside = c(ops.logical_and, c(ops.less, ids, c.size(count)), c(ops.greater_equal, ids, c.size(0 - count)))
    at = c(ops.where, inside, ids, c.const(0, DType.I64))
    levels = c(ops.gather, data, at, axis=axis)
    scales = c(ops.gather, c.x(2), at, axis=axis)
    place = blocked + (ids.tensor.rank - 1 if blocked > axis else 0)
    zero = None if c.opt(3) is None else c(ops.gather, c.x(3), at, axis=axis)
    if packed:
        half = c.const(2 ** (bits - 1), DType.U8)
        levels = unpacked(c, levels, bits, DType.U8)
        width = scales.tensor.shape[-1]
        zero = half if zero is None else _last(c, unpacked(c, zero, bits, DType.U8), width)
        zero = c(ops.broadcast_to, zero, shape=scales.tensor.shape)
    found = c(ops.dequantize, levels, scales, zero, axis=place, block=size)
    lead = (1,) * axis + ids.tensor.shape + (1,) * (rank - axis - 1)
    return c(ops.where, c.reshape(inside, lead), found, c.like(0.0, found))


def _last(c: Call, x: Value, count: dims.Dim) -> Value:
    """The first `count` elements along the last axis."""
    shape = (*x.tensor.shape[:-1], count)
    if x.tensor.shape == shape:
        return x
    return c(ops.slice_, x, starts=(0,) * len(shape), sizes=shape, steps=(1,) * len(shape))


# What the 16 codes of bitsandbytes stand for: its FP4, and NF4, the quantiles of a normal distribution.
_CODES = {
    0: (0, 0.005208333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25,
        -0.0, -0.005208333, -0.66666667, -1, -0.33333333, -0.5, -0.16666667, -0.25),
    1: (-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1),
}


@imports("MatMulBnb4", domain=_MS)
def matmul_bnb4(c: Call) -> Value:
    """A @ B^T (or A @ B) with B [N,K] stored as codes of a table, high bits first, times the block's largest value."""
    k, n, size = c.positive("K", REQUIRED), c.positive("N", REQUIRED), c.positive("block_size", REQUIRED)
    kind = c.i("quant_type", REQUIRED)
    c.ignore("training_mode")
    if kind not in _CODES:
        raise LeptonError(f"quant_type {kind}", where=c.where)
    dtype = c.x().tensor.dtype
    packed = c.reshape(c.x(1), (-(-n * k // 2), 1))
    codes = c(ops.shift_right, packed, c.const([4, 0], DType.U8))
    codes = c.cast(c(ops.bit_and, codes, c.const(15, DType.U8)), DType.I64)
    values = c(ops.gather, c.const(np.array(_CODES[kind]), dtype), c.reshape(codes, (-(-n * k // 2) * 2,)), axis=0)
    values = c(ops.slice_, values, starts=(0,), sizes=(n * k,), steps=(1,)) if n * k % 2 else values
    blocks = c(ops.gather, c.x(2), c.const(np.arange(n * k) // size, DType.I64), axis=0)
    matrix = c.reshape(c(ops.mul, values, blocks), (n, k))
    return c(ops.matmul, c.x(), swapped(c, matrix) if c.flag("transB", True) else matrix)
