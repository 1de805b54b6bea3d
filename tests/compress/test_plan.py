"""What a search is asked for: what means nothing or cannot be done is refused before any work."""
from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from lepton.compress.metrics import WORST, Budget, metric_of
from lepton.compress.searching import BudgetError, Plan, Search, search
from lepton.compress.study import Study
from lepton.ir.diagnostics import ResourceError, UsageError
from lepton.tool import main


@pytest.mark.parametrize("budget", [">=nan", ">=inf", "-inf%", "-1e999%", "-nan%", 0.5, None])
def test_budgets_that_are_no_numbers(budget: Any) -> None:
    with pytest.raises(UsageError, match="cannot read the budget"):
        Budget.of(budget)


def test_no_budget_takes_a_point_without_a_score() -> None:
    assert all(Budget.of(text).least(1.0) > WORST for text in (">=-1e40", "-1e40%"))


@pytest.mark.parametrize("asked", [
    {"seconds": float("nan")}, {"seconds": 0.0}, {"trials": 0}, {"seed": -1}, {"seed": 2**32},
])
def test_plans_that_cannot_be(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Plan(Budget.of(">=0.5"), **asked).checked()
    assert Plan(Budget.of("-0.5%"), seconds=float("inf"), seed=2**32 - 1).checked()


def test_a_metric_that_leaves(tmp_path: Path) -> None:
    """It ended the command with the metric's own exit code, and no word."""
    own = tmp_path / "own.py"
    own.write_text("raise SystemExit(0)")
    with pytest.raises(UsageError, match="cannot load the metric"):
        metric_of(str(own))


@pytest.mark.parametrize("out", [".", "", "/"])
def test_folders_are_no_outputs(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "m.onnx", "--data", "x.npz", "--budget", ">=0", "-o", out]) == 2
    assert "it is a folder" in capsys.readouterr().err


def unary(op: str, *more: str) -> onnx.ModelProto:
    """y = op(x, x...) for x [4, 4]."""
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x", *more], ["y"])], "net",
                                   [onnx.helper.make_tensor_value_info("x", 1, [4, 4])],
                                   [onnx.helper.make_tensor_value_info("y", 1, [4, 4])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_models_without_weights() -> None:
    data = [{"x": np.eye(4, dtype=np.float32) * k} for k in (1, 2)]
    with pytest.raises(UsageError, match="no layers to compress"):
        search(unary("Relu"), data, "psnr", "-1%", trials=1)
    with suppress(BudgetError):
        assert search(unary("MatMul", "x"), data, "psnr", ">=0", objective="both", trials=1).best.shrink == 1


def test_what_cannot_be_written_is_said_before_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    chosen = unary("If")
    node = onnx.helper.make_node("If", ["c"], ["b"], **{f"{which}_branch": onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x"], [which])], which, [], [onnx.helper.make_tensor_value_info(which, 1, [4, 4])])
        for which, op in (("then", "Relu"), ("else", "Neg"))})
    del chosen.graph.node[:]
    chosen.graph.node.extend([node, onnx.helper.make_node("MatMul", ["b", "w"], ["y"])])
    chosen.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    chosen.graph.input.append(onnx.helper.make_tensor_value_info("c", 9, []))
    onnx.save(chosen, tmp_path / "m.onnx")
    (tmp_path / "runs").mkdir()
    for k in range(2):
        np.savez(tmp_path / "runs" / f"{k}.npz", x=np.eye(4, dtype=np.float32), c=np.array(bool(k)))
    (tmp_path / "m.so").write_text("keep")
    monkeypatch.setattr(Search, "run", lambda *_: pytest.fail("searched"))
    assert main(["compress", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "runs"), "--budget", ">=0", "-q",
                 "-o", str(tmp_path / "m.so"), "--onnx", str(tmp_path / "q.onnx")]) == 3
    assert "if" in capsys.readouterr().err.lower()
    assert (tmp_path / "m.so").read_text() == "keep"


def test_a_study_that_is_removed_is_said_to_be(tmp_path: Path) -> None:
    study = Study(SimpleNamespace(plan=SimpleNamespace(study=str(tmp_path / "gone"))),  # type: ignore[arg-type]
                  SimpleNamespace(trials=[]))
    with pytest.raises(ResourceError, match="was removed"), study.writing():
        pass
