"""ONNX Runtime's attention operators with one mask for all heads and a cache that grows by concatenation."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.movement import nth, parts
from lepton.frontends.onnx.ops.rotary import rotated
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_MS = "com.microsoft"
_MASKED = -10000.0


def heads(c: Call, x: Value, count: Dim) -> Value:
    """[B,S,H*D] -> [B,H,S,D]"""
    batch, length, width = x.tensor.shape
    each = dims.floordiv(width, count)
    return c(ops.transpose, c.reshape(x, (batch, length, count, each)), perm=(0, 2, 1, 3))


def side_by_side(c: Call, x: Value) -> Value:
    """[B,H,S,D] -> [B,S,H*D]"""
    mixed = c(ops.transpose, x, perm=(0, 2, 1, 3))
    batch, length, count, each = mixed.tensor.shape
    return c.reshape(mixed, (batch, length, count * each))


def scores(c: Call, q: Value, k: Value, bias: Value | None) -> Value:
    """scale * q @ k^T + bias: [B,H,S,D], [B,H,T,D] -> [B,H,S,T]; the attribute scale, or 1/sqrt(D)."""
    size = q.tensor.shape[3]
    factor = c.f("scale", 0.0)
    if not factor:
        if not isinstance(size, int) or size < 1:
            c.fail(f"heads of size {size}: {q.tensor}")
        factor = size**-0.5
    product = c(ops.matmul, q, c(ops.transpose, k, perm=(0, 1, 3, 2)))
    product = c(ops.mul, product, c.like(factor, product))
    return product if bias is None else c(ops.add, product, bias)


def mixed_by(c: Call, s: Value, v: Value) -> Value:
    """softmax(s) @ v: [B,H,S,T], [B,H,T,E] -> [B,S,H*E]"""
    return side_by_side(c, c(ops.matmul, c(ops.softmax, s, axis=3), v))


def cached(c: Call, past: Value | None, new: Value) -> Value:
    """Keys or values [B,H,P,D] followed by the new ones [B,H,S,D]."""
    return new if past is None else c(ops.concat, past, new, axis=2)


def mask_bias(c: Call, mask: Value, batch: Dim, length: Dim, like: Value) -> Value:
    """What a mask adds to scores [B,H,S,T]: 0 where it is 1. One per key [B,T], or per place [B,S,T]; or the ends of
    the sequences [B], or their ends, then their starts [2*B]."""
    dtype, shape = like.tensor.dtype, mask.tensor.shape
    match mask.tensor.rank:
        case 1:
            places, zero = c(ops.iota, size=length, dtype=DType.I64), c.const(0, DType.I64)
            both = shape[0] != batch and shape[0] == 2 * batch
            if not both and dims.unify(shape[0], batch) is None:
                c.fail(f"a mask of type {mask.tensor}")
            ends = c.reshape(c.cast(mask, DType.I64), (2 if both else 1, batch, 1))
            keep = c(ops.less, places, nth(c, ends, 0))
            if both:
                keep = c(ops.logical_and, keep, c(ops.greater_equal, places, c(ops.maximum, nth(c, ends, 1), zero)))
        case 2 | 3:
            keep = c(ops.greater, mask, c.like(0, mask))
        case _:
            c.fail(f"a mask of type {mask.tensor}")
    shape = keep.tensor.shape
    wide = (shape[0], 1, 1, shape[1]) if keep.tensor.rank == 2 else (shape[0], 1, *shape[1:])
    filler = c.const(c.f("mask_filter_value", _MASKED), dtype)
    return c(ops.where, c.reshape(keep, wide), c.const(0.0, dtype), filler)


def causal_bias(c: Call, length: Dim, past: Dim, like: Value) -> Value:
    """[S,P+S]: minus infinity for keys after the query's own place, whatever a mask says of those before."""
    places = c(ops.iota, size=past + length, dtype=DType.I64)
    rows = c(ops.add, c(ops.iota, size=length, dtype=DType.I64), c.size(past))
    later = c(ops.greater, places, c.reshape(rows, (length, 1)))
    return c(ops.where, later, c.like(float("-inf"), like), c.like(0.0, like))


