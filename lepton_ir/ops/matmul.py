"""Matrix products."""
from __future__ import annotations

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.op import op
from lepton.ir.ops.rules import (
    broadcast_shapes,
    fail,
    fits_into,
    floating,
    number,
    one_dtype,
    same_dim,
    same_shape,
    tensor,
    wide_op,
)
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


def product_shape(a: TensorType, b: TensorType) -> tuple[Dim, ...]:
    """Shape of numpy's matmul; the inner sizes unify. Raises TypeRuleError."""
    if a.rank == 0 or b.rank == 0:
        raise fail("matmul needs rank 1 or more", a, b)
    inner = b.shape[-2] if b.rank > 1 else b.shape[0]
    same_dim(a.shape[-1], inner, "inner sizes", a, b)
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], operands=(a, b))
    return (*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ()))


def _matmul_type(a: Type, b: Type) -> TensorType:
    x, y = tensor(a, number), tensor(b, number)
    return TensorType(one_dtype(x, y), product_shape(x, y))


@wide_op(_matmul_type)
def matmul(a: Array, b: Array) -> Array:
    """a @ b over the last two axes, the others broadcast; a 1-D operand is a row (left) or a column (right) whose axis
    vanishes. Integers wrap. An empty inner axis gives zeros. The order of summation is not defined."""
    return np.asarray(np.matmul(a, b))


def _matmul_integer_type(a: Type, b: Type, za: Type | None = None, zb: Type | None = None) -> TensorType:
    x, y = tensor(a, eight_bits), tensor(b, eight_bits)
    for operand, zero, axis in ((x, za, -2), (y, zb, -1)):
        if zero is not None:
            z = tensor(zero, eight_bits)
            one_dtype(operand, z)
            if z.rank == 1 and operand.rank > 1:
                fits_into(z.shape, (operand.shape[axis],), "zero point", a, b, za, zb)
            elif z.rank:
                fits_into(z.shape, operand.shape, "zero point", a, b, za, zb)
    return TensorType(DType.I32, product_shape(x, y))


def eight_bits(dtype: DType) -> bool:
    """i8 or u8"""
    return dtype in (DType.I8, DType.U8)


@op(_matmul_integer_type)
def matmul_integer(a: Array, b: Array, za: Array | None = None, zb: Array | None = None) -> Array:
    """(a - za) @ (b - zb) of 8-bit integers, summed in i32. A zero point is a scalar, one per row of a or per column of
    b, or anything that broadcasts to its operand. Computed in f64, which is exact below 2**53; i32 wraps."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if za is not None:
        x = x - (za[:, None] if za.ndim == 1 and a.ndim > 1 else za)
    if zb is not None:
        y = y - zb
    return np.asarray(np.matmul(x, y).astype(np.int64).astype(np.int32))


def few_bits(dtype: DType) -> bool:
    """integers of at most 8 bits"""
    return dtype.is_integer and dtype.bits <= 8


def _single(dtype: DType) -> bool:
    """f32"""
    return dtype is DType.F32


def _matmul_coded_type(x: Type, codes: Type, scale: Type, zero: Type | None = None, table: Type | None = None, *,
                       block: int) -> TensorType:
    a, b, s = tensor(x, _single, least=1), tensor(codes, few_bits, rank=2), tensor(scale, _single, rank=2)
    if block < 1:
        raise fail(f"blocks of {block}", x, codes)
    same_dim(a.shape[-1], b.shape[0], "inner sizes", x, codes)
    blocks = (dims.ceildiv(b.shape[0], block), b.shape[1])
    for what, given in (("scales", s), ("zero points", None if zero is None else tensor(zero, _single))):
        if given is not None:
            same_shape(given.shape, blocks, f"shapes of {what} and blocks", x, codes, given)
    if table is not None:
        t = tensor(table, _single, rank=1)
        if b.dtype.is_signed or t.shape[0] != 1 << b.dtype.bits:
            raise fail(f"a table needs an entry for each of the codes, which count from 0; {b.dtype} has "
                       f"{1 << b.dtype.bits}", codes, table)
    return TensorType(DType.F32, (*a.shape[:-1], b.shape[1]))


@op(_matmul_coded_type)
def matmul_coded(x: Array, codes: Array, scale: Array, zero: Array | None = None, table: Array | None = None, *,
                 block: int) -> Array:
    """x [..., K] @ w, where w [K,N] is known by codes of few bits: (level - zero) * scale, a level being its code or
    the code's entry in `table`. `block` rows that follow each other share a row of `scale` and `zero`. Computed in
    f32; the order of summation is not defined, and scales may be applied to sums of products."""
    level = codes.astype(np.float32) if table is None else table[codes.astype(np.int64)]
    if zero is not None:
        level = level - np.repeat(zero, block, axis=0)[:len(codes)]
    return np.asarray(np.matmul(x, level * np.repeat(scale, block, axis=0)[:len(codes)]))


def _attention_type(q: Type, k: Type, v: Type, mask: Type | None = None, *, scale: float) -> TensorType:
    x, y, z = tensor(q, floating, rank=4), tensor(k, floating, rank=4), tensor(v, floating, rank=4)
    dtype = one_dtype(x, y, z)
    batch = same_dim(same_dim(x.shape[0], y.shape[0], "batches", q, k, v), z.shape[0], "batches", q, k, v)
    heads = same_dim(same_dim(x.shape[1], y.shape[1], "heads", q, k, v), z.shape[1], "heads", q, k, v)
    same_dim(x.shape[3], y.shape[3], "sizes of query and key", q, k, v)
    length = same_dim(y.shape[2], z.shape[2], "lengths of key and value", q, k, v)
    if mask is not None:
        one_dtype(x, m := tensor(mask))
        fits_into(m.shape, (batch, heads, x.shape[2], length), "mask", q, k, v, mask)
    return TensorType(dtype, (batch, heads, x.shape[2], z.shape[3]))


@wide_op(_attention_type)
def attention(q: Array, k: Array, v: Array, mask: Array | None = None, *, scale: float) -> Array:
    """softmax(scale * q @ k^T + mask) @ v: q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask
    broadcast to [B,H,S,T]; the result is [B,H,S,E].

    A row masked with -inf throughout is NaN, as in softmax."""
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * scale
    if mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(np.matmul(weights / weights.sum(axis=-1, keepdims=True), v))
