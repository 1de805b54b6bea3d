"""Each exit code and its words, by processes of their own; what was there before stays."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lepton
from lepton import terminal
from lepton.ir.diagnostics import Exit, ResourceError
from lepton.limits import limited
from lepton.tool import opt
from tests.cli.models import Invoke, call, command, process_environment

OLD = b"what was there before"

BROKEN_PASS = """
from lepton.passes.base import Pass

class Breaks(Pass):
    name = "breaks"
    def run(self, graph):
        return 1 // 0
"""

SLOW_PASS = """
import time
from pathlib import Path
from lepton.passes.base import Pass

class Slow(Pass):
    name = "slow"
    def run(self, graph):
        Path("started").touch()
        time.sleep(60)
        return False
"""

HUNGRY_PASS = """
from lepton.passes.base import Pass

class Hungry(Pass):
    name = "hungry"
    def run(self, graph):
        return bool(bytearray(64 << 30))
"""

DISHONEST_PASS = """
from lepton.ir import ops
from lepton.passes.base import Pass

class Dishonest(Pass):
    name = "dishonest"
    def run(self, graph):
        (old,) = graph.outputs
        new = ops.neg(old)
        old.replace_with(new, keep={new.producer})
        return True

class Mistyped(Pass):
    name = "mistyped"
    def run(self, graph):
        (old,) = graph.outputs
        old.type = old.type.with_shape((7,))
        return True
