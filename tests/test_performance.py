"""docs/performance.md is made from JSON: what the tables say of it."""
from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import performance

ROOT = Path(__file__).parents[1]


def row(engine: str, ms: float, cpu: float, problem: str = "") -> dict[str, Any]:
    rounds = [{"median_ms": ms * slow, "cpu_median_ms": cpu * slow, "relative_error": 2e-6, "version": "1.0"}
              for slow in (1.5, 1.0)]
    return {"engine": engine, "rounds": [] if problem else rounds, "problem": problem}


def run(threads: int, **models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"date": "2026-01-01", "cpu": "a CPU", "load": 0.2, "results": models,
            "settings": {"engines": ["ov", "ort", "lepton"], "precision": "fp32", "threads": threads, "batch": 1,
                         "rounds": 2}}


@pytest.mark.parametrize(("threads", "ratio", "shown"), [(1, "2.00", "6.000"), (2, "4.00", "8.000")])
def test_times(threads: int, ratio: str, shown: str) -> None:
    """The better round; CPU time on one thread, wall time on several; the best of the peers that ran."""
    table, ratios = performance.times(run(threads, net=[
        row("ort", 8, 6), row("ov", 9, 7), row("lepton", 2, 3)],
        lost=[row("ort", 1, 1), row("lepton", 1, 1, "crashed")]))
    others = "9.000 | 2.000" if threads == 2 else "7.000 | 3.000"
    assert f"| net | {shown} | {others} | {ratio} | 2e-06 |" in table
    assert "| lost | 1.000 | - | - | - | - |" in table
    assert list(ratios) == ["net"]
    assert f"Best peer / Lepton: geometric mean {ratio}, least {ratio}, over 1 models." in table


def test_the_whole_page() -> None:
    kernel = {"step": 0, "name": "conv_relu", "kind": "Convolution", "nodes": ["c"], "seconds": 2e-3, "run_share": 1.0,
              "flops": 10, "bytes": 10, "gflops": 1.0, "gbytes": 1.0, "ceiling_seconds": 1e-3, "ceiling_share": 0.5,
              "bound": "compute", "why": "sums of 27"}
    limits = {"model": "dir/net.onnx", "threads": 1, "roofline": {
        "ceilings": {"gflops": {"f32": 100.0}, "gbytes": {"L2": 50.0}}, "near_share": 0.25, "ceiling_share": 0.5,
        "by_kind": {"Convolution": {"run_share": 1.0, "ceiling_share": 0.5}}, "kernels": [kernel]}}
    cost = {"date": "2026-01-01", "load": 0.5, "costs": {"net": [
        {"what": "artifact", "got": 2.0, "budget": 1.0, "unit": "MB", "kept": False},
        {"what": "jitter", "got": 1.5, "budget": None, "unit": "x", "kept": True}]}}
    text, picture = performance.page([run(1, net=[row("ort", 8, 6), row("lepton", 2, 3)])], [limits], cost)
    assert "| net | 25% | 50% | Convolution 100% at 50% | conv_relu (Convolution): 100.0% of the run at 50%; " \
           "sums of 27 |" in text
    assert "| net | 2.00 MB (1.00) (!) | 1.50 x |" in text
    assert ET.fromstring(picture).findall("{*}rect")[1].attrib["width"] == "400.0"


def test_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(run(1, net=[row("ort", 8, 6), row("lepton", 2, 3)])))
    subprocess.run([sys.executable, "-m", "benchmarks.performance", tmp_path / "one.json", "--to", tmp_path], cwd=ROOT,
                   check=True)
    assert "## fp32, batch 1, 1 thread" in (tmp_path / "performance.md").read_text()
    assert (tmp_path / "performance.svg").read_text().startswith("<svg")
