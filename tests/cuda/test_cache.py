"""What NVRTC has compiled, kept on disk."""
from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import lepton
from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.cache import VARIABLE, Cache, cache, image_of, key_of
from lepton.codegen.cuda.nvrtc import Image, Nvrtc
from lepton.ir.diagnostics import NotInstalledError
from tests.cuda.test_artifacts import mlp


@dataclass
class Counting:
    """A library that says how often it compiles."""

    version: tuple[int, int] = (13, 0)
    size: int = 1
    calls: list[str] = field(default_factory=list)
    words = staticmethod(Nvrtc.words)

    def compile(self, source: str, arch: str) -> Image:
        self.calls.append(source)
        return Image(arch, source.encode() * 100 + b"\0", f"log of {source}")


def get(library: Counting, source: str, where: Cache | None, arch: str = "sm_90a") -> Image:
    return image_of(library, source, arch, where)  # type: ignore[arg-type]


def name_of(source: str) -> str:
    return key_of(Counting(), source, "sm_90a")  # type: ignore[arg-type]


def test_the_same_source_is_compiled_once(tmp_path: Path) -> None:
    where, library = Cache(tmp_path / "not" / "there"), Counting()
    first = get(library, "a", where)
    assert get(Counting(), "a", where) == first == Image("sm_90a", b"a" * 100 + b"\0", "log of a")
    assert library.calls == ["a"]
    for other in (Counting(version=(13, 1)), Counting(size=2)):
        get(other, "a", where)
        assert other.calls == ["a"]
    for source, arch in (("b", "sm_90a"), ("a", "sm_80"), ("a", "compute_80")):
        assert get(library, source, where, arch).arch == arch
    assert len(library.calls) == 4
    get(library, "a", None)
    assert len(library.calls) == 5
    assert len(list(where.folder.iterdir())) == 6


@pytest.mark.parametrize("damage", ["shorter", "changed", "empty", "folder"])
def test_damaged_files_are_made_anew(damage: str, tmp_path: Path) -> None:
    where, library = Cache(tmp_path), Counting()
    want = get(library, "a", where)
    path = tmp_path / name_of("a")
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"shorter": data[:-1], "changed": data[:-9] + b"?" + data[-8:], "empty": b""}[damage])
    assert get(library, "a", where) == want
    assert len(library.calls) == 2
    assert get(library, "a", where) == want
    assert len(library.calls) == (3 if damage == "folder" else 2)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    where, library = Cache(tmp_path, limit=500), Counting()
    for source in "abc":
        get(library, source, where)
        age = "abc".index(source)
        os.utime(tmp_path / name_of(source), (age, age))
    get(library, "a", where)  # used now
    get(library, "d", where)
    assert {p.name for p in tmp_path.iterdir()} == {name_of("a"), name_of("c"), name_of("d")}
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 500


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where, library = Cache(tmp_path / "file" / "inside"), Counting()
    for _ in range(2):
        assert get(library, "a", where).log == "log of a"
    assert len(library.calls) == 2


def test_threads_share_it(tmp_path: Path) -> None:
    where, library, wrong = Cache(tmp_path, limit=2000), Counting(), []

    def work(number: int) -> None:
        for turn in range(40):
            source = f"source {(number * 7 + turn) % 12}"
            if get(library, source, where).data != source.encode() * 100 + b"\0":
                wrong.append(source)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_variable_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert cache() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert cache() == Cache(tmp_path / "mine")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache() == Cache(tmp_path / "lepton" / "cuda")
    assert not list(tmp_path.iterdir())


def test_compiling_again_does_not_ask_nvrtc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        library = nvrtc.nvrtc()
    except NotInstalledError:
        pytest.skip("NVRTC is not installed: pip install 'lepton-compiler[cuda]'")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    source = mlp()[0].SerializeToString()
    first = lepton.compile_to(source, tmp_path / "a.so", target="cuda-sm80")
    monkeypatch.setattr(library, "compile", None)
    second = lepton.compile_to(source, tmp_path / "b.so", target="cuda-sm80")
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()
    assert first.targets == second.targets
    assert len(list((tmp_path / "cache").iterdir())) == 2  # a cubin, PTX
    assert first.targets["cuda-sm80"]["cuda"]["kernels"][0]["registers"] > 0
