"""A program's device code: its kernels as one translation unit, how each is launched, and the images NVRTC makes."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.cache import cache, image_of
from lepton.codegen.cuda.source import device_source
from lepton.codegen.cuda.spell import Geometry, ScratchIn, Spelled, spell
from lepton.codegen.kernel import Body, Kernel
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.program import Program
from lepton.codegen.target import Target
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim

CUBIN, CUBIN_EXACT, PTX = 0, 1, 2  # lpt_image_kind of runtime_c/src/internal.h


@runtime_checkable
class CudaBody(Protocol):
    """A kernel body that writes CUDA C itself: a template."""

    def emit_cuda(self, symbol: str, target: Target) -> Spelled:
        """`symbol` as a `__global__` function of the kernel ABI (lpt_cuda_kernel in runtime_c/src/internal.h)."""


@dataclass(frozen=True, slots=True)
class DeviceKernel:
    """A kernel as it is launched: a row of lpt_program.kernels."""

    symbol: str
    geometry: Geometry
    n_operands: int
    n_dims: int
    early: bool              # may be launched before what is in front of it ends

    @property
    def has_scratch(self) -> bool:
        """Whether its blocks are given device memory to work in."""
        return self.geometry.scratch is ScratchIn.GLOBAL


@dataclass(frozen=True, slots=True)
class Image:
    """The kernels for one kind of device: a row of lpt_program.images."""

    kind: int
    arch: int                # compute capability times 10
    data: bytes              # a cubin, or PTX ended by a zero


@dataclass(frozen=True, eq=False)
class DeviceCode:
    """All of a program's kernels."""

    texts: tuple[str, ...]               # one for each kernel
    kernels: tuple[DeviceKernel, ...]
    steps: tuple[int, ...]               # per step: its kernel; -1 for other steps
    images: tuple[Image, ...] = ()
    resources: dict[str, dict[str, int]] | None = None  # per symbol, of the cubin: registers, spills, stack

    @property
    def source(self) -> str:
        return device_source(self.texts)

    def facts(self) -> dict[str, Any]:
        """For the artifact's metadata and `inspect`."""
        kinds = {CUBIN: "cubin", CUBIN_EXACT: "cubin, this one alone", PTX: "PTX"}
        return {
            "images": [{"arch": i.arch, "kind": kinds[i.kind], "bytes": len(i.data)} for i in self.images],
            "kernels": [{"name": k.symbol, "threads": k.geometry.threads, "shared": k.geometry.shared_bytes,
                         **(self.resources or {}).get(k.symbol, {})} for k in self.kernels],
        }


def device_code(program: Program, target: Target) -> DeviceCode:
    """Spell every distinct kernel once. Raises UnsupportedError for a kernel that only CPUs can run."""
    known: dict[tuple[Body, Dim], int] = {}
    texts: list[str] = []
    kernels: list[DeviceKernel] = []
    steps: list[int] = []
    for step in program.steps:
        kernel = step.kernel
        if kernel is None:
            steps.append(-1)
            continue
        key = kernel.body, kernel.scratch
        if key not in known:
            known[key] = len(kernels)
            symbol = f"k{len(kernels)}_{kernel.name}"
            spelled = _spelled(kernel, symbol, target)
            texts.append(spelled.text)
            kernels.append(DeviceKernel(symbol, spelled.geometry, len(kernel.operands), len(kernel.dims),
                                        target.early))
        steps.append(known[key])
    return DeviceCode(tuple(texts), tuple(kernels), tuple(steps))


def _spelled(kernel: Kernel, symbol: str, target: Target) -> Spelled:
    match kernel.body:
        case LoopBody(loop):
            return spell(loop, symbol, kernel.scratch)
        case CudaBody() as body:
            return body.emit_cuda(symbol, target)
    raise UnsupportedError(f"{kernel.name}: there is no CUDA kernel for it yet ({type(kernel.body).__name__})",
                           help="compile for a CPU target")


def compiled(code: DeviceCode, target: Target) -> DeviceCode:
    """With images: a cubin for the target and, where the target has one, PTX for devices to come.

    Raises UsageError where NVRTC is missing."""
    if not code.kernels:
        return code
    library, kept = nvrtc.nvrtc(), cache()
    cubin = image_of(library, code.source, target.arch, kept)
    exact = target.arch.endswith("a")
    images = [Image(CUBIN_EXACT if exact else CUBIN, _capability(target.arch), cubin.data)]
    if target.ptx:
        text = nvrtc.lowered_ptx(image_of(library, code.source, target.ptx, kept).data)
        images.append(Image(PTX, _capability(target.ptx), text.rstrip(b"\0") + b"\0"))
    return DeviceCode(code.texts, code.kernels, code.steps, tuple(images), resources(cubin.log))


def _capability(arch: str) -> int:
    return int(arch.rpartition("_")[2].rstrip("a"))


def resources(log: str) -> dict[str, dict[str, int]]:
    """What ptxas says of each kernel."""
    found: dict[str, dict[str, int]] = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = part.split("'", 2)[1]
        counts = {key: int(m[1]) for key, pattern in _RESOURCES.items() if (m := re.search(pattern, part))}
        found[name] = counts
    return found


_RESOURCES = {"registers": r"Used (\d+) registers", "stack": r"(\d+) bytes stack frame",
              "spills": r"(\d+) bytes spill stores"}


def rows(code: DeviceCode, text: Sequence[str]) -> list[str]:
    """lpt_cuda_kernel rows as LLVM constants; `text` are pointers to the kernels' names."""
    made = []
    for kernel, name in zip(code.kernels, text, strict=True):
        g = kernel.geometry
        made.append(f"%lpt_cuda_kernel {{ ptr {name}, i32 {g.threads}, i32 {g.tasks_per_block}, i32 {g.shared_bytes}, "
                    f"i32 {g.max_blocks}, i32 {kernel.n_operands}, i32 {kernel.n_dims}, i32 {int(kernel.has_scratch)}, "
                    f"i32 {int(kernel.early)} }}")
    return made
