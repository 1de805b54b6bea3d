"""docs/performance.md is made from JSON: what the tables say of it."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from benchmarks import performance
from benchmarks.peers.artifacts import LeptonCompiler, convert_mnn
from benchmarks.peers.bench import Record
from benchmarks.peers.report import Row
from benchmarks.peers.zoo.batch import rebatch

ROOT = Path(__file__).parents[1]


def row(engine: str, ms: float, cpu: float, problem: str = "", error: float = 2e-6,
        others: float = 0.2) -> dict[str, Any]:
    rounds = [{"median_ms": ms * slow, "cpu_median_ms": cpu * slow, "relative_error": error, "version": "1.0",
               "others_share": others} for slow in (1.5, 1.0)]
    return {"engine": engine, "rounds": [] if problem else rounds, "problem": problem}


def run(threads: int, precision: str = "fp32", **models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"date": "2026-01-01", "cpu": "a CPU", "load": 0.2, "results": models,
            "settings": {"engines": ["ov", "ort", "lepton"], "precision": precision, "threads": threads, "batch": 1,
                         "rounds": 2}}


@pytest.mark.parametrize(("threads", "ratio", "shown"), [(1, "2.00", "6.000"), (2, "4.00", "8.000")])
def test_times(threads: int, ratio: str, shown: str) -> None:
    """The better round; on a shared machine CPU time of one thread; the best of the peers that ran."""
    table, ratios = performance.times(run(threads, net=[
        row("ort", 8, 6), row("ov", 9, 7), row("lepton", 2, 3)],
        lost=[row("ort", 1, 1), row("lepton", 1, 1, "crashed")]))
    others = "9.000 | 2.000" if threads == 2 else "7.000 | 3.000"
    assert f"| net | {shown} | {others} | {ratio} | 2.0e-06 |" in table
    assert "| lost | 1.000 | - | - | - | - |" in table
    assert list(ratios) == ["net"]
    assert "- Lepton, lost: crashed" in table
    assert f"Best peer / Lepton: geometric mean {ratio}, least {ratio}, over 1 models." in table


def test_errors_against_float64() -> None:
    """Beside Lepton's stands ONNX Runtime's own; what counts as wrong is still the difference between the two."""
    made = run(1, net=[row("ort", 8, 6, error=0.0), row("lepton", 2, 3, error=2e-6)])
    for rows, error in zip(made["results"]["net"], (3e-7, 4e-7), strict=True):
        for one in rows["rounds"]:
            one["float64_error"] = error
    table, _ = performance.times(made)
    assert "| net | 6.000 | - | 3.000 | 2.00 | 3.0e-07 | 4.0e-07 |" in table
    assert any("the model computed in float64" in line for line in table)


def test_the_whole_page() -> None:
    kernel = {"step": 0, "name": "conv_relu", "kind": "Convolution", "nodes": ["c"], "seconds": 2e-3, "run_share": 1.0,
              "flops": 10, "bytes": 10, "gflops": 1.0, "gbytes": 1.0, "ceiling_seconds": 1e-3, "ceiling_share": 0.5,
              "bound": "compute", "why": "sums of 27"}
    limits = {"model": "dir/net.onnx", "threads": 1, "roofline": {
        "ceilings": {"gflops": {"f32": 100.0}, "gbytes": {"L2": 50.0}}, "near_share": 0.25, "ceiling_share": 0.5,
        "by_kind": {"Convolution": {"run_share": 1.0, "ceiling_share": 0.5}}, "kernels": [kernel],
        "losses": [{"kind": "Convolution", "why": "sums of 27; tiny", "kernels": 1, "name": "conv_relu",
                    "run_share": 1.0, "ceiling_share": 0.5, "lost_share": 0.5},
                   {"kind": "LoopBody", "why": "moves", "kernels": 1, "name": "copy", "run_share": 0.001,
                    "ceiling_share": 0.5, "lost_share": 0.0005}]}}
    cost = {"date": "2026-01-01", "load": 0.5, "costs": {"net": [
        {"what": "artifact", "got": 2.0, "budget": 1.0, "unit": "MB", "kept": False},
        {"what": "jitter", "got": 1.5, "budget": None, "unit": "x", "kept": True},
        {"what": "first answer", "got": 92.0, "budget": 84.0, "unit": "ms", "kept": True, "reached": False,
         "excuse": "less than one run"}]}}
    runs = {"one": {**run(1, net=[row("ort", 8, 6), row("lepton", 2, 3)]), "flags": "avx2 fma"}}
    text, pictures = performance.page(runs, [limits], cost)
    assert "CPU flags: avx2 fma." in text
    assert "](performance-one.svg)" in text
    assert "| net | 25% | 50% | Convolution 100% at 50% | **50.0%** Convolution ×1 at 50% (sums of 27, tiny) |" in text
    assert "| net | 2.00 MB (1.00) (!) | 1.50 x | 92.0 ms (84.0, less than one run) |" in text
    assert ET.fromstring(pictures["one"]).findall("{*}rect")[1].attrib["width"] == "400.0"


def test_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "performance-gone.svg").write_text("of another table")
    (tmp_path / "one.json").write_text(json.dumps(run(1, net=[row("ort", 8, 6), row("lepton", 2, 3)])))
    subprocess.run([sys.executable, "-m", "benchmarks.performance", tmp_path / "one.json", "--to", tmp_path], cwd=ROOT,
                   check=True)
    assert "## fp32, batch 1, 1 thread" in (tmp_path / "performance.md").read_text()
    assert (tmp_path / "performance-one.svg").read_text().startswith("<svg")
    assert not (tmp_path / "performance-gone.svg").exists()
    subprocess.run([sys.executable, "-m", "benchmarks.performance", tmp_path / "one.json", "--to", tmp_path, "--name",
                    "other"], cwd=ROOT, check=True)
    assert "](other-one.svg)" in (tmp_path / "other.md").read_text()
    assert (tmp_path / "other-one.svg").exists()
    assert (tmp_path / "performance-one.svg").exists()


def test_a_quiet_machine_shows_wall_time() -> None:
    _, ratios = performance.times(run(1, net=[row("ort", 8, 6, others=0), row("lepton", 2, 3, others=0)]))
    assert ratios == {"net": 4.0}


def test_wrong_answers_are_not_ranked() -> None:
    table, ratios = performance.times(run(1, net=[row("ort", 1, 1, error=0.4), row("ov", 9, 7), row("lepton", 2, 3.5)]))
    assert ratios == {"net": 2.0}
    assert "- ONNX Runtime, all models: wrong answer" in table
    _, ratios = performance.times(run(1, net=[row("ov", 9, 7), row("lepton", 2, 3.5, error=float("inf"))]))
    assert not ratios


def test_a_precision_shows_the_errors_of_both() -> None:
    table, _ = performance.times(run(1, "bf16", net=[row("ort", 0, 0, "skipped: no such mode"),
                                                     row("ov", 9, 7, error=0.02), row("lepton", 2, 3.5, error=0.01)]))
    assert "| net | - | 7.000 | 3.500 | 2.00 | 2.0e-02 | 1.0e-02 |" in table
    assert "- ONNX Runtime, all models: no such mode" in table


def test_a_peer_that_was_not_limited_is_shown_and_not_ranked() -> None:
    record = run(1, net=[{**row("ort", 1, 1), "comparable": False}, row("ov", 9, 7), row("lepton", 2, 3.5)])
    record["settings"]["isa"] = "avx2"
    table, ratios = performance.times(record)
    assert ratios == {"net": 2.0}
    assert any("have no such switch, are shown and not ranked" in line for line in table)


def test_batches() -> None:
    """Reshapes, and constants that are concatenated behind the batch, follow a new batch size."""
    shape = helper.make_tensor("shape", onnx.TensorProto.INT64, [3], [1, 2, 2])
    token = helper.make_tensor("token", onnx.TensorProto.FLOAT, [1, 1, 2], [5.0, 6.0])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["rows"]),
             helper.make_node("Concat", ["token", "rows"], ["y"], axis=1)]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
            for name, dims in (("x", [1, 4]), ("y", [1, 3, 2])))
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], [shape, token]))
    (found,) = ReferenceEvaluator(rebatch(model, 3)).run(None, {"x": np.zeros((3, 4), np.float32)})
    result = np.asarray(found)
    assert result.shape == (3, 3, 2)
    assert (result[:, 0] == (5, 6)).all()


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Settings and Lepton's state must be the same; with --keep only the settings."""
    def record(fingerprint: str, **changed: object) -> Record:
        options = argparse.Namespace(**{"json": tmp_path / "r.json", "resume": True, "keep": False, "threads": 1,
                                        "model": ["net"], "minutes": 1.0} | changed)
        return Record.of(options, LeptonCompiler(Path("python"), Path("leptonc"), "0", fingerprint))

    record("a").add("net", [Row("ort", problem="none")])
    assert list(record("a", minutes=9.0, model=["net", "more"]).results) == ["net"]
    assert not record("a", threads=2).results
    assert not record("a", resume=False).results
    assert not record("b").results
    kept = record("b", keep=True)
    assert list(kept.results) == ["net"]
    assert kept.lepton is None


