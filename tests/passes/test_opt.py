"""lepton-opt, and the tutorial in passes/README.md, which uses it."""
from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton.ir.diagnostics import Exit
from lepton.ir.parser import parse
from lepton.ir.sidecar import load_constants
from lepton.opt import main
from lepton.passes.base import PASSES
from tests.documents import Runner, blocks

ROOT = Path(__file__).parents[2]
PASS = '''
from lepton.ir import ops
from lepton.ir.rewrite import pat, rule, var
from lepton.passes.base import Pass, RewritePass
(x,) = var("x")

@rule(pat(ops.neg)(pat(ops.neg)(x)))
def twice(x):
    """neg(neg(x)) -> x"""
    return x

@rule(pat(ops.relu)(x))
def wrong(x):
    """relu(x) -> tanh(x)"""
    return ops.tanh(x)

class Twice(RewritePass):
    """Drop pairs of negations."""
    name = "o-twice"
    rules = (twice,)

class Wrong(RewritePass):
    """Wrong."""
    name = "o-wrong"
    rules = (wrong,)

class Crash(Pass):
    """Crash."""
    name = "o-crash"
    def run(self, graph):
        raise KeyError("oops")
'''
BEFORE = "graph @g(%x: f32[N,3]) {\n  %0 = neg(%x)\n  %1 = neg(%0)\n  %y = relu(%1)\n  return %y\n}\n"
AFTER = "graph @g(%x: f32[N,3]) {\n  %y = relu(%x) : f32[N,3]\n  return %y\n}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "passes.py").write_text(PASS)
    (tmp_path / "in.lir").write_text(f"// RUN: o-twice\n{BEFORE}")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in PASSES if name.startswith("o-")]:
        del PASSES[name]
    return tmp_path


def opt(*arguments: str) -> int:
    return main([*arguments, "--load-plugin", "passes.py"])


def test_the_run_line_is_played(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("in.lir") == Exit.OK
    assert capsys.readouterr().out == AFTER


def test_passes_replace_the_run_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("in.lir", "--passes", "") == Exit.OK
    assert "%1 = neg(%0) : f32[N,3]" in capsys.readouterr().out


def test_levels_are_leptoncs_pipelines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("in.lir", "-O1", "--math", "strict") == Exit.OK
    assert capsys.readouterr().out == AFTER
    assert opt("in.lir", "-O0") == Exit.OK
    assert "neg(" in capsys.readouterr().out


def test_standard_input_and_output_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(BEFORE))
    assert opt("-", "--passes", "o-twice", "-o", "out.lir", "--verify-each", "--self-check") == Exit.OK
    assert (folder / "out.lir").read_text() == AFTER


def test_golden_files_run_case_by_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "two.lir").write_text(f"// RUN: o-twice\n{BEFORE}// ---\nwhatever\n// ===\n// RUN: o-wrong\n{AFTER}")
    assert opt("two.lir") == Exit.OK
    assert capsys.readouterr().out == AFTER + "// ===\n" + AFTER.replace("relu", "tanh")


def test_dumps_times_and_statistics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("in.lir", "--dump-dir", "d", "--time-passes", "--statistics") == Exit.OK
    assert sorted(f.name for f in (folder / "d").iterdir()) == ["00-input.lir", "01-o-twice.lir"]
    told = capsys.readouterr().err
    assert "ms  o-twice" in told
    assert "o-twice: twice ×1; neg -2" in told


def test_wrong_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("in.lir", "--passes", "o-twice,o-wrong", "--self-check") == Exit.REFUSED
    assert "rule wrong changed the meaning" in capsys.readouterr().err
    assert opt("in.lir", "--passes", "o-twice,o-wrong,o-twice", "--bisect") == Exit.WRONG
    assert capsys.readouterr().out.startswith("'g': pass 2, o-wrong: result 0: off by")
    assert opt("in.lir", "--bisect") == Exit.OK


