"""Targets: rows of a table. Nothing else in the compiler asks which machine it compiles for."""
from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache

from lepton.ir.diagnostics import UsageError
from lepton.ir.types import DType

# Bits of lpt_program.cpu_features; the same list stands in runtime_c/src/internal.h.
SSE42, AVX2_FMA, AVX512, AVX512_VNNI = 1 << 0, 1 << 1, 1 << 2, 1 << 3
AVX512_BF16, AMX, AVX_VNNI, F16C = 1 << 4, 1 << 5, 1 << 6, 1 << 7
NEON, NEON_DOTPROD = 1 << 16, 1 << 17

X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"


@dataclass(frozen=True, slots=True)
class Target:
    """What code generation needs to know of a machine."""

    name: str
    triple: str
    cpu: str                  # LLVM's name for it
    features: str             # LLVM's feature string on top of `cpu`
    vector_bytes: int         # widest vector that is used
    vector_registers: int
    fma: bool                 # fused multiply-add in hardware; without it llvm.fma becomes library calls
    masks: bool               # cheap masked loads and stores
    needs: int                # cpu_features bits
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    family: str = "cpu"       # cpu | cuda
    arch: str = ""            # cuda: the image that NVRTC makes, such as "sm_90a"
    ptx: str = ""             # cuda: PTX that goes with it, for later devices
    dots: str = "pairs"       # how bytes are multiplied (templates/dots.py)
    tf32: bool = False        # cuda: three products of tf32 are faster than one of f32
    warpgroups: bool = False  # cuda: four warps multiply what lies in shared memory (wgmma)
    float8: bool = False      # products of 8-bit floats in hardware
    early: bool = False       # cuda: kernels may begin before those in front of them end (griddepcontrol)
    bf16: bool = False        # products of pairs of bf16 in hardware
    tiles: bool = False       # products of tiles of 16 rows of 64 bytes (AMX)

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in one vector."""
        return self.vector_bytes // dtype.bytes

    @property
    def is_x86(self) -> bool:
        return self.triple == X86


TARGETS: dict[str, Target] = {t.name: t for t in (
    Target("x86-sse4", X86, "x86-64-v2", "", 16, 16, False, False, SSE42, l2_bytes=256 * 1024),
    Target("x86-avx2", X86, "x86-64-v3", "", 32, 16, True, True, SSE42 | AVX2_FMA | F16C, l2_bytes=512 * 1024),
    Target("x86-avxvnni", X86, "x86-64-v3", "+avxvnni", 32, 16, True, True, SSE42 | AVX2_FMA | F16C | AVX_VNNI,
           l2_bytes=1280 * 1024, dots="bytes"),
    Target("x86-avx512", X86, "skylake-avx512", "-prefer-256-bit", 64, 32, True, True,
           SSE42 | AVX2_FMA | F16C | AVX512),
    Target("x86-avx512vnni", X86, "cascadelake", "-prefer-256-bit", 64, 32, True, True,
           SSE42 | AVX2_FMA | F16C | AVX512 | AVX512_VNNI, dots="bytes"),
    Target("x86-avx512bf16", X86, "cooperlake", "-prefer-256-bit", 64, 32, True, True,
           SSE42 | AVX2_FMA | F16C | AVX512 | AVX512_VNNI | AVX512_BF16, dots="bytes", bf16=True),
    Target("x86-amx", X86, "sapphirerapids", "-prefer-256-bit", 64, 32, True, True,
           SSE42 | AVX2_FMA | F16C | AVX512 | AVX512_VNNI | AVX512_BF16 | AMX, l2_bytes=2048 * 1024,
           dots="bytes", bf16=True, tiles=True),
    Target("aarch64-neon", ARM, "generic", "+neon", 16, 32, True, False, NEON, l2_bytes=512 * 1024,
           dots="single"),
    Target("aarch64-dotprod", ARM, "generic", "+neon,+dotprod", 16, 32, True, False, NEON | NEON_DOTPROD,
           l2_bytes=512 * 1024, dots="signed"),
)}

# GPUs: `triple` and what follows describe the host, whose code holds the tables and the shape function.
CUDA_TARGETS: dict[str, Target] = {t.name: t for t in (
    Target(name, X86, "x86-64-v3", "", 32, 16, True, True, SSE42 | AVX2_FMA | F16C, family="cuda", arch=arch,
           ptx=ptx, tf32=tf32, warpgroups=arch == "sm_90a", float8=arch != "sm_80", early=arch != "sm_80")
    for name, arch, ptx, tf32 in (("cuda-sm80", "sm_80", "compute_80", True), ("cuda-sm90", "sm_90a", "", True),
                                  ("cuda-sm120", "sm_120", "compute_120", False))
)}


@cache
def host_features() -> int:
    """The cpu_features bits of this machine, as LLVM sees it."""
    from llvmlite import binding as llvm

    has = llvm.get_host_cpu_features()
    if platform.machine() in ("aarch64", "arm64"):
        return NEON | (NEON_DOTPROD if has.get("dotprod") else 0)
    rows = (
        (SSE42, ("sse4.2", "popcnt")), (AVX2_FMA, ("avx2", "fma", "bmi", "bmi2")),
        (AVX512, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")), (AVX512_VNNI, ("avx512vnni",)),
        (AVX512_BF16, ("avx512bf16",)), (AMX, ("amx-tile", "amx-bf16", "amx-int8")), (AVX_VNNI, ("avxvnni",)),
        (F16C, ("f16c",)),
    )
    found = sum(bit for bit, names in rows if all(has.get(name) for name in names))
    return found if found & AMX == 0 or _may_use_tiles() else found & ~AMX


def _may_use_tiles() -> bool:
    """Ask Linux for the tile registers, for the whole process; some systems and containers refuse."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def runs_here(target: Target) -> bool:
    return target.needs & ~host_features() == 0


@cache
def native() -> Target:
    """The best row of the table that this machine can run."""
    return next(t for t in reversed(TARGETS.values()) if runs_here(t))


def parse_targets(text: str) -> tuple[Target, ...]:
    """`x86-avx2,native` -> rows, best first (GPUs before CPUs), each once. Raises UsageError."""
    found = []
    known = {**TARGETS, **CUDA_TARGETS}
    for name in (part.strip() for part in text.split(",")):
        if name != "native" and name not in known:
            raise UsageError(f"unknown target {name!r}", help=f"known: native, {', '.join(known)}")
        found.append(native() if name == "native" else known[name])
    if len({t.triple for t in found}) > 1:
        raise UsageError("targets of several architectures cannot share an artifact", help="compile one file for each")
    order = list(known.values())
    return tuple(sorted(dict.fromkeys(found), key=order.index, reverse=True))
