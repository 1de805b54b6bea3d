"""Several models in one file."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton
from lepton import compress
from lepton.bundle import MOST, named
from lepton.cli import main as leptonc
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.tool import main as lepton_tool

RNG = np.random.default_rng(5)
SHARED = RNG.standard_normal((64, 256)).astype(np.float32)


def layer(path: Path, op: str, weight: np.ndarray = SHARED, size: str | int = "N") -> Path:
    """y = op(x @ weight)."""
    k, n = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node(op, ["p"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, n])],
        [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return layer(tmp_path / "relu.onnx", "Relu"), layer(tmp_path / "tanh.onnx", "Tanh")


X = RNG.standard_normal((3, 64)).astype(np.float32)


def check(path: Path) -> None:
    np.testing.assert_allclose(lepton.load(path, model="relu")(X), np.maximum(X @ SHARED, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(lepton.load(path, model="tanh")(X), np.tanh(X @ SHARED), rtol=1e-4, atol=1e-5)


def test_each_is_found_by_its_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both.so"
    assert leptonc([*map(str, pair), "-o", str(out), "-q", "--target", "x86-avx2,x86-sse4"]) == 0
    assert lepton.models(out) == ("relu", "tanh")
    check(out)
    names = subprocess.run(["nm", "-D", "--defined-only", out], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in names.splitlines()] == ["lepton_query"]


def test_what_they_have_in_common_is_stored_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sizes = {}
    for count in (1, 2):
        out = tmp_path / f"{count}.so"
        lepton.compile_to(dict(zip(("relu", "tanh"), pair[:count], strict=False)), out)
        sizes[count] = out.stat().st_size
        assert out.read_bytes().count(SHARED[:, 0].tobytes()) <= 1
    assert sizes[2] - sizes[1] < SHARED.nbytes / 2


def test_nearly_equal_weights_are_made_equal_first(tmp_path: Path) -> None:
    near = (SHARED * (1 + 1e-3 * RNG.standard_normal(SHARED.shape))).astype(np.float32)
    files = layer(tmp_path / "relu.onnx", "Relu"), layer(tmp_path / "tanh.onnx", "Tanh", near)
    apart, together = tmp_path / "apart.so", tmp_path / "together.so"
    lepton.compile_to(dict(zip(("relu", "tanh"), files, strict=True)), apart)
    graphs = compress.share_weights(*files, tolerance=1e-4)
    lepton.compile_to(dict(zip(("relu", "tanh"), graphs, strict=True)), together)
    assert apart.stat().st_size - together.stat().st_size > SHARED.nbytes * 0.9
    np.testing.assert_allclose(lepton.load(together, model="relu")(X), np.maximum(X @ SHARED, 0), rtol=0.02, atol=0.02)


def test_several_must_be_told_apart(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out, one = tmp_path / "both.so", tmp_path / "one.so"
    lepton.compile_to({"relu": pair[0], "tanh": pair[1]}, out)
    lepton.compile_to(pair[0], one)
    with pytest.raises(UsageError, match="holds 2 models: relu, tanh"):
        lepton.load(out)
    with pytest.raises(UsageError, match="holds no model 'sigmoid'"):
        lepton.load(out, model="sigmoid")
    with pytest.raises(UsageError, match="holds no model 'relu'"):
        lepton.load(one, model="relu")
    assert lepton.models(one) == ()


def test_options_of_one_and_of_all(tmp_path: Path) -> None:
    files = layer(tmp_path / "relu.onnx", "Relu", size="T"), layer(tmp_path / "tanh.onnx", "Tanh")
    out = tmp_path / "both.so"
    assert leptonc([f"a={files[0]}", f"b={files[1]}", "-o", str(out), "-q", "--dim", "a:T=3"]) == 0
    assert lepton.load(out, model="a").inputs[0].shape == (3, 64)
    assert lepton.load(out, model="b").inputs[0].shape == ("N", 64)
    assert lepton.load(out, model="a").metadata["dims"] == {"T": 3}
    with pytest.raises(LeptonError, match=r"^b: .*'T'"):
        lepton.compile_to({"a": files[0], "b": files[1]}, out, dims={"T": 3})


def test_one_may_have_a_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "one.so"
    assert leptonc([f"only={pair[0]}", "-o", str(out), "-q"]) == 0
    assert lepton.models(out) == ("only",)
    np.testing.assert_allclose(lepton.load(out, model="only")(X), np.maximum(X @ SHARED, 0), rtol=1e-4, atol=1e-4)


def test_models_that_are_not_there_are_named(pair: tuple[Path, Path], tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert leptonc([*map(str, pair), "-o", str(tmp_path / "x.so"), "--dim", "find:N=3"]) == 2
    assert "no dimension 'find:N'" in (said := capsys.readouterr().err)
    assert "no model is called 'find', there are relu, tanh" in said


def test_names(tmp_path: Path) -> None:
    assert named(["x/find.onnx", "read=y/find.onnx"]) == {"find": "x/find.onnx", "read": "y/find.onnx"}
    with pytest.raises(UsageError, match="several models are called 'm'"):
        named(["x/m.onnx", "y/m.onnx"])
    with pytest.raises(UsageError, match="cannot be called"):
        named(["1.onnx", "y.onnx"])
    with pytest.raises(UsageError, match="17 models"):
        named([f"m{i}.onnx" for i in range(MOST + 1)])


def test_every_place_is_taken(tmp_path: Path) -> None:
    weights = [np.full((4, 8), i, np.float32) for i in range(MOST)]
    files = {f"m{i}": layer(tmp_path / f"m{i}.onnx", "Relu", w) for i, w in enumerate(weights)}
    lepton.compile_to(files, tmp_path / "all.so", level=0)
    for i in (0, 7, MOST - 1):
        y = lepton.load(tmp_path / "all.so", model=f"m{i}")(np.ones((2, 4), np.float32))
        np.testing.assert_array_equal(y, np.full((2, 8), 4.0 * i))


def test_the_tools_ask_which(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "both.so")
    assert leptonc([*map(str, pair), "-o", out, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["models"]) == ["relu", "tanh"]
    assert lepton_tool(["run", out, "--random", "0", "--dim", "N=2"]) == 2
    assert "holds 2 models" in capsys.readouterr().err
    assert lepton_tool(["run", out, "--model", "tanh", "--random", "0", "--dim", "N=2"]) == 0
    assert "f32[2,256]" in capsys.readouterr().out
    assert lepton_tool(["compare", str(pair[1]), "--so", out, "--model", "tanh", "--dim", "N=2"]) == 0
    capsys.readouterr()
    assert lepton_tool(["inspect", out]) == 0
    shown = capsys.readouterr().out
    assert "compiled model 'relu'" in shown
    assert "compiled model 'tanh'" in shown


@pytest.mark.parametrize("extra", [["--emit", "llvm", "-o", "x.ll"], []])
def test_what_several_cannot_be(pair: tuple[Path, Path], extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert leptonc([*map(str, pair), *extra]) == 2
    assert "several models share one .so" in capsys.readouterr().err
