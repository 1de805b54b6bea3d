"""The runtime on the other architecture, under qemu-user."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lepton.codegen.link import link
from lepton.ir.diagnostics import LeptonError
from lepton.library import load
from tests.runtime import handmade

CC, QEMU, SYSROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
TRIPLE = "aarch64-unknown-linux-gnu"

needs_gcc = pytest.mark.skipif(shutil.which(CC) is None, reason=f"{CC} is not installed")
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


@needs_gcc
def test_a_model_for_another_machine_is_linked_and_refused_here(tmp_path: Path) -> None:
    tables = handmade.compile_c(handmade.source("static"), tmp_path, CC)
    link([tables], [b"\x00\x00\xe0\x40"], tmp_path / "arm.so", TRIPLE)
    readelf = subprocess.run(["readelf", "-hdW", tmp_path / "arm.so"], capture_output=True, text=True, check=True)
    assert "AArch64" in readelf.stdout
    assert "INIT_ARRAY" not in readelf.stdout
    with pytest.raises(LeptonError, match="it was compiled for aarch64, this is"):
        load(tmp_path / "arm.so")


@pytest.mark.qemu
@needs_gcc
@needs_qemu
def test_models_run_on_aarch64(tmp_path: Path) -> None:
    make = ["make", "-s", "-C", str(handmade.RUNTIME), f"BUILD={tmp_path}", f"CC={CC}", "example"]
    subprocess.run(make, check=True, capture_output=True)
    runs: tuple[tuple[str, list[str], str], ...] = (
        ("static", [], "y [4] = 7 7 7 7"), ("dynamic", ["-d", "N=2", "-d", "M=2"], "y [2,2] = 0 0 0 0"))
    for name, sizes, answer in runs:
        tables = handmade.compile_c(handmade.source(name), tmp_path, CC)
        link([tables], [b"\x00\x00\xe0\x40"], tmp_path / f"{name}.so", TRIPLE)
        done = subprocess.run([QEMU, "-L", SYSROOT, tmp_path / "run_model", tmp_path / f"{name}.so", *sizes],
                              capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-1] == answer, done.stderr


@pytest.mark.qemu
@needs_gcc
@needs_qemu
@pytest.mark.parametrize("program", ["session", "plan", "cores"])
def test_c_tests_pass_on_aarch64(tmp_path: Path, program: str) -> None:
    """Not pool_test: qemu-user cannot fork a process that has threads."""
    make = ["make", "-s", "-C", str(handmade.RUNTIME), f"BUILD={tmp_path}", f"CC={CC}", "AR=aarch64-linux-gnu-ar",
            f"{tmp_path}/{program}_test"]
    subprocess.run(make, check=True, capture_output=True)
    command = [QEMU, "-L", SYSROOT, str(tmp_path / f"{program}_test")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
