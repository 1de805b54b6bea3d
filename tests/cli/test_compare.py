"""`lepton compare`: agreement is measured right, and the culprit is found."""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from lepton import compare
from lepton.compare import Request as Asked
from lepton.compare import Tolerance, difference, first_divergence
from lepton.driver import Options, lower
from lepton.ir import ops
from lepton.ir.core import Graph
from lepton.passes.fuse import Fuse
from tests.cli import models
from tests.cli.models import Invoke

T = Tolerance(1e-4, 1e-6)


def test_agrees_with_both(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    code, out, err = lepton_tool("compare", "mlp.onnx", "--so", artifact, "--dim", "N=5")
    assert code == 0, err
    assert "x: f32[5,16]" in out
    assert "against onnxruntime:" in out
    assert "against interpreter:" in out
    assert out.endswith("they agree\n")


def test_json(folder: Path, lepton_tool: Invoke) -> None:
    record = json.loads(lepton_tool("compare", "mlp.onnx", "--json", "--dim", "N=2", "-i", "x=0.5")[1])
    assert (record["version"], record["agrees"], record["notes"]) == (1, True, [])
    assert sorted(record["references"]) == ["interpreter", "onnxruntime"]
    (row,) = record["references"]["interpreter"]
    assert row["agrees"]
    assert row["output"] == "y"
    assert 0 <= row["mean_abs"] <= row["max_abs"] <= row["allowed"]


def test_another_models_artifact_disagrees(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    made = models.model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 16]}, {"y": ["N", 8]},
                        {"w": models.WEIGHTS})
    models.save(made, folder / "other.onnx")
    code, out, _ = lepton_tool("compare", "other.onnx", "--so", artifact)
    assert code == 1
    assert "WRONG" in out
    assert "the .so is not of this model" in out


