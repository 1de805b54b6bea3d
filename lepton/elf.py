"""Is this file a compiled model for this machine? Answered before any of its code is mapped."""
from __future__ import annotations

import mmap
import os
import platform
import struct
from pathlib import Path
from typing import NoReturn

from lepton.ir.diagnostics import LeptonError

MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm", 243: "riscv"}
SHARED_OBJECT, DYNAMIC_SYMBOLS, NO_BITS = 3, 11, 8


def check_artifact(fd: int, path: Path) -> None:
    """Raises LeptonError unless the open file is a whole shared library for this machine with lepton_query."""
    size = os.fstat(fd).st_size
    if size < 64:
        _refuse(path, "it is not a shared library (too short)")
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as data:
        if data[:4] != b"\x7fELF":
            _refuse(path, "it is not a shared library")
        _check_header(data, path)
        _check_segments(data, path)
        if b"lepton_query" not in _dynamic_names(data, path):
            _refuse(path, "it is a shared library but no compiled model: it has no lepton_query")


def _refuse(path: Path, why: str) -> NoReturn:
    raise LeptonError(f"cannot load {path}: {why}")


def _check_header(data: mmap.mmap, path: Path) -> None:
    bits, order = data[4], data[5]
    kind, machine = struct.unpack_from("<HH", data, 16)
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    if (bits, order) != (2, 1) or MACHINES.get(machine) != here:
        _refuse(path, f"it was compiled for {MACHINES.get(machine, f'machine {machine}')}, this is {here}")
    if kind != SHARED_OBJECT:
        _refuse(path, "it is an ELF file but not a shared library")


def _check_segments(data: mmap.mmap, path: Path) -> None:
    start, width, count = struct.unpack_from("<Q14xHH", data, 32)
    if width != 56 or start + width * count > len(data):
        _refuse(path, "it is damaged or truncated (program headers)")
    for i in range(count):
        offset, = struct.unpack_from("<Q", data, start + i * width + 8)
        length, = struct.unpack_from("<Q", data, start + i * width + 32)
        if offset + length > len(data):
            _refuse(path, f"it is truncated: {len(data)} bytes, at least {offset + length} are needed")


def _dynamic_names(data: mmap.mmap, path: Path) -> set[bytes]:
    """The names of the dynamic symbols that are defined here."""
    start, = struct.unpack_from("<Q", data, 40)
    width, count = struct.unpack_from("<HH", data, 58)
    if not count or width != 64 or start + width * count > len(data):
        _refuse(path, "it is damaged or truncated (section headers)")
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * width) for i in range(count)]
    for row in rows:
        if row[1] != NO_BITS and row[4] + row[5] > len(data):
            _refuse(path, "it is damaged or truncated (sections)")
    for row in rows:
        if row[1] == DYNAMIC_SYMBOLS and row[6] < count:
            return _names(data, row[4], row[5] // 24, rows[row[6]])
    return set()


def _names(data: mmap.mmap, start: int, count: int, strings: tuple[int, ...]) -> set[bytes]:
    base, end = strings[4], strings[4] + strings[5]
    names = set()
    for i in range(count):
        name, _info, _other, section = struct.unpack_from("<IBBH", data, start + 24 * i)
        if section and base + name < end:
            stop = data.find(b"\0", base + name, end)
            names.add(data[base + name:stop if stop >= 0 else end])
    return names
