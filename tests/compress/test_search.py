"""`lepton compress`: within the budget or not at all, resumed where it was stopped, clear about bad input."""
from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lepton
from lepton.compress.metrics import Budget, metric_of
from lepton.compress.page import html_page, markdown
from lepton.compress.quantize import Recipe
from lepton.compress.searching import Point, Search, pareto
from lepton.compress.study import Lock
from lepton.ir.diagnostics import UsageError
from lepton.ir.tensor import Array
from lepton.tool import main, parser
from tests.compress import digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network, and the images it was not trained on."""
    where = tmp_path_factory.mktemp("digits")
    onnx.save(digits.model(16), where / "digits.onnx")
    images, labels = digits.data()
    np.savez(where / "data.npz", x=images[1200:1328], labels=labels[1200:1328])
    return where


def command(folder: Path, out: Path, *more: str, budget: str = "-2%") -> list[str]:
    return ["compress", str(folder / "digits.onnx"), "--data", str(folder / "data.npz"), "--metric", "top1", "--budget",
            budget, "-o", str(out), "--trials", "2", "--objective", "size", "-q", *more]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("20s", 20), ("1.5m", 90)])
def test_time_is_said_as_for_tuning(text: str, seconds: float) -> None:
    words = ["compress", "m.onnx", "--data", "x.npz", "--budget", "-1%", "-o", "m.so"]
    assert parser().parse_args([*words, "--time", text]).time == seconds
    assert parser().parse_args(words).time == 600


@pytest.mark.slow
def test_finds_certifies_and_writes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, other, page = tmp_path / "m.so", tmp_path / "m.onnx", tmp_path / "page.html"
    assert main(command(folder, out, "--onnx", str(other), "--report", str(page), "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["score"]["held out"]["after"] >= report["score"]["held out"]["before"] - 0.02
    assert report["weights"]["after"] < 0.5 * report["weights"]["before"]
    assert report["layers"][0]["loss"] is not None
    model = lepton.load(out)
    assert json.loads(model.metadata["model"]["compression"])["recipe"] == report["recipe"]
    images, labels = digits.data()
    scores = [model(images[i:i + 16]) for i in range(1200, 1328, 16)]
    assert (np.concatenate(scores).argmax(1) == labels[1200:1328]).mean() > 0.9
    session = onnxruntime.InferenceSession(other)
    np.testing.assert_allclose(session.run(None, {"x": images[:16]})[0], model(images[:16]), atol=0.15)
    assert "<table>" in page.read_text()
    assert not list(tmp_path.glob("*.study"))


def test_an_impossible_budget_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, tmp_path / "m.so", "--trials", "1", budget=">=1.01")) == 1
    assert "no point within the budget" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_study_serves_a_wider_budget(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(tmp_path / "s.study"), "--trials", "1"]
    assert main(command(folder, tmp_path / "m.so", "--study", *words, budget=">=1.01")) == 1
    monkeypatch.setattr(Search, "point", lambda *_: pytest.fail("tried again"))
    assert main(command(folder, tmp_path / "m.so", "--study", *words)) == 0


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second trial; the next call makes one trial, not two, and no sensitivities."""
    original, made = Search.point, list[Recipe]()

    def point(self: Search, recipe: Recipe) -> Point:
        made.append(recipe)
        if len(made) == 2:
            raise KeyboardInterrupt
        return original(self, recipe)

    monkeypatch.setattr(Search, "point", point)
    assert main(command(folder, tmp_path / "m.so")) == 130
    assert not (tmp_path / "m.so").exists()
    monkeypatch.setattr("lepton.compress.searching.damages", lambda *_: pytest.fail("measured again"))
    assert main(command(folder, tmp_path / "m.so")) == 0
    assert len(made) == 3
    assert (tmp_path / "m.so").exists()


