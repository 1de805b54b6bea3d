"""What NVRTC has made, kept on disk: the same source for the same architecture is not compiled again.

A file holds a SHA-256 of what follows it, the length of NVRTC's log, the log and the image. It is written beside its
place and renamed into it, so that readers find all of it or nothing; one that does not hold what it says is made anew.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lepton.codegen.cuda.nvrtc import Image, Nvrtc

VARIABLE = "LEPTON_CUDA_CACHE"
LIMIT = 512 << 20  # bytes of all files; what was not used for longest goes first
_HEAD = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Cache:
    """Images in a folder, which is made when the first one comes."""

    folder: Path
    limit: int = LIMIT

    def find(self, key: str, arch: str) -> Image | None:
        """None: there is none, or it is damaged."""
        path = self.folder / key
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head, rest = data[:_HEAD], data[_HEAD:]
        if hashlib.sha256(rest).digest() != head:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        end = 8 + int.from_bytes(rest[:8], "little")
        return Image(arch, rest[end:], rest[8:end].decode())

    def keep(self, key: str, image: Image) -> None:
        """As far as the disk lets us: without, the next compile takes its time."""
        log = image.log.encode()
        rest = len(log).to_bytes(8, "little") + log + image.data
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as own:
                path = Path(own) / key
                path.write_bytes(hashlib.sha256(rest).digest() + rest)
                os.replace(path, self.folder / key)
            self.shrink()
        except OSError:
            return

    def shrink(self) -> None:
        """Remove what was not used for longest, until the rest fits the limit."""
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self.folder)
                 if entry.is_file()]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                return
            with contextlib.suppress(FileNotFoundError):  # another process has done so
                os.unlink(path)
            total -= size


def cache() -> Cache | None:
    """The one that LEPTON_CUDA_CACHE names: a folder; "0": none; unset: one in the user's folder of caches."""
    named = os.environ.get(VARIABLE, "")
    if named == "0":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Cache(Path(named) if named else home / "lepton" / "cuda")


def key_of(library: Nvrtc, source: str, arch: str) -> str:
    """All that decides what comes out, as a file's name: the library, its options and the source."""
    parts = (str(library.version), str(library.size), *library.words(arch), source)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def image_of(library: Nvrtc, source: str, arch: str, where: Cache | None) -> Image:
    """Compiled now or before. Raises NvrtcError."""
    if where is None:
        return library.compile(source, arch)
    key = key_of(library, source, arch)
    found = where.find(key, arch)
    if found is None:
        found = library.compile(source, arch)
        where.keep(key, found)
    return found
