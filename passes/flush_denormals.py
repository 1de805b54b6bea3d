"""Weights too small for normal floats."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.passes.base import Math, Pass
from lepton.passes.common import array_of, graphs

_AT_ONCE = 1 << 16
_WEIGHED: frozenset[Op] = frozenset({ops.matmul, ops.conv, ops.conv_transpose, ops.lstm, ops.gru, ops.rnn})


@dataclass(frozen=True)
class FlushDenormals(Pass):
    """matmul(x, [1.0, 1e-39])  ->  matmul(x, [1.0, 0.0]), and so for convolutions and recurrent layers; not if strict

    Training leaves such weights behind (a quarter of a million in PP-OCRv6's detector), and many processors take a
    hundred cycles for a multiplication by one. What they add to a sum is below 1.2e-38 of the input."""

    name: ClassVar[str] = "flush-denormals"
    math: Math = "default"

    def run(self, graph: Graph) -> bool:
        changed = False
        for part in graphs(graph) if self.math != "strict" else ():
            for node in part.nodes:
                changed |= node.op in _WEIGHED and _flush(node)
        return changed


def _flush(node: Node) -> bool:
    changed = False
    for slot, value in enumerate(node.inputs):
        array = array_of(value)
        if value is None or array is None or array.dtype not in (np.float32, np.float64):
            continue
        if any(_tiny(piece).any() for piece in _pieces(array)):
            flushed = array.copy()
            for piece in _pieces(flushed):
                piece[_tiny(piece)] = 0
            node.set_input(slot, ops.constant(value=Tensor.of(flushed, copy=False)))
            changed = True
    return changed


def _pieces(array: Array) -> Iterator[Array]:
    """The elements, as many at a time as the cache holds: what is computed of them takes no memory to speak of."""
    flat = array.reshape(-1)
    return (flat[i:i + _AT_ONCE] for i in range(0, flat.size, _AT_ONCE))


def _tiny(piece: Array) -> Array:
    found: Array = (np.abs(piece) < np.finfo(piece.dtype).tiny) & (piece != 0)
    return found
