"""A model in the form that compression works on: folded, with plain layers, and every value named for good."""
from __future__ import annotations

import warnings
from itertools import count
from typing import Any

from lepton.driver import Options, Source, checked
from lepton.ir import ops
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.printer import value_names
from lepton.passes.canonicalise import Canonicalise
from lepton.passes.compress.layers import layers
from lepton.passes.compress.quantize_recurrent import recurrences
from lepton.passes.cse import CSE
from lepton.passes.fold import Fold
from lepton.passes.fold_batchnorm import FoldBatchnorm
from lepton.passes.pipeline import Pipeline

NO_LAYERS = "the model has no layers to compress"
LAYERS = "layers are products, convolutions and recurrent layers in f32, outside of If and Loop"


def prepare(model: Source, **options: Any) -> Graph:
    """Read the model, fold what is constant, absorb batch norms. Raises LeptonError; UsageError for a model that is
    quantised already."""
    graph = checked(model, Options.of(options))
    if any(n.op in (ops.quantize, ops.dequantize, ops.dynamic_quantize) for n in graph.walk()):
        raise UsageError("the model is quantised already", help="start from the float model; prune before quantising")
    clean = [Canonicalise(), Fold(), CSE()]
    Pipeline([*clean, FoldBatchnorm(), *clean]).run(graph)
    name_values(graph)
    return graph


def warn_of_none(graph: Graph) -> Graph:
    """The graph; a warning where nothing in it can be made smaller: a model in f16 would come back as it was."""
    if not layers(graph, with_activations=True) and not recurrences(graph):
        warnings.warn(f"{NO_LAYERS}: {LAYERS}", stacklevel=3)
    return graph


def name_values(graph: Graph) -> None:
    """Values keep their names while nodes come and go: those without one, which are counted, are called v and a number
    that is free."""
    names = value_names(graph)
    taken = set(names.values())
    free = (name for number in count() if (name := f"v{number}") not in taken)
    for value in names:
        value.name = value.name or next(free)
