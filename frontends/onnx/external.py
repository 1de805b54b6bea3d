"""External data: weights in files beside the model, reachable only beneath the model's folder.

A model is not trusted to name files. Each component of a location is opened relative to the folder's descriptor
without following links; what is opened is then checked on the descriptor itself, so that nothing can be
swapped between the check and the use. Refused: absolute paths, `..`, links of both kinds, everything but regular files.
Past mistakes of other loaders that this avoids: CVE-2022-25882, CVE-2024-27318, CVE-2026-34445, -34446, -34447.
"""
from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lepton.frontends.onnx.limits import MAX_INT64
from lepton.ir.diagnostics import LeptonError
from lepton.ir.mapped import mapped

_FOLLOW_NOTHING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KEYS = {"location", "offset", "length", "checksum", "basepath"}


@dataclass(frozen=True, slots=True)
class Region:
    """Which bytes of which file a tensor's elements are."""

    location: str
    offset: int
    length: int


@dataclass(slots=True)
class Folder:
    """The folder of a model, and the files in it that were mapped so far."""

    path: Path | None
    files: dict[str, memoryview] = field(default_factory=dict)

    def view(self, region: Region, where: str) -> memoryview:
        """The bytes of `region`, mapped. Raises LeptonError."""
        if region.location not in self.files:
            self.files[region.location] = _map(self.path, region.location, where)
        data = self.files[region.location]
        if region.offset + region.length > len(data):
            raise LeptonError(
                f"external data of {where}: bytes {region.offset} to {region.offset + region.length} of "
                f"'{region.location}', which has {len(data)}",
                help="the weight file belongs to another model or is cut off")
        return data[region.offset:region.offset + region.length]


def region(entries: Mapping[str, str], nbytes: int, where: str) -> Region:
    """The region that a tensor's `external_data` names. Raises LeptonError unless it has exactly `nbytes`."""
    if unknown := entries.keys() - _KEYS:
        raise LeptonError(f"external data of {where}: unknown key {min(unknown)!r}")
    if not entries.get("location"):
        raise LeptonError(f"external data of {where}: no location")
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries.get("length", str(nbytes)), "length", where)
    if length != nbytes:
        raise LeptonError(f"external data of {where}: {length} bytes, but its type needs {nbytes}")
    return Region(entries["location"], offset, length)


def _number(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_INT64):
        raise LeptonError(f"external data of {where}: {key} {text[:40]!r} is not a number of bytes")
    return int(text)


def _components(location: str, where: str) -> list[str]:
    if location.startswith("/") or "\\" in location or "\0" in location or location[1:2] == ":":
        raise LeptonError(f"external data of {where}: '{location}' is not a plain relative path")
    parts = [p for p in location.split("/") if p not in ("", ".")]
    if not parts or ".." in parts:
        raise LeptonError(f"external data of {where}: '{location}' leaves the model's folder")
    return parts


def _map(folder: Path | None, location: str, where: str) -> memoryview:
    parts = _components(location, where)
    if folder is None:
        raise LeptonError(f"external data of {where}: a model in memory has no folder to look for '{location}' in",
                          help="load the model from its file")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            below = os.open(part, _FOLLOW_NOTHING | (0 if last else os.O_DIRECTORY), dir_fd=at)
            os.close(at)
            at = below
        return _map_descriptor(at, location, where)
    except OSError as error:
        raise LeptonError(f"external data of {where}: '{location}' cannot be opened: {error.strerror}",
                          help="it must be a regular file beneath the model's folder, not a link") from error
    finally:
        os.close(at)


def _map_descriptor(fd: int, location: str, where: str) -> memoryview:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise LeptonError(f"external data of {where}: '{location}' is not a regular file")
    if status.st_nlink != 1:
        raise LeptonError(f"external data of {where}: '{location}' has {status.st_nlink} hard links",
                          help="copy the file, so that it is the model's own")
    return mapped(fd, status.st_size)
