"""Each op's numpy meaning against ONNX Runtime, onnx's evaluator, or values worked out by hand."""
from __future__ import annotations

import pytest

from lepton.ir.evaluate import evaluate
from tests.ir.ops_cases import Case, assert_same, build
from tests.ir.ops_oracle import run
from tests.ir.ops_table import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_meaning(case: Case) -> None:
    graph, _, arrays = build(case)
    got = evaluate(graph, *arrays)
    wanted = list(case.expected) if case.expected is not None else run(case.onnx, case.operands)  # type: ignore[arg-type]
    assert len(got) == len(wanted)
    for x, y in zip(got, wanted, strict=True):
        assert_same(x, y, case.rtol, case.atol)
