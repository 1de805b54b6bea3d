"""Weight-only quantisation: the weights take less room, the products stay in f32."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.compress.grids import TINY, nearest
from lepton.passes.compress.layers import Layer, chosen, constant, layers, set_weight

TYPES = {4: DType.I4, 8: DType.I8}


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """matmul(x, w)  ->  matmul(x, dequantize(levels of w))

    Symmetric levels of `bits` bits (4 or 8); each output channel has a scale, or, with `block` > 0 and for matmuls,
    each `block` inputs of it. Weights of fewer than `least` elements stay."""

    name: ClassVar[str] = "quantize-weights"
    accuracy: ClassVar[Accuracy] = "approximate"
    bits: int = 8
    block: int = 0
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    least: int = 64

    @property
    def most(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def levels(self, layer: Layer, steps: Array) -> Array:
        """[outputs, inputs] levels of a weight whose elements have these steps."""
        return nearest(layer.matrix, steps, self.most)

    def run(self, graph: Graph) -> bool:
        if self.bits not in TYPES:
            raise UsageError(f"{self.bits} bits for weights", help="4 or 8")
        found = [layer for layer in chosen(layers(graph), self.only, self.skip)
                 if layer.channel_axis is not None and layer.weight.size >= self.least]
        for layer in found:
            self.quantize(layer)
        count("quantized layers", len(found))
        sweep(graph)
        return bool(found)

    def quantize(self, layer: Layer) -> None:
        matrix, axis = layer.matrix, layer.channel_axis
        assert axis is not None
        block = 0 if layer.is_conv else self.block
        scales = block_scales(matrix, block, self.most)
        size = block or matrix.shape[1]
        steps = np.repeat(scales, size, axis=1)[:, :matrix.shape[1]]
        levels = constant(layer.unmatrix(self.levels(layer, steps)).astype(TYPES[self.bits].numpy))
        if block:
            value = ops.dequantize(levels, constant(np.ascontiguousarray(scales.T)), axis=0, block=block)
        else:
            value = ops.dequantize(levels, constant(scales[:, 0].copy()), axis=axis)
        set_weight(layer, value)


def block_scales(matrix: Array, block: int, most: int) -> Array:
    """[outputs, blocks] f32: the largest magnitude in each block of a row falls on the level `most`."""
    rows, width = matrix.shape
    size = block or width
    padded = np.zeros((rows, -(-width // size) * size))
    padded[:, :width] = np.abs(matrix)
    largest = padded.reshape(rows, -1, size).max(axis=2)
    return np.asarray(np.maximum(largest, TINY * most) / most, np.float32)
