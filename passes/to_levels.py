"""Quantise and dequantise by elementwise operations, so that they fuse with whatever is beside them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.ops.quant import LEVELS
from lepton.ir.rewrite import sweep
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import Math, Pass, count
from lepton.passes.common import array_of, constant, graphs, only_reader, scalar_of, substitute


@dataclass(frozen=True)
class ToLevels(Pass):
    """quantize(x, s, z)  ->  to_level(x / s, zero=z);   dequantize(x, s, z)  ->  (cast(x) - z) * s

    Behind an integer product's own scale, 1/s is taken into it unless math is strict. Every reader of a dequantized
    value gets operations of its own: it shall read bytes. So no common subexpressions may be sought afterwards."""

    name: ClassVar[str] = "to-levels"
    math: Math = "default"

    def run(self, graph: Graph) -> bool:
        changed = False
        for part in graphs(graph):
            for node in part.nodes:
                if node.op is ops.dequantize:
                    changed |= _dequantized(part, node)
            for node in part.nodes:
                if node.op is ops.quantize:
                    changed |= self.quantized(part, node)
            sweep(part)
        return changed

    def quantized(self, graph: Graph, node: Node) -> bool:
        x, s, z = (*node.inputs, None)[:3]
        assert x is not None
        scale, zero = array_of(s), np.zeros(1) if z is None else array_of(z)
        to, axis = node.attrs["to"], node.attrs["axis"]
        floats = scale is not None and scale.dtype == np.float32 and x.tensor.dtype is DType.F32
        if not floats or zero is None or node.attrs["block"] or to not in LEVELS or len(np.unique(zero)) != 1:
            return False
        assert scale is not None
        scale = along(scale, axis, x.tensor.rank)
        level = None if self.math == "strict" else divided(x, scale)
        if level is None:
            level = ops.div(x, constant(scale), loc=node.loc)
        result = ops.to_level(level, to=to, zero=int(zero.flat[0]), loc=node.loc)
        count("quantize")
        return result.type == node.result.type and substitute(graph, node.result, result)


def along(parameter: Array, axis: int, rank: int) -> Array:
    """One entry for each place along `axis`, as something that broadcasts to `rank` axes."""
    return parameter.reshape((-1, *[1] * (rank - 1 - axis))) if parameter.ndim else parameter


def divided(x: Value, scale: Array) -> Value | None:
    """x / scale with the division in constants, if x is something times a constant, a sum of such, or what a constant,
    relu or clip made of that."""
    node = x.producer
    if node is None or only_reader(x) is None or scale.min() <= 0 or node.op not in _LINEAR:
        return None
    parts = [None if v is None else _part(node, i, v, scale) for i, v in enumerate(node.inputs)]
    if any(p is None and v is not None for p, v in zip(parts, node.inputs, strict=True)):
        return None
    result = node.op(*parts, loc=node.loc)
    return result if result.type == x.type else None


_LINEAR = (ops.mul, ops.add, ops.relu, ops.clip)


def _part(node: Node, slot: int, operand: Value, scale: Array) -> Value | None:
    """Operand `slot` of x's node as x / scale has it."""
    known = array_of(operand)
    if node.op is ops.mul and known is None:
        return operand if array_of(node.inputs[1 - slot]) is not None else None
    if known is None:
        return divided(operand, scale)
    if node.op is ops.clip and scale.size != 1:
        return None
    return constant((known / (scale.reshape(()) if node.op is ops.clip else scale)).astype(np.float32))


def _dequantized(graph: Graph, node: Node) -> bool:
    x, s, z = (*node.inputs, None)[:3]
    assert x is not None
    assert s is not None
    if x.tensor.dtype not in LEVELS or s.tensor.dtype is not DType.F32 or node.attrs["block"]:
        return False
    old, changed = node.result, False
    for user, slot in tuple(old.uses):
        if isinstance(user, Node):
            user.set_input(slot, _value(node, x, s, z))
            changed = True
    if old.uses:
        changed |= substitute(graph, old, _value(node, x, s, z))
    count("dequantize", int(changed))
    return changed


def _value(node: Node, x: Value, s: Value, z: Value | None) -> Value:
    """(x - z) * s; the difference of levels of 16 bits is exact in f32."""
    def spread(v: Value) -> Value:
        shape = (v.tensor.shape[0], *[1] * (x.tensor.rank - 1 - node.attrs["axis"])) if v.tensor.rank else ()
        return v if shape == v.tensor.shape else ops.reshape(v, shape=shape)

    level = ops.cast(x, to=DType.F32, loc=node.loc)
    if z is not None and scalar_of(z) != 0:
        known = array_of(z)
        zero = ops.cast(z, to=DType.F32) if known is None else constant(known.astype(np.float32))
        level = ops.sub(level, spread(zero), loc=node.loc)
    known = array_of(s)
    return ops.mul(level, spread(s) if known is None else constant(along(known, node.attrs["axis"], x.tensor.rank)),
                   loc=node.loc)