def test_inspect_shows_a_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report as JSON is for --json; data of 40 samples are told as the runs that they became, and by what they
    were judged."""
    out = tmp_path / "m.so"
    onnx.save(digits.model("N"), tmp_path / "any.onnx")
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "few.npz", x=data["x"][:40])
    words = command(folder, out, "--trials", "1", budget="-20%")
    words[1], words[3] = str(tmp_path / "any.onnx"), str(tmp_path / "few.npz")
    assert main([w for w in words if w != "-q"]) == 0
    told = capsys.readouterr().out
    assert "Data: 40 samples in 20 runs, 10 to search by, 10 to certify by. No labels: the uncompressed model's" in told
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  small +before +after$", shown, re.MULTILINE)
    assert re.search(r"^ +bytes of weights +\d+ +\d+$", shown, re.MULTILINE)
    assert "int8, ranges by mse; 0 layers in f32; budget -20%, for size, 1 trial" in shown
    assert '"pareto"' not in shown
    assert main(["inspect", str(out), "--json"]) == 0
    report = json.loads(json.loads(capsys.readouterr().out)["metadata"]["compression"])
    assert report["trials"] == 1


def test_a_study_cut_off_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a kill or a full disk leaves it: the last line is half there. What is whole counts."""
    study = tmp_path / "s.study"
    words = command(folder, tmp_path / "m.so", "--study", str(study), "--json", "--trials")
    assert main([*words, "1"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 1
    with study.open("ab") as file:
        file.write(b'{"op_code": 8, "worker_id": "x", "trial_')
    assert main([*words, "2"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 2
    assert all(json.loads(line) for line in study.read_text().splitlines())


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    """While it lives, nobody else writes."""
    study = tmp_path / "s.study"
    code = ("import sys, time; from pathlib import Path; from lepton.compress.study import Lock; "
            "lock = Lock(Path(sys.argv[1])).__enter__(); print('has it', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, str(study)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"has it\n"
        with pytest.raises(UsageError, match="another search is at the study"), Lock(study):
            pass
        writer.kill()
    with Lock(study):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["s.study"]


@pytest.mark.slow
def test_a_killed_search_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a signal that nobody can catch, once a trial is told."""
    study = tmp_path / "m.study"
    words = [*command(folder, tmp_path / "m.so"), "--json"]
    with subprocess.Popen([sys.executable, "-m", "lepton.tool", *words, "--trials", "1000"]) as search:
        end = time.monotonic() + 120
        while (not study.exists() or '"point"' not in study.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        search.kill()
    known = study.read_text().count('"point"')
    assert known > 0
    assert main([*words, "--trials", str(known)]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == known
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.so"]


def test_other_files_are_not_cut(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("first line\nsecond")
    assert main(command(folder, tmp_path / "m.so", "--study", str(other))) == 2
    assert other.read_text() == "first line\nsecond"


def test_a_full_disk_is_said_and_costs_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Files may not grow beyond what the study has before its trial's result: exit 5, no artifact, and the same command
    later finds what was there."""
    study, original = tmp_path / "s.study", Search.point
    words = command(folder, tmp_path / "m.so", "--study", str(study), "--trials", "1")

    def point(self: Search, recipe: Recipe) -> Point:
        made = original(self, recipe)
        resource.setrlimit(resource.RLIMIT_FSIZE, (study.stat().st_size + 8, limits[1]))
        return made

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(Search, "point", point)
    try:
        assert main(words) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"cannot write the study {study}" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".so"] == []
    monkeypatch.setattr(Search, "point", original)
    monkeypatch.setattr("lepton.compress.searching.damages", lambda *_: pytest.fail("measured again"))
    assert main(words) == 0


@pytest.mark.parametrize("text", ["not a study\n", '{"op_code": 99, "worker_id": "x"}\n', "[]\n"])
def test_a_study_of_something_else_is_refused(text: str, folder: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "s.study"
    study.write_text(text)
    assert main(command(folder, tmp_path / "m.so", "--study", str(study))) == 2
    assert "is no study" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "said"), [
    ("def metric(*_): raise RuntimeError('boom')", "own.py:1 fails: RuntimeError: boom"),
    ("x = 1", "no function metric"),
    ("def metric(*_): return float('nan')", "gives NaN"), ("\n1/0", "own.py:2: ZeroDivisionError"),
    ("def metric(*_): return 'good'", "fails: ValueError"), ("def metric(*_): return float('inf')", "gives inf"),
    ("def metric(*_): raise SystemExit(0)", "fails: SystemExit"),
    ("class Odd(BaseException): pass\ndef metric(*_): raise Odd", "fails: Odd"),
])
def test_metrics_that_fail(code: str, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                           ) -> None:
    (tmp_path / "own.py").write_text(code)
    words = command(folder, tmp_path / "m.so")
    words[words.index("top1")] = str(tmp_path / "own.py")
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("code", ["while True: pass", """
def metric(*_):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass"""], ids=["loaded", "called"])
def test_metrics_that_hang(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When loaded, or called, whatever they catch."""
    own = tmp_path / "own.py"
    own.write_text(code)
    monkeypatch.setattr("lepton.compress.metrics.SECONDS", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(UsageError, match=r"own\.py takes longer than 0\.2 s"):
        metric_of(str(own))([], [], [])
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(("budget", "baseline", "least"), [
    ("-0.5%", 0.9, 0.895), ("0%", 0.9, 0.9), ("+1%", 0.9, 0.91), (">=0.98", 0.5, 0.98)])
def test_budgets(budget: str, baseline: float, least: float) -> None:
    assert Budget.of(budget).least(baseline) == pytest.approx(least)


@pytest.mark.parametrize("budget", ["", "good", "%", "0.5", ">=", "-x%"])
def test_unreadable_budgets(budget: str) -> None:
    with pytest.raises(UsageError, match="cannot read the budget"):
        Budget.of(budget)


def test_a_budget_without_a_sign_could_mean_either() -> None:
    with pytest.raises(UsageError, match=r'"-1%": so much less; "\+1%": so much more'):
        Budget.of("1%")


def test_metrics() -> None:
    want: list[dict[str, Any]] = [{"y": np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 2.0]])}]
    got = [{"y": want[0]["y"][:, ::-1].copy()}]
    one = [{"y": np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0], [2.0, 0.0]])}]
    for name, best in (("top1", 1.0), ("f1", 1.0), ("cosine", 1.0), ("correlation", 1.0), ("psnr", 100.0)):
        score = metric_of(name)
        assert score(want, want, [None]) == pytest.approx(best)
        assert score(want, want, [None]) > score(one, want, [None]) > score(got, want, [None])
    assert metric_of("top1")(one, want, [None]) == 0.75
    assert metric_of("f1")(one, want, [None]) == pytest.approx((0.8 + 2 / 3) / 2)
    assert metric_of("top1")(one, want, [np.array([0, 1, 0, 0])]) == 1.0


@pytest.mark.parametrize(("labels", "said"), [
    (np.zeros(3), "3 labels for 4 answers"), (np.array(list("0100")), "labels are <U1"),
    (np.array([0, 1, 0, 2]), "label 2: the model tells 2 classes apart, 0 to 1"), (np.array([0, 1, 0, -1]), "label -1"),
    (np.array([0, np.nan, 0, 0]), "label nan"), (np.array([0, 0.5, 0, 0]), r"label 0\.5")])
def test_labels_that_are_no_classes(labels: Array, said: str) -> None:
    answers = [{"y": np.eye(2)[[0, 1, 0, 1]]}]
    assert metric_of("top1")(answers, answers, [np.array([0.0, 1.0, 0.0, 1.0])]) == 1
    for name in ("top1", "f1"):
        with pytest.raises(UsageError, match=said):
            metric_of(name)(answers, answers, [labels])


def test_metrics_cannot_change_what_judges_the_next_point() -> None:
    """Neither the answers nor the labels."""
    def careless(_: Any, reference: Any, labels: Any) -> float:
        (labels if labels[0] is not None else [reference[0]["y"]])[0][0] = 7
        return 1.0

    answers, labels = [{"y": np.zeros(4)}], np.zeros(4)
    for given in (None, labels):
        with pytest.raises(UsageError, match="careless fails: ValueError: assignment destination is read-only"):
            metric_of(careless)(answers, answers, [given])
    assert not answers[0]["y"].any()
    assert not labels.any()
    labels[0] = 1


def test_pareto_keeps_what_nothing_beats() -> None:
    def point(score: float, speed: float, shrink: float) -> Point:
        return Point(Recipe(), score, 1.0, 1, speed, shrink)

    best = [point(0.8, 3, 3), point(0.9, 2, 2), point(1.0, 1, 1)]
    assert pareto([*best, point(0.8, 2, 2), point(0.7, 3, 1)]) == best


def test_pages_escape_names() -> None:
    row = {"layer": "<b>", "noise": 0.1, "loss": None, "kept in f32": False}
    score = {"before": 1.0, "after": 1.0, "runs": 1}
    report = {"metric": "top1", "budget": "-1%", "objective": "size", "score": {"search": score, "held out": score},
              "milliseconds": {"before": 2.0, "after": 1.0}, "weights": {"before": 4, "after": 1}, "trials": 1,
              "recipe": vars(Recipe(prune=0.5)), "refused": [], "layers": [row], "pareto": []}
    assert "<b>" not in html_page(report)
    assert "&lt;b&gt;" in html_page(report)
    assert "| 2 | 1 | 2.00× |" in markdown(report)
    assert "50% of the channels pruned" in markdown(report)
    assert "No labels" not in markdown(report)
