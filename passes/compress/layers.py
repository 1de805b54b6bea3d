"""Layers: the products whose weights are constants, which is where a model's bytes and most of its time go."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.printer import value_names
from lepton.ir.rewrite import tensor_of
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.common import constant, elements, node_of


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_Named)


@dataclass(frozen=True)
class Layer:
    """`node` is conv(x, w), matmul(x, w) with a constant f32 `w`, or matmul(x, y) of two activations (w is None).

    `name` is that of the node's result, unique in the graph. As a matrix, the weight is [outputs, inputs]: a row for
    each output channel."""

    name: str
    node: Node

    @property
    def x(self) -> Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def w(self) -> Value | None:
        """The weight, if it is a constant."""
        value = self.node.inputs[1]
        return value if tensor_of(value) is not None else None

    @property
    def activations(self) -> tuple[Value, ...]:
        """What it reads that is no constant."""
        values = self.node.inputs[:2] if self.w is None else self.node.inputs[:1]
        return tuple(v for v in values if v is not None)

    @property
    def is_conv(self) -> bool:
        return self.node.op is ops.conv

    @property
    def weight(self) -> Array:
        """The weight's elements: [O,C/g,k...] for conv, [K,N] (or with leading axes) for matmul."""
        assert self.w is not None
        return elements(self.w)

    @property
    def channel_axis(self) -> int | None:
        """Which axis of the weight counts the output channels; None where a scale for each would not be exact."""
        if self.is_conv:
            return 0
        return 1 if self.weight.ndim == 2 else None

    @property
    def groups(self) -> int:
        return int(self.node.attrs["group"]) if self.is_conv else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether each of its outputs reads one channel, of several."""
        return self.w is not None and self.groups > 1 and self.weight.shape[1] == 1

    @property
    def matrix(self) -> Array:
        """The weight as [outputs, inputs], f64; a conv's inputs are C/g * k...; matmul with rank 2 only."""
        weight = self.weight.astype(np.float64)
        return weight.reshape(weight.shape[0], -1) if self.is_conv else np.ascontiguousarray(weight.T)

    def unmatrix(self, matrix: Array) -> Array:
        """The inverse of `matrix`, with the matrix' own dtype."""
        shape = self.weight.shape
        return matrix.reshape(shape) if self.is_conv else np.ascontiguousarray(matrix.T)


def layers(graph: Graph, *, with_activations: bool = False) -> list[Layer]:
    """The f32 layers of a graph, regions left out, in order; `with_activations`: products of two activations too."""
    nodes = graph.nodes
    names = value_names(graph, nodes)
    found = [Layer(names[n.results[0]], n) for n in nodes if n.op in (ops.conv, ops.matmul)]
    return [layer for layer in found if _is_layer(layer, with_activations)]


def _is_layer(layer: Layer, with_activations: bool) -> bool:
    x, w = layer.node.inputs[:2]
    if x is None or w is None or tensor_of(x) is not None or x.tensor.dtype is not DType.F32:
        return False
    if layer.w is None:
        return with_activations and layer.node.op is ops.matmul and min(x.tensor.rank, w.tensor.rank) >= 2
    return min(x.tensor.rank, w.tensor.rank) >= 2 and layer.weight.size > 0 and bool(np.isfinite(layer.weight).all())


def names_of(words: str | Iterable[str]) -> tuple[str, ...]:
    """Names of layers; a string is one name, not its letters."""
    return (words,) if isinstance(words, str) else tuple(words)


def chosen(found: Iterable[Named], only: str | Iterable[str], skip: str | Iterable[str]) -> list[Named]:
    """Those of the layers that `only` names (empty: all) and `skip` does not. Raises UsageError for unknown names."""
    found, only, skip = list(found), names_of(only), names_of(skip)
    known = {layer.name for layer in found}
    if unknown := sorted({*only, *skip} - known):
        raise UsageError(f"no layer '{unknown[0]}'", help=f"the layers are {', '.join(sorted(known)) or 'none'}")
    return [layer for layer in found if (not only or layer.name in only) and layer.name not in skip]


def set_weight(layer: Layer, value: Value | Array) -> None:
    """Let the layer read another weight: a value, or elements as they are."""
    layer.node.set_input(1, constant(value) if isinstance(value, np.ndarray) else value)


def by_input(layer: Layer, factors: Array) -> Array:
    """Factors of the input channels [C] as they meet the weight: [O,C/g,1...] for conv, [C,1] for matmul."""
    if not layer.is_conv:
        return factors.reshape(-1, 1)
    weight, groups = layer.weight, layer.groups
    rows = np.repeat(factors.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return np.asarray(rows.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2)))


def largest_by_input(layer: Layer) -> Array:
    """[C]: the largest weight that meets each input channel; matmul with rank 2 only."""
    weight = np.abs(layer.weight.astype(np.float64))
    if not layer.is_conv:
        return np.asarray(weight.max(axis=1))
    grouped = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
    return np.asarray(grouped.max(axis=(1, 3)).reshape(-1))


def scale_inputs(layer: Layer, factors: Array) -> None:
    """x -> x * (1 / factors), w -> w * factors along the input channels [C]: the answers stay.

    The multiplication fuses with what made x."""
    factors = factors.astype(np.float64)
    inverse = (1 / factors).astype(np.float32)
    shape = (-1, *[1] * (layer.x.tensor.rank - 2)) if layer.is_conv and layer.node.attrs["layout"] == "nchw" else (-1,)
    scaled = ops.mul(layer.x, constant(inverse.reshape(shape)), loc=layer.node.loc)
    set_weight(layer, (layer.weight * by_input(layer, factors)).astype(np.float32))
    layer.node.set_input(0, scaled)


def add_bias(graph: Graph, layer: Layer, bias: Array) -> Layer:
    """Add [outputs] to the layer's result: into a conv's constant bias, else as an addition. The layer as it is now."""
    node = layer.node
    known = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op is ops.conv and (known is None or tensor_of(known) is not None):
        total = bias if known is None else elements(known).astype(np.float64) + bias
        made = ops.conv(*node.inputs[:2], constant(total.astype(np.float32)), **node.attrs, loc=node.loc)
        layer = Layer(layer.name, node_of(made))
    else:
        shape = (-1, *[1] * (node.result.tensor.rank - 2)) if node.attrs.get("layout") == "nchw" else (-1,)
        inner = node.op(*node.inputs, **node.attrs, loc=node.loc)
        made = ops.add(inner, constant(bias.astype(np.float32).reshape(shape)), loc=node.loc)
        layer = Layer(layer.name, node_of(inner))
    made.name = node.result.name
    node.result.replace_with(made)
    return layer
