"""Static quantisation: products read levels, weights of 8 bits and activations of 8 or 16, by fixed scales."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.printer import value_names
from lepton.ir.rewrite import Accuracy, sweep, tensor_of
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import constant, elements
from lepton.passes.compress.grids import Grid, nearest, row_scales
from lepton.passes.compress.layers import Layer, add_bias, chosen, layers, set_weight

MOST = 127        # weights are symmetric: no level -128
MOVES = (ops.reshape, ops.transpose, ops.slice_, ops.max_pool)  # their results are among their operand's elements
Range = tuple[float, float]
Activations = Literal["u8", "i8", "u16", "i16"]


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """conv(x, w)  ->  conv(dequantize(quantize(x)), dequantize(levels of w))

    What a layer reads is quantised by one scale for the tensor, from `ranges` ("name=low:high" of values), for all its
    readers but layers that stay; weights symmetrically to i8, by a scale for each output channel; biases to i32 in
    steps of the product's.
    `only` and `skip` name layers by their results, and so does `wide` those whose operands have 16 bits in any case. A
    layer whose operand has no range stays as it is."""

    name: ClassVar[str] = "quantize-static"
    accuracy: ClassVar[Accuracy] = "approximate"
    ranges: tuple[str, ...] = ()
    activations: Activations = "u8"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    def levels(self, layer: Layer) -> tuple[Array, Array]:
        """(levels, scales [outputs]) of a layer's weight as a matrix; here each element's nearest level."""
        matrix = layer.matrix
        scales = row_scales(matrix, MOST)
        return nearest(matrix, scales[:, None], MOST), scales

    def shift(self, layer: Layer, error: Array) -> Array | None:
        """What to add to the layer's result [outputs] for the weight's rounding `error` [outputs, inputs], if any."""
        return None

    def run(self, graph: Graph) -> bool:
        ranges = parse_ranges(self.ranges)
        names = value_names(graph)
        known = layers(graph, with_activations=True)
        wanted = chosen(known, self.only, self.skip)
        wide = sources_of(chosen(known, self.wide, self.skip) if self.wide else ())
        grids: dict[Value, Grid] = {}
        done: dict[Layer, Grid] = {}
        for layer in wanted:
            sources = [source(v) for v in layer.activations]
            if all(names.get(s) in ranges and s.tensor.dtype is DType.F32 for s in sources):
                grids.update((s, self.grid(*ranges[names[s]], s in wide)) for s in sources)
                done[layer] = grids[sources[0]]
        left = {layer.node for layer in known if layer not in done}
        for value, grid in grids.items():
            self.insert(graph, value, grid, left)
        for layer, grid in reversed(done.items()):  # the last first: a new bias makes a new node, which others may read
            if layer.w is not None:
                self.weights(graph, layer, grid)
        count("quantized layers", len(done))
        sweep(graph)
        return bool(done)

    def grid(self, low: float, high: float, wide: bool) -> Grid:
        dtype = DType(widened(self.activations) if wide else self.activations)
        return Grid.covering(low, high, dtype, symmetric=dtype.is_signed)

    def insert(self, graph: Graph, value: Value, grid: Grid, exact: Collection[Node]) -> None:
        """Let all readers of the value, but for the graph's callers and `exact`, read it rounded to the grid."""
        loc = value.producer.loc if value.producer is not None else ()
        scale, zero = constant(np.float32(grid.scale)), constant(np.array(grid.zero, grid.dtype.numpy))
        level = ops.quantize(value, scale, zero, axis=0, to=grid.dtype, loc=loc)
        rounded = ops.dequantize(level, scale, zero, axis=0, loc=loc)
        assert level.producer is not None
        keep: set[User] = {level.producer, graph.ret, *exact}
        rounded.name = f"{value.name}_rounded" if value.name else None
        value.replace_with(rounded, keep=keep)

    def weights(self, graph: Graph, layer: Layer, x: Grid) -> None:
        """Put levels in the place of the weight, and of a conv's bias."""
        axis = layer.channel_axis
        if axis is None:
            grid = Grid.covering(float(layer.weight.min()), float(layer.weight.max()), DType.I8, symmetric=True)
            levels = ops.dequantize(constant(grid.levels(layer.weight)), constant(np.float32(grid.scale)), axis=0)
            set_weight(layer, levels)
            return
        found, scales = self.levels(layer)
        shift = self.shift(layer, layer.matrix - found * scales[:, None].astype(np.float64))
        set_weight(layer, ops.dequantize(constant(layer.unmatrix(found.astype(np.int8))), constant(scales), axis=axis,
                                         loc=layer.node.loc))
        if shift is not None:
            layer = add_bias(graph, layer, shift)
        if layer.is_conv:
            _quantize_bias(layer, np.float32(x.scale) * scales)


def parse_ranges(words: tuple[str, ...]) -> dict[str, Range]:
    """("x=-1:2", ...) by name. Raises UsageError."""
    found = {}
    for word in words:
        name, _, span = word.rpartition("=")
        low, colon, high = span.partition(":")
        try:
            found[name] = float(low), float(high)
        except ValueError:
            colon = ""
        if not colon or not name or not found[name][0] <= found[name][1]:
            raise UsageError(f"cannot read the range {word!r}", help="as in ranges=(x=-1:2,y=0:6)")
    return found


def spell_ranges(ranges: Mapping[str, Range]) -> tuple[str, ...]:
    """The inverse of `parse_ranges`."""
    return tuple(f"{name}={low!r}:{high!r}" for name, (low, high) in ranges.items())


def widened(activations: Activations) -> Activations:
    """The type of 16 bits with the same sign."""
    return "i16" if activations.startswith("i") else "u16"


def sources_of(found: Iterable[Layer]) -> set[Value]:
    """Where the elements come from that layers read."""
    return {source(v) for layer in found for v in layer.activations}


def source(value: Value) -> Value:
    """Where the elements of a value come from: its pair of ops goes there, what moves elements then moves levels."""
    while value.producer is not None and value.producer.op in MOVES and value.producer.inputs[0] is not None:
        value = value.producer.inputs[0]
    return value


def _quantize_bias(layer: Layer, steps: Array) -> None:
    """A conv's constant bias [O] as i32 levels of `steps` [O], where all of it fits."""
    bias = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
    if bias is None or tensor_of(bias) is None:
        return
    levels = np.rint(elements(bias).astype(np.float64) / steps.astype(np.float64))
    if np.abs(levels).max(initial=0.0) < 2**30:
        layer.node.set_input(2, ops.dequantize(constant(levels.astype(np.int32)), constant(steps), axis=0))
