"""Damaged artifacts: refused before they are mapped, wherever the damage is; never a crash."""
from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton._rt import ffi, lib
from lepton.codegen.build import STEERING
from lepton.ir import ops
from lepton.ir.core import Graph, User, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from lepton.library import load, verify
from tests.runtime import handmade

Artifact = Callable[..., Path]
SEAL = lib.LPT_SEAL_SIZE
INDICES = np.random.default_rng(1).permutation(40)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x[:, INDICES] @ w."""
    x = Value(TensorType(DType.F32, (3, 40)), name="x")
    w = ops.constant(value=Tensor.of(np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)))
    picked = ops.gather(x, ops.constant(value=Tensor.of(INDICES)), axis=1)
    path = tmp_path_factory.mktemp("seal") / "model.so"
    lepton.compile_to(Graph("g", (x,), User((ops.matmul(picked, w),))), path, target="x86-avx2",
                      level=1)
    return path


def _refusals(data: bytes, damaged: Path, changes: list[tuple[int, int]]) -> None:
    """Each byte is changed alone, and the file refused."""
    for at, change in changes:
        content = bytearray(data)
        content[at] ^= change
        damaged.write_bytes(content)
        with pytest.raises(LeptonError, match="cannot load"):
            load(damaged)


def test_sums_are_xxh64(tmp_path: Path) -> None:
    """Its published values, through the seal of a file."""
    for text, expected in ((b"", 0xEF46DB3751D8E999), (b"abc", 0x44BC2CF5AD770999),
                           (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1)):
        (tmp_path / "f").write_bytes(text)
        made = ffi.new("uint8_t[]", SEAL)
        with open(tmp_path / "f", "rb") as file:
            assert lib.lpt_seal(file.fileno(), len(text), made)
        assert int.from_bytes(bytes(made)[16:24], "little") == expected


def test_any_byte_of_the_head(artifact: Artifact, tmp_path: Path) -> None:
    """Headers, tables, code, gaps; those of the seal too. Four bytes of weights in front of it are not looked at."""
    data = artifact("static").read_bytes()
    head, rng = len(data) - SEAL - 4, random.Random(0)
    places = [*range(0, 0x200, 7), *range(0x200, head, 997), head - 1, *range(head + 4, len(data))]
    _refusals(data, tmp_path / "damaged.so", [(at, 1 << rng.randrange(8)) for at in places])


def test_any_byte_of_a_models_head(compiled: Path, tmp_path: Path) -> None:
    data, rng = compiled.read_bytes(), random.Random(1)
    head = int.from_bytes(data[-SEAL + 8:-SEAL + 16], "little")
    assert load(compiled).run({"x": np.zeros((3, 40), np.float32)})
    _refusals(data, tmp_path / "damaged.so", [(rng.randrange(head), rng.randrange(1, 256)) for _ in range(150)])


def test_every_truncation_and_what_is_added(compiled: Path, tmp_path: Path) -> None:
    data = compiled.read_bytes()
    for length in [*range(0, len(data), 1499), *range(len(data) - 2 * SEAL, len(data))]:
        (tmp_path / "damaged.so").write_bytes(data[:length])
        with pytest.raises(LeptonError, match="cannot load"):
            load(tmp_path / "damaged.so")
    (tmp_path / "damaged.so").write_bytes(data + b"\n")
    with pytest.raises(LeptonError, match="truncated, damaged at its end"):
        load(tmp_path / "damaged.so")


def test_what_steers_kernels_is_in_the_head(compiled: Path) -> None:
    """The indices of the gather stand in front of the floats, and the head ends between them."""
    data = compiled.read_bytes()
    head = int.from_bytes(data[-SEAL + 8:-SEAL + 16], "little")
    indices = INDICES.tobytes()
    assert INDICES.dtype in STEERING
    assert indices in data, "the index constant became something else: test another model"
    assert data.index(indices) + len(indices) <= head < len(data) - SEAL


def test_weights_are_seen_to_when_asked(compiled: Path, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    from lepton import tool

    data = bytearray(compiled.read_bytes())
    verify(compiled)
    data[-SEAL - 100] ^= 0x10
    (tmp_path / "damaged.so").write_bytes(data)
    load(tmp_path / "damaged.so")
    with pytest.raises(LeptonError, match="its weights are not as they were written"):
        verify(tmp_path / "damaged.so")
    assert tool.main(["inspect", str(tmp_path / "damaged.so"), "--verify"]) == 3
    assert "its weights are not" in capsys.readouterr().err
    assert tool.main(["inspect", str(compiled), "--verify"]) == 0
    assert "every byte as it was written" in capsys.readouterr().out


def test_c_programs_can_ask_too(artifact: Artifact, tmp_path: Path) -> None:
    example = tmp_path / "run_model"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{handmade.RUNTIME / 'include'}"]
    subprocess.run(["cc", *flags, handmade.RUNTIME / "examples/run_model.c", "-ldl", "-o", example], check=True)
    data = bytearray(artifact("static").read_bytes())
    (tmp_path / "whole.so").write_bytes(data)
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.so").write_bytes(data)
    done = [subprocess.run([example, tmp_path / name], capture_output=True, text=True, check=False)
            for name in ("whole.so", "damaged.so", "missing.so")]
    assert [d.returncode for d in done] == [0, 1, 1]
    assert "its code or tables are not as they were written" in done[1].stderr
    assert "No such file" in done[2].stderr
