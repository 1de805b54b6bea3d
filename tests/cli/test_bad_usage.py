"""Outputs, compilers and options that leptonc must refuse."""
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import models
from tests.cli.models import Invoke

# --- the output -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "said"), [
    ("no/such/m.so", "there is no folder no/such"), (".", "it is a folder"), ("mlp.onnx", "it is a file that is read"),
    ("same.onnx", "it is a file that is read"), ("/proc/m.so", "no file can be made in /proc"),
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


@pytest.mark.parametrize(("option", "file"), [
    ("-o", "mlp.onnx"), ("-o", "data.npz"), ("--onnx", "mlp.onnx"), ("--report", "own.py"), ("--study", "mlp.onnx"),
    ("--onnx", "m.so"), ("--report", "m.study"), ("-o", "m.study"),
])
def test_compressing_over_a_file_that_matters(folder: Path, lepton_tool: Invoke, option: str, file: str) -> None:
    for name in ("data.npz", "own.py", "m.study"):
        Path(name).write_bytes(models.OLD)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = lepton_tool("compress", "mlp.onnx", "--data", "data.npz", "--metric", "own.py", "--budget", ">=0.9",
                               *(() if option == "-o" else ("-o", "m.so")), option, file)
    assert code == 2
    assert "it is a file that is read" in err or "is named for two outputs" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


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
    (("--dump-dir", "mlp.onnx"), "cannot write mlp.onnx"), (("--dump-dir", "/proc/dumps"), "cannot write /proc/dumps"),
    (("--threads-default", str(2**31)), "2147483648 threads"),
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