def together(c: Call, *biases: Value | None) -> Value | None:
    total: Value | None = None
    for bias in biases:
        total = bias if total is None else total if bias is None else c(ops.add, total, bias)
    return total


def _bias(c: Call, q: Value, k: Value, mask: int, added: int, causal: bool) -> Value | None:
    """Everything that is added to the scores of q [B,H,S,D] and k [B,H,T,D]: operands `mask` and `added`, causality."""
    batch, _, length, _ = q.tensor.shape
    total = k.tensor.shape[2]
    masked = None if c.opt(mask) is None else mask_bias(c, c.x(mask), batch, total, q)
    future = causal_bias(c, length, total - length, q) if causal else None
    c.ignore("mask_filter_value")
    return together(c, c.opt(added), masked, future)


@imports("Attention", domain=_MS)
def attention(c: Call) -> list[Value]:
    """Self-attention with one product for queries, keys and values; past and present [2,B,H,P,D]."""
    x, count = c.ranked(0, 3), c.positive("num_heads", REQUIRED)
    if c.flag("past_present_share_buffer") or c.opt(6) is not None:
        c.fail("a cache of fixed size")
    if c.flag("do_rotary"):
        c.fail("rotary positions (do_rotary); the operator RotaryEmbedding is supported")
    c.ignore("rotary_embedding_dim")
    projected = c(ops.matmul, x, c.ranked(1, 2))
    projected = projected if c.opt(2) is None else c(ops.add, projected, c.x(2))
    width = projected.tensor.shape[2]
    sizes = list(c.ints("qkv_hidden_sizes", ())) or [dims.floordiv(width, 3)] * 3
    if len(sizes) != 3:
        raise LeptonError(f"qkv_hidden_sizes {sizes}", where=c.where)
    q, k, v = (heads(c, piece, count) for piece in parts(c, projected, 2, sizes))
    return self_attention(c, q, k, v, mask=3, past=4, added=5)


def self_attention(c: Call, q: Value, k: Value, v: Value, *, mask: int, past: int, added: int) -> list[Value]:
    """[attention, present] of heads [B,H,S,D], with the operands' numbers of the mask, the past and the bias."""
    before = None if c.opt(past) is None else c.ranked(past, 5)
    if before is not None:
        k, v = (cached(c, nth(c, before, i), new) for i, new in enumerate((k, v)))
    mixed = mixed_by(c, scores(c, q, k, _bias(c, q, k, mask, added, c.flag("unidirectional"))), v)
    if not c.wants(1):
        return [mixed]
    return [mixed, c(ops.concat, *(c.reshape(x, (1, *x.tensor.shape)) for x in (k, v)), axis=0)]


@imports("MultiHeadAttention", domain=_MS)
def multi_head_attention(c: Call) -> list[Value]:
    """Attention of queries, keys and values [B,S,H*D], packed [B,S,H,3,D] or [B,S,H,2,D], or keys and values already
    in heads; a bias for all three, a mask, a bias of scores, a cache."""
    if c.opt(8) is not None or c.opt(9) is not None:
        c.fail("a cache of fixed size or of beams")
    count = c.positive("num_heads", REQUIRED)
    q, k, v = _three(c, count)
    k, v = cached(c, c.opt(6), k), cached(c, c.opt(7), v)
    found = scores(c, q, k, _bias(c, q, k, 4, 5, c.flag("unidirectional")))
    return [mixed_by(c, found, v), k, v, found]


