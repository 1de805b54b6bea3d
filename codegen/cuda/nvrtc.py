"""NVRTC by ctypes: CUDA C -> cubin or PTX, without a GPU or a driver.

The library comes in the wheel nvidia-cuda-nvrtc (extra `cuda`) or with a CUDA toolkit. Sources: NVIDIA's NVRTC
documentation, https://docs.nvidia.com/cuda/nvrtc/.
"""
from __future__ import annotations

import ctypes as c
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lepton.ir.diagnostics import NotInstalledError, UsageError

HELP = "pip install 'lepton-compiler[cuda]', or set LEPTON_NVRTC to libnvrtc.so of a CUDA 12.9 or 13 toolkit"


# Compute capability times 10, and the PTX version that knows it: https://docs.nvidia.com/cuda/parallel-thread-execution/
FIRST_PTX = ((120, "8.7"), (100, "8.6"), (0, "8.0"))


@dataclass(frozen=True, slots=True)
class Image:
    """Code for one architecture."""

    arch: str            # "sm_90a"; PTX: "compute_80"
    data: bytes
    log: str


class NvrtcError(Exception):
    """NVRTC refused a source that this compiler wrote: a bug of ours. `log` is what it said."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.log = log


class Nvrtc:
    """A loaded library. Thread-safe: every program is its own."""

    def __init__(self, path: Path) -> None:
        # Some wheels' libnvrtc has no RPATH and does not find its other half by itself.
        for part in path.parent.glob("libnvrtc-builtins.so.*"):
            c.CDLL(str(part), c.RTLD_GLOBAL)
        self.lib = c.CDLL(str(path))
        self.path = path
        self.lib.nvrtcGetErrorString.restype = c.c_char_p
        major, minor = c.c_int(), c.c_int()
        self._check(self.lib.nvrtcVersion(c.byref(major), c.byref(minor)))
        self.version = (major.value, minor.value)
        self.size = path.stat().st_size  # tells releases of a version apart

    def _check(self, code: int) -> None:
        if code:
            raise NvrtcError(self.lib.nvrtcGetErrorString(code).decode())

    def archs(self) -> list[int]:
        """The compute capabilities it compiles for, such as 90."""
        count = c.c_int()
        self._check(self.lib.nvrtcGetNumSupportedArchs(c.byref(count)))
        found = (c.c_int * count.value)()
        self._check(self.lib.nvrtcGetSupportedArchs(found))
        return list(found)

    def compile(self, source: str, arch: str, *, contract: bool = True, options: tuple[str, ...] = ()) -> Image:
        """`arch`: "sm_90a" for a cubin, "compute_80" for PTX. `contract`: a * b + c may become one fma.

        Raises NvrtcError with the log."""
        program = c.c_void_p()
        self._check(self.lib.nvrtcCreateProgram(c.byref(program), source.encode(), b"lepton.cu", 0, None, None))
        try:
            words = [*self.words(arch, contract), *options]
            code = self.lib.nvrtcCompileProgram(program, len(words), (c.c_char_p * len(words))(
                *(w.encode() for w in words)))
            log = self._text(program, "ProgramLog")
            if code:
                raise NvrtcError(log or self.lib.nvrtcGetErrorString(code).decode())
            kind = "PTX" if arch.startswith("compute") else "CUBIN"
            return Image(arch, self._bytes(program, kind), log)
        finally:
            self.lib.nvrtcDestroyProgram(c.byref(program))

    @staticmethod
    def words(arch: str, contract: bool = True) -> list[str]:
        """The options."""
        return [f"--gpu-architecture={arch}", "--std=c++17", f"--fmad={'true' if contract else 'false'}",
                "--extra-device-vectorization", "--ptxas-options=--verbose"]

    def _bytes(self, program: c.c_void_p, kind: str) -> bytes:
        size = c.c_size_t()
        self._check(getattr(self.lib, f"nvrtcGet{kind}Size")(program, c.byref(size)))
        data = c.create_string_buffer(size.value)
        self._check(getattr(self.lib, f"nvrtcGet{kind}")(program, data))
        return data.raw

    def _text(self, program: c.c_void_p, kind: str) -> str:
        return self._bytes(program, kind).rstrip(b"\0").decode(errors="replace")


def lowered_ptx(ptx: bytes) -> bytes:
    """PTX says which assembler it needs; a driver older than NVRTC refuses what it could well take. So it says the
    first one that knows its target, but 8.0, which takes what kernels are written in."""
    target = re.search(rb"^\.target \w+_(\d+)", ptx, re.MULTILINE)
    assert target is not None
    version = next(v for first, v in FIRST_PTX if int(target[1]) >= first)
    return re.sub(rb"^\.version .*$", b".version " + version.encode(), ptx, count=1, flags=re.MULTILINE)


@cache
def nvrtc() -> Nvrtc:
    """The library. Raises NotInstalledError where there is none, UsageError where it cannot be loaded."""
    for path in _candidates():
        if path.exists():
            try:
                return Nvrtc(path)
            except OSError as error:
                raise UsageError(f"cannot load {path}: {error}", help=HELP) from error
    raise NotInstalledError("compiling for CUDA needs NVRTC, which is not installed", help=HELP)


def _candidates() -> list[Path]:
    given = os.environ.get("LEPTON_NVRTC")
    if given:
        return [Path(given)]
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    found = [lib for folder in folders for part in ("cu13", "cu14", "cuda_nvrtc")
             for lib in sorted((folder / part / "lib").glob("libnvrtc.so.*"))
             if "builtins" not in lib.name and ".alt" not in lib.name]
    roots = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    return [*found, *(Path(r) / "lib64" / "libnvrtc.so" for r in roots if r)]
