"""Weight-only quantisation: the weights take less room, the products stay in f32."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import array_of, constant, elements, substitute
from lepton.passes.compress.grids import TINY, nearest, row_scales
from lepton.passes.compress.layers import Layer, chosen, layers, set_weight

TYPES = {4: DType.I4, 8: DType.I8}
MOST = 127      # level of a table


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """matmul(x, w)  ->  matmul(x, dequantize(levels of w))

    Symmetric levels of `bits` bits (4 or 8); each output channel has a scale, or, with `block` > 0 and for matmuls,
    each `block` inputs of it. Weights of fewer than `least` elements stay. With `tables`, rows that are looked up in
    a matrix (embeddings) are levels of 8 bits, each row with a scale:

    gather(t, ids)  ->  dequantize(gather(levels of t, ids), gather(scales, ids))"""

    name: ClassVar[str] = "quantize-weights"
    accuracy: ClassVar[Accuracy] = "approximate"
    bits: int = 8
    block: int = 0
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    least: int = 64
    tables: bool = False

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
        tables = quantize_tables(graph, self.least) if self.tables else 0
        sweep(graph)
        return bool(found or tables)

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


def quantize_tables(graph: Graph, least: int = 64) -> int:
    """Let gathers of rows of a constant matrix read bytes; how many there were."""
    found = [n for n in graph.nodes if _is_table(n, least)]
    for node in found:
        _quantize_table(graph, node)
    count("quantized tables", len(found))
    return len(found)


def _is_table(node: Node, least: int) -> bool:
    if node.op is not ops.gather or node.attrs["axis"] != 0:
        return False
    table = array_of(node.inputs[0])
    return (table is not None and table.ndim == 2 and table.dtype == np.float32 and table.size >= least
            and table.shape[1] > 1 and bool(np.isfinite(table).all()))


def _quantize_table(graph: Graph, node: Node) -> None:
    source, ids = node.inputs
    assert source is not None
    table = elements(source)
    scales = row_scales(table, MOST)
    levels = constant(nearest(table, scales[:, None], MOST).astype(np.int8))
    rows = ops.gather(levels, ids, axis=0, loc=node.loc)
    steps = ops.gather(constant(scales[:, None].copy()), ids, axis=0, loc=node.loc)
    value = ops.dequantize(rows, steps, axis=rows.tensor.rank - 1, block=table.shape[1], loc=node.loc)
    substitute(graph, node.result, value)


def block_scales(matrix: Array, block: int, most: int) -> Array:
    """[outputs, blocks] f32: the largest magnitude in each block of a row falls on the level `most`, or near it: scales
    of blocks are numbers of 16 bits where these are fine enough."""
    rows, width = matrix.shape
    size = block or width
    padded = np.zeros((rows, -(-width // size) * size))
    padded[:, :width] = np.abs(matrix)
    largest = padded.reshape(rows, -1, size).max(axis=2)
    scales = np.asarray(np.maximum(largest, TINY * most) / most, np.float32)
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16).astype(np.float32)
    fine = block and np.isfinite(halves).all() and scales.min(initial=1) >= np.finfo(np.float16).smallest_normal
    return halves if fine else scales
