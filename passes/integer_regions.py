"""Let quantised models compute with integers: products read the levels themselves, and what moves data moves levels.

A quantised model says dequantize -> op -> quantize everywhere. First dequantize sinks below what only moves elements
and quantize rises above it, until a pair that undoes itself meets and vanishes; then products of dequantized operands
become products of the levels. What is left becomes elementwise operations in `levels`, right before fusion.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.ops.quant import bounds
from lepton.ir.rewrite import Rule, opt, pat, rest, rule, var
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, node_of, scalar_of

x, w, a, b, s = var("x w a b s")
z = opt("z")
BYTES = (DType.U8, DType.I8)
SAME_SCALE = 1e-5        # relative: exporters compute a bias' scale from those of its factors in any order


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


def _constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(np.asarray(array)))


# --- dequantize sinks, quantize rises -------------------------------------------------------------


@rule(pat(ops.reshape, ops.transpose, ops.slice_, ops.broadcast_to, ops.max_pool)(
    pat(ops.dequantize)(x, s, z).named("d")).named("r"))
def dequantize_after_move(x: Value, s: Value, z: Value | None, d: Value, r: Value) -> Value | None:
    """transpose(dequantize(x))  ->  dequantize(transpose(x))"""
    axis, node, source = 0, node_of(r), node_of(d)
    if s.tensor.rank:
        if node.op is not ops.transpose or source.attrs["block"]:
            return None
        axis = node.attrs["perm"].index(source.attrs["axis"])
    if node.op is ops.max_pool and not _keeps_order(node, x, s):
        return None
    known = array_of(x)
    if known is not None and x.tensor.dtype not in BYTES:
        return None
    # Weights stay constants, for the rules on products to see.
    moved = node.op(x, **node.attrs) if known is None else _constant(node.op.reference(known, **node.attrs))
    return ops.dequantize(moved, s, z, axis=axis)


def _keeps_order(pool: Node, x: Value, s: Value) -> bool:
    """Whether the largest level has the largest value, and no window sees padding alone."""
    scale = scalar_of(s)
    pads = (*pool.attrs["pads_begin"], *pool.attrs["pads_end"])
    inside = all(isinstance(p, int) and p < k for p, k in zip(pads, pool.attrs["kernel"] * 2, strict=True))
    return scale is not None and scale > 0 and inside and not pool.attrs["ceil_mode"] and x.tensor.dtype in BYTES


@rule(pat(ops.concat)(rest("xs")).named("r"))
def dequantize_after_concat(xs: tuple[Value, ...], r: Value) -> Value | None:
    """concat(dequantize(x, s, z), dequantize(y, s, z))  ->  dequantize(concat(x, y), s, z)"""
    nodes = [v.producer for v in xs if v.producer is not None and v.producer.op is ops.dequantize]
    if len(nodes) < len(xs) or any(not _same_parameters(n, nodes[0]) for n in nodes) or nodes[0].inputs[1] is None:
        return None
    if nodes[0].inputs[1].tensor.rank:
        return None
    whole = ops.concat(*(n.inputs[0] for n in nodes), axis=node_of(r).attrs["axis"])
    return ops.dequantize(whole, *nodes[0].inputs[1:], axis=0)


def _same_parameters(a: Node, b: Node) -> bool:
    """Whether two (de)quantize nodes have equal scales and zero points of one type."""
    mine, other = (*a.inputs[1:], None)[:2], (*b.inputs[1:], None)[:2]
    levels = [n.result.tensor.dtype if n.op is ops.quantize else n.inputs[0].tensor.dtype  # type: ignore[union-attr]
              for n in (a, b)]
    return levels[0] is levels[1] and all(_same(v, o) for v, o in zip(mine, other, strict=True))


def _same(v: Value | None, o: Value | None) -> bool:
    if v is o:
        return True
    one, other = array_of(v), array_of(o)
    return one is not None and other is not None and one.shape == other.shape and bool((one == other).all())


@rule(pat(ops.quantize)(pat(ops.reshape, ops.transpose, ops.slice_)(x).once.named("m"), s, z).named("r"))
def quantize_before_move(x: Value, m: Value, s: Value, z: Value | None, r: Value) -> Value | None:
    """quantize(reshape(x))  ->  reshape(quantize(x))"""
    move = node_of(m)
    if s.tensor.rank or (move.op is ops.slice_ and x.producer is not None):
        return None
    return move.op(ops.quantize(x, s, z, **{**node_of(r).attrs, "axis": 0}), **move.attrs)


@rule(pat(ops.quantize)(pat(ops.concat)(rest("xs")).once.named("m"), s, z).named("r"))
def quantize_before_concat(xs: tuple[Value, ...], m: Value, s: Value, z: Value | None, r: Value) -> Value | None:
    """quantize(concat(x, y))  ->  concat(quantize(x), quantize(y))"""
    if s.tensor.rank:
        return None
    attrs = {**node_of(r).attrs, "axis": 0}
    return ops.concat(*(ops.quantize(v, s, z, **attrs) for v in xs), axis=node_of(m).attrs["axis"])


@rule(pat(ops.quantize)(pat(ops.dequantize)(x, ...).named("d"), ...).named("r"))
def there_and_back(x: Value, d: Value, r: Value) -> Value | None:
    """quantize(dequantize(x, s, z), s, z)  ->  x"""
    levels = Levels.of(d)
    if levels is None or levels.scale.ndim or not 1e-30 < float(levels.scale) < 1e30 or levels.dtype not in BYTES:
        return None
    return x if _same_parameters(node_of(d), node_of(r)) else None


@rule(pat(ops.quantize)(pat(ops.relu, ops.clip)(x, ...).named("c"), s, z).named("r"))
def range_by_levels(x: Value, c: Value, s: Value, z: Value | None, r: Value) -> Value | None:
    """quantize(relu(x)) where levels begin at 0  ->  quantize(x); and so for clip"""
    node, scale, to = node_of(c), array_of(s), node_of(r).attrs["to"]
    zero = np.zeros(1) if z is None else array_of(z)
    if scale is None or zero is None or not (scale > 0).all() or to not in BYTES:
        return None
    low, high = ((n - zero.astype(np.float64)) * scale for n in bounds(to))
    least: float | None = 0.0
    most: float | None = np.inf
    if node.op is ops.clip:
        least, most = (end if v is None else scalar_of(v)
                       for v, end in zip((*node.inputs[1:], None, None)[:2], (-np.inf, np.inf), strict=True))
    if least is None or most is None or not (least <= low).all() or not (most >= high).all():
        return None
    return ops.quantize(x, s, z, **node_of(r).attrs)


# --- products -------------------------------------------------------------------------------------


@rule(pat(ops.conv)(pat(ops.dequantize)(x, ...).named("a"), pat(ops.dequantize)(w, ...).named("f"),
                    opt("b")).named("r"), accuracy="reassociating")
def conv_of_levels(x: Value, w: Value, a: Value, f: Value, b: Value | None, r: Value) -> Value | None:
    """conv(dequantize(x), dequantize(w), b)  ->  cast(conv_integer(x, w) + b / scale) * scale"""
    image, filters, node = Levels.of(a), Levels.of(f), node_of(r)
    if image is None or filters is None or not {image.dtype, filters.dtype} <= set(BYTES) or image.scale.ndim:
        return None
    if array_of(w) is None or (filters.scale.ndim and filters.axis != 0):
        return None
    if filters.zero is not None and array_of(filters.zero) is None:
        return None
    total = ops.conv_integer(x, w, image.offset, filters.offset, **node.attrs)
    view = (-1, *[1] * (r.tensor.rank - 2)) if node.attrs["layout"] == "nchw" else (-1,)
    return _scaled(total, image.scale * filters.scale, b, view)


def _scaled(total: Value, scale: Array, bias: Value | None, view: tuple[int, ...]) -> Value:
    """total * scale + bias as f32; a bias with levels of just that scale is added to the integers."""
    scale = scale.astype(np.float32).reshape(view) if scale.ndim else scale.astype(np.float32)
    levels = Levels.of(bias)
    known = array_of(levels.value) if levels is not None else None
    if levels is not None and known is not None and levels.offset is None and levels.dtype is DType.I32:
        if np.allclose(levels.scale.reshape(-1), scale.reshape(-1), rtol=SAME_SCALE, atol=0):
            total, bias = ops.add(total, _constant(known.reshape(view))), None
    result = ops.mul(ops.cast(total, to=DType.F32), _constant(scale))
    if bias is None:
        return result
    return ops.add(result, ops.reshape(bias, shape=(bias.tensor.shape[0], *view[1:])))


@rule(pat(ops.matmul)(pat(ops.dequantize)(x, ...).named("a"), pat(ops.dequantize)(w, ...).named("f")).named("r"),
      accuracy="reassociating")
def matmul_of_levels(x: Value, w: Value, a: Value, f: Value, r: Value) -> Value | None:
    """matmul(dequantize(x), dequantize(w))  ->  cast(matmul_integer(x, w)) * scale"""
    left, right = Levels.of(a), Levels.of(f)
    if left is None or right is None or not {left.dtype, right.dtype} <= set(BYTES) or left.scale.ndim:
        return None
    rank = w.tensor.rank
    if x.tensor.rank < 2 or rank < 2 or (right.scale.ndim and (right.axis != rank - 1 or rank != 2)):
        return None
    zero = array_of(right.zero)
    if right.zero is not None and zero is None:
        return None
    if array_of(w) is not None:
        total = ops.matmul_integer(x, w, left.offset, right.offset)
    elif right.scale.ndim == 0:
        total = _of_values(left, right, 0 if zero is None else int(zero))
    else:
        return None
    return _scaled(total, left.scale * right.scale, None, (-1,))


def _of_values(left: Levels, right: Levels, zero: int) -> Value:
    """Σ (a - za)(w - zw) with w taken as signed bytes: the rest of zw meets the sums of a's rows."""
    middle = 0 if right.dtype.is_signed else 128
    given = None if right.dtype.is_signed else _constant(np.array(middle, np.uint8))
    total = ops.matmul_integer(left.value, right.value, left.offset, given)
    if zero == middle:
        return total
    level = ops.cast(left.value, to=DType.I32)
    if left.offset is not None:
        level = ops.sub(level, ops.cast(left.offset, to=DType.I32))
    row = ops.reduce_sum(level, axes=(left.value.tensor.rank - 1,), keepdims=True)
    return ops.add(total, ops.mul(row, _constant(np.array(middle - zero, np.int32))))


@dataclass(frozen=True)
class IntegerRegions(RewritePass):
    """conv(dequantize(x), dequantize(w))  ->  cast(conv_integer(x, w)) * scale

    Products of dequantized operands become products of their levels, exact in i32; dequantize and quantize move
    towards each other through what only moves elements, and vanish where they meet."""

    name: ClassVar[str] = "integer-regions"
    rules: ClassVar[tuple[Rule, ...]] = (
        there_and_back, range_by_levels, conv_of_levels, matmul_of_levels, dequantize_after_move,
        dequantize_after_concat, quantize_before_move, quantize_before_concat)
