"""The tools, called in this process, and a compiled model."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lepton import cli, tool
from tests.cli import models
from tests.cli.models import OLD, Invoke


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with `mlp.onnx`."""
    monkeypatch.chdir(tmp_path)
    models.save(models.mlp(), tmp_path / "mlp.onnx")
    return tmp_path


def _invoker(main: Callable[[list[str]], int], capfd: pytest.CaptureFixture[str]) -> Invoke:
    def invoke(*words: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse leaves this way
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return invoke


@pytest.fixture
def leptonc(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """leptonc in this process: (exit code, stdout, stderr)."""
    return _invoker(cli.main, capfd)


@pytest.fixture
def lepton_tool(capfd: pytest.CaptureFixture[str]) -> Invoke:
    """lepton in this process: (exit code, stdout, stderr)."""
    return _invoker(tool.main, capfd)


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


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled mlp."""
    folder = tmp_path_factory.mktemp("artifact")
    source = models.save(models.mlp(), folder / "mlp.onnx")
    assert cli.main([str(source), "-o", str(folder / "mlp.so"), "-q"]) == 0
    return folder / "mlp.so"
