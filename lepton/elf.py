"""Is this file a whole compiled model for this machine? Answered before any of its code is mapped."""
from __future__ import annotations

import os
import platform
import struct
from typing import NoReturn

from lepton._rt import ffi, lib
from lepton.ir.diagnostics import LeptonError

MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm", 243: "riscv"}
HERE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
SHARED_OBJECT, DYNAMIC_SYMBOLS, NO_BITS = 3, 11, 8
HEADER = 64


def check_artifact(fd: int, path: str) -> None:
    """Raises LeptonError unless the open file is a whole shared library for this machine with lepton_query, whose code
    and tables are as they were written.

    Reads them without mapping the file: unmapping would cost more than all the rest. Where its checksums hold, the
    file is whole; where they do not, its headers tell more precisely why."""
    try:
        header, damage = os.pread(fd, HEADER, 0), lib.lpt_damage(fd, False)
    except OSError as e:
        _refuse(path, f"it cannot be read: {e.strerror}")
    if damage != ffi.NULL:
        _check_parts(fd, header, path)
        _refuse(path, f"it {ffi.string(damage).decode()}")
    _check_header(header, path)


def _check_parts(fd: int, header: bytes, path: str) -> None:
    size = os.fstat(fd).st_size
    if len(header) < HEADER:
        _refuse(path, "it is not a shared library (too short)")
    _check_header(header, path)
    _check_segments(fd, header, size, path)
    if b"lepton_query" not in _dynamic_names(fd, header, size, path):
        _refuse(path, "it is a shared library but no compiled model: it has no lepton_query")


def check_weights(fd: int, path: str) -> None:
    """Raises LeptonError unless the checksum of the file's weights holds too."""
    damage = lib.lpt_damage(fd, True)
    if damage != ffi.NULL:
        _refuse(path, f"it {ffi.string(damage).decode()}")


def _refuse(path: str, why: str) -> NoReturn:
    raise LeptonError(f"cannot load {path}: {why}")


def _check_header(header: bytes, path: str) -> None:
    if header[:4] != b"\x7fELF":
        _refuse(path, "it is not a shared library")
    bits, order = header[4], header[5]
    kind, machine = struct.unpack_from("<HH", header, 16)
    if (bits, order) != (2, 1) or MACHINES.get(machine) != HERE:
        _refuse(path, f"it was compiled for {MACHINES.get(machine, f'machine {machine}')}, this is {HERE}")
    if kind != SHARED_OBJECT:
        _refuse(path, "it is an ELF file but not a shared library")


def _check_segments(fd: int, header: bytes, size: int, path: str) -> None:
    start, width, count = struct.unpack_from("<Q14xHH", header, 32)
    if width != 56 or start + width * count > size:
        _refuse(path, "it is damaged or truncated (program headers)")
    for offset, length in struct.iter_unpack("<8xQ16xQ16x", os.pread(fd, width * count, start)):
        if offset + length > size:
            _refuse(path, f"it is truncated: {size} bytes, at least {offset + length} are needed")


def _dynamic_names(fd: int, header: bytes, size: int, path: str) -> set[bytes]:
    """The names of the dynamic symbols that are defined here."""
    start, = struct.unpack_from("<Q", header, 40)
    width, count = struct.unpack_from("<HH", header, 58)
    if not count or width != 64 or start + width * count > size:
        _refuse(path, "it is damaged or truncated (section headers)")
    # Of each section: kind, offset, size, and the number of the section that it goes with.
    rows = list(struct.iter_unpack("<4xI16xQQI20x", os.pread(fd, width * count, start)))
    for kind, offset, length, _ in rows:
        if kind != NO_BITS and offset + length > size:
            _refuse(path, "it is damaged or truncated (sections)")
    for kind, offset, length, strings in rows:
        if kind == DYNAMIC_SYMBOLS and strings < count and rows[strings][0] != NO_BITS:
            return _names(os.pread(fd, length // 24 * 24, offset), os.pread(fd, rows[strings][2], rows[strings][1]))
    return set()


def _names(symbols: bytes, strings: bytes) -> set[bytes]:
    names = set()
    for place, section in struct.iter_unpack("<I2xH16x", symbols):
        if section and place < len(strings):
            end = strings.find(b"\0", place)
            names.add(strings[place:end if end >= 0 else None])
    return names