def test_the_tables_are_named() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.tables", "--list"], cwd=ROOT, check=True, text=True,
                          capture_output=True)
    assert {"fp32-1", "bf16", "avx2", "costs"} <= set(done.stdout.split())
    wrong = subprocess.run([sys.executable, "-m", "benchmarks.tables", "none"], cwd=ROOT, check=False, text=True,
                           capture_output=True)
    assert wrong.returncode == 2
    assert "unknown tables: none" in wrong.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["--threads", "0"], "invalid positive value: '0'"), (["--batch", "-1"], "invalid positive value: '-1'"),
    (["--json", "/proc/x.json"], "--json /proc/x.json: no file can be made there"),
    (["--json", "no/such/x.json"], "--json no/such/x.json: no file can be made there"),
    (["--resume"], "name it with --json")])
def test_a_run_that_cannot_end_well_does_not_begin(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.peers.bench", "net", *words], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_page_of_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.tables", "--page", "--root", str(tmp_path), "--to",
                           str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no table is measured in ")


def test_converting_for_mnn_calls_no_command_that_installs(tmp_path: Path) -> None:
    """Its `mnnconvert` runs `pip install` in whatever environment is active."""
    (tmp_path / "mnnconvert").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").write_text('#!/bin/sh\nfor last; do :; done; echo "$@" > "$last"\n')
    for command in tmp_path.iterdir():
        command.chmod(0o755)
    made = convert_mnn(tmp_path, Path("net.onnx"), "hash", tmp_path / "cache", 10.0)
    assert "_tools.mnnconvert(sys.argv) -f ONNX --modelFile net.onnx" in made.path.read_text()
