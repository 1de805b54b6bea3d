"""An interrupt at any moment of a command's start ends in one line and exit code 130."""
from __future__ import annotations

import signal
import subprocess
import sys
import tomllib

import pytest

from lepton import entry
from lepton.ir.diagnostics import Exit
from tests.cli.models import ROOT, process_environment

# Runs a command, and interrupts it at the moment when it asks for a module.
WATCHED = """
import os, signal, sys
module, interrupts, name = sys.argv[1:4]
class Watch:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == module:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.SIG_IGN if interrupts == "ignored" else signal.default_int_handler)
import lepton.entry
sys.meta_path.insert(0, Watch())
sys.argv[:] = [name, *sys.argv[4:]]
sys.exit(getattr(lepton.entry, name)())
"""


def _start(module: str, command: str, *words: str, interrupts: str = "heard") -> tuple[int, str]:
    """Exit code and stderr of `command`, interrupted while it imports `module`."""
    done = subprocess.run([sys.executable, "-c", WATCHED, module, interrupts, command, *words],
                          capture_output=True, text=True, env=process_environment(), timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("command", "module"), [
    ("leptonc", "lepton.cli"), ("leptonc", "lepton.limits"), ("leptonc", "lepton.driver"), ("lepton", "numpy"),
    ("lepton_opt", "lepton.tool"), ("lepton_opt", "lepton.passes.base"),
])
def test_while_a_command_is_imported(command: str, module: str) -> None:
    words = {"leptonc": ("nowhere.onnx", "-o", "x.so"), "lepton": ("inspect", "x.so"), "lepton_opt": ("x.lir",)}
    assert _start(module, command, *words[command]) == (130, f"{command.replace('_', '-')}: interrupted\n")
    assert entry.INTERRUPTED == Exit.INTERRUPTED


def test_who_ignores_interrupts_goes_on_ignoring_them() -> None:
    code, err = _start("lepton.terminal", "leptonc", interrupts="ignored")
    assert code == Exit.USAGE
    assert "no model given" in err


def test_the_handler_of_who_calls_is_left_as_it_was(capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["leptonc"])
    before = signal.getsignal(signal.SIGINT)
    assert entry.leptonc() == Exit.USAGE
    assert signal.getsignal(signal.SIGINT) is before
    assert "no model given" in capsys.readouterr().err


def test_every_installed_command_is_guarded() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert sorted(scripts) == ["lepton", "lepton-opt", "leptonc"]
    assert all(home == f"lepton.entry:{name.replace('-', '_')}" for name, home in scripts.items())