def test_a_crash_writes_what_plays_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = folder / "passes.py"
    assert opt("in.lir", "--passes", "o-twice,o-crash") == Exit.USAGE   # a pass of one's own: no bug of Lepton's
    first = capsys.readouterr().err
    assert f"error: in pass 'o-crash' of {plugin}:" in first
    assert "KeyError: 'oops'" in first
    assert f"reproduce with `lepton-opt --load-plugin {plugin} lepton-repro-o-crash.lir`" in first
    assert opt("lepton-repro-o-crash.lir") == Exit.USAGE
    assert "in pass 'o-crash'" in capsys.readouterr().err
    assert opt("in.lir", "--passes", "o-twice,o-crash", "--max-passes", "1") == Exit.OK


def test_constants_go_along(folder: Path) -> None:
    numbers = ",".join(f"{i}.25" for i in range(40))
    (folder / "big.lir").write_text(
        f"graph @g() {{ %0 = constant(value=dense<[{numbers}] : f32[40]>) return %0 }}")
    assert opt("big.lir", "--passes", "", "-o", "small.lir") == Exit.OK
    assert "hash=" in (folder / "small.lir").read_text()
    constants = load_constants(folder / "small.constants.zip")
    graph = parse((folder / "small.lir").read_text(), constants=constants)
    np.testing.assert_array_equal(graph.nodes[0].attrs["value"].array, np.arange(40) + np.float32(0.25))
    assert opt("small.lir", "--passes", "", "--full-constants", "-o", "full.lir") == Exit.OK
    assert "39.25" in (folder / "full.lir").read_text()


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["nothing.lir"], Exit.USAGE, "lepton-opt: error: cannot read nothing.lir"),
    (["empty.lir"], Exit.USAGE, "empty.lir holds no graph"),
    (["in.lir", "--passes", "o-twise"], Exit.USAGE, "unknown pass 'o-twise'; did you mean 'o-twice'?"),
    (["in.lir", "--passes", "o-twice{bits=3}"], Exit.USAGE, "has no option 'bits'"),
    (["in.lir", "-o", "no/such/folder.lir"], Exit.USAGE, "cannot write"),
    (["in.lir", "--passes", "o-twice,,cse"], Exit.USAGE, "cannot read the pipeline 'o-twice,,cse'"),
    (["bad.lir"], Exit.UNSUPPORTED, "error: bad.lir:1:24: expected"),
    (["wrong.lir"], Exit.UNSUPPORTED, "wrong.lir:2:8: unknown op 'nig'"),
])
def test_errors(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: Exit,
                message: str) -> None:
    (folder / "empty.lir").write_text("// nothing\n")
    (folder / "bad.lir").write_text("graph @g(%x: f32[N,3]) return %x")
    (folder / "wrong.lir").write_text(BEFORE.replace("neg", "nig"))
    assert opt(*arguments) == status
    assert message in capsys.readouterr().err


def test_outputs_are_replaced_by_complete_ones(folder: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    before = (folder / "in.lir").read_text()
    assert opt("in.lir", "-o", "in.lir") == Exit.RESOURCES
    assert "cannot write in.lir: No space left" in capsys.readouterr().err
    assert (folder / "in.lir").read_text() == before
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert opt("in.lir", "-o", "in.lir") == opt("in.lir", "-o", "/dev/null") == Exit.OK
    assert (folder / "in.lir").read_text() == AFTER
    assert not Path("/dev/null").is_file()
    (folder / "model.onnx").write_bytes(b"")
    assert opt("model.onnx", "-o", "model.onnx") == Exit.USAGE
    assert "it is a file that is read" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--family", "vax"), ("--max-passes", "-1"), ("-O", "9"), ("--math", "loose")])
def test_usage(folder: Path, words: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as caught:
        opt("in.lir", *words)
    assert caught.value.code == Exit.USAGE


def test_list_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt("--list-passes") == Exit.OK
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["o-twice"] == "Drop pairs of negations."
    assert "cse" in lines


def test_as_a_command(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "lepton.opt", "in.lir", "--load-plugin", "passes.py"],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, AFTER, "")


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader would do it, also where the commands are not installed."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("lepton-opt", "lepton.opt"), ("leptonc", "lepton.cli")):
        (commands / name).write_text(f"#!/bin/sh\nexec {sys.executable} -m {module} \"$@\"\n")
        (commands / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    runner = Runner(tmp_path, {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)})
    found = list(blocks((ROOT / "passes" / "README.md").read_text()))
    assert [b.language for b in found] == ["python", "python", "console", "console"]
    for block in found:
        runner.run(block, "passes/README.md")
