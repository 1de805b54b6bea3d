"""The other modes: what they change, and a rotating tenth of the tests in them, none worse than recorded."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conformance import record, run_modes
from tests.conformance.isolate import Outcome, run_isolated
from tests.conformance.modes import MODES, opened
from tests.conformance.run_suite import compile_times
from tests.conformance.suite import Case, default_cache, open_suite


def model() -> onnx.ModelProto:
    """relu(x) + one: sizes to open, and one of 1 to leave."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "one"], ["y"])]
    inputs = [info("x", TensorProto.FLOAT, [2, 3]), info("one", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", TensorProto.FLOAT, [2, 3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_answers(mode: str) -> None:
    x, one = np.array([[1, -2, 3], [-4, 5, -6]], np.float32), np.ones((1, 3), np.float32)
    run = MODES[mode](model())
    for _ in range(2):
        (y,) = run([x, one])
        np.testing.assert_array_equal(y, np.maximum(x, 0) + 1)


def test_opened_models_have_open_sizes() -> None:
    made = opened(model())
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.input]
    assert dims == [["x_0", "x_1"], [1, "one_1"]]
    assert not made.graph.output[0].type.tensor_type.HasField("shape")
    kernel = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, 5, 5]) for n in "xw"],
        [helper.make_empty_tensor_value_info("y")])
    made = opened(helper.make_model(kernel))
    assert [d.dim_param for d in made.graph.input[1].type.tensor_type.shape.dim] == [""] * 4


def test_a_mode_that_gets_worse_is_named(tmp_path: Path) -> None:
    cases = [Case("node", f"test_{letter}", "plain", "") for letter in "abc"]
    plain = {"node/test_a": "PASS", "node/test_b": "PASS"}
    outcomes = dict(zip(cases, (Outcome(s, "", 0.0) for s in ("PASS", "UNSUPPORTED", "UNSUPPORTED")), strict=True))
    path = tmp_path / "modes.txt"
    run_modes.write({"so": outcomes}, plain, path)
    known = run_modes.read(path)
    assert known["so"] == {"node/test_b": "UNSUPPORTED"}
    assert known["O3"] == {}
    assert record.worse(outcomes, run_modes.expected("so", known, plain)) == []
    assert len(record.worse(outcomes, run_modes.expected("O3", known, plain))) == 1
    run_modes.write({"O3": outcomes}, plain, path)
    assert [line.split()[1] for line in path.read_text().splitlines() if line.startswith("#")] == ["mode", "O3", "so"]


def test_parts_are_all_tests_once() -> None:
    cases = [Case("node", f"test_{i}", "plain", "") for i in range(23)]
    parts = [run_modes.part_of(cases, f"{k}/10") for k in range(10)]
    assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in cases)


def test_times_are_of_tests_that_passed() -> None:
    cases = [Case("node", f"test_{i}", "plain", "") for i in range(3)]
    outcomes = [Outcome("PASS", "", 0, 0.010), Outcome("PASS", "", 0, 0.030), Outcome("CRASH", "", 0, 9.0)]
    words = compile_times(dict(zip(cases, outcomes, strict=True)))
    assert "2 node tests" in words
    assert "most 30 ms" in words
    ((_, outcome),) = run_isolated([lambda: 0.5], 1, 10)
    assert (outcome.status, outcome.value) == ("PASS", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_hundredth_is_no_worse_than_recorded(mode: str) -> None:
    """Together with the days, every test in every mode; nine hundredths a day."""
    suite, day = open_suite(default_cache()), datetime.date.today().toordinal()
    cases = run_modes.part_of(suite.cases, f"{day + 10 * list(MODES).index(mode)}/100")
    outcomes = run_modes.run_mode(suite, cases, mode, len(os.sched_getaffinity(0)), 120)
    worse = record.worse(outcomes, run_modes.expected(mode, run_modes.read(), record.read()))
    assert not worse, "\n".join(worse)


@pytest.mark.big
@pytest.mark.parametrize("mode", MODES)
def test_all_are_no_worse_than_recorded(mode: str) -> None:
    suite = open_suite(default_cache())
    outcomes = run_modes.run_mode(suite, suite.cases, mode, len(os.sched_getaffinity(0)), 120)
    worse = record.worse(outcomes, run_modes.expected(mode, run_modes.read(), record.read()))
    assert not worse, "\n".join(worse)
