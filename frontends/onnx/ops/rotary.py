"""Rotary positions: pairs of a head's elements turned by an angle that grows with the place."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.movement import parts
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError


def rotated(c: Call, x: Value, at: Value, cos: Value, sin: Value, *, interleaved: bool) -> Value:
    """x [B,H,S,D] with its first 2*R elements of each head turned by row at[b,s] of cos and sin [M,R]. The pairs are
    (i, R+i), or (2*i, 2*i+1) where interleaved."""
    half, size = cos.tensor.shape[1], x.tensor.shape[3]
    if not isinstance(half, int) or not isinstance(size, int) or 2 * half > size:
        raise LeptonError(f"angles {cos.tensor} for heads of size {size}", where=c.where)
    batch, length = at.tensor.shape
    cosines, sines = (c.reshape(c(ops.gather, table, at, axis=0), (batch, 1, length, half)) for table in (cos, sin))
    turned, *rest = parts(c, x, 3, [2 * half, *([size - 2 * half] if size > 2 * half else [])])
    lead = turned.tensor.shape[:3]
    if interleaved:
        pairs = c.reshape(turned, (*lead, half, 2))
        first, second = (c.reshape(v, (*lead, half)) for v in parts(c, pairs, 4, [1, 1]))
    else:
        first, second = parts(c, turned, 3, [half, half])
    new = [c(ops.sub, c(ops.mul, first, cosines), c(ops.mul, second, sines)),
           c(ops.add, c(ops.mul, first, sines), c(ops.mul, second, cosines))]
    if interleaved:
        new = [c.reshape(c(ops.concat, *(c.reshape(v, (*lead, half, 1)) for v in new), axis=4), turned.tensor.shape)]
    return c(ops.concat, *new, *rest, axis=3) if len(new) + len(rest) > 1 else new[0]
