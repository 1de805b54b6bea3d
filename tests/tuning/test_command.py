"""leptonc --tune, as users meet it."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import lepton
from lepton.ir.diagnostics import UsageError
from lepton.tuning.cache import HEADER, Cache
from tests.cli import models
from tests.cli.conftest import folder, leptonc  # noqa: F401
from tests.cli.models import Invoke, command, mlp_answer, process_environment

X = np.random.default_rng(1).standard_normal((9, 16)).astype(np.float32)


def test_tunes_remembers_and_takes(folder: Path, leptonc: Invoke) -> None:  # noqa: F811
    words = ("mlp.onnx", "-o", "a.so", "--dim", "N=9", "--tune", "--time", "20s", "--tune-cache", "t.jsonl", "--json")
    code, out, _ = leptonc(*words)
    (row,) = json.loads(out)["tuning"][next(iter(json.loads(out)["targets"]))]
    assert (code, row["kernels"], row["measured"], row["known"], row["damaged"]) == (0, 1, 1, 0, 0)
    assert row["candidates"] >= 2
    assert 0 < row["tuned_seconds"] <= row["model_seconds"]
    np.testing.assert_allclose(lepton.load("a.so")(X), mlp_answer(X), rtol=1e-4, atol=1e-5)
    assert len(Cache.open("t.jsonl").rows) == 1
    assert leptonc(*words[:2], "b.so", *words[3:-1])[0] == 0
    code, _, err = leptonc("mlp.onnx", "-o", "c.so", "--dim", "N=9", "--tune-cache", "t.jsonl")
    assert code == 0
    assert "0 of 1 kernel measured (0 candidates, 0.0 s), 1 known" in err
    assert Path("a.so").read_bytes() == Path("b.so").read_bytes() == Path("c.so").read_bytes()
    assert {p.name for p in folder.iterdir()} == {"mlp.onnx", "a.so", "b.so", "c.so", "t.jsonl"}


def test_strict_stays_the_same_bits(folder: Path) -> None:  # noqa: F811
    plain = lepton.compile("mlp.onnx", math="strict", dims={"N": 9})(X)
    tuned = lepton.compile("mlp.onnx", math="strict", dims={"N": 9}, tune=5.0, tune_cache="t.jsonl")(X)
    np.testing.assert_array_equal(np.asarray(plain).view(np.uint32), np.asarray(tuned).view(np.uint32))


def test_open_sizes_are_left_to_the_cost_model(folder: Path, leptonc: Invoke) -> None:  # noqa: F811
    code, _, err = leptonc("mlp.onnx", "-o", "a.so", "--tune", "--tune-cache", "t.jsonl")
    assert code == 0
    assert "0 of 0 kernels measured" in err
    assert "1 with open sizes left to it" in err


def test_damaged_lines_are_told(folder: Path, leptonc: Invoke) -> None:  # noqa: F811
    Path("t.jsonl").write_text(json.dumps(HEADER) + "\n{half a li")
    code, _, err = leptonc("mlp.onnx", "-o", "a.so", "--tune-cache", "t.jsonl")
    assert code == 0
    assert "1 damaged line of the tuning cache left out" in err


def test_several_models_share_the_time(folder: Path, leptonc: Invoke) -> None:  # noqa: F811
    code, out, err = leptonc("a=mlp.onnx", "b=mlp.onnx", "-o", "ab.so", "--dim", "a:N=9", "--dim", "b:N=5", "--tune",
                             "--time", "20s", "--tune-cache", "t.jsonl", "--json")
    assert code == 0, err
    found = [row for model in json.loads(out)["models"].values() for (row,) in model["tuning"].values()]
    assert [row["measured"] for row in found] == [1, 1]
    assert len(Cache.open("t.jsonl").rows) == 2


@pytest.mark.parametrize(("words", "said"), [
    (("--time", "5s"), "--time is how long --tune may take"),
    (("--tune", "--time", "never"), "expected a time such as"), (("--tune", "--time", "0"), "expected a time such as"),
    (("--tune", "--target", "aarch64-neon"), "cannot tune for aarch64-neon"),
    (("--tune-cache", "mlp.onnx"), "mlp.onnx is no tuning cache"),
    (("--tune", "--tune-cache", "mlp.onnx"), "mlp.onnx is no tuning cache"),
    (("--tune", "--tune-cache", "."), "cannot read the tuning cache")])
def test_usage(folder: Path, leptonc: Invoke, words: tuple[str, ...], said: str) -> None:  # noqa: F811
    before = Path("mlp.onnx").read_bytes()
    code, _, err = leptonc("mlp.onnx", "-o", "a.so", *words)
    assert code == 2
    assert said in err
    assert Path("mlp.onnx").read_bytes() == before
    assert {p.name for p in folder.iterdir()} == {"mlp.onnx"}


def test_options_of_compile(folder: Path) -> None:  # noqa: F811
    for seconds in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="seconds of tuning"):
            lepton.compile("mlp.onnx", tune=seconds)


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured(folder: Path) -> None:  # noqa: F811
    """Products of different sizes, one after the other: stopped once the first is in the file."""
    rng = np.random.default_rng(0)
    sizes = [64, 200, 120, 300, 90, 260, 150]
    weights = {f"w{i}": rng.standard_normal(pair).astype(np.float32)
               for i, pair in enumerate(pairwise(sizes))}
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))]
    models.save(models.model(nodes, {"x0": [100, 64]}, {f"x{len(weights)}": [100, sizes[-1]]}, weights),
                folder / "deep.onnx")
    process = subprocess.Popen(
        command("cli", "deep.onnx", "-o", "d.so", "--tune", "--tune-cache", "t.jsonl"), cwd=folder, text=True,
        env=process_environment(), stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    end = time.monotonic() + 60
    while not Cache.open("t.jsonl").rows and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert 1 <= len(Cache.open("t.jsonl").rows) < 6
    assert Cache.open("t.jsonl").damaged == 0
    assert {p.name for p in folder.iterdir()} == {"mlp.onnx", "deep.onnx", "t.jsonl"}
