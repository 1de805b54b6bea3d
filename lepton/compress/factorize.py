"""`factorize`: layers as products of smaller ones, by their weights alone or by what calibration data make of them."""
from __future__ import annotations

from typing import Any, get_args

from lepton.compress.data import read
from lepton.compress.observe import Tell, inputs_of, silent
from lepton.compress.prepare import prepare, warn_of_none
from lepton.driver import Source
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.passes.compress.factorize import Factorize, Forms, factorize_layers
from lepton.passes.compress.layers import chosen, layers


def factorize(model: Source, error: float = 0.01, form: Forms = "best", *, data: Any = None, gain: float = 0.75,
              multiple: int = 8, only: tuple[str, ...] = (), skip: tuple[str, ...] = (), tell: Tell = silent,
              **options: Any) -> Graph:
    """A graph of its own with layers split in two or three where that loses no more than the share `error` of the
    layer's weights' squares, or, with calibration `data` (see lepton.compress.data), of its results', and takes no more
    than `gain` of its work. `form`: svd, tucker, depthwise or the best of these, or cp. Raises LeptonError."""
    if form not in get_args(Forms):
        raise UsageError(f"unknown form {form!r}", help=f"one of {', '.join(get_args(Forms))}")
    graph = warn_of_none(prepare(model, **options))
    grams = {}
    if data is not None:
        runs = read(data, graph)
        tell("observing layers")
        found = [layer for layer in chosen(layers(graph), only, skip) if layer.w is not None and layer.groups == 1]
        grams = {name: inputs.gram for name, inputs in inputs_of(graph, runs, found).items()}
    tell("factorising")
    factorize_layers(graph, Factorize(error, gain, form, multiple, only, skip), grams)
    return graph
