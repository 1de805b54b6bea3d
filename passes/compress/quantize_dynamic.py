"""Dynamic quantisation: activations get their scale while the model runs; no calibration."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import constant
from lepton.passes.compress.grids import nearest, row_scales
from lepton.passes.compress.layers import Layer, chosen, layers
from lepton.passes.compress.quantize_static import MOST


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """matmul(x, w)  ->  cast(matmul_integer(q, levels of w, z)) * (s * scales); q, s, z are dynamic_quantize(x)

    Weights symmetrically to i8, a scale for each output channel. Matmuls with weights [K,N], and convolutions."""

    name: ClassVar[str] = "quantize-dynamic"
    accuracy: ClassVar[Accuracy] = "approximate"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> bool:
        made: dict[Value, tuple[Value, ...]] = {}
        found = [layer for layer in chosen(layers(graph), self.only, self.skip) if layer.channel_axis is not None]
        for layer in found:
            if layer.x not in made:
                made[layer.x] = ops.dynamic_quantize.node(layer.x, loc=layer.node.loc).results
            result = _product(layer, *made[layer.x])
            result.name = layer.node.result.name
            layer.node.result.replace_with(result)
        count("quantized layers", len(found))
        sweep(graph)
        return bool(found)


def _product(layer: Layer, level: Value, scale: Value, zero: Value) -> Value:
    """The layer's result by integers."""
    node, matrix = layer.node, layer.matrix
    scales = row_scales(matrix, MOST)
    weight = constant(layer.unmatrix(nearest(matrix, scales[:, None], MOST).astype(np.int8)))
    nchw = layer.is_conv and node.attrs["layout"] == "nchw"
    view = (-1, *[1] * (node.result.tensor.rank - 2)) if nchw else (-1,)
    op = ops.conv_integer if layer.is_conv else ops.matmul_integer
    total = op(level, weight, zero, None, **node.attrs, loc=node.loc)
    result = ops.mul(ops.cast(total, to=DType.F32), ops.mul(constant(scales.reshape(view)), scale), loc=node.loc)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return result
    return ops.add(result, ops.reshape(bias, shape=(bias.tensor.shape[0], *view[1:])))
