"""What is installed: the links in lepton/ agree with setup.py, and the wheel works alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[1]


def _home() -> dict[str, str]:
    """HOME of setup.py, without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "HOME" for t in node.targets):
            home = ast.literal_eval(node.value)
            assert isinstance(home, dict)
            return home
    raise AssertionError("setup.py has no HOME")


def test_links_match_setup() -> None:
    home = _home()
    assert home.pop("lepton") == "lepton"
    links = {link.name: link.resolve() for link in (ROOT / "lepton").iterdir() if link.is_symlink()}
    assert links == {name.removeprefix("lepton."): ROOT / folder for name, folder in home.items()}


def test_extras_are_where_they_belong() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">")[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "onnx", "llvmlite", "cffi", "networkx", "ml_dtypes"}
    assert {"test", "rich", "zig", "dev"} <= set(project["optional-dependencies"])


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LEPTON_"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files only, as from a fresh clone."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    files = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, files):
        source, target = ROOT / name, copy / name
        if not source.exists() and not source.is_symlink():
            continue  # deleted, not committed yet
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, copy, cwd=folder)
    (built,) = folder.glob("lepton_compiler-*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lepton"}
    for needed in ("lepton/ir/core.py", "lepton/passes/__init__.py", "lepton/py.typed"):
        assert needed in names
    assert any(name.startswith("lepton/_rt.") for name in names)


def _small_model(path: Path) -> None:
    """y = relu(x @ w + b), x[n, 3]."""
    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4) - 5, "w"),
        onnx.numpy_helper.from_array(np.array([1, -1, 2, -2], np.float32), "b"),
    ]
    make = helper.make_tensor_value_info
    inputs = [make("x", onnx.TensorProto.FLOAT, ["n", 3])]
    outputs = [make("y", onnx.TensorProto.FLOAT, ["n", 4])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


_USE = """
import numpy as np, lepton
x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
w = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
want = np.maximum(x @ w + np.array([1, -1, 2, -2], np.float32), 0)
assert "site-packages" in lepton.__file__, lepton.__file__
np.testing.assert_allclose(lepton.load("small.so")(x), want, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(lepton.compile("small.onnx")(x), want, rtol=1e-5, atol=1e-5)
print("answered")
"""


@pytest.mark.slow
def test_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """Only the wheel and what it asks for, in a new environment, away from the checkout."""
    _run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    commands = tmp_path / "venv" / "bin"
    _run(commands / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    _small_model(tmp_path / "small.onnx")
    _run(commands / "leptonc", "small.onnx", "-o", "small.so", cwd=tmp_path)
    assert "answered" in _run(commands / "python", "-c", _USE, cwd=tmp_path)
    assert "lepton" in _run(commands / "leptonc", "--version", cwd=tmp_path).lower()
