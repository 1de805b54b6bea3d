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
from lepton.ir.ops.quant import LEVELS, bounds
from lepton.ir.rewrite import Rule, opt, pat, rest, rule, var
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, constant, node_of, scalar_of
from lepton.passes.level_products import BYTES, Levels, conv_of_levels, matmul_of_levels

x, s = var("x s")
z = opt("z")


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
    moved = node.op(x, **node.attrs) if known is None else constant(node.op.reference(known, **node.attrs))
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
    if levels is None or levels.scale.ndim or not 1e-30 < float(levels.scale) < 1e30 or levels.dtype not in LEVELS:
        return None
    return x if _same_parameters(node_of(d), node_of(r)) else None


@rule(pat(ops.quantize)(pat(ops.relu, ops.clip)(x, ...).named("c"), s, z).named("r"))
def range_by_levels(x: Value, c: Value, s: Value, z: Value | None, r: Value) -> Value | None:
    """quantize(relu(x)) where levels begin at 0  ->  quantize(x); and so for clip"""
    node, scale, to = node_of(c), array_of(s), node_of(r).attrs["to"]
    zero = np.zeros(1) if z is None else array_of(z)
    if scale is None or zero is None or not (scale > 0).all() or to not in LEVELS:
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


@dataclass(frozen=True)
class IntegerRegions(RewritePass):
    """conv(dequantize(x), dequantize(w))  ->  cast(conv_integer(x, w)) * scale

    Products of dequantized operands become products of their levels, exact in i32; dequantize and quantize move
    towards each other through what only moves elements, and vanish where they meet."""

    name: ClassVar[str] = "integer-regions"
    rules: ClassVar[tuple[Rule, ...]] = (
        there_and_back, range_by_levels, conv_of_levels, matmul_of_levels, dequantize_after_move,
        dequantize_after_concat, quantize_before_move, quantize_before_concat)
