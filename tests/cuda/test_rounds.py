"""Loops on GPUs: where the data have no say in their rounds, nothing is read back for them."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import lepton
from lepton.artifact import Model
from lepton.ir.diagnostics import LeptonError
from tests.cuda.fakecuda import Fake
from tests.cuda.simulated import COMPILER
from tests.cuda.test_artifacts import BOOL, I64, Feeds, compiled, draw, ints, model_of, node, value, weights

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
READ, MANY = "cuMemcpyDtoHAsync_v2", 10**6


def reads(fake: Fake, model: Model, feeds: Feeds) -> tuple[int, dict[str, Any]]:
    """How often the device is read from in a run, and what it gives."""
    fake.fail(READ, MANY)
    results = model.run(feeds)
    return MANY - fake.fail(READ, 0), {name: np.array(a) for name, a in results.items()}


def agree(made: onnx.ModelProto, feeds: Feeds, got: dict[str, Any]) -> None:
    session = ort.InferenceSession(made.SerializeToString())
    for name, want in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        assert got[name.name].shape == want.shape
        np.testing.assert_allclose(got[name.name], want, rtol=2e-5, atol=2e-6)


def loop(trip: str, inputs: list[Any], constants: list[Any], *before: Any, collects: bool = False,
         ends: bool = False) -> onnx.ModelProto:
    """s = relu(s @ w) for `trip` rounds, or until (`ends`) its sum is large."""
    step = [node("MatMul", ["s", "w"], ["m"]), node("Relu", ["m"], ["s1"])]
    step += [node("ReduceSum", ["s1"], ["all"], keepdims=0), node("Less", ["all", "limit"], ["c1"])] if ends else [
        node("Identity", ["c"], ["c1"])]
    body = helper.make_graph(
        [*step, *([node("Identity", ["s1"], ["row"])] if collects else [])], "body",
        [value("i", [], I64), value("c", [], BOOL), value("s", ["N", 4])],
        [value("c1", [], BOOL), value("s1", ["N", 4]), *([value("row", ["N", 4])] if collects else [])])
    outputs = ["y", *(["rows"] if collects else [])]
    shapes = {"y": ["N", 4], "rows": ["T", "N", 4]}
    return model_of([*before, node("Loop", [trip, "", "x"], outputs, body=body)], [value("x", ["N", 4]), *inputs],
                    [value(o, shapes[o]) for o in outputs], [*weights(w=(4, 4)), *constants])


def scan() -> onnx.ModelProto:
    """Running sums, forwards and backwards."""
    body = helper.make_graph([node("Add", ["s", "e"], ["s1"]), node("Identity", ["s1"], ["o"])], "body",
                             [value("s", [3]), value("e", [3])], [value("s1", [3]), value("o", [3])])
    nodes = [node("Scan", ["z", "x"], ["a", "f"], body=body, num_scan_inputs=1),
             node("Scan", ["z", "x"], ["b", "r"], body=body, num_scan_inputs=1, scan_input_directions=[1],
                  scan_output_directions=[1])]
    return model_of(nodes, [value("x", ["T", 3])],
                    [value(n, s) for n, s in (("a", [3]), ("f", ["T", 3]), ("b", [3]), ("r", ["T", 3]))],
                    [numpy_helper.from_array(np.zeros(3, np.float32), "z")])


@pytest.mark.parametrize("rounds", [5, 0, -2])
def test_rounds_known_when_compiling_are_a_graph(rounds: int, fake: Fake, tmp_path: Path) -> None:
    """It grows with the rounds; the tables do not."""
    made = loop("n", [], [numpy_helper.from_array(np.array(rounds, np.int64), "n")])
    model, before = compiled(made, tmp_path), fake.counts()
    for n in (3, 3, 3, 3, 1):
        feeds = {"x": draw(n, 4)}
        count, got = reads(fake, model, feeds)
        assert count == 1
        agree(made, feeds, got)
    assert fake.counts().graph_launches > before.graph_launches


def test_rounds_that_are_a_size(fake: Fake, tmp_path: Path) -> None:
    """As many as x has rows."""
    made = loop("n", [], [ints("zero", 0)], node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0))
    model, before = compiled(made, tmp_path), fake.counts()
    for n in (3, 1, 3, 4, 3, 3):
        feeds = {"x": draw(n, 4)}
        count, got = reads(fake, model, feeds)
        assert count == 1
        agree(made, feeds, got)
    assert fake.counts().graph_launches > before.graph_launches


def test_scans(fake: Fake, tmp_path: Path) -> None:
    made = scan()
    model, before = compiled(made, tmp_path), fake.counts()
    for n in (4, 1, 4, 6, 4, 4):
        feeds = {"x": draw(n, 3)}
        count, got = reads(fake, model, feeds)
        assert count == 4
        agree(made, feeds, got)
    assert fake.counts().graph_launches > before.graph_launches


def test_a_loop_comes_back_as_a_graph_the_second_time(fake: Fake, tmp_path: Path) -> None:
    """What its rounds were counted by is not left behind, where it would make the same sizes look new."""
    session, launched = compiled(scan(), tmp_path).session(), []
    for n in (6, 6, 6, 4, 6, 4, 4):   # the largest first, which makes room for all
        before = fake.counts().graph_launches
        session.run({"x": draw(n, 3)})
        launched.append(fake.counts().graph_launches - before)
    assert launched == [0, 1, 1, 0, 1, 1, 1]


def test_rounds_that_are_data_are_read_once(fake: Fake, tmp_path: Path) -> None:
    made = loop("n", [value("n", [], I64)], [])
    model = compiled(made, tmp_path)
    for rounds in (6, 0, 2, -1, 6):
        feeds = {"x": draw(2, 4), "n": np.array(rounds, np.int64)}
        count, got = reads(fake, model, feeds)
        assert count == 2
        agree(made, feeds, got)


@pytest.mark.parametrize("given", [True, False], ids=["known", "data"])
def test_memory_for_what_is_collected_comes_before_the_first_round(given: bool, fake: Fake, tmp_path: Path) -> None:
    number = np.array(5, np.int64)
    made = loop("n", [] if given else [value("n", [], I64)], [numpy_helper.from_array(number, "n")] if given else [],
                collects=True)
    model = compiled(made, tmp_path)
    for n in (2, 3):
        feeds = {"x": draw(n, 4)} | ({} if given else {"n": number})
        count, got = reads(fake, model, feeds)
        assert count == 2 + (0 if given else 3)
        agree(made, feeds, got)


def test_a_condition_is_read_before_each_round(fake: Fake, tmp_path: Path) -> None:
    made = loop("n", [], [numpy_helper.from_array(np.array(9, np.int64), "n"),
                          numpy_helper.from_array(np.array(1e30, np.float32), "limit")], ends=True)
    model, before = compiled(made, tmp_path), fake.counts()
    for _ in range(3):
        feeds = {"x": draw(2, 4)}
        count, got = reads(fake, model, feeds)
        assert count == 1 + 10
        agree(made, feeds, got)
    assert fake.counts().graph_launches == before.graph_launches


def test_a_round_that_fails_leaves_none_behind(fake: Fake, tmp_path: Path) -> None:
    made = loop("n", [], [numpy_helper.from_array(np.array(5, np.int64), "n")])
    model, feeds = compiled(made, tmp_path), {"x": draw(2, 4)}
    session = model.session()
    fake.fail("cuLaunchKernelEx", 6, 701)
    with pytest.raises(LeptonError):
        session.run(feeds)
    agree(made, feeds, dict(session.run(feeds)))
    session = model.session()
    agree(made, feeds, dict(session.run(feeds)))
    fake.fail("cuLaunchKernelEx", 6, 701)
    agree(made, feeds, dict(session.run(feeds)))   # a graph could not be recorded
    assert fake.fail("cuLaunchKernelEx", 0) <= 0


@pytest.mark.slow
def test_many_rounds_are_no_graph(fake: Fake, tmp_path: Path) -> None:
    made = loop("n", [], [numpy_helper.from_array(np.array(6000, np.int64), "n")])
    model, before = compiled(made, tmp_path), fake.counts()
    feeds = {"x": draw(1, 4)}
    for _ in range(3):
        agree(made, feeds, reads(fake, model, feeds)[1])
    assert fake.counts().graph_launches == before.graph_launches


def test_the_same_on_a_cpu(tmp_path: Path) -> None:
    for made, feeds in ((scan(), [{"x": draw(n, 3)} for n in (4, 1, 5)]),
                        (loop("n", [value("n", [], I64)], [], collects=True),
                         [{"x": draw(2, 4), "n": np.array(n, np.int64)} for n in (3, 1, 4)])):
        lepton.compile_to(made.SerializeToString(), tmp_path / "m.so", target="x86-avx2")
        model = lepton.load(tmp_path / "m.so")
        for given in feeds:
            agree(made, given, {name: np.array(a) for name, a in model.run(given).items()})
