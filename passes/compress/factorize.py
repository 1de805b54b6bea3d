"""Factorisation: a layer becomes two or three smaller ones, where its weights are near a product of few dimensions."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.tensor import Array
from lepton.passes.base import Pass, count
from lepton.passes.common import constant, substitute
from lepton.passes.compress.cp import cp
from lepton.passes.compress.factors import Factors, Limits, depthwise, lost, svd, tucker
from lepton.passes.compress.layers import Layer, chosen, layers

Forms = Literal["best", "svd", "tucker", "depthwise", "cp"]


@dataclass(frozen=True)
class Factorize(Pass):
    """matmul(x, w[512,512])  ->  matmul(matmul(x, u[512,64]), v[64,512])

    Convolutions become svd: fewer filters and a pointwise mix; tucker: a pointwise one, filters between fewer channels,
    a mix; depthwise: a few filters of its own for each channel and a mix; best: whatever of these takes the least work;
    cp (which takes long to fit): a pointwise one, a filter for each of its channels, a mix.
    No layer loses more than the share `error` of its weights' squares, and none is touched whose work does not fall to
    `gain` of what it was. Ranks are multiples of `multiple`. `only` and `skip` name layers."""

    name: ClassVar[str] = "factorize"
    accuracy: ClassVar[Accuracy] = "approximate"
    error: float = 0.01
    gain: float = 0.75
    form: Forms = "best"
    multiple: int = 1
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> bool:
        return factorize_layers(graph, self, {})


def factorize_layers(graph: Graph, how: Factorize, grams: Mapping[str, Array]) -> bool:
    """Factorise in place. `grams`: by layer [1, K, K], the mean of x xᵀ over what it reads: the error is then that of
    its results. Raises UsageError."""
    if not 0 <= how.error < 1 or not 0 < how.gain <= 1 or how.multiple < 1:
        raise UsageError(f"error {how.error}, gain {how.gain}, multiple {how.multiple}",
                         help="0 <= error < 1, 0 < gain <= 1, multiple >= 1")
    changed = False
    for layer in chosen(layers(graph), how.only, how.skip):
        if layer.w is None or layer.groups != 1 or layer.channel_axis is None:
            continue
        found = _best(layer, how, grams.get(layer.name))
        if found is not None:
            made = _replacement(layer, found)
            count(f"{found.form} layers")
            changed |= substitute(graph, layer.node.result, made)
    sweep(graph)
    return changed


def _best(layer: Layer, how: Factorize, gram: Array | None) -> Factors | None:
    """The least work within the error, if that is little enough."""
    weight = layer.weight if layer.is_conv else np.ascontiguousarray(layer.weight.T)
    limits, inputs = Limits(how.error, how.multiple), None if gram is None else gram[0]
    found = []
    if how.form in ("best", "svd"):
        found.append(svd(weight, limits, inputs))
    if layer.is_conv and prod(weight.shape[2:]) > 1:
        if how.form in ("best", "tucker"):
            found.append(tucker(weight, limits, layer.node.attrs["strides"]))
        if how.form in ("best", "depthwise"):
            found.append(depthwise(weight, limits))
        if how.form == "cp":
            found.append(cp(weight, limits, layer.node.attrs["strides"]))
    room = max(how.error, 1e-9) * (1 + 1e-6)
    good = [f for f in found if f.work <= how.gain * weight.size and lost(weight, f, inputs) <= room]
    return min(good, key=lambda f: f.work, default=None)


def _replacement(layer: Layer, factors: Factors) -> Value:
    """The layer's result from its factors."""
    node, parts = layer.node, [part.astype(np.float32) for part in factors.parts]
    if not layer.is_conv:
        first, second = (constant(np.ascontiguousarray(p.T)) for p in parts)
        return ops.matmul(ops.matmul(layer.x, first, loc=node.loc), second, loc=node.loc)
    rank = layer.x.tensor.rank - 2
    point: dict[str, Any] = {"strides": (1,) * rank, "pads_begin": (0,) * rank, "pads_end": (0,) * rank,
                             "dilations": (1,) * rank, "layout": node.attrs["layout"]}
    value = layer.x
    if factors.form in ("tucker", "cp"):
        value = ops.conv(value, constant(parts.pop(0)), **point, loc=node.loc)
    group = {"depthwise": factors.channels, "cp": len(parts[0])}.get(factors.form, 1)
    value = ops.conv(value, constant(parts[0]), **{**node.attrs, "group": group}, loc=node.loc)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return ops.conv(value, constant(parts[1]), bias, **point, loc=node.loc)
