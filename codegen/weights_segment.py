"""Weights behind a linked library, as a read-only segment of the file: no assembler and no linker carries them.

The library is linked with a placeholder, a segment of its own behind all others. Its row in the table of segments is
made to tell of bytes behind the end of what the linker wrote, and those are written in the same go.
"""
from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from lepton._rt import ffi, lib

# Weights from here on lie as far from a boundary of 2 MB in memory as in the file. Linux can then map the file's large
# pages as they are: in a tenth of the time that small ones take, and reading them needs fewer entries of the TLB.
LARGE_PAGE = 1 << 21
LARGE_WEIGHTS = 2 * LARGE_PAGE

Piece = bytes | bytearray | memoryview

LOAD, CONTENT = 1, 1              # a segment that is mapped; a section with bytes in the file
TABLES = struct.Struct("<32xQQ6xHHHH")                # where segments and sections are told of, and how many there are
SEGMENT = struct.Struct("<IIQQQQQQ")                  # kind flags offset address - bytes memory alignment
SECTION = struct.Struct("<IIQQQQIIQQ")                # name kind flags address offset bytes ...


def append_weights(linked: Path, weights: Iterable[Piece], to: Path, steering: int = 0) -> None:
    """Write `to`: the library `linked` whose last segment holds these weights, and behind it a seal, whose head ends
    with the `steering` first bytes of the weights (lepton_seal.h). Raises OSError."""
    library, pieces = bytearray(linked.read_bytes()), list(weights)
    size = sum(map(len, pieces))
    place = _point_behind(library, size) if size else len(library)
    with open(to, "x+b", buffering=LARGE_PAGE) as file:
        _write(file, [library, bytes(place - len(library)), *pieces])
        file.flush()
        file.write(seal(file.fileno(), place + steering))
    shutil.copymode(linked, to)


def seal(fd: int, head: int) -> bytes:
    """What the file lacks at its end, of which `head` bytes are looked at whenever it is loaded. Raises OSError."""
    made = ffi.new("uint8_t[]", lib.LPT_SEAL_SIZE)
    if not lib.lpt_seal(fd, head, made):
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return bytes(made)


def _point_behind(library: bytearray, size: int) -> int:
    """Let the library's last segment and its section be `size` bytes behind its end; where exactly. Raises ValueError
    where the linker laid it out otherwise."""
    segments, sections, width, count, section_width, section_count = TABLES.unpack_from(library)
    rows = [(segments + i * width, SEGMENT.unpack_from(library, segments + i * width)) for i in range(count)]
    at, (_, flags, _, address, physical, _, _, align) = max(
        (row for row in rows if row[1][0] == LOAD), key=lambda row: row[1][3])
    align = max(align, LARGE_PAGE if size >= LARGE_WEIGHTS else 1)
    place: int = len(library) + (address - len(library)) % align
    SEGMENT.pack_into(library, at, LOAD, flags, place, address, physical, size, size, align)
    for where in range(sections, sections + section_width * section_count, section_width):
        row = SECTION.unpack_from(library, where)
        if row[1] == CONTENT and row[3] == address:
            SECTION.pack_into(library, where, *row[:4], place, size, *row[6:])
            return place
    raise ValueError("the last segment does not begin with the weights' section")


def _write(file: BinaryIO, pieces: Sequence[Piece]) -> None:
    """In blocks from one boundary of LARGE_PAGE to the next, the size of the file's buffer: Linux keeps a file in
    pages as large as the blocks it was written in."""
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest):
            room = LARGE_PAGE - file.tell() % LARGE_PAGE
            file.write(rest[:room])
            rest = rest[room:]
