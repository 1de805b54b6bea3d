"""Bad input to leptonc: each a clear error and exit code; what was there before stays; nothing crashes."""
from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton
from lepton._rt import ffi, lib
from lepton.ir.diagnostics import LeptonError
from tests.cli import models
from tests.cli.models import Invoke, call

OLD = b"what was there before"


@pytest.fixture
def refused(folder: Path, leptonc: Invoke) -> Callable[..., str]:
    """Compile a file that must be refused; the message."""
    (folder / "old.so").write_bytes(OLD)

    def check(code: int, *words: str) -> str:
        before = sorted(p.name for p in folder.iterdir())
        got, out, err = leptonc(*words, "-o", "old.so")
        assert got == code, f"exit code {got}, expected {code}: {err}"
        assert out == ""
        assert err.startswith("leptonc: error: "), err
        assert (folder / "old.so").read_bytes() == OLD, "the output was overwritten"
        assert sorted(p.name for p in folder.iterdir()) == before, "something was left behind"
        return err

    return check


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
    assert "not an ONNX model" in refused(3, "odd.onnx")


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


# --- the output -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "said"), [
    ("no/such/m.so", "there is no folder no/such"), (".", "it is a folder"), ("mlp.onnx", "it is the model itself"),
    ("same.onnx", "it is the model itself"), ("/proc/m.so", "no file can be made in /proc"),
    ("/dev/null", "it is no regular file"), ("mlp.onnx/m.so", "there is no folder mlp.onnx"),
])
def test_bad_output(folder: Path, leptonc: Invoke, monkeypatch: pytest.MonkeyPatch, out: str, said: str) -> None:
    """Found before the model is read."""
    monkeypatch.setattr("lepton.driver.load_graph", lambda *_: pytest.fail("read a model that cannot be written"))
    os.symlink("mlp.onnx", "same.onnx")
    model = (folder / "mlp.onnx").read_bytes()
    code, _, err = leptonc("mlp.onnx", "-o", out)
    assert (code, said in err) == (2, True), err
    assert (folder / "mlp.onnx").read_bytes() == model


def test_text_only_to_stdout(folder: Path, leptonc: Invoke) -> None:
    for words in (("-o", "-"), ("--emit", "obj", "-o", "-"), ("--emit", "graph", "--json", "-o", "-")):
        code, out, _ = leptonc("mlp.onnx", *words)
        assert (code, out) == (2, "")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_that_is_full(folder: Path) -> None:
    """No traceback, and no success."""
    for words in (("cli", "mlp.onnx", "--emit", "graph", "-o", "-", "-q"), ("tool", "inspect", "mlp.onnx")):
        with open("/dev/full", "w") as full:
            done = subprocess.run(models.command(*words), stdout=full, stderr=subprocess.PIPE, text=True,
                                  env=models.process_environment())
        assert done.returncode == 5, done.stderr
        assert re.fullmatch(r"leptonc?: error: cannot write: No space left on device\n", done.stderr)


