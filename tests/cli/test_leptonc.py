"""leptonc: what it writes and says."""
from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import lepton
from lepton.cli import EMITS, parser
from tests.cli import models
from tests.cli.models import ROOT, Invoke, call, command, mlp_answer, process_environment

X = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)


def test_compiles_and_says_what_it_made(folder: Path, leptonc: Invoke) -> None:
    code, out, err = leptonc("mlp.onnx", "-o", "model.so")
    assert (code, out) == (0, "")
    np.testing.assert_allclose(lepton.load("model.so")(X), mlp_answer(X), rtol=1e-4, atol=1e-5)
    assert re.search(r"^model\.so: [\d.]+ kB\n  compiled in [\d.]+ s \(read [\d.]+, passes [\d.]+, plan [\d.]+, "
                     r"code [\d.]+, link [\d.]+\)\n", err)
    for words in (r"1 kernel \(1 distinct\), 1 fused group, 256\*N FLOP, weights [\d.]+ k?B, workspace by input shapes",
                  r"ops before: 3 \(add 1, matmul 1, relu 1\)", r"ops after:  3 \("):
        assert re.search(words, err), err
    assert "\x1b" not in err, "no progress where stderr is no terminal"


def test_default_output_is_beside_the_caller(folder: Path, leptonc: Invoke) -> None:
    (folder / "there").mkdir()
    (folder / "mlp.onnx").rename(folder / "there" / "mlp.onnx")
    assert leptonc("there/mlp.onnx", "-q") == (0, "", "")
    assert (folder / "mlp.so").exists()
    assert not (folder / "there" / "mlp.so").exists()


def test_json_is_stable(folder: Path, leptonc: Invoke) -> None:
    """Version 1 has at least these fields, with these meanings."""
    code, out, err = leptonc("mlp.onnx", "-o", "model.so", "--json", "--dim", "N=4", "--target", "x86-avx2,x86-sse4")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["version"], record["model"], record["emit"]) == (1, "mlp.onnx", "so")
    assert record["files"] == [{"path": "model.so", "bytes": os.path.getsize("model.so")}]
    assert list(record["seconds"]) == ["read", "passes", "plan", "code", "link"]
    assert record["ops_before"] == {"add": 1, "matmul": 1, "relu": 1}
    assert list(record["targets"]) == ["x86-avx2", "x86-sse4"]
    row = record["targets"]["x86-avx2"]
    assert row["flops"] == 2 * 4 * 16 * 8
    assert (row["kernels"], row["bodies"], row["fusions"], row["workspace"]) == (1, 1, 1, 0)
    assert row["ops"]["matmul"] == 1
    assert row["weights"] >= 16 * 8 * 4 + 8 * 4


@pytest.mark.parametrize(("form", "words"), [
    ("graph", ("graph @small(%x: f32[N,16])", "matmul(", "return %y")),
    ("loops", ("matmul_add_relu(i0", "x ((N+", "  // body 0\n", "\n// body 0: matmul_add_relu", "Gemm(")),
    ("llvm", ("define hidden void @lpt_x86_avx2_k0_matmul_add_relu", "lpt_artifact")),
    ("asm", ("lpt_x86_avx2_k0_matmul_add_relu:", "vfmadd", "ret")),
])
def test_emits_text(folder: Path, leptonc: Invoke, form: str, words: tuple[str, ...]) -> None:
    code, out, _ = leptonc("mlp.onnx", "--emit", form, "--target", "x86-avx2", "-o", "-")
    assert code == 0
    for word in words:
        assert word in out


def test_emitted_graph_compiles_again(folder: Path, leptonc: Invoke) -> None:
    assert leptonc("mlp.onnx", "--emit", "graph", "-q", "-O0")[0] == 0
    assert leptonc("mlp.lir", "--emit", "graph", "-o", "again.lir", "--passes", "cse", "-q")[0] in (0, 2, 3)


def test_several_targets_give_several_files(folder: Path, leptonc: Invoke) -> None:
    targets = ("x86-avx512", "x86-avx2")
    code, _, err = leptonc("mlp.onnx", "--emit", "obj", "-o", "m.o", "--target", ",".join(targets))
    assert code == 0
    for name in (*targets, "tables"):
        assert (folder / f"m.{name}.o").read_bytes()[:4] == b"\x7fELF"
        assert f"m.{name}.o: " in err
    assert not (folder / "m.o").exists()


