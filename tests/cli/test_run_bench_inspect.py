"""`lepton run`, `bench`, `inspect` and `ops`."""
from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

import lepton
from lepton.commands import bench
from lepton.inputs import make_inputs
from lepton.ir import ops
from lepton.ir.op import OPS
from tests.cli import models
from tests.cli.models import Invoke, call, mlp_answer

X = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)

# What a machine that only runs artifacts need not have.
HEAVY = ("onnx", "llvmlite", "networkx", "lepton.frontends", "lepton.passes", "lepton.codegen")


@pytest.fixture
def scaled(folder: Path) -> Path:
    """y = x * scale in place of mlp.onnx: two inputs, one of them a scalar."""
    made = models.model([helper.make_node("Mul", ["x", "scale"], ["y"])], {"x": ["N", 4], "scale": []}, {"y": ["N", 4]})
    return models.save(made, folder / "scaled.onnx")


def test_runs_on_a_file(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    np.save("x.npy", X)
    code, out, err = lepton_tool("run", artifact, "-i", "x=@x.npy", "-o", "out.npz", "-o", "y=@y.npy")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"y: f32\[3,8\]  min 0  mean [\d.]+  max [\d.]+\n", out)
    np.testing.assert_allclose(np.load("y.npy"), mlp_answer(X), rtol=1e-4, atol=1e-5)
    with np.load("out.npz") as file:
        np.testing.assert_array_equal(file["y"], np.load("y.npy"))


