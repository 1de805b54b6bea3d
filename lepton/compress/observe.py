"""What flows through a model: its values on calibration data, from compiled code with extra outputs."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.compress.data import Run
from lepton.compress.ranges import Histogram, Method, choose
from lepton.driver import compile as compile_here
from lepton.ir.core import Graph, User, Value, clone
from lepton.ir.diagnostics import UsageError
from lepton.ir.ops.conv import pad_spatial, unfold
from lepton.ir.printer import value_names
from lepton.ir.tensor import Array
from lepton.passes.compress.layers import Layer, layers
from lepton.passes.compress.quantize_static import source

Tell = Callable[[str], None]
ROWS = 2048      # of inputs that a layer's Gram matrix is made of, at most
WIDEST = 4608    # columns of a layer's matrix that its inputs are observed for


def silent(_: str) -> None:
    """No progress."""


class Probe:
    """A compiled graph that also gives the named values (as text IR names them) of each run. Raises LeptonError."""

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        probe = clone(graph)
        by_name = {name: value for value, name in value_names(probe).items()}
        self.names, chosen = names, [by_name[name] for name in names]
        self.ports = [str(v.name) for v in probe.inputs]
        computed = list(dict.fromkeys(v for v in chosen if v not in probe.inputs))
        probe.metadata.pop("structure", None)
        probe.metadata.pop("output_names", None)
        old, probe.ret = probe.ret, User(computed or list(probe.outputs))
        old.drop()
        places = {v: i for i, v in enumerate(computed)}
        self.places = [places.get(v, str(v.name)) for v in chosen]     # among what it computes, or a port's name
        self.model = compile_here(probe)

    def __call__(self, run: Run) -> dict[str, Array]:
        got = self.model(*(run.feeds[port] for port in self.ports))
        results = got if isinstance(got, tuple) else (got,)
        return {name: run.feeds[place] if isinstance(place, str) else np.asarray(results[place])
                for name, place in zip(self.names, self.places, strict=True)}


def histograms(graph: Graph, runs: Sequence[Run]) -> dict[str, Histogram]:
    """Of every value that a layer reads (where its elements come from), by name. Two passes over the data: the ends,
    then the counts. Raises UsageError where the model itself makes NaN or infinities of the data."""
    names = operands(graph)
    found: dict[str, Histogram] = {}
    if not names:
        return found
    probe = Probe(graph, names)
    for run in runs:
        for name, x in probe(run).items():
            if not x.size:
                continue
            _check_finite(run, name, x)
            low, high = float(x.min()), float(x.max())
            known = found.setdefault(name, Histogram.empty(low, high))
            known.low, known.high = min(known.low, low), max(known.high, high)
    for run in runs:
        for name, x in probe(run).items():
            if name in found:
                found[name].add(x)
    return found


def _check_finite(run: Run, name: str, x: Array) -> None:
    """Raises UsageError: neither ranges nor sums can be made of what is no number."""
    if x.size and not np.isfinite([x.min(), x.max()]).all():
        raise UsageError(f"{run.name}: '{name}' becomes infinite or NaN in the uncompressed model",
                         help="leave this sample out")


def operands(graph: Graph) -> list[str]:
    """Names of the values whose ranges static quantisation asks for."""
    names = value_names(graph)
    sources = (source(v) for layer in layers(graph, with_activations=True) for v in layer.activations)
    return list(dict.fromkeys(names[v] for v in sources if v in names and not _constant(v)))


def _constant(value: Value) -> bool:
    return value.producer is not None and not value.producer.inputs


@dataclass(eq=False)
class Inputs:
    """What a layer read, as rows [inputs] of its matrix, one group after the other: mean, and Gram matrix / rows."""

    mean: Array          # [groups, K] f64
    gram: Array          # [groups, K, K] f64: the mean of x xᵀ
    rows: int
    largest: Array       # [C] of magnitudes by input channel


def inputs_of(graph: Graph, runs: Sequence[Run], found: Sequence[Layer], seed: int = 0) -> dict[str, Inputs]:
    """By layer, statistics of its inputs, from at most ROWS rows of each run, drawn at random. Layers whose matrix
    would be larger than WIDEST columns, or whose padding depends on the input's size, have none.
    Raises UsageError where the model itself makes NaN or infinities of the data."""
    names = value_names(graph)
    wanted = {layer.name: names[layer.x] for layer in found if _observable(layer)}
    by_name = {layer.name: layer for layer in found}
    rng = np.random.default_rng(seed)
    stats: dict[str, Inputs] = {}
    if not wanted:
        return stats
    per_run = max(1, ROWS // len(runs))
    probe = Probe(graph, list(dict.fromkeys(wanted.values())))
    for run in runs:
        values = probe(run)
        for name, x in wanted.items():
            _check_finite(run, x, values[x])
            _gather(stats, by_name[name], values[x], per_run, rng)
    for seen in stats.values():
        seen.mean /= seen.rows
        seen.gram /= seen.rows
    return stats


def _observable(layer: Layer) -> bool:
    if layer.channel_axis is None or columns(layer) > WIDEST:
        return False
    attrs = layer.node.attrs
    return not layer.is_conv or (attrs["layout"] == "nchw" and all(
        isinstance(p, int) for p in (*attrs["pads_begin"], *attrs["pads_end"])))


def columns(layer: Layer) -> int:
    """How many inputs each output of the layer sums over."""
    weight = layer.weight
    return int(np.prod(weight.shape[1:])) if layer.is_conv else int(weight.shape[-2])


def _gather(stats: dict[str, Inputs], layer: Layer, x: Array, count: int, rng: np.random.Generator) -> None:
    """Add a run's rows; sums, where means are told in the end: Gram matrices are large."""
    rows = sampled(layer, x, count, rng)                                   # [groups, rows, K]
    n = rows.shape[1]
    gram = np.einsum("gnk,gnl->gkl", rows, rows) if rows.shape[2] <= 64 else rows.transpose(0, 2, 1) @ rows
    channels = np.moveaxis(x, 1 if layer.is_conv else -1, -1).reshape(-1, x.shape[1 if layer.is_conv else -1])
    largest = np.abs(channels).max(axis=0, initial=0.0)
    old = stats.get(layer.name)
    if old is None:
        stats[layer.name] = Inputs(rows.sum(axis=1), gram, n, largest)
        return
    old.mean += rows.sum(axis=1)
    old.gram += gram
    old.rows, old.largest = old.rows + n, np.maximum(old.largest, largest)


