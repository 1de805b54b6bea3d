"""Products of 8-bit floats, for targets whose tensor cores multiply them: f32 sums of what is under dequantize."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.rewrite import Rule, opt, pat, rule, var
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, constant, node_of, scalar_of

FLOAT8 = (DType.F8E4M3FN, DType.F8E5M2)
SCALES = 1e-30, 1e30     # products of scales in f32 that neither vanish nor become infinite
x, w, s = var("x w s")


def format_of(weights: Array) -> DType | None:
    """The 8-bit floats that all of these f32 numbers are."""
    for dtype in FLOAT8:
        with np.errstate(invalid="ignore", over="ignore"):
            if np.array_equal(weights.astype(dtype.numpy).astype(np.float32), weights, equal_nan=True):
                return dtype
    return None


def multiplies_float8(x: Value, weights: Array) -> bool:
    """Whether both factors of a product are numbers of 8-bit floats. A scale in the weights would make them others."""
    node = x.producer
    while node is not None and node.op is ops.transpose and node.inputs[0] is not None:
        node = node.inputs[0].producer
    of = node.inputs[0] if node is not None and node.op is ops.cast else None
    return of is not None and of.tensor.dtype in FLOAT8 and format_of(weights) is not None


@dataclass(frozen=True)
class _Factor:
    """A dequantized operand: its 8-bit floats, the order that their axes are read in, its scales and their axis."""

    value: Value
    perm: tuple[int, ...]
    scale: Array
    axis: int

    @classmethod
    def of(cls, value: Value) -> _Factor | None:
        """None where it is something else, scales are unknown or of blocks, or a zero point is not 0."""
        node = value.producer
        if node is not None and node.op is ops.transpose and node.inputs[0] is not None:
            under, perm = cls.of(node.inputs[0]), node.attrs["perm"]
            return under and replace(under, perm=tuple(under.perm[a] for a in perm), axis=perm.index(under.axis))
        if node is None or node.op is not ops.dequantize:
            return None
        of, scale, zero = (*node.inputs, None)[:3]
        known, none = array_of(scale), zero is None or _is_zero(zero)
        if of is None or of.tensor.dtype not in FLOAT8 or known is None or not none or node.attrs["block"]:
            return None
        if known.dtype != np.float32:
            return None
        one = known.size == 1
        return cls(of, tuple(range(of.tensor.rank)), known.reshape(()) if one else known,
                   0 if one else node.attrs["axis"])

    @property
    def numbers(self) -> Value:
        """As f32, not scaled."""
        moved = self.perm != tuple(range(len(self.perm)))
        return ops.cast(ops.transpose(self.value, perm=self.perm) if moved else self.value, to=DType.F32)


def _is_zero(zero: Value) -> bool:
    known = array_of(zero)
    return known is not None and not known.astype(np.float32).any()


def _scale(left: _Factor, right: _Factor) -> Array | None:
    """The product of scales; None where f32 cannot hold it."""
    both = left.scale.astype(np.float64) * right.scale
    fits = left.scale.ndim == 0 and (SCALES[0] < np.abs(both)).all() and (np.abs(both) < SCALES[1]).all()
    return both.astype(np.float32) if fits else None


@rule(pat(ops.matmul)(x, w), accuracy="reassociating")
def matmul_of_float8(x: Value, w: Value) -> Value | None:
    """matmul(dequantize(x), dequantize(w))  ->  matmul(cast(x), cast(w)) * scale, also of transposed ones"""
    left, right = _Factor.of(x), _Factor.of(w)
    if left is None or right is None or array_of(right.value) is None or min(x.tensor.rank, w.tensor.rank) < 2:
        return None
    scale = _scale(left, right)
    if scale is None or (scale.ndim and (w.tensor.rank != 2 or right.axis != 1)):
        return None
    return ops.mul(ops.matmul(left.numbers, right.numbers), constant(scale))


@rule(pat(ops.conv)(x, w, opt("b")).named("r"), accuracy="reassociating")
def conv_of_float8(x: Value, w: Value, b: Value | None, r: Value) -> Value | None:
    """conv(dequantize(x), dequantize(w), b)  ->  conv(cast(x), cast(w)) * scale + b"""
    left, right, attrs = _Factor.of(x), _Factor.of(w), node_of(r).attrs
    if left is None or right is None or array_of(right.value) is None:
        return None
    scale = _scale(left, right)
    if scale is None or (scale.ndim and right.axis != 0):
        return None
    view = (-1, *[1] * (r.tensor.rank - 2)) if attrs["layout"] == "nchw" else (-1,)
    total = ops.conv(left.numbers, right.numbers, None, **attrs)
    result = ops.mul(total, constant(scale.reshape(view) if scale.ndim else scale))
    return result if b is None else ops.add(result, ops.reshape(b, shape=(b.tensor.shape[0], *view[1:])))


@rule(pat(ops.quantize)(x, s, opt("z")).named("r"), accuracy="reassociating")
def cast_to_float8(x: Value, s: Value, z: Value | None, r: Value) -> Value | None:
    """quantize(x, s) that only products read  ->  cast(x / s)"""
    attrs, products = node_of(r).attrs, all(isinstance(u, Node) and u.op in (ops.cast, ops.transpose) for u in r.users)
    floats = x.tensor.dtype is DType.F32 and s.tensor.dtype is DType.F32 and scalar_of(s) is not None
    if attrs["to"] not in FLOAT8 or not products or not floats or (z is not None and not _is_zero(z)):
        return None
    return ops.cast(ops.div(x, s), to=attrs["to"])


@dataclass(frozen=True)
class Float8(RewritePass):
    """matmul(dequantize(quantize(x)), dequantize(w))  ->  matmul(cast(cast(x / s, f8), f32), w) * scale

    Products of 8-bit floats are exact in f32. Before constants are folded, which would take scales into the weights."""

    name: ClassVar[str] = "float8"
    rules: ClassVar[tuple[Rule, ...]] = (matmul_of_float8, conv_of_float8, cast_to_float8)