"""


@pytest.fixture
def work(folder: Path) -> Path:
    (folder / "model.so").write_bytes(OLD)
    for name, text in {"breaks": BROKEN_PASS, "slow": SLOW_PASS, "hungry": HUNGRY_PASS, "bad": DISHONEST_PASS}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def _compile(work: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = call("cli", *words, "-o", "model.so", cwd=work, **environment)
    assert (work / "model.so").read_bytes() == OLD, "a failed compile has overwritten the output"
    assert not list(work.glob(".lepton-*")), "a temporary folder was left behind"
    return done


def _lose(*_: object) -> None:
    raise KeyError("lost")


def test_usage_is_2(work: Path) -> None:
    done = _compile(work, "mlp.onnx", "--target", "vax")
    assert done.returncode == int(Exit.USAGE) == 2
    assert done.stderr.startswith("leptonc: error: unknown target 'vax'\n  = help: known: native, x86-sse4")


def test_unsupported_is_3(work: Path) -> None:
    (work / "odd.onnx").write_bytes(b"not a model at all")
    done = _compile(work, "odd.onnx")
    assert done.returncode == int(Exit.UNSUPPORTED) == 3
    assert "not an ONNX model, or a damaged one" in done.stderr


@pytest.mark.parametrize(("name", "option", "words"), [
    ("dishonest", "--self-check", "the answers changed"), ("mistyped", "--verify-each", "relu has type f32[7]")])
def test_refused_by_verification_is_4(work: Path, name: str, option: str, words: str) -> None:
    done = _compile(work, "mlp.onnx", "--load-plugin", "bad.py", "--passes", f"fold,{name}", option)
    assert done.returncode == int(Exit.REFUSED) == 4, done.stderr
    assert f"in pass '{name}'" in done.stderr
    assert words in done.stderr
    (graph,) = work.glob("lepton-repro-*/*.lir")
    assert f"lepton-opt --load-plugin {work / 'bad.py'} {graph.relative_to(work)}" in done.stderr
    assert f"a bug in {work / 'bad.py'}" in done.stderr


def test_out_of_time_is_5(work: Path) -> None:
    start = time.perf_counter()
    done = _compile(work, "mlp.onnx", "--load-plugin", "slow.py", "--passes", "slow", "--timeout", "2")
    assert done.returncode == int(Exit.RESOURCES) == 5
    assert done.stderr == "leptonc: error: not done after 2 s\n  = help: --timeout sets the limit\n"
    assert time.perf_counter() - start < 15


def test_out_of_memory_is_5(work: Path) -> None:
    done = _compile(work, "mlp.onnx", "--load-plugin", "hungry.py", "--passes", "hungry", "--max-memory", "4000")
    assert done.returncode == Exit.RESOURCES
    assert "out of memory" in done.stderr
    tiny = _compile(work, "mlp.onnx", "--max-memory", "1")
    assert tiny.returncode == Exit.RESOURCES
    assert "out of memory" in tiny.stderr


def test_a_bug_is_70_and_leaves_a_reproducer(work: Path, leptonc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton.passes.cse.CSE.run", _lose)
    code, _, err = leptonc("mlp.onnx", "--passes", "fold,cse", "-o", "model.so")
    assert code == int(Exit.INTERNAL) == 70
    assert "internal error in pass 'cse': KeyError: 'lost'" in err
    (folder,) = work.glob("lepton-repro-*")
    assert f"This is a bug in Lepton. What is needed to reproduce it lies in {folder.name}/" in err
    assert "leptonc mlp.onnx --passes fold,cse" in (folder / "command.txt").read_text()
    assert "KeyError" in (folder / "traceback.txt").read_text()
    assert {"lepton", "llvm", "onnx", "python"} <= json.loads((folder / "versions.json").read_text()).keys()
    (graph,) = folder.glob("*.lir")
    assert graph.read_text().startswith("// RUN: cse")
    assert "matmul" in graph.read_text()


def test_a_crash_of_ones_own_pass_is_ones_own(work: Path) -> None:
    """Its file and line are named, and what reproduces it is left."""
    done = _compile(work, "mlp.onnx", "--load-plugin", "breaks.py", "--passes", "fold,breaks")
    assert done.returncode == int(Exit.USAGE)
    line = BROKEN_PASS.splitlines().index("        return 1 // 0") + 1
    assert f"in pass 'breaks' of {work / 'breaks.py'}:{line}: ZeroDivisionError" in done.stderr
    assert "bug in Lepton" not in done.stderr
    (graph,) = work.glob("lepton-repro-*/*.lir")
    assert graph.read_text().startswith("// RUN: breaks")
    words = f"lepton-opt --load-plugin {work / 'breaks.py'} {graph.relative_to(work)}"
    assert f"`{words}`" in done.stderr
    replay = call("opt", *words.split()[1:], "-o", "-", cwd=work)
    assert "ZeroDivisionError" in replay.stderr, "the reproducer does not reproduce"


def test_a_bug_behind_the_passes_keeps_the_graph(work: Path, leptonc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton.driver.plan", _lose)
    code, _, err = leptonc("mlp.onnx", "-o", "model.so")
    assert code == Exit.INTERNAL
    assert "internal error: KeyError: 'lost'" in err
    (folder,) = work.glob("lepton-repro-*")
    assert "fusion" in (folder / "planned.lir").read_text()
    assert (work / "model.so").read_bytes() == OLD


def test_a_bug_where_nothing_can_be_written(work: Path, leptonc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lepton.driver.plan", _lose)
    monkeypatch.setattr("lepton.reproducer.write", refuse)
    code, _, err = leptonc("mlp.onnx", "-o", "model.so")
    assert code == Exit.INTERNAL
    assert "No reproducer could be written" in err


def _interruptible() -> None:
    """Started in the background, the tests themselves may ignore interrupts, and what they start would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("limits", [(), ("--timeout", "100")])
def test_interrupted_is_130(work: Path, limits: tuple[str, ...]) -> None:
    words = command("cli", "mlp.onnx", "--load-plugin", "slow.py", "--passes", "slow", "-o", "model.so", *limits)
    process = subprocess.Popen(words, cwd=work, env=process_environment(), stderr=subprocess.PIPE, text=True,
                               preexec_fn=_interruptible)
    for _ in range(2400):  # a machine under load takes its time
        if (work / "started").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == int(Exit.INTERRUPTED) == 130
    assert err == "leptonc: interrupted\n"
    assert (work / "model.so").read_bytes() == OLD