def test_every_emit_has_a_suffix_of_its_own() -> None:
    assert len(set(EMITS.values())) == len(EMITS)


def test_dumps_what_passes_changed(folder: Path, leptonc: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q", "--dump-dir", "dumps", "--verify-each", "--self-check")[0] == 0
    names = sorted(p.name for p in (folder / "dumps").iterdir())
    assert names[0] == "00-input.lir"
    assert any(name.endswith("-fuse.lir") for name in names)


def test_times_passes(folder: Path, leptonc: Invoke) -> None:
    _, _, err = leptonc("mlp.onnx", "-q", "--time-passes", "--passes", "fold,cse", "--emit", "graph", "-o", "-")
    assert re.findall(r"ms  (\w+)", err) == ["fold", "cse", "total"]


def test_pinned_dimension_is_compiled_in(folder: Path, leptonc: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q", "--dim", "N=3", "-o", "p.so", "--threads-default", "1")[0] == 0
    made = lepton.load("p.so")
    assert made.inputs[0].shape == (3, 16)
    assert made.metadata["dims"] == {"N": 3}
    np.testing.assert_allclose(made(X), mlp_answer(X), rtol=1e-4, atol=1e-5)


def test_verbose_names_stages_and_quiet_says_nothing(folder: Path, leptonc: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q") == (0, "", "")
    err = leptonc("mlp.onnx", "-v")[2]
    assert err.splitlines()[:5] == [f"{s} …" for s in ("read", "passes", "plan", "code", "link")]


@pytest.mark.parametrize("plain", [False, True])
def test_progress_on_a_terminal(folder: Path, plain: bool) -> None:
    """In place where that is wanted, and nothing of it stays."""
    ours, theirs = pty.openpty()
    environment = process_environment(**({"NO_COLOR": "1"} if plain else {}), TERM="xterm")
    environment = environment if plain else {k: v for k, v in environment.items() if k != "NO_COLOR"}
    process = subprocess.Popen(command("cli", "mlp.onnx"), cwd=folder, env=environment, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how a terminal says that nobody is there any more
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert process.wait() == 0
    assert ("\x1b[" in text.decode()) is not plain
    assert "code …" in text.decode()


def test_help_is_quick_and_complete() -> None:
    """Help may import nothing heavy. Processor time, the least of several runs: other processes may be at work."""
    best = 1e9
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = call("cli", "--help", cwd=ROOT)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    assert done.returncode == 0
    assert best < 0.15, f"--help took {best * 1e3:.0f} ms"
    for word in ("examples:", "exit codes:", "the code:", "what comes out:", "working on passes:", "limits:"):
        assert word in done.stdout


def test_version_names_what_matters(leptonc: Invoke) -> None:
    code, out, _ = leptonc("--version")
    assert code == 0
    assert re.fullmatch(rf"leptonc {re.escape(lepton.__version__)} \(LLVM \d+\.\d+\.\d+, onnx \d+\.\d+\.\d+\)\n", out)


def test_options_are_not_abbreviated(leptonc: Invoke) -> None:
    assert leptonc("m.onnx", "--thread", "2")[0] == 2
    assert parser().parse_args(["m.onnx", "-O3"]).level == 3


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    shell = f"{' '.join(command('cli', 'mlp.onnx', '--emit', 'llvm', '-o', '-', '-q'))} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], cwd=folder, env=process_environment(),
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == 10


def test_values_are_compiled_in(folder: Path, leptonc: Invoke) -> None:
    """An input that a size depends on leaves the signature."""
    kinds = {"shape": int(TensorProto.INT64)}
    made = models.model([helper.make_node("Reshape", ["x", "shape"], ["y"])], {"x": ["N", 6], "shape": [2]},
                        {"y": ["a", "b"]}, kinds=kinds)
    models.save(made, folder / "r.onnx")
    np.save("s.npy", np.array([-1, 3], np.int64))
    for word in ("shape=[-1,3]", "shape=@s.npy"):
        code, _, err = leptonc("r.onnx", "-q", "--value", word)
        assert code == 0, err
        model = lepton.load("r.so")
        assert [p.name for p in model.inputs] == ["x"]
        assert model.metadata["values"] == ["shape"]
        assert model(np.ones((2, 6), np.float32)).shape == (4, 3)
