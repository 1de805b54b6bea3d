"""Find attention: the products, the scaling, the masks and the softmax between them become one operation."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, collect_guards
from lepton.ir.rewrite import Rule, capture, pat, rule, var
from lepton.ir.types import DType
from lepton.passes.base import RewritePass
from lepton.passes.common import constant_like, scalar_of

s, v, c, zero = var("s v c zero")


@dataclass(frozen=True)
class _Scores:
    """softmax's operand, taken apart: scale * x + mask, where x still has to be looked at."""

    x: Value
    scale: float = 1.0
    mask: Value | None = None

    def masked(self, x: Value, mask: Value) -> _Scores | None:
        """With one mask more (masks are added before anything is scaled, so only at scale 1)."""
        if self.scale != 1.0:
            return None
        return replace(self, x=x, mask=mask if self.mask is None else ops.add(self.mask, mask))


@rule(pat(ops.matmul)(pat(ops.softmax, axis=capture("axis"))(s).once, v).named("r"), accuracy="reassociating")
def attention_from_products(s: Value, axis: int, v: Value, r: Value) -> Value | None:
    """matmul(softmax(matmul(q, transpose(k)) * scale + mask), v)  ->  attention(q, k, v, mask, scale)"""
    return _attention(s, axis, v, r)


@rule(pat(ops.matmul)(pat(ops.where)(c, zero, pat(ops.softmax, axis=capture("axis"))(s).once).once.named("w"), v)
      .named("r"), accuracy="reassociating")
def attention_of_rows_that_see_something(c: Value, zero: Value, s: Value, axis: int, w: Value, v: Value, r: Value
                                         ) -> Value | None:
    """matmul(where(c, 0, softmax(s)), v)  ->  where(c, 0, attention(…)), with one c for a row: as ONNX's Attention is
    defined. Rows without weights are 0 then, whatever v holds."""
    by_rows = c.tensor.rank > 0 and c.tensor.shape[-1] == 1
    if not by_rows or scalar_of(zero) != 0 or w.type != s.type:
        return None
    found = _attention(s, axis, v, r)
    return None if found is None else ops.where(c, constant_like(np.asarray(0.0), found), found)


def _attention(s: Value, axis: int, v: Value, r: Value) -> Value | None:
    """matmul(softmax(s), v), which has the type of r, as attention, if that is what it is."""
    rank = r.tensor.rank
    if axis != rank - 1 or rank not in (3, 4) or s.tensor.rank != rank:
        return None
    scores = _taken_apart(s)
    node = scores.x.producer
    if node is None or node.op is not ops.matmul or any(o is None or o.tensor.rank != rank for o in (*node.inputs, v)):
        return None
    q, keys = (_unscaled(o) for o in node.inputs if o is not None)
    k = ops.transpose(keys.x, perm=(*range(rank - 2), rank - 1, rank - 2))
    scale = scores.scale * q.scale * keys.scale
    shape = (*q.x.tensor.shape[:rank - 2], q.x.tensor.shape[-2], v.tensor.shape[-2])
    if any(o.tensor.shape[:rank - 2] != shape[:rank - 2] for o in (k, v)) or not _fits(scores.mask, shape):
        return None
    with collect_guards() as unproved:
        four = [_wide(_with_heads(o)) for o in (q.x, k, v)]
        result = ops.attention(*four, _wide(_with_heads(scores.mask)) if scores.mask else None, scale=scale)
    if unproved:
        return None
    result = result if rank == 4 else ops.reshape(result, shape=r.tensor.shape)
    return result if result.type == r.type else ops.cast(result, to=r.tensor.dtype)


def _taken_apart(s: Value) -> _Scores:
    """Peel off masks and scales that nobody else reads."""
    scores = _Scores(s)
    while (peeled := _peeled(scores)) is not None:
        scores = peeled
    return scores


def _peeled(scores: _Scores) -> _Scores | None:
    node = scores.x.producer
    if node is None or len(scores.x.uses) != 1 or any(v is None for v in node.inputs):
        return None
    operands = [v for v in node.inputs if v is not None]
    if node.op is ops.mul:
        unscaled = _unscaled(scores.x)
        return replace(scores, x=unscaled.x, scale=scores.scale * unscaled.scale) if unscaled.scale != 1.0 else None
    if node.op is ops.add:
        a, b = operands if _leads_to_product(operands[0]) else operands[::-1]
        return scores.masked(a, b) if _leads_to_product(a) and a.type == scores.x.type else None
    if node.op is ops.where:
        return _peeled_where(scores, *operands)
    return None


def _peeled_where(scores: _Scores, condition: Value, a: Value, b: Value) -> _Scores | None:
    """where(condition, x, -inf) is x + where(condition, 0, -inf)."""
    zero = constant_like(np.asarray(0.0), scores.x)
    if scalar_of(b) == -math.inf and a.type == scores.x.type:
        return scores.masked(a, ops.where(condition, zero, b))
    if scalar_of(a) == -math.inf and b.type == scores.x.type:
        return scores.masked(b, ops.where(condition, a, zero))
    return None


def _leads_to_product(value: Value) -> bool:
    """Whether this is a matrix product, perhaps scaled or masked."""
    node = value.producer
    if node is None or len(value.uses) != 1:
        return False
    if node.op in (ops.mul, ops.add, ops.where):
        return any(_leads_to_product(v) for v in node.inputs if v is not None)
    return node.op is ops.matmul


def _unscaled(value: Value) -> _Scores:
    """x * constant, taken apart; also behind a transpose."""
    node = value.producer
    if node is not None and node.op is ops.mul:
        for x, c in (node.inputs, node.inputs[::-1]):
            factor = scalar_of(c)
            if factor is not None and math.isfinite(factor) and x is not None and x.type == value.type:
                return _Scores(x, factor)
    if node is not None and node.op is ops.transpose and node.inputs[0] is not None:
        inner = _unscaled(node.inputs[0])
        if inner.scale != 1.0:
            return _Scores(ops.transpose(inner.x, perm=node.attrs["perm"]), inner.scale)
    return _Scores(value)


def _fits(mask: Value | None, shape: tuple[Dim, ...]) -> bool:
    """Whether the mask broadcasts to the scores' shape, provably."""
    if mask is None:
        return True
    tail = shape[len(shape) - mask.tensor.rank:] if mask.tensor.rank else ()
    return mask.tensor.rank <= len(shape) and all(m in (1, n) for m, n in zip(mask.tensor.shape, tail, strict=True))


def _wide(value: Value) -> Value:
    """Halves as f32: the kernel keeps scores and weights in registers, where nothing is gained by rounding them."""
    return value if value.tensor.dtype.bits >= 32 else ops.cast(value, to=DType.F32)


def _with_heads(value: Value) -> Value:
    """[B,S,D] as [B,1,S,D]; what has another rank stays."""
    shape = value.tensor.shape
    return ops.reshape(value, shape=(shape[0], 1, *shape[1:])) if len(shape) == 3 else value


@dataclass(frozen=True)
class Attention(RewritePass):
    """matmul(softmax(matmul(q * a, transpose(k)) * b + mask), v)  ->  attention(q, k, v, mask, scale=a*b)

    Also where rows that are masked as a whole are 0 instead. Masks may be added or chosen by `where` with -inf;
    operands have rank 4, or 3 for one head. Halves are computed in f32 and rounded once."""

    name: ClassVar[str] = "attention"
    rules: ClassVar[tuple[Rule, ...]] = (attention_from_products, attention_of_rows_that_see_something)
