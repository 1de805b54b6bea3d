"""The script that measures on a GPU, where there is none: in order from start to end, on the fake driver."""
from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.cuda import gpu, networks, operators, sections, wrappers
from lepton.codegen.cuda import split
from tests.cuda.simulated import COMPILER


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
def test_it_runs_on_the_fake_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.jsonl"
    # The time is no limit here: a section gets a share of it, whose end busy cores must not reach.
    monkeypatch.setattr(sys, "argv", ["gpu", "--simulate", "--sections", "env,wrappers,sanitizer,ops,speed",
                                      "--networks", "mobilenet,decode", "--out", str(out), "--deadline", "6000"])
    assert gpu.main() == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["name"] for r in records if "lepton_ms" in r} == {case.name for case in operators.SMALL}
    assert sum(r.get("name", "").startswith("lp_") and r["ok"] for r in records) == len(wrappers.WRAPPERS)
    ours = {r["name"]: r for r in records if r.get("way") == "lepton"}
    assert ours.keys() == {"mobilenetv2 b1", "gpt2 decode"}
    assert all(r["ok"] and r["error_against_ort"] < 1e-5 and r["kernels_ms"] > 0 for r in ours.values())
    if find_spec("torch") is None:
        assert [r["section"] for r in records if "missing" in r] == ["env", "sanitizer", "speed"]


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def run(seconds: float) -> tuple[bool, list[dict[str, object]]]:
    out = io.StringIO()
    args = gpu.arguments().parse_args([])
    good = gpu.run_section("env", seconds, args, out, [])
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


@pytest.mark.parametrize(("seen", "good"), [("..s.", True), ("..F.", False)])
def test_tests_that_take_too_long_are_late_and_wrong_only_where_one_failed(
        seen: str, good: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: list[str], **more: object) -> None:
        raise subprocess.TimeoutExpired(command, 5, f"{seen}".encode())

    monkeypatch.setattr(subprocess, "run", run)
    sections.pytest_record([], ["tests"], 0.0)
    record = json.loads(capsys.readouterr().out)
    assert (record["ok"], record["late"]) == (good, "not all of them in time")


def test_what_there_is_no_time_for_is_told(monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sections, "device", lambda: "cuda-sm90")
    sections.ops(time.monotonic() - 1, gpu.arguments().parse_args([]))
    records = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [r["name"] for r in records] == [c.name for c in operators.CASES]
    assert all(r["late"] for r in records)


def test_switches_are_on_while_networks_run(monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    def run(entry: sections.Entry, options: object, until: float) -> dict[str, object]:
        return {"early": os.environ.get("LEPTON_CUDA_EARLY"), "parts": split.MOST_PARTS}

    monkeypatch.delenv("LEPTON_CUDA_EARLY", raising=False)
    monkeypatch.setattr(sections, "lepton_run", run)
    monkeypatch.setattr(sections, "entries", lambda *_: [sections.Entry("a", 1, Path(), {}),
                                                         sections.Entry("b", 8, Path(), {})])
    sections.switches(time.monotonic() + 60, gpu.arguments().parse_args([]))
    records = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(r["name"], r["switch"], r["early"], r["parts"]) for r in records] == [
        ("a", "none", None, 16), ("a", "launches in turn", "0", 16), ("a", "sums whole", None, 1)]
    assert (os.environ.get("LEPTON_CUDA_EARLY"), split.MOST_PARTS) == (None, 16)


def line(name: str, batch: int, way: str, ms: float) -> dict[str, object]:
    return {"section": "speed", "name": name, "batch": batch, "way": way, "ms": ms}


def test_means_are_of_the_best_that_torch_has() -> None:
    found = gpu.means([
        line("a", 1, "lepton", 1.0), line("a", 1, "torch_graph", 3.0), line("a", 1, "torch_compile", 2.0),
        line("b", 1, "lepton", 2.0), line("b", 1, "torch_graph", 1.0), line("c", 1, "lepton", 1.0),
        line("d", 8, "lepton", 2.0), line("d", 8, "torch_autotune", 6.0),
        {"section": "speed", "name": "e", "way": "torch_graph", "error": "no"}, {"section": "ops", "ms": 1.0}])
    assert [(r["mean_of"], r["networks"], round(r["best_torch_by_lepton"], 9)) for r in found] == [
        ("batch 1", 2, 1.0), ("larger batches", 1, 3.0)]


def test_all_networks_asked_for_are_there() -> None:
    assert {n.name for n in networks.NETWORKS} == {
        "resnet50 b1", "resnet50 b32", "bert-base b1", "bert-base b8", "vit-b b1", "mobilenetv2 b1", "gpt2 prefill",
        "gpt2 decode"}


def test_every_operator_measured_has_a_peer() -> None:
    from lepton.frontends import load

    for case in operators.SMALL:
        load(case.model())
    small = {(case.op, case.dtype) for case in operators.SMALL}
    assert {case.op for case in operators.CASES} - {op for op, _ in small} == {"Transpose", "Add"}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_nvrtc_compiles_the_wrappers(arch: str) -> None:
    from lepton.codegen.cuda import nvrtc
    from lepton.codegen.cuda.source import device_source
    from lepton.ir.diagnostics import NotInstalledError

    try:
        library = nvrtc.nvrtc()
    except NotInstalledError:
        pytest.skip("NVRTC is not installed")
    wanted = [w for w in wrappers.WRAPPERS if w.arch in ("", arch)]
    assert any(w.name == "lp_copy_bulk" for w in wanted) == (arch == "sm_90a")
    library.compile(device_source([wrappers.source(wanted)]), arch)
