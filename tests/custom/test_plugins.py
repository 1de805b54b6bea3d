"""Plug-in files and packages."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import lepton
from lepton import custom, plugins
from lepton.cli import main as leptonc
from lepton.frontends.onnx import registry
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.passes.base import PASSES
from lepton.tool import main as tool
from tests.custom.models import F32, HARD, declare_median

PLUGIN = """
import numpy as np
from lepton import custom

@custom.traced("my::Twice")
def twice(x):
    return x * {factor}
"""


def test_plugin_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.ones(2, F32)
    onnx.save(custom.model("my::Twice", [x], {}), "twice.onnx")
    assert leptonc(["twice.onnx", "-q"]) == 3
    assert "my::Twice" in capsys.readouterr().err
    Path("plugin.py").write_text(PLUGIN.format(factor=2.0))
    assert leptonc(["twice.onnx", "-q", "--load-plugin", "plugin.py"]) == 0
    np.testing.assert_array_equal(lepton.load("twice.so")(x), [2, 2])
    for factor in (2.0, 2.5):  # loaded once, and again when it has changed
        Path("plugin.py").write_text(PLUGIN.format(factor=factor))
        np.testing.assert_array_equal(lepton.compile("twice.onnx", plugins=("plugin.py",))(x), x * F32(factor))
    with pytest.raises(UsageError, match="gone"):
        lepton.compile("twice.onnx", plugins=("gone.py",))


def test_a_plugin_brings_the_functions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    declare_median()
    lepton.compile_to(custom.model("my::Median", [HARD], {}), "median.so")
    assert tool(["inspect", "median.so"]) == 0
    assert "calls   my::Median" in capsys.readouterr().out
    run = ["run", "median.so", "-i", "x0=[[1,2,9]]", "--print"]
    assert tool(run) == 2
    assert "no function of that name is registered" in capsys.readouterr().err
    Path("functions.py").write_text("import lepton\nlepton.register('my::Median', lambda x, scale: x[:, 1])\n")
    assert tool([*run, "--load-plugin", "functions.py"]) == 0
    assert "[2.]" in capsys.readouterr().out


def test_operators_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        def load(self) -> None:
            custom.traced("my.package::Twice")(lambda x: x * 2.0)

    asked = []

    def entry_points(**words: str) -> list[Entry]:
        asked.append(words)
        return [Entry()] if words == {"group": "lepton.operators", "name": "my.package"} else []

    monkeypatch.setattr(registry, "entry_points", entry_points)
    np.testing.assert_array_equal(custom.run("my.package::Twice", HARD[1]), HARD[1] * 2)
    for _ in range(2):
        with pytest.raises(LeptonError, match=r"my\.other::Twice"):
            custom.run("my.other::Twice", HARD)
    assert [words["name"] for words in asked] == ["my.package", "my.other"]


def test_passes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('from lepton.passes.base import Pass\nclass Mine(Pass):\n    name = "p-mine"\n'
                    '    def run(self, graph):\n        return False\n')
    plugins.load([file])
    assert "p-mine" in PASSES
    file.write_text("x = 1\n")
    for bad in (file, tmp_path / "nothing.py", tmp_path):
        with pytest.raises(UsageError):
            plugins.load([bad])
    file.write_text("import lepton\nlepton.register('my::F', len)\n")  # a function is enough
    plugins.load([file])
