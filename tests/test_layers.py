"""The import direction of docs/architecture.md, section 1, by reading every source file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package may import from itself and from those before it; `lepton` is everything else in the front door's folder.
ORDER = ("lepton.ir", "lepton.frontends", "lepton.passes", "lepton.codegen", "lepton")
FOLDERS = dict(zip(ORDER, ("lepton_ir", "frontends", "passes", "codegen", "lepton"), strict=True))
# The C runtime as an extension: it imports nothing, so anyone may import it.
LEAVES = frozenset({"lepton._rt"})
# Other engines answer nothing in the product. `compare` measures against one, and says so in its name.
PEERS = frozenset({"onnxruntime", "openvino", "MNN", "torch", "onnx.reference"})
MEASURING = frozenset({"lepton/compare.py"})
# What a machine that only runs artifacts has: the standard library, numpy, cffi's extension.
HEAVY = ("onnx", "llvmlite", "networkx", "lepton.frontends", "lepton.passes", "lepton.codegen")


def layer(module: str) -> int:
    """Position in ORDER of the package that the module belongs to."""
    return next(i for i, package in enumerate(ORDER) if module == package or module.startswith(f"{package}."))


def sources() -> Iterator[tuple[str, Path]]:
    """(import name of the package, file), links not followed."""
    for package, folder in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in file.parents if parent != ROOT):
                yield package, file


def imports(text: str) -> Iterator[tuple[str, int]]:
    """Every module that the source names in an import, with the line; `from lepton import ir` names lepton.ir."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "lepton":
                yield from ((f"lepton.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def violations(package: str, text: str) -> list[str]:
    """One line for each import that goes against the direction."""
    here = ORDER.index(package)
    return [
        f"line {line}: {package} may not import {module}"
        for module, line in imports(text)
        if (module == "lepton" or module.startswith("lepton.")) and module not in LEAVES and layer(module) > here
    ]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package: str) -> None:
    files = [file for owner, file in sources() if owner == package]
    assert files, f"no sources in {FOLDERS[package]}"
    found = [f"{file.relative_to(ROOT)}: {text}" for file in files for text in violations(package, file.read_text())]
    assert not found, "\n".join(found)


def test_product_asks_no_other_engine() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {module}"
        for _, file in sources()
        for module, line in imports(file.read_text())
        if any(module == peer or module.startswith(f"{peer}.") for peer in PEERS)
        and str(file.relative_to(ROOT)) not in MEASURING
    ]
    assert not found, "\n".join(found)


def test_a_wrong_import_is_seen() -> None:
    assert violations("lepton.ir", "def f():\n    from lepton.passes.base import Pass\n")
    assert violations("lepton.passes", "from lepton import codegen")
    assert violations("lepton.codegen", "import lepton")
    assert not violations("lepton.codegen", "import lepton.ir.core\nfrom lepton.passes import base\nimport numpy")
    assert not violations("lepton", "from lepton import codegen")


@pytest.mark.parametrize("folder", [FOLDERS[package] for package in ORDER[1:4]])
def test_folders_refuse_their_own_names(folder: str) -> None:
    """`import passes` at the checkout's root would give a second copy of every class."""
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import lepton.{folder}" in done.stderr


def test_running_needs_no_compiler() -> None:
    """What loads an artifact imports neither onnx nor LLVM nor the compiler's own parts."""
    code = "import sys, lepton; lepton.load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "lepton.artifact" in loaded
    assert not [name for name in loaded if any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY)]


def test_ceilings() -> None:
    """No file beyond 400 lines, no function beyond 60 (40 is the aim; reviews look at what lies between)."""
    found = []
    for _, file in sources():
        text = file.read_text()
        if (lines := text.count("\n")) > 400:
            found.append(f"{file.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > 60:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} is longer than 60 lines")
    assert not found, "\n".join(found)