def test_wrong_answer_is_1(work: Path) -> None:
    words = ("--rtol", "1e-6", "--atol", "0", "--against", "interpreter", "--dim", "N=64", "--precision", "bf16")
    done = call("tool", "compare", "mlp.onnx", *words, cwd=work)
    assert done.returncode == int(Exit.WRONG) == 1, done.stdout
    assert "they DISAGREE" in done.stdout


# --- limits, without a compiler -------------------------------------------------------------------


def _ignores_all() -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    return 0


def _dies() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_child_that_does_not_listen_is_ended() -> None:
    start = time.perf_counter()
    with pytest.raises(ResourceError, match="not done after 1 s"):
        limited(_ignores_all, 1, 0, grace=0.2)
    assert time.perf_counter() - start < 10


def test_a_child_that_dies_for_want_of_memory_is_explained() -> None:
    with pytest.raises(ResourceError, match="out of memory at 8000 MB"):
        limited(_dies, 0, 8000)


@pytest.mark.parametrize("code", [0, 3])
def test_codes_pass_through(code: int) -> None:
    assert limited(lambda: code, 30, 0) == code
    assert limited(lambda: code, 0, 0) == code


def test_table_of_codes_in_help(leptonc: Invoke, lepton_tool: Invoke) -> None:
    tools: list[Callable[..., tuple[int, str, str]]] = [leptonc, lepton_tool]
    for tool in tools:
        text = tool("--help")[1].split("exit codes:")[1]
        assert [int(n) for n in re.findall(r"(?:^|\s)(\d+) [a-z]", text)] == [int(e) for e in Exit]


def test_a_missing_compiler_package_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite.binding")

    assert terminal.run("leptonc", body, []) == int(Exit.UNSUPPORTED)
    assert "llvmlite.binding is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "call"), [
    ("onnx", "compile(b'')"), ("llvmlite", "compile(b'')"), ("ml_dtypes", "compile(b'')"),
    ("ml_dtypes", "compress.search"),
])
def test_python_says_too_what_is_not_installed(missing: str, call: str) -> None:
    """`lepton.compile` where only artifacts can run: in a traceback of its own alone."""
    code = (f"import sys; sys.modules[{missing!r}] = None\nimport lepton\n"
            f"try:\n    lepton.{call}\nexcept lepton.LeptonError as e:\n    print(int(e.exit), e)\n"
            f"    assert e.__suppress_context__ and e.__cause__ is None\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith(f"3 {missing}"), done.stderr
    assert not done.returncode, done.stderr
    assert "is not installed\n  = help: this installation can run artifacts" in done.stdout


def test_python_says_that_it_took_a_checkout_for_the_package() -> None:
    code = ("import sys; sys.modules['lepton._rt'] = None\nimport lepton\n"
            "try:\n    lepton.load('x.so')\nexcept lepton.LeptonError as e:\n    print(int(e.exit), e)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("3 the C runtime of the package in "), done.stderr
    assert "pip install -e ." in done.stdout


@pytest.mark.parametrize(("missing", "behind"), [("", "LLVM "), ("ml_dtypes", "runs artifacts; the compiler is not")])
def test_the_version_is_told_without_the_compiler(missing: str, behind: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom lepton.cli import main\nmain(['--version'])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == int(Exit.OK), done.stderr
    assert done.stdout.startswith(f"leptonc {lepton.__version__} ({behind}")


def test_lepton_opt_says_too_what_is_not_installed() -> None:
    code = "import sys; sys.modules['ml_dtypes'] = None\nfrom lepton.tool import opt\nsys.exit(opt(['x.lir']))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == int(Exit.UNSUPPORTED)
    assert done.stderr.startswith("lepton-opt: error: ml_dtypes is not installed\n")


def test_lepton_opt_is_what_its_script_calls(capfd: pytest.CaptureFixture[str]) -> None:
    assert opt(["--list-passes"]) == 0
    assert "canonicalise" in capfd.readouterr().out
