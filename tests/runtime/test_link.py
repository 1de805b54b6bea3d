"""Linking: what is in the file, the same bytes everywhere, and every way it can fail."""
from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton._rt import lib
from lepton.codegen import link as linking
from lepton.codegen import weights_segment
from lepton.codegen.link import find_compiler, link, prebuilt_archive
from lepton.ir.diagnostics import LeptonError, ResourceError
from lepton.library import load
from tests.runtime import handmade

X = np.array([0, 1, 2, 3], np.float32)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return handmade.compile_c(handmade.source("static"), tmp_path_factory.mktemp("tables"))


def _readelf(path: Path, *flags: str) -> str:
    return subprocess.run(["readelf", "-W", *flags, path], check=True, capture_output=True, text=True).stdout


def test_exports_one_symbol_and_needs_only_libc(artifact: Callable[..., Path]) -> None:
    path = artifact("static")
    names = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    assert [line.split()[-1] for line in names.splitlines()] == ["lepton_query"]
    needed = [line.split("[")[1].rstrip("]") for line in _readelf(path, "-d").splitlines() if "(NEEDED)" in line]
    assert set(needed) <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_is_hardened_and_stripped(artifact: Callable[..., Path]) -> None:
    path = artifact("static")
    segments = _readelf(path, "-l")
    assert "GNU_RELRO" in segments
    assert all("E" not in line.split()[-2] for line in segments.splitlines() if "GNU_STACK" in line)
    assert "NOW" in _readelf(path, "-d")
    assert ".symtab" not in _readelf(path, "-S")
    assert "build-id" not in _readelf(path, "-n").lower()
    for array in ("INIT_ARRAY", "FINI_ARRAY", "(INIT)", "(FINI)"):
        assert array not in _readelf(path, "-d"), "the library runs code when it is loaded"


def test_weights_are_readonly_and_page_aligned(artifact: Callable[..., Path]) -> None:
    rows = [line for line in _readelf(artifact("static"), "-S").splitlines() if ".lepton.weights" in line]
    fields = rows[0].split("]")[1].split()
    assert int(fields[2], 16) % 4096 == 0
    assert int(fields[3], 16) % 4096 == 0
    assert fields[6] == "A"
    address = int(fields[2], 16)
    segments = [line.split() for line in _readelf(artifact("static"), "-l").splitlines() if "LOAD" in line]
    holding = [s for s in segments if int(s[2], 16) <= address < int(s[2], 16) + int(s[5], 16)]
    assert [s[6:-1] for s in holding] == [["R"]]
    assert address == max(int(s[2], 16) for s in segments), "code and tables must stay within 32-bit reach"


