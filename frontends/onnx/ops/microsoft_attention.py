"""ONNX Runtime's attention operators, without their caches."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_MS = "com.microsoft"
_MASKED = -10000.0


def heads(c: Call, x: Value, count: int) -> Value:
    """[B,S,H*D] -> [B,H,S,D]"""
    batch, length, width = x.tensor.shape
    each = dims.floordiv(width, count)
    return c(ops.transpose, c.reshape(x, (batch, length, count, each)), perm=(0, 2, 1, 3))


def attended(c: Call, q: Value, k: Value, v: Value, bias: Value | None) -> Value:
    """softmax(scale * q @ k^T + bias) @ v of [B,H,S,D], [B,H,T,D], [B,H,T,E] -> [B,S,H*E]"""
    size = q.tensor.shape[3]
    factor = c.f("scale", 0.0)
    if not factor:
        if not isinstance(size, int) or size < 1:
            c.fail(f"heads of size {size}: {q.tensor}")
        factor = size**-0.5
    scores = c(ops.matmul, q, c(ops.transpose, k, perm=(0, 1, 3, 2)))
    scores = c(ops.mul, scores, c.like(factor, scores))
    scores = scores if bias is None else c(ops.add, scores, bias)
    mixed = c(ops.transpose, c(ops.matmul, c(ops.softmax, scores, axis=3), v), perm=(0, 2, 1, 3))
    batch, length, count, each = mixed.tensor.shape
    return c.reshape(mixed, (batch, length, count * each))


def mask_bias(c: Call, mask: Value, batch: Dim, length: Dim, like: Value) -> Value:
    """What a mask adds to scores [B,H,S,T]: 0 where it is 1; one per key [B,T], per place [B,S,T], or lengths [B]."""
    dtype = like.tensor.dtype
    match mask.tensor.rank:
        case 1:
            places = c(ops.iota, size=length, dtype=DType.I64)
            ends = c.reshape(c.cast(mask, DType.I64), (mask.tensor.shape[0], 1))
            if dims.unify(mask.tensor.shape[0], batch) is None:
                c.fail(f"a mask of type {mask.tensor}")
            keep = c(ops.less, places, ends)
        case 2 | 3:
            keep = c(ops.greater, mask, c.like(0, mask))
        case _:
            c.fail(f"a mask of type {mask.tensor}")
    shape = keep.tensor.shape
    wide = (shape[0], 1, 1, shape[1]) if keep.tensor.rank == 2 else (shape[0], 1, *shape[1:])
    filler = c.const(c.f("mask_filter_value", _MASKED), dtype)
    return c(ops.where, c.reshape(keep, wide), c.const(0.0, dtype), filler)


def causal_bias(c: Call, length: Dim, like: Value) -> Value:
    """[S,S]: very negative above the diagonal."""
    places = c(ops.iota, size=length, dtype=DType.I64)
    later = c(ops.greater, places, c.reshape(places, (length, 1)))
    dtype = like.tensor.dtype
    return c(ops.where, later, c.const(c.f("mask_filter_value", _MASKED), dtype), c.const(0.0, dtype))


def together(c: Call, *biases: Value | None) -> Value | None:
    total: Value | None = None
    for bias in biases:
        total = bias if total is None else total if bias is None else c(ops.add, total, bias)
    return total


@imports("Attention", domain=_MS)
def attention(c: Call) -> Value:
    """Self-attention with one product for queries, keys and values."""
    x, count = c.ranked(0, 3), c.positive("num_heads", REQUIRED)
    if c.opt(4) is not None or c.flag("do_rotary"):
        c.fail("a cache of past keys, or rotary positions")
    c.ignore("past_present_share_buffer", "rotary_embedding_dim")
    together_ = c(ops.matmul, x, c.ranked(1, 2))
    together_ = together_ if c.opt(2) is None else c(ops.add, together_, c.x(2))
    width = together_.tensor.shape[2]
    sizes = list(c.ints("qkv_hidden_sizes", ())) or [dims.floordiv(width, 3)] * 3
    if len(sizes) != 3:
        raise LeptonError(f"qkv_hidden_sizes {sizes}", where=c.where)
    q, k, v = (heads(c, part, count) for part in parts(c, together_, 2, sizes))
    batch, length = x.tensor.shape[:2]
    mask = None if c.opt(3) is None else mask_bias(c, c.x(3), batch, length, x)
    causal = causal_bias(c, length, x) if c.flag("unidirectional") else None
    c.ignore("mask_filter_value")
    return attended(c, q, k, v, together(c, mask, causal, c.opt(5)))


@imports("MultiHeadAttention", domain=_MS)
def multi_head_attention(c: Call) -> Value:
    """Attention of separate queries, keys and values [B,S,H*D]; bias of all three; a mask of keys; a bias of scores."""
    count = c.positive("num_heads", REQUIRED)
    given = [c.opt(i) for i in range(3)]
    if any(v is None or v.tensor.rank != 3 for v in given) or c.opt(6) is not None or c.opt(7) is not None:
        c.fail("packed or cached queries, keys or values")
    values = [v for v in given if v is not None]
    if c.opt(3) is not None:
        biases = parts(c, c.x(3), 0, [v.tensor.shape[2] for v in values])
        values = [c(ops.add, v, b) for v, b in zip(values, biases, strict=True)]
    q, k, v = (heads(c, x, count) for x in values)
    mask = None if c.opt(4) is None else mask_bias(c, c.x(4), k.tensor.shape[0], k.tensor.shape[2], q)
    causal = causal_bias(c, q.tensor.shape[2], q) if c.flag("unidirectional") else None
    c.ignore("mask_filter_value")
    return attended(c, q, k, v, together(c, mask, causal, c.opt(5)))