def test_missing_compiler(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CC", "no-such-compiler -O2")
    assert "LEPTON_CC names the compiler 'no-such-compiler -O2', which is not installed" in refused(2, "mlp.onnx")
    monkeypatch.delenv("LEPTON_CC")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("lepton.codegen.link._zig", lambda _: None)
    said = refused(3, "mlp.onnx")
    assert "no C compiler for x86_64" in said or "no C compiler for aarch64" in said
    assert "pip install ziglang" in said


def test_a_linker_that_fails(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CC", "false")
    assert "the linker failed" in refused(3, "mlp.onnx")


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "said"), [
    (("--passes", "fold,nosuch"), "unknown pass 'nosuch'"), (("--passes", "fold{"), "cannot read the pipeline 'fold{'"),
    (("--passes", "fold{nosuch=1}"), "nosuch"), (("--load-plugin", "gone.py"), "cannot load gone.py"),
    (("--load-plugin", "broken.py"), "cannot load broken.py:2: ZeroDivisionError"),
    (("--load-plugin", "syntax.py"), "cannot load syntax.py:1: SyntaxError"),
    (("--load-plugin", "empty.py"), "empty.py defines no pass"), (("--target", ""), "unknown target ''"),
    (("--target", "x86-avx2,aarch64-neon"), "several architectures"),
])
def test_bad_options(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    Path("broken.py").write_text("x = 1\n1 / 0\n")
    Path("syntax.py").write_text("def:\n")
    Path("empty.py").write_text("")
    assert said in refused(2, "mlp.onnx", *words)


@pytest.mark.parametrize("words", [(), ("-O", "4"), ("-O", "x"), ("--math", "sloppy"), ("--emit", "pdf"), ("--nosuch",),
                                   ("a.onnx", "b.onnx"), ("--timeout", "-1"), ("--max-memory", "many")])
def test_usage(folder: Path, leptonc: Invoke, words: tuple[str, ...]) -> None:
    code, out, err = leptonc(*words)
    assert (code, out) == (2, "")
    assert err.startswith("leptonc: error: ")
    assert len(err.splitlines()) == 2, "more than what is wrong and where to read on"
    assert "  = help: leptonc" in err


# --- a run's inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "said"), [
    (np.ones((2, 15), np.float32), "x"), (np.ones(16, np.float32), "x"), (np.ones((1, 1, 16), np.float32), "x"),
    (np.ones((2, 16), np.float64), "expected f32"), (np.ones((2, 16), ">f4"), "expected f32"), ("text", "expected f32"),
    (None, "expected f32"), ([[1.0, 2.0], [3.0]], "cannot read"), (object, "expected f32"),
], ids=str)
def test_wrong_arrays(artifact: Path, x: object, said: str) -> None:
    model = lepton.load(artifact)
    for call_it in (lambda: model(x), lambda: model.run({"x": x})):
        with pytest.raises(LeptonError) as caught:
            call_it()
        assert caught.value.exit == 2
        assert said in str(caught.value)
    good = np.ones((2, 16), np.float32)
    np.testing.assert_allclose(model(good), models.mlp_answer(good), rtol=1e-4, atol=1e-5)


def test_strides_are_understood(artifact: Path) -> None:
    """Strided, reversed, transposed, overlapping and read-only arrays are right; outputs in such memory are refused."""
    model, base = lepton.load(artifact), np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    odd = np.frombuffer(b"\0" + base[:2, :16].tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 16)
    views = [base[::3, ::2], base[::-1, 15::-1], base[:16, :4].T, np.broadcast_to(base[0, :16], (5, 16)), base[:0, :16]]
    for x in (*views, odd):
        np.testing.assert_allclose(model(x), models.mlp_answer(x), rtol=1e-4, atol=1e-4)
    wide = np.zeros((2, 16), np.float32)
    for y in (wide[:, ::2], np.zeros((8, 2), np.float32).T, np.zeros((2, 8)), np.zeros((3, 8), np.float32)):
        with pytest.raises(LeptonError, match="output 'y'"):
            model.run({"x": base[:2, :16]}, {"y": y})
    assert not wide.any()


def test_nulls_through_c(artifact: Path) -> None:
    """Every pointer that C lets through may be NULL: an error with words, never a crash."""
    api, null = lepton.load(artifact)._code.api, ffi.NULL
    out = ffi.new("lepton_session **")
    bad = lib.LEPTON_INVALID_ARGUMENT
    assert api.create(null, null) == bad
    assert api.create(null, out) == lib.LEPTON_OK
    session, tensors = out[0], ffi.new("lepton_tensor[2]")
    tensors[0].dtype, tensors[0].rank, tensors[0].shape[0:2] = 1, 2, [2, 16]
    try:
        for results in ((null, tensors + 1), (tensors, null), (null, null)):
            assert api.run(session, *results) == bad
            assert api.resolve(session, *results) == bad
            assert ffi.string(api.message(session))
        assert api.run(null, tensors, tensors + 1) == bad
        assert api.resolve(session, tensors, tensors + 1) == lib.LEPTON_OK
        assert api.run(session, tensors, tensors + 1) == bad, "an input without data"
        assert b"x" in ffi.string(api.message(session))
        assert ffi.string(api.message(null)) is not None
    finally:
        api.destroy(session)
        api.destroy(null)


