"""Environment variables and docs/cli.md: what the table says is what the code reads and the document shows."""
from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton import cli, tool
from lepton.ir.diagnostics import UsageError
from lepton.knobs import DEBUG, KNOBS, NO_COLOR, describe_knobs
from tests.cli.models import ROOT, Invoke

MANUAL = (ROOT / "docs" / "cli.md").read_text()
PRODUCT = ("lepton", "lepton_ir", "frontends", "passes", "codegen", "runtime_c")


def _sources() -> Iterator[str]:
    for folder in PRODUCT:
        for suffix in ("*.py", "*.c", "*.h"):
            for file in (ROOT / folder).rglob(suffix):
                inside = file.relative_to(ROOT).parts
                if file.name != "knobs.py" and "build" not in inside and "tests" not in inside:
                    yield file.read_text()


def test_every_variable_that_is_read_has_a_row() -> None:
    text = "\n".join(_sources())
    read = set(re.findall(r"""(?:environ(?:\.get\(|\[)|getenv\()\s*["'](\w+)["']""", text))
    read |= set(re.findall(r"""["'](LEPTON_[A-Z0-9_]+)["']""", text)) - {"LEPTON_H_"}
    assert "LEPTON_CC" in read
    read |= {f"LEPTON_CC_{arch}" for arch in ("AARCH64", "X86_64")} if "LEPTON_CC_{arch.upper()}" in text else set()
    assert read <= set(KNOBS), f"no row in knobs.py: {read - set(KNOBS)}"


def test_every_row_is_used() -> None:
    import lepton.knobs

    constants = {name: k for name, k in vars(lepton.knobs).items() if isinstance(k, lepton.knobs.Knob)}
    assert {k.name for k in constants.values()} == set(KNOBS)
    text = "\n".join(_sources())
    for constant, knob in constants.items():
        stem = knob.name.removesuffix("_AARCH64").removesuffix("_X86_64")
        assert re.search(rf"\b{constant}\.|{stem}", text), f"{knob.name} is read nowhere"


def test_help_and_manual_show_the_table(leptonc: Invoke, lepton_tool: Invoke) -> None:
    for invoke in (leptonc, lepton_tool):
        assert invoke("--help-knobs") == (0, describe_knobs(), "")
    for knob in KNOBS.values():
        assert f"| `{knob.name}` | {knob.values} | {knob.doc} |" in MANUAL


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield "leptonc", cli.parser()
    top = tool.parser()
    yield "lepton", top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ((f"lepton {name}", parser) for name, parser in action.choices.items())


def _section(name: str) -> str:
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section '## {name}'"
    return found[1]


@pytest.mark.parametrize(("name", "parser"), [p for p in _parsers() if p[0] != "lepton"], ids=lambda p: str(p)[:20])
def test_the_manual_names_every_option_and_no_other(name: str, parser: argparse.ArgumentParser) -> None:
    options = {s for a in parser._actions for s in a.option_strings} - {"-h", "--help"}
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", _section(name), re.MULTILINE))
    shown = set(re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)", cells))
    assert shown == options


def test_the_manual_names_every_exit_code() -> None:
    from lepton.ir.diagnostics import Exit

    assert re.findall(r"^\| (\d+) \|", _section("Exit codes"), re.MULTILINE) == [str(int(e)) for e in Exit]


@pytest.mark.parametrize("value", ["5", "-1", "yes", "²", "1.5"])
def test_levels_are_checked(monkeypatch: pytest.MonkeyPatch, folder: Path, leptonc: Invoke, value: str) -> None:
    monkeypatch.setenv("LEPTON_DEBUG", value)
    with pytest.raises(UsageError, match="expected a number from 0 to 4"):
        _ = DEBUG.level
    assert leptonc("mlp.onnx", "-q")[0] == 2


def test_unset_and_empty_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEPTON_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
        assert (DEBUG.level, NO_COLOR.on) == (0, False)
        monkeypatch.setenv(name, "")
        assert (DEBUG.level, NO_COLOR.on) == (0, False)


def test_debug_says_more_with_each_level(monkeypatch: pytest.MonkeyPatch, folder: Path, leptonc: Invoke) -> None:
    marks = (" ms  passes", "[lepton] graph after pass ", "[lepton] program for ", "[lepton] LLVM IR")
    for level in range(5):
        monkeypatch.setenv("LEPTON_DEBUG", str(level))
        code, out, err = leptonc("mlp.onnx", "-q")
        assert (code, out) == (0, "")
        assert [mark in err for mark in marks] == [level > i for i in range(4)]
