"""Trained models: the graph that is imported means what ONNX Runtime computes, sizes open and pinned."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.frontends import load
from lepton.ir.evaluate import evaluate
from lepton.ir.verify import verify
from tests.models.agreement import check, reference
from tests.models.networks import NETWORKS, Network

SMALL = [n for n in NETWORKS if n.cost == "small"]


@pytest.mark.parametrize("network", SMALL, ids=lambda n: n.name)
def test_the_graph_means_the_model(network: Network) -> None:
    graph = load(network.path())
    verify(graph)
    assert network.dynamic == any(not v.tensor.is_static for v in graph.inputs)
    for run in range(len(network.shapes)):
        feeds, want = reference(network.name, run)
        got = evaluate(graph, *(feeds[v.name or ""] for v in graph.inputs))
        check(network, want, dict(zip(want, map(np.asarray, got), strict=True)))
