"""Artifacts without Python: the example C program runs them, here and, for aarch64, under qemu-user."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lepton
from tests.models.agreement import check, reference, targets
from tests.models.networks import BY_NAME

ROOT = Path(__file__).parents[2]
SYSROOT = Path("/usr/aarch64-linux-gnu")
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
QEMU = "qemu-aarch64"

pytestmark = pytest.mark.slow

needs_qemu = pytest.mark.skipif(
    not (shutil.which(QEMU) and shutil.which(CROSS_COMPILER) and SYSROOT.is_dir()),
    reason=f"needs {QEMU}, {CROSS_COMPILER} and {SYSROOT} (Debian: qemu-user, gcc-aarch64-linux-gnu)",
)

Program = Callable[..., subprocess.CompletedProcess[str]]


def _program(compiler: str, folder: Path, *runner: str) -> Program:
    """The example, built with `compiler`; call it with its arguments."""
    binary = folder / f"run_model-{compiler}"
    source, include = ROOT / "runtime_c/examples/run_model.c", ROOT / "runtime_c/include"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{include}"]
    subprocess.run([compiler, *flags, str(source), "-ldl", "-o", str(binary)], check=True)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*runner, str(binary), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    return run


@pytest.fixture(scope="module")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return _program("cc" if shutil.which("cc") else "gcc", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def aarch64_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return _program(CROSS_COMPILER, tmp_path_factory.mktemp("aarch64"), QEMU, "-L", str(SYSROOT))


def _answer(program: Program, name: str, target: str, folder: Path) -> None:
    """Compile the pinned network for `target`, run it through the program, compare with ONNX Runtime."""
    network = BY_NAME[name]
    artifact = folder / f"{name}.so"
    lepton.compile_to(network.pinned_path(), artifact, target=target)
    feeds, want = reference(name, 0)
    files = []
    for position, array in enumerate(feeds.values()):
        files.append(folder / f"input{position}.raw")
        files[-1].write_bytes(np.ascontiguousarray(array).tobytes())
    result = folder / "output.raw"
    done = program(artifact, "-o", result, *files)
    assert done.returncode == 0, done.stderr
    assert target == "native" or f"target {target}" in done.stdout
    first, *_ = want
    got = np.frombuffer(result.read_bytes(), want[first].dtype).reshape(want[first].shape)
    check(network, {first: want[first]}, {first: got})


@pytest.mark.parametrize("name", ["ppocr_cls", "magika"])
def test_c_program_answers(name: str, host_program: Program, tmp_path: Path) -> None:
    _answer(host_program, name, targets()[0], tmp_path)


@needs_qemu
@pytest.mark.qemu
@pytest.mark.parametrize("name", ["ppocr_cls", "magika"])
def test_aarch64_answers(name: str, aarch64_program: Program, tmp_path: Path) -> None:
    _answer(aarch64_program, name, "aarch64-neon", tmp_path)


def test_c_program_says_what_is_wrong(host_program: Program, tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    done = host_program(text)
    assert done.returncode == 1
    assert "text.so" in done.stderr
    assert host_program().returncode == 2
