"""Weights of recurrent layers as bytes; what flows through them stays float."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node
from lepton.ir.printer import value_names
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import array_of, constant, elements
from lepton.passes.compress.grids import nearest, row_scales
from lepton.passes.compress.layers import chosen
from lepton.passes.compress.quantize_static import MOST

RECURRENT = (ops.lstm, ops.gru, ops.rnn)


@dataclass(frozen=True)
class Recurrence:
    """`node` is lstm, gru or rnn(x, w, r, ...) with constant f32 w [D,G*H,I] and r [D,G*H,H]; `name` is that of its
    first result."""

    name: str
    node: Node

    @property
    def width(self) -> int:
        """How many numbers a gate sums over."""
        return sum(elements(w).shape[2] for w in self.node.inputs[1:3] if w is not None)


@dataclass(frozen=True)
class QuantizeRecurrent(Pass):
    """lstm(x, w, r)  ->  lstm(x, dequantize(levels of w), dequantize(levels of r))

    Symmetrically to i8, a scale for each direction and column. The state goes through the layer again and again: it
    stays float, and so do inputs, which need no calibration then."""

    name: ClassVar[str] = "quantize-recurrent"
    accuracy: ClassVar[Accuracy] = "approximate"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> bool:
        found = chosen(recurrences(graph), self.only, self.skip)
        for layer in found:
            for slot in (1, 2):
                _quantize(layer.node, slot)
        count("quantized layers", len(found))
        sweep(graph)
        return bool(found)


def recurrences(graph: Graph) -> list[Recurrence]:
    """The recurrent layers of a graph, regions left out, in order."""
    nodes = graph.nodes
    names = value_names(graph, nodes)
    return [Recurrence(names[n.results[0]], n) for n in nodes if n.op in RECURRENT and _suits(n)]


def _suits(node: Node) -> bool:
    x, *weights = node.inputs[:3]
    arrays = [array_of(w) for w in weights]
    floats = x is not None and x.tensor.dtype is DType.F32
    return floats and all(a is not None and a.dtype == np.float32 and a.size and np.isfinite(a).all() for a in arrays)


def _quantize(node: Node, slot: int) -> None:
    weight = node.inputs[slot]
    assert weight is not None
    array = elements(weight).astype(np.float64)
    directions, columns, inputs = array.shape
    rows = array.reshape(-1, inputs)
    scales = row_scales(rows, MOST)
    levels = constant(nearest(rows, scales[:, None], MOST).astype(np.int8).reshape(array.shape))
    if directions == 1:
        node.set_input(slot, ops.dequantize(levels, constant(scales), axis=1, loc=node.loc))
        return
    steps = constant(scales.reshape(directions, columns, 1))
    node.set_input(slot, ops.dequantize(levels, steps, axis=2, block=inputs, loc=node.loc))
