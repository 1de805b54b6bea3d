"""GroupQueryAttention: fewer heads of keys than of queries, and a cache whose length in use differs by sequence.

Sequence b holds `total[b] = seqlens_k[b] + 1` keys in the end. Its S new ones go where the old ones end: behind
`past[b] = total[b] - S` of them, or at the start while the prompt is read (S is the whole length). The cache that comes
out is as long as the one that goes in, or longer if need be; its unused rows are zeros. No sequence has more in use
than its cache holds, whatever `seqlens_k` says.
"""
from __future__ import annotations

from dataclasses import dataclass

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.microsoft_attention import heads, scores, side_by_side
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.ops.rotary import rotated
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.types import DType


@dataclass(frozen=True)
class _Places:
    """Where things are. past, total: i64[B,1], keys before the new ones and with them; size: keys of the cache that
    comes out."""

    past: Value
    total: Value
    batch: Dim
    new: Dim
    size: Dim


@imports("GroupQueryAttention", domain="com.microsoft")
def group_query_attention(c: Call) -> list[Value]:
    """q [B,S,N*D], k, v [B,S,G*D] (or packed in q), past [B,G,P,D] -> [B,S,N*D], present [B,G,M,D] twice."""
    _refuse(c)
    count, groups = c.positive("num_heads", REQUIRED), c.positive("kv_num_heads", REQUIRED)
    if count % groups:
        c.fail(f"{count} heads in {groups} groups")
    q, k, v = _three(c, count, groups)
    batch, _, length, _ = q.tensor.shape
    place = _places(c, batch, length)
    if c.flag("do_rotary"):
        at = c.opt(9)
        if at is None:
            at = c(ops.add, place.past, c(ops.iota, size=length, dtype=DType.I64))
        q, k = (rotated(c, x, at, c.ranked(7, 2), c.ranked(8, 2), interleaved=c.flag("rotary_interleaved"))
                for x in (q, k))
    c.ignore("rotary_interleaved")
    k, v = (_cache(c, place, c.opt(i), new) for i, new in ((3, k), (4, v)))
    return [_attended(c, place, q, k, v, groups), k, v]


def _refuse(c: Call) -> None:
    quantised = any(c.s(name, "NONE") != "NONE" for name in ("k_quant_type", "v_quant_type"))
    if quantised or c.opt(12) is not None or c.opt(13) is not None:
        c.fail("a quantised cache")
    if c.flag("sliding_window_cache"):
        c.fail("a cache of the window's size")
    if c.opt(14) is not None or c.opt(15) is not None:
        c.fail("normalised queries and keys")
    if c.i("qk_output", 0):
        c.fail("the scores as an output")
    c.ignore("kv_cache_bit_width", "qk_norm_epsilon")


def _three(c: Call, count: int, groups: int) -> tuple[Value, Value, Value]:
    """Queries [B,N,S,D], keys and values [B,G,S,D]."""
    x = c.ranked(0, 3)
    if c.opt(1) is not None:
        q, k, v = x, c.ranked(1, 3), c.ranked(2, 3)
    else:
        each = dims.floordiv(x.tensor.shape[2], count + 2 * groups)
        q, k, v = parts(c, x, 2, [each * count, each * groups, each * groups])
    return heads(c, q, count), heads(c, k, groups), heads(c, v, groups)


def _places(c: Call, batch: Dim, length: Dim) -> _Places:
    past, one = c.opt(3), c.const(1, DType.I64)
    totals = c(ops.add, c.cast(c.reshape(c.x(5), (batch, 1)), DType.I64), one)
    if past is None:
        # Nothing went before: whatever the lengths say, this is the prompt.
        zeros = c(ops.broadcast_to, c.const(0, DType.I64), shape=(batch, 1))
        return _Places(zeros, totals, batch, length, length)
    total, whole = _whole(c)
    behind = c(ops.maximum, c(ops.sub, totals, c.size(length)), c.const(0, DType.I64))
    behind = c(ops.minimum, behind, c.size(past.tensor.shape[2]))
    prompt = c(ops.equal, whole, c.size(length))
    used = c(ops.where, prompt, c.const(0, DType.I64), behind)
    totals = c(ops.minimum, totals, c(ops.add, used, c.size(length)))
    return _Places(used, totals, batch, length, dims.dim_max(total, past.tensor.shape[2]))


def _whole(c: Call) -> tuple[Dim, Value]:
    """The longest sequence of the batch, new keys included, as a size and as an i64."""
    if (known := c.known(6)) is not None:
        return known[0], c.size(known[0])
    given = c.cast(c.reshape(c.x(6), ()), DType.I64)
    counted = c(ops.range_, c.const(0, DType.I64), given, c.const(1, DType.I64), symbol=c.fresh("total"))
    # Read back from the count, which must stay in the graph: it is what gives the symbol its value.
    last = c(ops.reduce_max, counted, axes=(0,), keepdims=False)
    return counted.tensor.shape[0], c(ops.add, last, c.const(1, DType.I64))