def test_same_bytes_from_different_folders(tmp_path: Path, tables: bytes) -> None:
    built = []
    for name in ("one", "another/deeper down"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        link([tables], [b"1234" * 100], folder / f"{len(name)}.so", handmade.TRIPLE)
        built.append((folder / f"{len(name)}.so").read_bytes())
    assert built[0] == built[1]
    assert str(tmp_path).encode() not in built[0]
    assert str(handmade.ROOT).encode() not in built[0]


def test_without_an_archive_the_runtime_is_compiled(tmp_path: Path, tables: bytes,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    archive = prebuilt_archive()
    link([tables], [struct.pack("<f", 7)], tmp_path / "archive.so", handmade.TRIPLE)
    monkeypatch.setattr(linking, "prebuilt_archive", lambda: None)
    link([tables], [struct.pack("<f", 7)], tmp_path / "sources.so", handmade.TRIPLE)
    np.testing.assert_array_equal(load(tmp_path / "sources.so")(X), 2 * X + 7)
    assert archive is None or (tmp_path / "archive.so").read_bytes() == (tmp_path / "sources.so").read_bytes()


def test_the_archive_is_fresh_or_unused() -> None:
    archive = prebuilt_archive()
    if archive is not None:
        newest = max(f.stat().st_mtime for f in (handmade.RUNTIME / "src").iterdir())
        assert archive.stat().st_mtime >= newest


@pytest.mark.parametrize("name", ["linked.so", "object0.o", "weights.s", "layout.ld"])
def test_names_that_the_linker_uses_too(tmp_path: Path, tables: bytes, name: str) -> None:
    link([tables], [struct.pack("<f", 7)], tmp_path / name, handmade.TRIPLE)
    np.testing.assert_array_equal(load(tmp_path / name)(X), 2 * X + 7)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_empty_weights(tmp_path: Path) -> None:
    loop = handmade.compile_c(handmade.source("loop"), tmp_path)
    link([loop], [], tmp_path / "loop.so", handmade.TRIPLE)
    assert load(tmp_path / "loop.so")(4) == 10


def test_large_weights_keep_their_place(tmp_path: Path, tables: bytes) -> None:
    pieces = [struct.pack("<f", 3), *(bytes([i]) * 1_000_003 for i in range(20))]
    link([tables], pieces, tmp_path / "model.so", handmade.TRIPLE)
    data = (tmp_path / "model.so").read_bytes()
    assert data.count(b"".join(pieces)) == 1
    assert len(data) < 20_000_060 + 150_000
    np.testing.assert_array_equal(load(tmp_path / "model.so")(X), 2 * X + 3)


# ---- failures ----

def _leaves_untouched(out: Path, attempt: Callable[[], object], words: str,
                      kind: type[LeptonError] = LeptonError) -> None:
    """The attempt fails with these words; what was there stays, and nothing else appears."""
    out.write_bytes(b"precious")
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind, match=words):
        attempt()
    assert out.read_bytes() == b"precious"
    assert sorted(out.parent.iterdir()) == before


def test_linker_errors_leave_the_old_file(tmp_path: Path, tables: bytes) -> None:
    out = tmp_path / "model.so"
    broken = handmade.compile_c("int missing(void); int f(void) { return missing(); }", tmp_path)
    _leaves_untouched(out, lambda: link([tables, broken], [b"1"], out, handmade.TRIPLE),
                      "the linker failed(.|\n)*undefined reference to `missing'")
    _leaves_untouched(out, lambda: link([b"not an object"], [b"1"], out, handmade.TRIPLE), "the linker failed")


def test_interrupted_weights_leave_the_old_file(tmp_path: Path, tables: bytes,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "model.so"
    monkeypatch.setattr(weights_segment, "_write", full)
    _leaves_untouched(out, lambda: link([tables], [b"1234"], out, handmade.TRIPLE), "No space left on device",
                      ResourceError)


def _fake_compiler(folder: Path, script: str) -> str:
    (folder / "fakecc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "fakecc").chmod(0o755)
    return str(folder / "fakecc")


def test_a_full_disk_while_linking(tmp_path: Path, tables: bytes) -> None:
    cc = _fake_compiler(tmp_path, 'echo "ld: final link failed: No space left on device" >&2; exit 1')
    out = tmp_path / "model.so"
    _leaves_untouched(out, lambda: link([tables], [b"1"], out, handmade.TRIPLE, cc), "no space left", ResourceError)


def test_destinations_that_cannot_be(tmp_path: Path, tables: bytes) -> None:
    for out, words in ((tmp_path, "it is a folder"), (tmp_path / "nowhere" / "m.so", "there is no folder"),
                       (tmp_path / ("x" * 300), "File name too long"), (Path("/proc/m.so"), "cannot write /proc/m.so")):
        with pytest.raises(LeptonError, match=words):
            link([tables], [b"1"], out, handmade.TRIPLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path, tables: bytes) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LeptonError, match="no file can be made in"):
        link([tables], [b"1"], tmp_path / "m.so", handmade.TRIPLE)


def test_no_compiler(tmp_path: Path, tables: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LEPTON_CC", raising=False)
    monkeypatch.setattr(linking, "_zig", lambda arch: None)
    with pytest.raises(LeptonError, match=r"no C compiler for (.|\n)*pip install ziglang\), or set LEPTON_CC"):
        link([tables], [b"1"], tmp_path / "m.so", handmade.TRIPLE)
    monkeypatch.setattr(linking, "is_host", lambda triple: False)
    with pytest.raises(LeptonError, match=r"apt install gcc-aarch64-linux-gnu.*LEPTON_CC_AARCH64"):
        find_compiler("aarch64-unknown-linux-gnu")


def test_a_named_compiler_that_is_missing(tmp_path: Path, tables: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LeptonError, match="the option cc names the compiler 'nocc -x'"):
        link([tables], [b"1"], tmp_path / "m.so", handmade.TRIPLE, "nocc -x")
    monkeypatch.setenv("LEPTON_CC", "nocc")
    with pytest.raises(LeptonError, match="LEPTON_CC names the compiler 'nocc', which is not installed"):
        find_compiler(handmade.TRIPLE)


def test_a_named_compiler_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cc = _fake_compiler(tmp_path, "exit 0")
    monkeypatch.setenv("LEPTON_CC", f"{cc} --flag")
    assert find_compiler(handmade.TRIPLE) == [cc, "--flag"]
    assert find_compiler(handmade.TRIPLE, "sh") == ["sh"]


@pytest.mark.parametrize("size", [4, 4096, weights_segment.LARGE_WEIGHTS - 4, weights_segment.LARGE_WEIGHTS, 9_000_004])
def test_weights_lie_where_large_pages_can_be_mapped(tmp_path: Path, tables: bytes, size: int) -> None:
    """As far from a boundary of 2 MB in the file as in memory where they are large; no file is much longer for it."""
    path = tmp_path / "model.so"
    rest = b"\1" * (size - 4)
    link([tables], [struct.pack("<f", 3), *(rest[i:i + 1_234_567] for i in range(0, len(rest), 1_234_567))], path,
         handmade.TRIPLE)
    rows = [line.split() for line in _readelf(path, "-l").splitlines() if "LOAD" in line]
    offset, address, _, in_file, in_memory = (int(word, 16) for word in rows[-1][1:6])
    align = int(rows[-1][-1], 16)
    assert address % align == offset % align
    assert (align == weights_segment.LARGE_PAGE) == (size >= weights_segment.LARGE_WEIGHTS)
    assert in_file == in_memory == path.stat().st_size - lib.LPT_SEAL_SIZE - offset
    assert offset < 200_000
    np.testing.assert_array_equal(load(path)(X), 2 * X + 3)

