"""Palettes: a layer's weights become places in a table of few numbers, found by k-means."""
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
from lepton.passes.common import constant
from lepton.passes.compress.grids import row_scales
from lepton.passes.compress.layers import Layer, chosen, layers, set_weight

BINS = 1 << 16      # of the histogram that stands for a large weight's elements
ROUNDS = 50         # of k-means; it settles in fewer


@dataclass(frozen=True)
class PalettizeWeights(Pass):
    """matmul(x, w)  ->  matmul(x, gather(table, codes) * scales)

    A table of 2 ** `bits` numbers (2 to 8 bits) for each layer. With `scaled`, each output channel is first divided by
    its largest magnitude, and multiplied by it again afterwards. Weights of fewer than `least` elements stay."""

    name: ClassVar[str] = "palettize-weights"
    accuracy: ClassVar[Accuracy] = "approximate"
    bits: int = 4
    scaled: bool = True
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    least: int = 64

    def run(self, graph: Graph) -> bool:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"palettes of {self.bits} bits", help="2 to 8")
        found = [layer for layer in chosen(layers(graph), self.only, self.skip)
                 if layer.channel_axis is not None and layer.weight.size >= self.least]
        for layer in found:
            self.palettize(layer)
        count("palettes", len(found))
        sweep(graph)
        return bool(found)

    def palettize(self, layer: Layer) -> None:
        matrix = layer.matrix
        scales = row_scales(matrix, 1) if self.scaled else np.ones(len(matrix), np.float32)
        scaled = matrix / scales[:, None].astype(np.float64)
        table = centres(scaled, self.bits)
        codes = layer.unmatrix(nearest_places(scaled, table))
        value = ops.gather(constant(table), ops.cast(constant(codes), to=DType.I32), axis=0)
        if self.scaled:
            axis = layer.channel_axis
            shape = [-1 if a == axis else 1 for a in range(codes.ndim)]
            value = ops.mul(value, constant(scales.reshape(shape)))
        set_weight(layer, value)


def centres(values: Array, bits: int) -> Array:
    """[2 ** bits] f32, ascending: numbers near which the values lie, by k-means (Lloyd) from their quantiles."""
    counts, edges = np.histogram(values, BINS)
    filled = counts > 0
    weight = counts[filled].astype(np.float64)
    middle = np.histogram(values, edges, weights=values)[0][filled] / weight
    sums, moments = np.cumsum(weight), np.cumsum(weight * middle)
    ends = (np.arange(1 << bits) + 0.5) / (1 << bits) * sums[-1]
    table = middle[np.minimum(np.searchsorted(sums, ends), len(middle) - 1)]
    for _ in range(ROUNDS):
        borders = np.searchsorted(middle, (table[1:] + table[:-1]) / 2)
        total = np.diff(np.concatenate([[0.0], np.concatenate([[0.0], sums])[borders], sums[-1:]]))
        moment = np.diff(np.concatenate([[0.0], np.concatenate([[0.0], moments])[borders], moments[-1:]]))
        moved = np.where(total > 0, moment / np.maximum(total, 1), table)
        if np.allclose(moved, table, rtol=1e-7, atol=0):
            break
        table = np.sort(moved)
    return np.asarray(table, np.float32)


def nearest_places(values: Array, table: Array) -> Array:
    """For each value the place of the nearest entry of an ascending table, u8."""
    wide = table.astype(np.float64)
    return np.searchsorted((wide[1:] + wide[:-1]) / 2, values).astype(np.uint8)
