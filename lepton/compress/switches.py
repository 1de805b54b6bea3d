"""A quantised model that is compiled once, and in which each layer's rounding is switched on and off as it runs: what a
layer costs is found in the time of a few runs, not of a compilation."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lepton.compress.data import Run
from lepton.compress.quantize import Calibration, Recipe, Static
from lepton.driver import compile as compile_here
from lepton.ir import ops
from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from lepton.passes.common import constant, node_of
from lepton.passes.compress.grids import Grid
from lepton.passes.compress.layers import Layer, layers
from lepton.passes.compress.quantize_static import source


class Switched:
    """The model with the rounding of a static recipe, computed in f32. Raises LeptonError."""

    def __init__(self, calibration: Calibration, recipe: Recipe) -> None:
        graph = calibration.quantize(recipe, _Switched)
        self.names = [layer.name for layer in layers(calibration.variant(calibration.form(recipe)),
                                                     with_activations=True)]
        self.port = next((str(v.name) for v in graph.inputs if v.tensor.dtype is DType.BOOL
                          and str(v.name).startswith(PORT)), "")
        graph.metadata.pop("structure", None)
        self.model = compile_here(graph)

    def answers(self, runs: Sequence[Run], inputs: Collection[str] = (), weights: Collection[str] = ()
                ) -> list[dict[str, Array]]:
        """The outputs for each run where these layers' inputs and these layers' weights are rounded."""
        on = np.array([[name in some for name in self.names] for some in (inputs, weights)])
        return [self.model.run_ports({**run.feeds, **({self.port: on} if self.port else {})}) for run in runs]


PORT = "rounded layers"     # the input that holds the switches: bool [2, layers], inputs and weights


class _Switched(Static):
    """As static quantisation, but what is rounded is chosen by a switch, and products stay products of floats: by
    both weights, since kernels for weights that are chosen as they run are slow."""

    places: Mapping[str, int]       # of the layers, by name
    readers: Mapping[Value, list[str]]
    switches: Value

    def run(self, graph: Graph) -> bool:
        known = layers(graph, with_activations=True)
        readers: dict[Value, list[str]] = {}
        for layer in known:
            for value in layer.activations:
                readers.setdefault(source(value), []).append(layer.name)
        port = PORT
        while any(v.name == port for v in graph.inputs):
            port += "_"
        facts = {"places": {layer.name: i for i, layer in enumerate(known)}, "readers": readers,
                 "switches": Value(TensorType(DType.BOOL, (2, len(known))), name=port)}
        for name, fact in facts.items():
            object.__setattr__(self, name, fact)
        changed = super().run(graph)
        if self.switches.uses:
            graph.inputs = (*graph.inputs, self.switches)
        return changed

    def switch(self, row: int, names: Sequence[str]) -> Value:
        """Whether any of the layers is switched on: a scalar."""
        places = constant(np.array([self.places[name] for name in names], np.int64))
        chosen = ops.gather(self.switches, constant(np.array(row, np.int64)), axis=0)
        return ops.reduce_max(ops.gather(chosen, places, axis=0), axes=(0,), keepdims=False)

    def insert(self, graph: Graph, value: Value, grid: Grid, exact: Collection[Node]) -> None:
        scale, zero = constant(np.float32(grid.scale)), constant(np.array(grid.zero, grid.dtype.numpy))
        level = ops.quantize(value, scale, zero, axis=0, to=grid.dtype)
        rounded = ops.dequantize(level, scale, zero, axis=0)
        read = ops.where(self.switch(0, self.readers[value]), rounded, value)
        keep: set[User] = {node_of(level), node_of(read), graph.ret, *exact}
        value.replace_with(read, keep=keep)

    def weights(self, graph: Graph, layer: Layer, x: Grid) -> None:
        if layer.channel_axis is None:
            return
        found, scales = self.levels(layer)
        rounded = found * scales[:, None].astype(np.float64)
        shift = self.shift(layer, layer.matrix - rounded)
        node = layer.node
        other = node.op(node.inputs[0], constant(layer.unmatrix(rounded.astype(np.float32))), *node.inputs[2:],
                        **node.attrs)
        if shift is not None:
            view = (-1, *[1] * (node.result.tensor.rank - 2)) if node.attrs.get("layout") == "nchw" else (-1,)
            other = ops.add(other, constant(shift.astype(np.float32).reshape(view)))
        made = ops.where(self.switch(1, [layer.name]), other, node.result)
        node.result.replace_with(made, keep={node_of(made)})
