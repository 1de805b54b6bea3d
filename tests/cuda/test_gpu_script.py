"""The script that measures on a GPU, where there is none: in order from start to end, on the fake driver."""
from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.cuda import gpu
from tests.cuda.simulated import COMPILER


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
def test_it_runs_on_the_fake_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.jsonl"
    monkeypatch.setattr(sys, "argv", ["gpu", "--simulate", "--sections", "env,wrappers,sanitizer,ops,speed",
                                      "--out", str(out), "--deadline", "300"])
    assert gpu.main() == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["name"] for r in records if "lepton_ms" in r} >= {"softmax 3x50", "gelu 100"}
    assert sum(r.get("name", "").startswith("lp_") and r["ok"] for r in records) > 20
    assert [r["section"] for r in records if "missing" in r] == ["env", "sanitizer", "speed"]


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def run(seconds: float) -> tuple[bool, list[dict[str, object]]]:
    out = io.StringIO()
    good = gpu.run_section("env", seconds, argparse.Namespace(models=None, simulate=False), out)
    return good, [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_section_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path, "echo '{\"name\": \"a\"}'; echo noise; sleep 60; echo no"))
    monkeypatch.setattr(gpu, "GRACE", 0.1)
    start = time.monotonic()
    good, records = run(0.3)
    assert time.monotonic() - start < 20
    assert not good
    assert records[:2] == [{"section": "env", "name": "a"}, {"section": "env", "text": "noise"}]
    assert records[2]["error"] == "killed when its time was up"


@pytest.mark.parametrize(("text", "good"), [
    ("echo '{}'", True), ("echo '{\"ok\": false}'", False), ("exit 3", False), ("echo 7", True)])
def test_a_section_is_good_when_all_of_it_is(text: str, good: bool, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", script(tmp_path, text))
    assert run(30)[0] is good
