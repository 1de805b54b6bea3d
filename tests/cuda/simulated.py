"""Run kernels on the simulator: their CUDA text through g++."""
from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from lepton.codegen.cuda.source import prelude
from lepton.codegen.cuda.spell import Geometry, ScratchIn, Spelled, spell
from lepton.codegen.cuda.templates.text import DeviceBody
from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.target import CUDA_TARGETS
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import evaluate
from lepton.ir.tensor import Array

CUDA = CUDA_TARGETS["cuda-sm90"]
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-w")
BLOCKS = 7  # a grid smaller than most numbers of tasks, so that blocks take several


@cache
def folder() -> Path:
    """Where what is compiled lies, until this process ends; children that it forks share it."""
    path, owner = Path(tempfile.mkdtemp(prefix="lepton-sim-")), os.getpid()
    atexit.register(lambda: remove_folder() if os.getpid() == owner else None)
    return path


def remove_folder() -> None:
    """What is compiled goes, if anything was: 40 MB. pytest's workers end without running what `atexit` has."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)


@cache
def header() -> Path:
    """The prelude, compiled once."""
    path = folder() / "prelude.hpp"
    path.write_text(prelude("sim.hpp"))
    subprocess.run([str(COMPILER), *FLAGS, "-x", "c++-header", str(path), "-o", f"{path}.gch"], check=True)
    return path


def library(text: str, before: str | None = None) -> ctypes.CDLL:
    """The kernels, compiled. `before`: in place of the prelude."""
    name = hashlib.sha256((text + (before or "")).encode()).hexdigest()[:20]
    path = folder() / f"{name}.so"
    if not path.exists():
        source = folder() / f"{name}.cpp"
        source.write_text(f'#include "{header()}"\n{text}' if before is None else before + text)
        done = subprocess.run([str(COMPILER), *FLAGS, "-shared", str(source), "-o", f"{path}.tmp"],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr[:3000] + "\n" + text)
        os.rename(f"{path}.tmp", path)
    return ctypes.CDLL(str(path))


def launcher(geometry: Geometry, parameters: int) -> str:
    """A C function that takes all arguments as 64-bit words and runs the grid."""
    return (f'extern "C" void run(long long grid, void **words) {{ lp_sim::launch(grid, {geometry.threads}, '
            f"{geometry.shared_bytes}, [=] {{ lp_call(words); }}); }}\n")


def call_text(signature: str, symbol: str) -> str:
    """`lp_call`: the kernel with its arguments from an array of words."""
    parts = [p.strip() for p in signature.split(",")]
    words = []
    for i, part in enumerate(parts):
        kind, star, _ = part.rpartition("*")
        words.append(f"({kind} *)words[{i}]" if star else f"(i64)words[{i}]")
    return f"static void lp_call(void **words) {{ {symbol}({', '.join(words)}); }}\n"


def spelled_of(kernel: Kernel, symbol: str) -> Spelled:
    """Its CUDA text. Raises UnsupportedError where there is none."""
    match kernel.body:
        case LoopBody(loop):
            return spell(loop, symbol, kernel.scratch)
        case DeviceBody() as body:
            return body.emit_cuda(symbol, CUDA)
    raise UnsupportedError(f"{kernel.name}: no CUDA kernel ({type(kernel.body).__name__})")


def run_on_simulator(kernel: Kernel, addresses: list[int], env: Mapping[str, int], late: bool = True,
                     seed: int = 1, planted: Callable[[str], str] | None = None) -> float:
    """All tasks of a kernel on operands at these addresses. `late`: asynchronous copies happen when waited for.

    `planted` changes the text of the prelude and of the kernel. Gives the turns that shared memory takes for a tensor
    core's read of eight rows: 1 where no banks collide."""
    spelled = spelled_of(kernel, "k")
    text, before = spelled.text, None
    if planted is not None:
        text, before = planted(text), planted(prelude("sim.hpp"))
        before = None if before == prelude("sim.hpp") else before
    signature = spelled.text[spelled.text.index(" k(") + 3:spelled.text.index(") {")]
    geometry = spelled.geometry
    code = library(text + call_text(signature, "k") + launcher(geometry, signature.count(",") + 1), before)
    tasks = evaluate(kernel.tasks, env)
    grid = max(1, min(BLOCKS, -(-tasks // geometry.tasks_per_block)))
    stride = -(-evaluate(kernel.scratch, env) // 64) * 64
    room = np.full(grid * stride + 64 if geometry.scratch is ScratchIn.GLOBAL else 0, 0xFF, np.uint8)
    start = -(-room.ctypes.data // 64) * 64 if room.size else 0
    words = [*addresses, start, stride, *(evaluate(d, env) for d in kernel.dims), tasks]
    array = (ctypes.c_void_p * len(words))(*(w % (1 << 64) for w in words))
    code.lp_sim_mode(int(late), ctypes.c_ulonglong(seed))
    code.run(ctypes.c_longlong(grid), array)
    code.lp_sim_turns.restype = ctypes.c_double
    return float(code.lp_sim_turns())


def packed_copies(kernel: Kernel) -> dict[int, Array]:
    """Constant operands by position, in memory that lives as long as the result."""
    return {i: np.ascontiguousarray(o.array) for i, o in enumerate(kernel.operands) if isinstance(o, Packed)}


__all__ = ["COMPILER", "Value", "library", "packed_copies", "run_on_simulator", "spelled_of"]
