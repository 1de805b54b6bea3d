"""The pipelines as wholes: random graphs mean the same before and after, and come out in the form they promise."""
from __future__ import annotations

import pytest

from lepton.ir import ops
from lepton.ir.core import Graph, clone
from lepton.ir.diagnostics import UsageError
from lepton.ir.evaluate import evaluate
from lepton.ir.op import Trait
from lepton.ir.printer import show
from lepton.ir.sample import difference, random_inputs
from lepton.ir.verify import verify
from lepton.passes.default import LEVELS, pipeline_for
from lepton.passes.instruments import VerifyEach
from lepton.passes.pipeline import Pipeline, parse_pipeline
from tests.passes.random_graphs import random_graph

POLICIES = ("strict", "default", "fast")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("math", POLICIES)
def test_pipelines_spell_themselves(level: int, math: str) -> None:
    pipeline = Pipeline(pipeline_for("x86", level, math))
    assert str(parse_pipeline(str(pipeline))) == str(pipeline)


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="level 7"):
        pipeline_for("x86", 7, "default")
    with pytest.raises(UsageError, match="'loose'"):
        pipeline_for("x86", 2, "loose")


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_keep_their_meaning(seed: int) -> None:
    graph = random_graph(seed)
    inputs = random_inputs(graph, seed)
    want = evaluate(graph, *inputs, float64=False)
    for level in LEVELS:
        for math in ("default", "strict"):
            changed = optimised(graph, level, math)
            problem = difference(want, evaluate(changed, *inputs), 1e-3)
            assert not problem, f"level {level}, {math}: {problem}\n{show(graph)}\nbecame\n{show(changed)}"
            check_form(changed, level)


def optimised(graph: Graph, level: int, math: str) -> Graph:
    changed = clone(graph)
    Pipeline(pipeline_for("x86", level, math), [VerifyEach()]).run(changed)
    verify(changed)
    return changed


def check_form(graph: Graph, level: int) -> None:
    """What code generation relies on: one anchor, no views in fusions; and level 2 leaves no convolution channels
    first."""
    for node in graph.nodes:
        assert node.op is not ops.batch_norm
        if node.op is ops.fusion:
            inside = node.regions[0].nodes
            anchors = [n for n in inside if not n.op.has(Trait.ELEMENTWISE) and n.op is not ops.constant]
            assert len(anchors) <= 1
            assert not any(n.op.has(Trait.VIEW) for n in inside)
            assert all(n.result.tensor.size == 1 for n in inside if n.op is ops.constant)
        if level >= 2:
            convolutions = [n for n in graph.walk() if n.op is ops.conv]
            assert all(n.attrs["layout"] == "nhwc" for n in convolutions)
