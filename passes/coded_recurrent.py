"""Recurrent layers whose weights are bytes: kernels read the levels, and scale the sums."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.rewrite import sweep
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import ALLOWED, Math, Pass, count
from lepton.passes.common import array_of, constant, graphs, substitute

OPERANDS = {ops.lstm: 8, ops.gru: 6, ops.rnn: 6}     # before the two scales


@dataclass(frozen=True)
class CodedRecurrent(Pass):
    """lstm(x, dequantize(w), dequantize(r), ...)  ->  lstm(x, w, r, ..., w_scale, r_scale)

    For constant w and r in i8 whose scales differ by direction and column at most. Sums are scaled, not weights, so
    nothing is done where math is strict."""

    name: ClassVar[str] = "coded-recurrent"
    math: Math = "default"

    def run(self, graph: Graph) -> bool:
        if "reassociating" not in ALLOWED[self.math]:
            return False
        changed = False
        for part in graphs(graph):
            for node in part.nodes:
                if node.op in OPERANDS:
                    changed |= _replace(part, node)
        if changed:
            sweep(graph)
        return changed


def _replace(graph: Graph, node: Node) -> bool:
    found = [_levels(v) for v in node.inputs[1:3]]
    if None in found or len(node.inputs) > OPERANDS[node.op]:
        return False
    (w, w_scale), (r, r_scale) = (f for f in found if f is not None)
    absent = [None] * (OPERANDS[node.op] - len(node.inputs))
    made = node.op.node(node.inputs[0], w, r, *node.inputs[3:], *absent, constant(w_scale), constant(r_scale),
                        **node.attrs, loc=node.loc)
    for old, new in zip(node.results, made.results, strict=True):
        substitute(graph, old, new)
    count("coded layers")
    return True


def _levels(value: Value | None) -> tuple[Value, Array] | None:
    """(i8 [D,G*H,I], scales [D,G*H]), if that is what a value is made of."""
    node = None if value is None else value.producer
    if node is None or node.op is not ops.dequantize:
        return None
    codes, scale, zero = (*node.inputs, None)[:3]
    levels, steps, offset = array_of(codes), array_of(scale), array_of(zero)
    if codes is None or levels is None or steps is None or codes.tensor.dtype is not DType.I8:
        return None
    known = zero is None or (offset is not None and not offset.any())
    if not known or steps.dtype != np.float32 or not np.isfinite(steps).all():
        return None
    if node.attrs["block"] and (node.attrs["axis"] != 2 or steps.shape[2] != 1):
        return None
    if not node.attrs["block"] and steps.ndim:
        if node.attrs["axis"] == 2:
            return None
        steps = steps[:, None, None] if node.attrs["axis"] == 0 else steps[:, None]
    return codes, np.ascontiguousarray(np.broadcast_to(steps, (*levels.shape[:2], 1))[..., 0])
