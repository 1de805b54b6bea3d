"""The documents: what they mark as executable runs, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lepton.cli import parser
from lepton.codegen.target import CUDA_TARGETS, TARGETS
from tests.documents import Block, DocumentError, Runner, blocks, commands, matches
from tests.models.fetch_models import models_folder

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "tests/*/README.md", "benchmarks/*/README.md")
    for file in ROOT.glob(pattern)
    if not file.relative_to(ROOT).parts[0].startswith(".")
)
RUNNABLE = [file for file in DOCUMENTS if any(True for _ in blocks(file.read_text()))]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("file", RUNNABLE, ids=_name)
def test_blocks_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LEPTON_MODELS": str(models_folder()),
        "LEPTON_CHECKOUT": str(ROOT),
    }
    for name in ("LEPTON_MODELS", "LEPTON_CHECKOUT"):
        monkeypatch.setenv(name, environment[name])
    runner = Runner(tmp_path, environment)
    for block in blocks(file.read_text()):
        runner.run(block, _name(file))


def test_readme_and_the_pass_tutorial_are_executed() -> None:
    assert {"README.md", "passes/README.md"} <= set(map(_name, RUNNABLE))


@pytest.mark.parametrize("file", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if "://" not in t and not (file.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("where", ["README.md", "docs/cli.md", "--help"])
def test_every_target_is_named(where: str) -> None:
    shown = parser().format_help() if where == "--help" else (ROOT / where).read_text()
    known = {"native", *TARGETS, *CUDA_TARGETS}
    assert {name for name in known if re.search(rf"(?<![\w-]){name}(?![\w-])", shown)} == known
    assert set(re.findall(r"\b(?:x86|aarch64|cuda)-(?!linux|64)\w+\b", parser().format_help())) | {"native"} == known


def test_benchmarks_tell_their_options_without_what_they_measure() -> None:
    """torch and the like are for the run."""
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['x', '--help']; import runpy; " \
           "runpy.run_module('benchmarks.headline', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--train-only" in done.stdout


def test_commands_are_split() -> None:
    assert list(commands("$ one\nout\n$ two \\\n  more\n")) == [("one", "out\n"), ("two   more", "")]
    assert list(commands("one\n# no\ntwo\n")) == [("one", ""), ("two", "")]


def test_output_is_compared() -> None:
    assert matches("a ... c", "x\na  b\nc d")
    assert matches("12 ms", "took   12  ms")
    assert not matches("a ... c", "a b")
    assert not matches("a.c", "abc")


def test_failures_are_seen(tmp_path: Path) -> None:
    runner = Runner(tmp_path, dict(os.environ))
    for text in ("$ false\n", "$ echo one\ntwo\n", "$ true # exit 3\n"):
        with pytest.raises(DocumentError):
            runner.run(Block("console", frozenset({"run"}), text, 1), "here")
    runner.run(Block("console", frozenset({"run"}), "$ exit 3 # exit 3\n", 1), "here")
    with pytest.raises(ZeroDivisionError):
        runner.run(Block("python", frozenset({"run"}), "1 / 0\n", 1), "here")
