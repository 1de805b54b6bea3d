"""Random graphs taken apart wherever that is allowed, whether it spares anything or not: they mean the same."""

from __future__ import annotations

import pytest

from lepton.ir.core import Graph, Node, Value, clone
from lepton.ir.evaluate import evaluate
from lepton.ir.printer import show
from lepton.ir.sample import difference, random_inputs
from lepton.ir.types import TensorType
from lepton.ir.verify import verify
from lepton.passes import batch_parts
from lepton.passes.batch_parts import BatchParts
from tests.passes.random_graphs import random_graph


def _always(self: BatchParts, node: Node, batched: set[Value], parts: int) -> int:
    return 1


def _rows(value: Value) -> int | None:
    size = value.tensor.shape[0] if isinstance(value.type, TensorType) and value.type.rank > 1 else None
    return size if isinstance(size, int) and size > 1 else None


def test_random_graphs_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchParts, "spared", _always)
    monkeypatch.setattr(batch_parts, "_images", _rows)
    assert sum(_checked(random_graph(seed), seed) for seed in range(120)) > 30


def _checked(graph: Graph, seed: int) -> bool:
    """Whether the graph was taken apart; its answers are then those of the whole."""
    changed = clone(graph)
    if not BatchParts(least=1).run(changed):
        return False
    verify(changed)
    inputs = random_inputs(graph, seed)
    problem = difference(evaluate(graph, *inputs, float64=False), evaluate(changed, *inputs), 1e-3)
    assert not problem, f"{problem}\n{show(graph)}\nbecame\n{show(changed)}"
    return True
