"""Models that leptonc must refuse: each a clear error and exit code, what was there before stays, nothing crashes."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton
from tests.cli import models
from tests.cli.models import OLD, Invoke, call


def _relu(x: str, y: str, name: str = "n") -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y], name=name)


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), [
    ("gone.onnx", "cannot read 'gone.onnx': No such file"),
    (".", "cannot read '.'"),
    ("gone.lir", "cannot read 'gone.lir'"),
    ("pipe.onnx", "cannot read 'pipe.onnx': not a regular file"),
])
def test_no_file(refused: Callable[..., str], name: str, words: str) -> None:
    os.mkfifo("pipe.onnx")
    assert words in refused(2, name)


@pytest.mark.parametrize("size", [0, 1, 10, 0.3, 0.5, 0.9, -1])
def test_truncated(refused: Callable[..., str], size: float) -> None:
    data = models.mlp().SerializeToString()
    Path("cut.onnx").write_bytes(data[:int(size * len(data)) if 0 < size < 1 else int(size)])
    refused(3, "cut.onnx")


@pytest.mark.parametrize("data", [
    b"<!DOCTYPE html>\n<html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    b"\0" * 1000, b"\xff" * 1000, b"PK\x03\x04" + bytes(100), b"\x7fELF" + bytes(100),
], ids=["html", "lfs", "zeros", "ones", "zip", "elf"])
def test_not_a_model(refused: Callable[..., str], data: bytes) -> None:
    Path("odd.onnx").write_bytes(data)
    assert "odd.onnx is not an ONNX model" in refused(3, "odd.onnx")


def test_text_that_cannot_be_read(refused: Callable[..., str]) -> None:
    Path("bad.lir").write_text("graph @g(%x: f32[2]) {\n  %y = rleu(%x) : f32[2]\n  return %y\n}\n")
    assert "bad.lir:2:" in refused(3, "bad.lir")
    Path("mistyped.lir").write_text("graph @g(%x: f32[2]) {\n  %y = relu(%x) : f32[3]\n  return %y\n}\n")
    assert "mistyped.lir:2:" in refused(3, "mistyped.lir")
    Path("bytes.lir").write_bytes(b"\xff\xfe\x00")
    refused(2, "bytes.lir")


# --- the graph ------------------------------------------------------------------------------------


def _graphs() -> dict[str, tuple[onnx.ModelProto, str]]:
    one = {"x": [2]}, {"y": [2]}
    gemm = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    return {
        "cycle": (models.model([_relu("b", "a", "first"), _relu("a", "b", "second"),
                                helper.make_node("Add", ["x", "b"], ["y"])], *one), "the graph has a cycle through"),
        "own cycle": (models.model([helper.make_node("Add", ["x", "y"], ["y"], name="n")], *one), "cycle through 'y'"),
        "order": (models.model([_relu("a", "y", "late"), _relu("x", "a", "early")], *one), "read before"),
        "twice": (models.model([_relu("x", "y", "one"), _relu("x", "y", "two")], *one), "'y' is defined twice"),
        "two inputs": (_two_inputs(), "'x' is defined twice"),
        "undefined": (models.model([_relu("q", "y")], *one), "'q' is read but nothing computes it"),
        "no such output": (models.model([_relu("x", "z")], *one), "'y', which nothing computes"),
        "unknown op": (models.model([helper.make_node("Frobnicate", ["x"], ["y"], name="odd")], *one),
                       "operator Frobnicate (opset 17) is not supported"),
        "unknown domain": (models.model([helper.make_node("Relu", ["x"], ["y"], domain="com.acme")], *one),
                           "imports no opset of domain 'com.acme'"),
        "sizes": (models.model([gemm], {"x": [2, 5]}, {"y": [2, 3]}, {"w": np.ones((4, 3), np.float32)}),
                  "node 'mm' (MatMul)"),
        "attribute": (models.model([helper.make_node("Softmax", ["x"], ["y"], axis=9, name="soft")], *one),
                      "axes [9] for rank 1\n  --> model.onnx: node 'soft' (Softmax)"),
        "opset": (_opset(99), "opset 99"),
        "no graph": (onnx.ModelProto(ir_version=8), "no graph"),
        "no operator": (models.model([helper.make_node("", ["x"], ["y"])], *one), "a node without an operator"),
    }


def _two_inputs() -> onnx.ModelProto:
    made = models.model([_relu("x", "y")], {"x": [2]}, {"y": [2]})
    made.graph.input.append(made.graph.input[0])
    return made


def _opset(version: int) -> onnx.ModelProto:
    made = models.mlp()
    made.opset_import[0].version = version
    return made


@pytest.mark.parametrize("name", list(_graphs()))
def test_broken_graph(refused: Callable[..., str], name: str) -> None:
    made, words = _graphs()[name]
    Path("model.onnx").write_bytes(made.SerializeToString())
    assert words in refused(3, "model.onnx")


def test_unknown_ops_are_told_together(refused: Callable[..., str]) -> None:
    nodes = [helper.make_node("Frob", ["x"], ["a"], name="f1"), helper.make_node("Blub", ["a"], ["b"], name="b1"),
             helper.make_node("Frob", ["b"], ["y"], name="f2")]
    Path("model.onnx").write_bytes(models.model(nodes, {"x": [2]}, {"y": [2]}).SerializeToString())
    said = refused(3, "model.onnx")
    assert all(f"node '{name}'" in said for name in ("f1", "b1", "f2"))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[2**62], [2**31, 2**31, 4], ["N", 2**60], [2**63 - 1, 2]])
def test_absurd_input_sizes(refused: Callable[..., str], shape: list[int | str]) -> None:
    Path("m.onnx").write_bytes(models.model([_relu("x", "y")], {"x": shape}, {"y": shape}).SerializeToString())
    said = refused(5, "m.onnx")
    assert "'x' would be f32[" in said
    assert "more than any machine has" in said


def _code_of(*words: str) -> int:
    """The exit code of a process, so that a crash is one too."""
    done = call("cli", *words, "-o", "old.so", "-q", cwd=Path())
    assert Path("old.so").read_bytes() == OLD
    assert done.returncode >= 0, f"killed by signal {-done.returncode}"
    return done.returncode


def test_absurd_weights(refused: Callable[..., str]) -> None:
    """A few bytes that say they are a petabyte."""
    made = models.mlp()
    made.graph.initializer[0].dims[:] = [2**40, 2**10]
    Path("m.onnx").write_bytes(made.SerializeToString())
    assert _code_of("m.onnx") in (3, 5)
    made.graph.initializer[0].dims[:] = [-1, 8]
    Path("m.onnx").write_bytes(made.SerializeToString())
    refused(3, "m.onnx")


def test_absurd_result(refused: Callable[..., str]) -> None:
    """ConstantOfShape would make 4 EB, Range for ever."""
    shape = {"s": np.array([2**31, 2**31], np.int64)}
    made = models.model([helper.make_node("ConstantOfShape", ["s"], ["y"])], {"x": [1]}, {"y": ["a", "b"]}, shape)
    Path("m.onnx").write_bytes(made.SerializeToString())
    assert _code_of("m.onnx") in (3, 5)


@pytest.mark.parametrize(("words", "said"), [
    (("--dim", "Q=3"), "no dimension 'Q' among the inputs"), (("--dim", "N"), "--dim N: expected NAME=SIZE"),
    (("--dim", "N=-3"), "--dim N=-3: expected NAME=SIZE"),
    (("--dim", "N=" + "9" * 30), "no dimension can be that large"),
    (("--dim", "N=1", "--dim", "N=2"), "N is 1 already"),
    (("--value", "q=1"), "no input 'q' to give a value to"), (("--value", "x"), "--value x: expected NAME=@FILE.npy"),
    (("--value", "x=one"), "--value x=one: "), (("--value", "x=@gone.npy"), "cannot read arrays from gone.npy"),
    (("--value", "x=1", "--value", "x=2"), "input 'x' is given twice"),
])
def test_bad_pins(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in refused(2, "mlp.onnx", *words)


def test_a_pin_that_is_too_large(refused: Callable[..., str]) -> None:
    assert _code_of("mlp.onnx", "--dim", f"N={2**62}") in (2, 3, 5)


# --- external data --------------------------------------------------------------------------------


def _external(location: str, length: int | None = None, offset: int = 0) -> None:
    made = models.mlp()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, **({} if length is None else {"length": length})}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    Path("sub").mkdir()
    Path("sub/m.onnx").write_bytes(made.SerializeToString())
    Path("sub/weights.bin").write_bytes(models.WEIGHTS.tobytes())
    Path("outside.bin").write_bytes(models.WEIGHTS.tobytes())


def test_external_data_is_read(folder: Path, leptonc: Invoke) -> None:
    """The control: without it the refusals below would prove nothing."""
    _external("weights.bin")
    assert leptonc("sub/m.onnx", "-o", "m.so", "-q") == (0, "", "")
    x = np.ones((1, 16), np.float32)
    np.testing.assert_allclose(lepton.load("m.so")(x), models.mlp_answer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("location", "said"), [
    ("../outside.bin", "leaves the model's folder"), ("a/../../outside.bin", "leaves the model's folder"),
    ("/etc/passwd", "is not a plain relative path"), ("C:\\weights.bin", "is not a plain relative path"),
    ("gone.bin", "'gone.bin' cannot be opened: No such file"), ("link.bin", "'link.bin' cannot be opened"),
    ("dir/outside.bin", "cannot be opened"), ("hard.bin", "hard links"), ("", "no location"),
    (".", "external data"), ("fifo", "is not a regular file"),
])
def test_external_data_stays_in_its_folder(refused: Callable[..., str], location: str, said: str) -> None:
    _external(location)
    os.symlink("../outside.bin", "sub/link.bin")
    os.symlink("..", "sub/dir")
    os.link("outside.bin", "sub/hard.bin")
    os.mkfifo("sub/fifo")
    assert said in refused(3, "sub/m.onnx")


@pytest.mark.parametrize(("length", "offset"), [(511, 0), (513, 0), (512, 1), (512, 2**62), (None, 4), (-1, 0), (0, 0)])
def test_external_data_of_the_wrong_size(refused: Callable[..., str], length: int | None, offset: int) -> None:
    _external("weights.bin", length, offset)
    assert "external data of" in refused(3, "sub/m.onnx")