def _three(c: Call, count: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values in heads, biased."""
    x, key, value = c.x(0), c.opt(1), c.opt(2)
    if x.tensor.rank == 5:
        flat = _unpacked(c, x)
    elif key is not None and key.tensor.rank == 5:
        flat = [x, *_unpacked(c, key)]
    elif key is None or value is None:
        c.fail(f"queries {x.tensor} without keys and values")
    else:
        flat = [x, key, value]
    bias = None if c.opt(3) is None else c.x(3)
    if bias is not None:
        widths = [v.tensor.shape[2] if v.tensor.rank == 3 else v.tensor.shape[1] * v.tensor.shape[3] for v in flat]
        biases = parts(c, bias, 0, widths)
        flat = [c(ops.add, v, b) if v.tensor.rank == 3 else v for v, b in zip(flat, biases, strict=True)]
    q, k, v = (heads(c, v, count) if v.tensor.rank == 3 else v for v in flat)
    return q, k, v


def _unpacked(c: Call, x: Value) -> list[Value]:
    """[B,S,H,n,D] -> n times [B,S,H*D]"""
    batch, length, count, n, each = x.tensor.shape
    if not isinstance(n, int):
        c.fail(f"packed heads of type {x.tensor}")
    return [c.reshape(v, (batch, length, count * each)) for v in parts(c, x, 3, [1] * n)]


@imports("DecoderMaskedMultiHeadAttention", domain=_MS)
def decoder_masked_attention(c: Call) -> list[Value]:
    """One query per sequence: [B,1,H*D], or packed with its key and value; or keys and values in heads (cross)."""
    if c.flag("past_present_share_buffer") or any(c.opt(i) is not None for i in (7, 8, 9)):
        c.fail("a cache of fixed size or of beams")
    c.ignore("output_qk")
    count = c.positive("num_heads", REQUIRED)
    x, bias = c.ranked(0, 3), c.opt(10)
    flat: Sequence[Value] = [x, *(c.x(i) for i in (1, 2))] if c.opt(1) is not None else parts(
        c, x, 2, [dims.floordiv(x.tensor.shape[2], 3)] * 3)
    if bias is not None:
        width = flat[0].tensor.shape[2]
        biases = parts(c, bias, 0, [width, width, bias.tensor.shape[0] - 2 * width])
        flat = [c(ops.add, v, b) if v.tensor.rank == 3 else v for v, b in zip(flat, biases, strict=True)]
    q, k, v = (heads(c, v, count) if v.tensor.rank == 3 else v for v in flat)
    k, v = cached(c, c.opt(5), k), cached(c, c.opt(6), v)
    found = scores(c, q, k, _bias(c, q, k, 3, 4, False))
    return [mixed_by(c, found, v), k, v, found]


@imports("RotaryEmbedding", domain=_MS)
def rotary_embedding(c: Call) -> Value:
    """[B,S,H*D] or [B,H,S,D] turned by the angles of its positions [B,S], or of those that begin at one offset [1]."""
    x, at, cos, sin = c.x(0), c.x(1), c.ranked(2, 2), c.ranked(3, 2)
    if c.flag("is_packed_batching"):
        c.fail("packed batches")
    c.ignore("scale")
    given, turned = c.i("num_heads", 0), c.i("rotary_embedding_dim", 0)
    if turned and not given:
        raise LeptonError("rotary_embedding_dim without num_heads", where=c.where)
    flat = x.tensor.rank == 3
    if flat:
        batch, length, width = x.tensor.shape
        each = cos.tensor.shape[1] * 2
        x = heads(c, x, given) if turned else c(
            ops.transpose, c.reshape(x, (batch, length, dims.floordiv(width, each), each)), perm=(0, 2, 1, 3))
    length = x.tensor.shape[2]
    if at.tensor.rank == 1:
        at = c(ops.add, c.reshape(at, (1, 1)), c(ops.iota, size=length, dtype=at.tensor.dtype))
    x = rotated(c, x, at, cos, sin, interleaved=c.flag("interleaved"))
    return side_by_side(c, x) if flat else x