def test_without_a_reference(folder: Path, lepton_tool: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, _ = lepton_tool("compare", "mlp.onnx")
    assert code == 0
    assert "not compared with onnxruntime: it is not installed" in out
    code, _, err = lepton_tool("compare", "mlp.onnx", "--against", "onnxruntime")
    assert (code, "cannot compare with onnxruntime" in err) == (3, True)
    code, _, err = lepton_tool("compare", "mlp.onnx", "--dim", "N=5", "--random", "7", "--json")
    assert code == 0, err


def test_an_engine_whose_optimisations_move_its_answers_is_asked_without(
        folder: Path, lepton_tool: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime's of quantised nodes do, by a level: what the model says are the answers of its nodes."""
    real = compare._REFERENCES["onnxruntime"]

    def moved(*model: object, optimised: bool = True) -> dict[str, np.ndarray]:
        return {name: y + np.float32(optimised) for name, y in real(*model, optimised).items()}

    monkeypatch.setitem(compare._REFERENCES, "onnxruntime",
                        lambda *given: moved(*given[:3], optimised=len(given) == 3))
    code, out, err = lepton_tool("compare", "mlp.onnx")
    assert (code, "with its graph optimisations off" in out) == (0, True), err


@pytest.mark.parametrize(("off", "agrees"), [(0.04, True), (0.2, False)])
def test_what_rounding_alone_moves_is_allowed_twice(folder: Path, lepton_tool: Invoke, off: float, agrees: bool,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """(x + 2**20) - 2**20 is x to the nearest 1/8, so up to 1/16 off; the reference is off by more."""
    made = models.model([helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node("Sub", ["s", "c"], ["y"])],
                        {"x": [64]}, {"y": [64]}, {"c": np.array(2**20, np.float32)})
    models.save(made, folder / "coarse.onnx")
    real = compare._REFERENCES["interpreter"]
    monkeypatch.setitem(compare._REFERENCES, "interpreter", lambda *given: {
        name: y + np.float32(off) for name, y in real(*given).items()})
    asked = ("compare", "coarse.onnx", "--against", "interpreter", "--math", "strict")
    code, out, err = lepton_tool(*asked)
    assert (code, "rounding alone moves y by up to 0.0" in out) == ((0, True) if agrees else (1, False)), err + out
    assert lepton_tool(*asked, "--rtol", "1e-4")[0] == 1


def test_ranges_are_compared_at_their_usual_size(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    code, out, err = lepton_tool("compare", "mlp.onnx", "--dim", "N=1..6..9", "--random", "3")
    assert code == 0, err
    assert "x: f32[6,16]" in out
    assert lepton_tool("compare", "mlp.onnx", "--so", artifact, "--dim", "N=1..6..9")[0] == 2


def test_a_file_is_compared_as_it_was_compiled(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    """Its precision decides what is allowed, its pinned dimensions are known, and it says so where others are asked."""
    words = ("--precision", "bf16", "--dim", "N=3", "--target", "x86-avx2")
    assert leptonc("mlp.onnx", "-o", "b.so", "-q", *words)[0] == 0
    code, out, err = lepton_tool("compare", "mlp.onnx", "--so", "b.so", "--json")
    record = json.loads(out)
    assert (code, record["target"], record["inputs"]) == (0, "x86-avx2", {"x": "f32[3,16]"}), err
    assert 1e-4 < record["references"]["interpreter"][0]["max_rel"] < 1e-1
    assert lepton_tool("compare", "mlp.onnx", "--so", "b.so", "--rtol", "1e-4")[0] == 1
    code, _, err = lepton_tool("compare", "mlp.onnx", "--so", "b.so", "--dim", "N=4")
    assert (code, "--dim N=4: b.so was compiled for 3" in err) == (2, True), err
    assert lepton_tool("compare", "mlp.onnx", "--so", "b.so", "--device", "cuda")[0] == 3
    code, _, err = lepton_tool("compare", "mlp.onnx", "--so", "b.so", "--precision", "f32")
    assert (code, "b.so is compiled, that is settled" in err) == (2, True), err


def test_narrow_numbers_are_allowed_more(folder: Path, lepton_tool: Invoke) -> None:
    assert lepton_tool("compare", "mlp.onnx", "--precision", "bf16")[0] == 0
    assert lepton_tool("compare", "mlp.onnx", "--precision", "bf16", "--rtol", "1e-5")[0] == 1


@pytest.mark.parametrize("words", [("--rtol", "-1"), ("--atol", "nan"), ("--dim", "Q=1"), ("--so", "gone.so")])
def test_refuses(folder: Path, lepton_tool: Invoke, words: tuple[str, str]) -> None:
    assert lepton_tool("compare", "mlp.onnx", *words)[0] == 2


def test_a_wrong_pass_is_told_from_a_wrong_kernel(folder: Path, lepton_tool: Invoke,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: Fuse, graph: Graph) -> bool:
        (old,) = graph.outputs
        new = ops.neg(old)
        assert new.producer is not None
        old.replace_with(new, keep={new.producer})
        return True

    monkeypatch.setattr(Fuse, "run", spoil)
    code, out, _ = lepton_tool("compare", "mlp.onnx")
    assert code == 1
    assert "the passes changed the answers" in out


def test_the_first_wrong_node_is_named(folder: Path) -> None:
    """The interpreter is asked about another exp than the one that is compiled: its node is the first to differ."""
    nodes = [helper.make_node("Abs", ["x"], ["a"], name="n1"), helper.make_node("Exp", ["a"], ["e"], name="n2"),
             helper.make_node("Sqrt", ["e"], ["y"], name="n3")]
    path = models.save(models.model(nodes, {"x": [4]}, {"y": [4]}), folder / "m.onnx")
    options = Options(passes="cse")
    done = lower(str(path), options)
    request = Asked(str(path), None, options, {}, (), 0, T)
    inputs = [np.linspace(-1, 1, 4, dtype=np.float32)]
    graph, target = done.graphs[0], done.programs[0][1]
    assert first_divergence(graph, target, inputs, request) == ""

    right = ops.exp.reference
    object.__setattr__(ops.exp, "reference", lambda x: right(x) * np.float32(1.01))
    try:
        said = first_divergence(graph, target, inputs, request)
    finally:
        object.__setattr__(ops.exp, "reference", right)
    assert said.startswith("the first node that diverges is exp : f32[4], result 'e': max |Δ|")
    assert "node 'n2' (Exp)" in said


def test_neither_pass_nor_kernel_is_blamed_where_only_the_other_engine_differs(
        folder: Path, lepton_tool: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compare._REFERENCES["onnxruntime"]
    monkeypatch.setitem(compare._REFERENCES, "onnxruntime",
                        lambda *args: {name: array + 1 for name, array in right(*args).items()})
    code, out, _ = lepton_tool("compare", "mlp.onnx", "--dim", "N=2")
    assert code == 1
    assert "agrees with the interpreter" in out
    assert "onnxruntime differs from ONNX's definition" in out
    assert "how the program is planned" not in out
    assert "optimisations" not in out


@pytest.mark.parametrize(("want", "got", "agrees"), [
    ([1.0, 2.0], [1.0, 2.0001], True), ([1.0, 2.0], [1.0, 2.001], False), ([0.0, 1000.0], [0.05, 1000.0], True),
    ([np.nan, 1.0], [np.nan, 1.0], True), ([np.nan, 1.0], [0.0, 1.0], False), ([np.inf, 1.0], [np.inf, 1.0], True),
    ([np.inf, 1.0], [-np.inf, 1.0], False), ([np.inf], [np.inf], True), ([], [], True),
])
def test_difference_of_floats(want: list[float], got: list[float], agrees: bool) -> None:
    assert difference("y", np.array(want, np.float32), np.array(got, np.float32), T).agrees is agrees


def test_difference_of_others() -> None:
    one, two = np.array([1, 2]), np.array([1, 3])
    assert difference("y", one, one, T).agrees
    assert not difference("y", one, two, T).agrees
    assert difference("y", one, two, Tolerance(0, 1)).agrees
    assert difference("y", one, two, Tolerance(1, 0)).max_abs == 1
    assert "int64[2], expected" in difference("y", one.astype(np.int32), two, T).problem
    assert difference("y", one, np.array([1]), T).problem
    words = np.array(["a", "b"], object)
    assert difference("y", words, words, T).agrees
    assert not difference("y", words, words[::-1], T).agrees
    z = np.array([1 + 1j], np.complex64)
    assert difference("y", z, z * np.complex64(1 + 1e-6), T).agrees


def test_numbers_of_a_difference() -> None:
    row = difference("y", np.array([1.0, -4.0]), np.array([1.5, -4.0]), T)
    assert (row.max_abs, row.mean_abs, row.max_rel, row.mean_rel) == (0.5, 0.25, 0.125, 0.1)
    assert row.allowed == pytest.approx(1e-6 + 4e-4)


def test_an_input_that_goes_out_as_it_is(folder: Path, lepton_tool: Invoke) -> None:
    """The output keeps its own name, wherever it is shown."""
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Relu", ["x"], ["y"])]
    models.save(models.model(nodes, {"x": ["N"]}, {"same": ["N"], "y": ["N"]}), folder / "id.onnx")
    code, out, _ = lepton_tool("compare", "id.onnx", "--dim", "N=3")
    assert code == 0
    assert out.count("  same  ") == 2
    assert "output  same: f32[N]" in lepton_tool("inspect", "id.onnx")[1]
    assert lepton_tool("run", "id.onnx", "--random", "1")[1].startswith("same: f32[1]")