# --- mutated files --------------------------------------------------------------------------------


def _seeds() -> list[bytes]:
    """Files worth mutating: dense and convolutional, with shapes as data, a sub-graph, several kinds of attributes."""
    filters = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights: dict[str, np.ndarray] = {"w": filters, "s": np.array([0, -1], np.int64)}
    net = models.model([
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["p", "s"], ["f"]), helper.make_node("Softmax", ["f"], ["y"], axis=-1),
    ], {"x": ["N", 3, 8, 8]}, {"y": ["N", "K"]}, weights)
    branch = [helper.make_graph([helper.make_node(op, ["x"], [name])], name, [],
                                [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])])
              for op, name in (("Exp", "then"), ("Neg", "else"))]
    choice = models.model([helper.make_node("If", ["k"], ["y"], then_branch=branch[0], else_branch=branch[1])],
                          {"x": [4], "k": []}, {"y": [4]}, kinds={"k": int(TensorProto.BOOL)})
    typed = models.mlp()
    typed.graph.initializer[1].CopyFrom(numpy_helper.from_array(models.BIAS, "b"))
    return [m.SerializeToString() for m in (models.mlp(), net, choice, typed)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four edits: bits, bytes, numbers at the edges, pieces cut, doubled, moved, overwritten."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(out)), rng.randint(1, 12)
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                numbers = (b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10")
                out[at:at] = rng.choice((*numbers, bytes(size), rng.randbytes(size)))
            case 3 if len(out) > size:
                del out[at:at + size]
            case 4:
                out[at:at] = out[rng.randrange(len(out)):][:size * 4]
            case _:
                piece = rng.randbytes(size)
                out[at:at + len(piece)] = piece
    return bytes(out) or b"\0"


FUZZ = int(os.environ.get("FUZZ_COUNT", "250"))


def test_mutated_models_never_crash(folder: Path, leptonc: Invoke) -> None:
    """leptonc on mutated files: compiled, or refused with a message and an exit code that is not `a bug`."""
    seeds, rng, codes = _seeds(), random.Random(7), dict[int, int]()
    for seed in seeds:
        (folder / "m.onnx").write_bytes(seed)
        assert leptonc("m.onnx", "--emit", "llvm", "--target", "x86-avx2", "-q", "-o", "m.ll")[0] == 0
    (folder / "m.ll").write_bytes(OLD)
    for number in range(FUZZ):
        data = mutate(rng.choice(seeds), rng)
        (folder / "m.onnx").write_bytes(data)
        code, out, err = leptonc("m.onnx", "--emit", "loops", "--target", "x86-avx2", "-q", "-o", "m.ll")
        codes[code] = codes.get(code, 0) + 1
        if code not in (0, 2, 3, 5):
            kept = Path(os.environ.get("FUZZ_KEEP", folder)) / f"fuzz-{number}.onnx"
            kept.write_bytes(data)
            pytest.fail(f"mutation {number} ({kept}): exit code {code}\n{err[-3000:]}")
        assert out == ""
        if code:
            assert err.startswith("leptonc: error: ")
            assert (folder / "m.ll").read_bytes() == OLD
        (folder / "m.ll").write_bytes(OLD)
    assert codes.get(3, 0) > FUZZ // 10, f"hardly a mutation was refused: {codes}"
    assert codes.get(0, 0) > FUZZ // 50, f"hardly a mutation was accepted: {codes}"
    assert not list(folder.glob("lepton-repro-*"))