def test_prints_all_elements(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    _, out, _ = lepton_tool("run", artifact, "--random", "0", "--dim", "N=300", "--print")
    assert out.startswith("y: f32[300,8]\n[[")
    assert len(re.findall(r"\d+\.\d*|\d+\.", out)) == 300 * 8


def test_same_seed_same_answer(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    one, two, other = (lepton_tool("run", artifact, "--random", seed, "--print")[1] for seed in ("5", "5", "6"))
    assert one == two != other


def test_numbers_lists_and_archives(scaled: Path, lepton_tool: Invoke) -> None:
    """A source is compiled on the way; sizes come from what is given."""
    code, out, _ = lepton_tool("run", scaled, "-i", "x=[[1,2,3,4]]", "-i", "scale=-2.5", "--print")
    assert (code, out) == (0, "y: f32[1,4]\n[[ -2.5  -5.   -7.5 -10. ]]\n")
    np.savez("all.npz", x=np.ones((2, 4), np.float32), scale=np.float32(3))
    assert lepton_tool("run", scaled, "-i", "@all.npz")[1] == "y: f32[2,4]  min 3  mean 3  max 3\n"
    assert lepton_tool("run", scaled, "-i", "x=2", "-i", "scale=3", "--dim", "N=5")[1].startswith("y: f32[5,4]  min 6")


def test_bfloat16_survives_npy(folder: Path, lepton_tool: Invoke) -> None:
    kinds = dict.fromkeys(("x", "y"), int(TensorProto.BFLOAT16))
    made = models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, {"y": [4]}, kinds=kinds)
    models.save(made, folder / "b.onnx")
    values = np.array([-1, 0.5, 2, -3], ml_dtypes.bfloat16)
    np.save("x.npy", values)
    code, _, err = lepton_tool("run", "b.onnx", "-i", "x=@x.npy", "-o", "y=@y.npy")
    assert code == 0, err
    np.testing.assert_array_equal(np.load("y.npy").view(ml_dtypes.bfloat16), np.maximum(values, 0))


@pytest.mark.parametrize(("words", "said"), [
    ((), "no value for input x: f32[N,16]"),
    (("-i", "z=1", "--random", "0"), "the model has no input 'z'"),
    (("-i", "@double.npy"), "-i @double.npy: one array, without a name\n  = help: -i NAME=@double.npy"),
    (("-i", "x=@gone.npy"), "cannot read arrays from gone.npy: No such file"),
    (("-i", "x=@text.npy"), "cannot read arrays from text.npy"),
    (("-i", "x=@pickle.npy"), "cannot read arrays from pickle.npy"),
    (("-i", "@torn.npz"), "cannot read arrays from torn.npz"),
    (("-i", "x=@double.npy"), "input 'x': expected f32[N,16], got f64[3,16]"),
    (("-i", "x=@narrow.npy"), "input 'x': expected f32[N,16], got f32[3,5]"),
    (("-i", "x=one"), "-i x=one: "),
    (("-i", "x"), "-i x: expected NAME=@FILE.npy"),
    (("-i", "x=1", "-i", "x=2"), "input 'x' is given twice"),
    (("--random", "0", "--dim", "M=2"), "no open dimension 'M'\n  = help: open dimensions: N"),
    (("--random", "0", "--dim", "N=many"), "--dim N=many: expected NAME=SIZE"),
    (("--random", "0", "--dim", "N=²"), "--dim N=²: expected NAME=SIZE"),
    (("--random", "0", "--dim", "N=2", "--dim", "N=3"), "N is 2 already"),
    (("--random", "0", "--dim", "N=99999999999999999999"), "no dimension can be that large"),
    (("--random", "0", "--dim", "N=999999999999"), "no array of shape [999999999999, 16] can be made"),
    (("--random", "0", "-o", "out.txt"), "-o out.txt: expected FILE.npz"),
    (("--random", "0", "-o", "q=@q.npy"), "the model has no output 'q'"),
    (("--random", "0", "-o", "no/out.npz"), "there is no folder no"),
    (("--random", "0", "--threads", "-1"), "is not a number, 0 or more"),
])
def test_run_refuses(folder: Path, artifact: Path, lepton_tool: Invoke, words: tuple[str, ...], said: str) -> None:
    Path("text.npy").write_text("not an array")
    np.save("pickle.npy", np.array([{}], object), allow_pickle=True)
    np.savez("whole.npz", x=X)
    Path("torn.npz").write_bytes(Path("whole.npz").read_bytes()[:-40])
    np.save("double.npy", X.astype(np.float64))
    np.save("narrow.npy", X[:, :5])
    code, out, err = lepton_tool("run", artifact, *words)
    assert (code, out) == (2, ""), err
    assert said in err


def test_run_refuses_other_files(folder: Path, lepton_tool: Invoke) -> None:
    Path("text.so").write_text("no library, but long enough to have a header" * 4)
    assert lepton_tool("run", "gone.so")[0] == 2
    code, _, err = lepton_tool("run", "text.so")
    assert (code, "it is not a shared library" in err) == (3, True)


def test_running_needs_no_compiler(folder: Path, artifact: Path) -> None:
    """`lepton run` and `inspect` of an artifact import neither onnx nor LLVM."""
    for words in (["run", str(artifact), "--random", "0"], ["inspect", str(artifact)],
                  ["bench", str(artifact), "--runs", "2"]):
        code = f"import sys; from lepton.tool import main; code = main({words!r}); print(*sys.modules); sys.exit(code)"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=models.process_environment(),
                                     capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        loaded = done.stdout.splitlines()[-1].split()
        assert "lepton.artifact" in loaded
        assert not [m for m in loaded if m in HEAVY or m.startswith(tuple(f"{h}." for h in HEAVY))]


# --- bench ----------------------------------------------------------------------------------------


def test_bench_json(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    words = ("--runs", "40", "--threads", "1", "--dim", "N=4", "--json", "--profile")
    code, out, err = lepton_tool("bench", artifact, *words)
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["version"], record["runs"], record["threads"]) == (1, 40, 1)
    assert record["inputs"] == {"x": "f32[4,16]"}
    ms = record["ms"]
    assert 0 < ms["min"] <= ms["p50"] <= ms["p90"] <= ms["p99"] <= ms["max"]
    assert ms["min"] <= ms["mean"] <= ms["max"]
    (step,) = record["profile"]
    assert "matmul_add_relu" in step["name"]
    assert step["calls"] == 40


def test_bench_text_of_a_source(folder: Path, lepton_tool: Invoke) -> None:
    code, out, _ = lepton_tool("bench", "mlp.onnx", "--seconds", "0.05", "--dim", "N=2", "--profile")
    assert code == 0
    assert "x: f32[2,16]" in out
    for word in ("p50", "p90", "p99", "mean", "runs/s", "first run", "kernel", "100.0%"):
        assert word in out


@pytest.mark.parametrize("command", ["run", "bench"])
def test_how_a_source_is_compiled(folder: Path, lepton_tool: Invoke, command: str) -> None:
    """-O, --target, --math and --precision reach the compiler: the answer is that of `leptonc` with them."""
    words = ("--precision", "bf16", "--target", "x86-avx2", "-O", "1", "--math", "strict", "--dim", "N=2")
    more = ("--random", "3", "-o", "got.npz") if command == "run" else ("--runs", "1", "--json")
    code, out, err = lepton_tool(command, "mlp.onnx", *words, *more)
    assert code == 0, err
    if command == "bench":
        assert json.loads(out)["target"] == "x86-avx2"
        return
    model = lepton.compile("mlp.onnx", precision="bf16", target="x86-avx2", level=1, math="strict", dims={"N": 2})
    assert lepton_tool("run", "mlp.onnx", "--random", "3", "--dim", "N=2", "-o", "exact.npz")[0] == 0
    got, exact = np.load("got.npz")["y"], np.load("exact.npz")["y"]
    assert 0 < np.abs(got - exact).max() < 0.1 * np.abs(exact).max()
    np.testing.assert_array_equal(got, model.run(make_inputs(model.inputs, (), {}, 3))["y"])


@pytest.mark.parametrize("command", ["run", "bench"])
@pytest.mark.parametrize("words", [("--target", "x86-avx2"), ("-O", "3"), ("--math", "fast"), ("--precision", "bf16"),
                                   ("--structure", "x=2")])
def test_what_is_compiled_is_settled(folder: Path, artifact: Path, lepton_tool: Invoke, command: str,
                                     words: tuple[str, str]) -> None:
    code, _, err = lepton_tool(command, artifact, *words)
    assert (code, f"error: {words[0]} {words[1]}: {artifact} is compiled, that is settled" in err) == (2, True), err


def test_devices_are_chosen_in_files(folder: Path, artifact: Path, lepton_tool: Invoke) -> None:
    assert lepton_tool("run", artifact, "--random", "0", "--device", "cpu")[0] == 0
    assert lepton_tool("bench", artifact, "--runs", "1", "--device", "cpu")[0] == 0
    code, _, err = lepton_tool("run", artifact, "--random", "0", "--device", "cuda")
    assert (code, "holds no code for CUDA" in err) == (3, True), err
    code, _, err = lepton_tool("bench", "mlp.onnx", "--device", "cpu")
    assert (code, "--device chooses among the targets of a .so" in err) == (2, True), err


def test_percentiles_are_nearest_rank() -> None:
    found = bench.statistics([i / 1e3 for i in range(100, 0, -1)])
    assert found == pytest.approx({"min": 1, "p50": 50, "p90": 90, "p99": 99, "mean": 50.5, "max": 100})
    assert set(bench.statistics([0.002]).values()) == {2.0}


def test_bench_says_which_sizes_it_needs(folder: Path, lepton_tool: Invoke) -> None:
    made = models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", "H", "W"]}, {"y": ["N", "H", "W"]})
    models.save(made, folder / "open.onnx")
    code, _, err = lepton_tool("bench", "open.onnx")
    assert code == 2
    assert "open dimensions H, W of x: f32[N,H,W] need a size\n  = help: --dim H=… --dim W=…" in err
    assert lepton_tool("bench", "open.onnx", "--seconds", "nan")[0] == 2


def test_names_of_the_source_are_known(folder: Path, lepton_tool: Invoke) -> None:
    """A dimension that the model calls `my batch` is `my_batch` to us; both work, for sources and artifacts."""
    made = models.model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3, "my batch"]}, {"y": [3, "my batch"]})
    models.save(made, folder / "named.onnx")
    assert call("cli", "named.onnx", "-q", cwd=folder).returncode == 0
    for model in ("named.onnx", "named.so"):
        for name in ("my batch", "my_batch"):
            code, out, err = lepton_tool("run", model, "--random", "0", "--dim", f"{name}=6")
            assert (code, out[:11]) == (0, "y: f32[3,6]"), err


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_artifact(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q", "--target", "x86-sse4,x86-avx2", "--dim", "N=2", "-O", "1")[0] == 0
    _, out, _ = lepton_tool("inspect", "mlp.so")
    for words in ("mlp.so: compiled model, ", "input   x: f32[2,16]", "output  y: f32[2,8]",
                  "target  x86-avx2 (chosen here), of x86-avx2, x86-sse4", "memory  weights ", "workspace 0 B",
                  "512 FLOP", "-O1 --math default --dim N=2", "matmul 1"):
        assert words in out, out
    record = json.loads(lepton_tool("inspect", "mlp.so", "--json")[1])
    assert (record["version"], record["kind"], record["target"]) == (1, "artifact", "x86-avx2")
    assert record["inputs"] == [{"name": "x", "dtype": "f32", "shape": [2, 16]}]
    assert lepton_tool("inspect", "mlp.so", "--dot")[0] == 2
    assert "for x86-avx2, a thread for each core, x:" in lepton_tool("bench", "mlp.so", "--runs", "1")[1]


def test_inspect_tells_precision_and_threads(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q", "--precision", "bf16", "--threads-default", "1")[0] == 0
    assert "-O2 --math default --precision bf16 --threads-default 1" in lepton_tool("inspect", "mlp.so")[1]
    made = json.loads(lepton_tool("inspect", "mlp.so", "--json")[1])["made"]
    assert (made["precision"], made["threads"]) == ("bf16", 1)
    assert ", 1 thread, x: f32[" in lepton_tool("bench", "mlp.so", "--runs", "1")[1]
    assert json.loads(lepton_tool("bench", "mlp.so", "--runs", "1", "--json")[1])["threads"] == 1


def test_inspect_graphs(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    assert leptonc("mlp.onnx", "-q", "--emit", "graph")[0] == 0
    for name in ("mlp.onnx", "mlp.lir"):
        code, out, err = lepton_tool("inspect", name)
        assert code == 0, err
        for words in ("input   x: f32[N,16]", "2 constants, 544 B", "relu 1"):
            assert words in out
    assert lepton_tool("inspect", "mlp.onnx", "--dim", "N=2", "--json")[1].count('"shape": [2, 16]') == 1
    dot = lepton_tool("inspect", "mlp.onnx", "--dot")[1]
    assert dot.startswith("digraph")
    assert dot.count(" -> ") == 6
    assert lepton_tool("inspect", "mlp.onnx", "--dot", "--json")[0] == 2


def test_inspect_of_what_cannot_run_here(folder: Path, leptonc: Invoke, lepton_tool: Invoke) -> None:
    """The ports are told all the same; running it says what the machine lacks."""
    from lepton.codegen.target import TARGETS, native, runs_here

    foreign = [t.name for t in TARGETS.values() if t.triple == native().triple and not runs_here(t)]
    if not foreign:
        pytest.skip("this machine runs every target of its kind")
    assert leptonc("mlp.onnx", "-q", "--target", foreign[-1])[0] == 0
    code, out, _ = lepton_tool("inspect", "mlp.so")
    assert code == 0
    assert "no target of it runs on this machine" in out
    assert "input   x: f32[N,16]" in out
    code, _, err = lepton_tool("run", "mlp.so", "--random", "0")
    assert code == 3
    assert "this machine lacks" in err


# --- ops ------------------------------------------------------------------------------------------


def test_ops_lists_all(lepton_tool: Invoke) -> None:
    code, out, _ = lepton_tool("ops")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == sorted(OPS)
    assert all(len(line.split()) > 1 for line in out.splitlines()), "every op has a manual"


def test_ops_manual(lepton_tool: Invoke) -> None:
    code, out, _ = lepton_tool("ops", "conv", "relu")
    assert code == 0
    assert out.startswith("conv(x, w, b?, strides, ")
    assert "\n\nrelu(x)\n  traits: elementwise, idempotent" in out
    assert ops.relu.doc.splitlines()[0] in out
    code, _, err = lepton_tool("ops", "covn")
    assert (code, "did you mean 'conv'?" in err) == (2, True)


@pytest.mark.parametrize("command", ["run", "bench", "inspect", "compare", "ops"])
def test_each_command_has_examples(lepton_tool: Invoke, command: str) -> None:
    code, out, _ = lepton_tool(command, "--help")
    assert code == 0
    assert f"examples:\n  lepton {command}" in out


def test_archives_hold_any_name(folder: Path, lepton_tool: Invoke) -> None:
    """numpy's own savez would take an output called `file` for its first argument."""
    made = models.model([helper.make_node("Relu", ["x"], ["file"])], {"x": [2]}, {"file": [2]})
    models.save(made, folder / "f.onnx")
    assert lepton_tool("run", "f.onnx", "-i", "x=[1,-1]", "-o", "o.npz")[0] == 0
    assert zipfile.ZipFile("o.npz").namelist() == ["file.npy"]
    with np.load("o.npz") as file:
        np.testing.assert_array_equal(file["file"], np.array([1, 0], np.float32))
