"""Cross-layer equalisation: one scale for a weight loses least where its channels are of one size."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.rewrite import sweep, tensor_of
from lepton.passes.base import Pass, count
from lepton.passes.common import constant, elements, only_reader
from lepton.passes.compress.layers import Layer, by_input, largest_by_input, layers, set_weight

LEAST, LARGEST = 1e-6, 1e3    # of a factor: what is nearly dead is left alone


@dataclass(frozen=True)
class Equalize(Pass):
    """conv(relu(conv(x, v)), w)  ->  conv(relu(conv(x, v / s)), w * s), by channel between the two

    With s so that the largest weight that makes a channel and the largest that reads it become equal (Nagel et al.
    2019). Between neighbours with nothing or a relu in between and no other readers; `rounds` times over the chain."""

    name: ClassVar[str] = "equalize"
    rounds: int = 3

    def run(self, graph: Graph) -> bool:
        changed = False
        for _ in range(self.rounds):
            by_node = {layer.node: layer for layer in layers(graph) if layer.is_conv}
            for layer in by_node.values():
                reader = _reader(layer, graph)
                if reader in by_node:
                    changed |= _balance(layer, by_node[reader])
        sweep(graph)
        return changed


def _reader(layer: Layer, graph: Graph) -> object:
    """The node that alone reads the layer's result, through a relu at most, as its first operand."""
    value: Value = layer.node.result
    for _ in range(2):
        node = only_reader(value)
        if node is None or value in graph.outputs:
            return None
        if node.op is not ops.relu:
            return node if node.inputs[0] is value and value not in node.inputs[1:] else None
        value = node.result
    return None


def _balance(first: Layer, second: Layer) -> bool:
    """Share the channels' sizes out between the two weights."""
    bias = first.node.inputs[2] if len(first.node.inputs) > 2 else None
    if bias is not None and tensor_of(bias) is None:
        return False
    made = np.abs(first.matrix).max(axis=1)                                # [channels]
    read = largest_by_input(second)
    dead = (made < LEAST) | (read < LEAST)
    factors = np.where(dead, 1.0, np.sqrt(made / np.maximum(read, LEAST)))
    factors = np.clip(factors, 1 / LARGEST, LARGEST)
    if np.allclose(factors, 1, rtol=1e-3):
        return False
    view = (-1, *[1] * (first.weight.ndim - 1))
    set_weight(first, (first.weight / factors.reshape(view)).astype(np.float32))
    if bias is not None:
        first.node.set_input(2, constant((elements(bias) / factors).astype(np.float32)))
    set_weight(second, (second.weight * by_input(second, factors)).astype(np.float32))
    count("equalized pairs")
    return True