def _cache(c: Call, place: _Places, past: Value | None, new: Value) -> Value:
    """[B,G,M,D]: old rows as far as they are in use, the new ones behind them, zeros."""
    if past is None:
        return new
    batch, groups, before, size = past.tensor.shape
    both = before + place.new
    rows = c.reshape(c(ops.concat, past, new, axis=2), (batch * groups * both, size))
    t = c.reshape(c(ops.iota, size=place.size, dtype=DType.I64), (1, place.size))
    shifted = c(ops.add, c(ops.sub, t, place.past), c.size(before))
    at = c(ops.where, c(ops.less, t, place.past), t, c(ops.minimum, shifted, c.size(both - 1)))
    first = c(ops.mul, c(ops.iota, size=batch * groups, dtype=DType.I64), c.size(both))
    at = c(ops.add, c.reshape(at, (batch, 1, place.size)), c.reshape(first, (batch, groups, 1)))
    found = c(ops.gather, rows, at, axis=0)
    used = c(ops.less, t, c(ops.add, place.past, c.size(place.new)))
    return c(ops.where, c.reshape(used, (batch, 1, place.size, 1)), found, c.like(0.0, found))


def _attended(c: Call, place: _Places, q: Value, k: Value, v: Value, groups: int) -> Value:
    """Each group's queries stand below one another, so that keys and values are read as they lie."""
    batch, count, length, size = q.tensor.shape
    assert isinstance(count, int)
    rows = length * (count // groups)
    found = scores(c, c.reshape(q, (batch, groups, rows, size)), k, None)
    found = c.reshape(found, (batch, count, length, place.size))
    if cap := c.f("softcap", 0.0):
        found = c(ops.mul, c(ops.tanh, c(ops.div, found, c.like(cap, found))), c.like(cap, found))
    if c.opt(10) is not None:
        found = c(ops.add, found, _added(c, place))
    found = c(ops.add, found, _visible(c, place, found))
    if c.flag("smooth_softmax") or c.opt(11) is not None:
        weights = _smooth(c, found)
    else:
        weights = c(ops.softmax, found, axis=3)
    weights = c.reshape(weights, (batch, groups, rows, place.size))
    mixed = c(ops.matmul, weights, v)
    return side_by_side(c, c.reshape(mixed, (batch, count, length, v.tensor.shape[3])))


def _added(c: Call, place: _Places) -> Value:
    """The operand that is added to the scores, repeated at its end where the cache is longer."""
    bias = c.ranked(10, 4)
    width = bias.tensor.shape[3]
    if width == place.size:
        return bias
    t = c(ops.iota, size=place.size, dtype=DType.I64)
    return c(ops.gather, bias, c(ops.minimum, t, c.size(width - 1)), axis=3)


def _visible(c: Call, place: _Places, like: Value) -> Value:
    """[B,1,S,M]: 0 for the keys that a query sees, minus infinity for others."""
    keys = c.reshape(c(ops.iota, size=place.size, dtype=DType.I64), (1, 1, place.size))
    own = c.reshape(c(ops.iota, size=place.new, dtype=DType.I64), (1, place.new, 1))
    own = c(ops.add, own, c.reshape(place.past, (place.batch, 1, 1)))
    window = c.i("local_window_size", -1)
    seen = c(ops.less, keys, c.reshape(place.total, (place.batch, 1, 1)))
    if c.flag("causal", True):
        seen = c(ops.logical_and, seen, c(ops.less_equal, keys, own))
    if window > 0:
        seen = c(ops.logical_and, seen, c(ops.greater, keys, c(ops.sub, own, c.const(window, DType.I64))))
    bias = c(ops.where, seen, c.like(0.0, like), c.like(float("-inf"), like))
    rows = place.new if bias.tensor.shape[1] != 1 else 1
    return c.reshape(bias, (place.batch, 1, rows, place.size))


def _smooth(c: Call, found: Value) -> Value:
    """softmax with one more element in the sum: 0, or each head's own."""
    batch, count, length, size = found.tensor.shape
    sink = c.const(0.0, found.tensor.dtype) if c.opt(11) is None else c.reshape(c.x(11), (1, count, 1, 1))
    column = c(ops.broadcast_to, sink, shape=(batch, count, length, 1))
    weights = c(ops.softmax, c(ops.concat, found, column, axis=3), axis=3)
    return parts(c, weights, 3, [size, 1])[0]
