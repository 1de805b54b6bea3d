"""Channels of what layers read brought to other sizes before anything is rounded; the weights make up for it.

x -> x / f and w -> w * f by input channel: the answers stay, and what is hard to round moves to where it is not."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lepton.compress import rounding
from lepton.compress.observe import Inputs
from lepton.ir.core import Graph
from lepton.ir.tensor import Array
from lepton.passes.compress.layers import Layer, chosen, largest_by_input, layers, scale_inputs

EVEN = 0.5          # channels the smallest of which is this share of the largest are of one size
SMALLEST = 1 / 256  # of the largest factor: channels that are nearly 0 in the data may be less so elsewhere


def smooth(graph: Graph, stats: Mapping[str, Inputs], alpha: float, depthwise: bool) -> dict[str, Inputs]:
    """Move differences in size between the channels of what layers read into their weights, in place; what the layers
    read then.

    `alpha` (0: they stay): the exponent of SmoothQuant (Xiao et al. 2023). `depthwise`: in front of depthwise
    convolutions all of the difference goes: each of their outputs has a scale of its own, which takes it free."""
    after = dict(stats)
    groups: dict[tuple[int, bool], list[Layer]] = {}
    for layer in layers(graph):
        apart = depthwise and layer.is_depthwise
        if layer.name in stats and layer.channel_axis is not None and (apart or alpha):
            groups.setdefault((id(layer.x), apart), []).append(layer)
    for (_, apart), members in groups.items():
        largest = stats[members[0].name].largest
        factors = _balanced(largest) if apart else _smoothed(largest, members, alpha)
        if factors is not None:
            _scale_together(members, factors)
            after.update((m.name, _scaled(m, stats[m.name], factors)) for m in members)
    return after


def _balanced(largest: Array) -> Array | None:
    """[C] factors that make all channels equally large; None where they nearly are."""
    top = float(largest.max(initial=0.0))
    return None if top <= 0 or largest.min() > EVEN * top else np.maximum(largest / top, SMALLEST)


def _smoothed(largest: Array, members: Sequence[Layer], alpha: float) -> Array:
    """[C] factors that share the differences out between the inputs and the weights."""
    inputs = np.maximum(largest, 1e-5)
    weights = np.maximum(np.max([largest_by_input(m) for m in members], axis=0), 1e-5)
    return np.asarray(np.maximum(inputs**alpha / weights**(1 - alpha), 1e-5))


def _scale_together(members: Sequence[Layer], factors: Array) -> None:
    """Layers that read the same value go on doing so."""
    first = members[0]
    name = first.x.name
    scale_inputs(first, factors)
    first.x.name = f"{name}_smooth_{first.name}"
    for other in members[1:]:
        scale_inputs(other, factors)
        other.node.set_input(0, first.x)


def _scaled(layer: Layer, seen: Inputs, factors: Array) -> Inputs:
    """What the layer reads after `scale_inputs`."""
    columns = seen.mean.size // len(factors)                               # of the matrix, for each channel
    inverse = np.repeat(1 / factors, columns).reshape(seen.mean.shape)     # [groups, K]
    return Inputs(seen.mean * inverse, seen.gram * inverse[:, :, None] * inverse[:, None, :], seen.rows,
                  seen.largest / factors)


def awq(graph: Graph, stats: Mapping[str, Inputs], bits: int, block: int, only: tuple[str, ...], skip: tuple[str, ...]
        ) -> dict[str, Inputs]:
    """Scale each chosen matmul's inputs before its weight is rounded to so many bits; what the layers read then."""
    after = dict(stats)
    most = 2 ** (bits - 1) - 1
    for layer in chosen(layers(graph), only, skip):
        seen = stats.get(layer.name)
        if seen is None or layer.is_conv or layer.weight.ndim != 2:
            continue
        factors, exponent = rounding.activation_aware(layer.matrix, seen.gram[0], most, block)
        if exponent:
            scale_inputs(layer, factors)
            after[layer.name] = _scaled(layer, seen, factors)
    return after