def sampled(layer: Layer, x: Array, count: int, rng: np.random.Generator) -> Array:
    """[groups, rows, K] f64: what `count` outputs of the layer, drawn at random, are sums over."""
    if not layer.is_conv:
        rows = x.reshape(-1, x.shape[-1])
        picked = rng.choice(len(rows), min(count, len(rows)), replace=False)
        return rows[picked][None].astype(np.float64)
    attrs, groups = layer.node.attrs, layer.groups
    kernel = layer.weight.shape[2:]
    views = unfold(pad_spatial(x, attrs["pads_begin"], attrs["pads_end"]), kernel, attrs["strides"], attrs["dilations"])
    rank = len(kernel)
    places = (views.shape[0], *views.shape[2:2 + rank])
    picked = rng.choice(int(np.prod(places)), min(count, int(np.prod(places))), replace=False)
    n, *where = np.unravel_index(picked, places)
    index: Any = (n, slice(None), *where)
    rows = views[index]                                                    # [rows, C, k...]
    return np.asarray(rows.reshape(len(picked), groups, -1).transpose(1, 0, 2), np.float64)


def ranges_by(found: Mapping[str, Histogram], method: Method, levels: Mapping[str, int]
              ) -> dict[str, tuple[float, float]]:
    """The range of each value by one calibration method, for its number of levels. Raises UsageError for an unknown
    method."""
    return {name: choose(histogram, method, levels[name]) for name, histogram in found.items()}
