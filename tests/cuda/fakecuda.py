"""Whole artifacts without a GPU: a fake libcuda.so.1 (runtime_c/tests/fakecuda) whose kernels are the simulator's.

    with installed() as fake:
        lepton.compile_to(model, "m.so", target="cuda-sm90")
        lepton.load("m.so")(x)
"""
from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.source import prelude
from tests.cuda.simulated import COMPILER, FLAGS, folder, header

SOURCE = Path(__file__).parents[2] / "runtime_c" / "tests" / "fakecuda" / "fakecuda.cpp"
KERNEL = re.compile(r"LP_KERNEL\((\d+)[^)]*\) (\w+)\(([^)]*)\)")
GIB = 1 << 30


@dataclass(frozen=True)
class Counts:
    """What the fake driver holds and has done."""

    allocations: int
    bytes: int
    handles: int
    launches: int
    graph_launches: int
    early: int               # kernels that began before the one in front of them


class Fake:
    """The driver as a library: the one that models in this process find."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))

    def counts(self) -> Counts:
        row = (ctypes.c_longlong * 6)()
        self.library.fakecuda_counts(row)
        return Counts(*row)

    def set(self, capability: int = 90, devices: int = 1, memory: int = GIB) -> None:
        """What the next model finds: a device that is whole."""
        self.library.fakecuda_set(capability, devices, ctypes.c_size_t(memory))

    def mode(self, late: bool, seed: int) -> None:
        """How the simulator runs: asynchronous copies late or at once, orders drawn from `seed`."""
        self.library.fakecuda_mode(int(late), ctypes.c_ulonglong(seed))

    def fail(self, function: str, nth: int, result: int = 0) -> int:
        """Let the nth call of a function from now on give an error; nth 0: none. How many calls were still to come
        to the failure planned before: 0 or less where it happened."""
        self.library.fakecuda_fail.restype = ctypes.c_longlong
        return int(self.library.fakecuda_fail(function.encode(), ctypes.c_longlong(nth), result))

    # Device memory of a caller's own, as another library would have it.

    def allocate(self, data: bytes) -> int:
        pointer = ctypes.c_uint64()
        self.library.cuCtxPushCurrent_v2(self._context())
        assert self.library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(len(data))) == 0
        self.library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        ctypes.memmove(pointer.value or 0, data, len(data))
        return pointer.value or 0

    def free(self, pointer: int) -> None:
        self.library.cuCtxPushCurrent_v2(self._context())
        assert self.library.cuMemFree_v2(ctypes.c_uint64(pointer)) == 0
        self.library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _context(self) -> ctypes.c_void_p:
        context = ctypes.c_void_p()
        self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        return context


class OnDevice:
    """An array on the device, as CuPy has it."""

    def __init__(self, fake: Fake, data: Any, strides: tuple[int, ...] | None = None) -> None:
        self.fake, self.like = fake, data
        self.address = fake.allocate(data.tobytes())
        self.__cuda_array_interface__ = {"shape": data.shape, "typestr": data.dtype.str, "version": 3,
                                         "data": (self.address, False), "strides": strides}

    def numpy(self) -> Any:
        return np.frombuffer(ctypes.string_at(self.address, self.like.nbytes), self.like.dtype).reshape(self.like.shape)

    def __enter__(self) -> OnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.fake.free(self.address)


class FakeNvrtc:
    """Instead of cubins, names of libraries that hold the kernels for this CPU."""

    version = (0, 0)

    def compile(self, source: str, arch: str) -> nvrtc.Image:
        kernels = source.removeprefix(prelude("device.cuh"))
        assert len(kernels) < len(source)
        name = hashlib.sha256(kernels.encode()).hexdigest()[:24]
        kind = b".version 9.0\n.target " if arch.startswith("compute") else b"\x7fELF fake "
        image = kind + f"{arch} {name}".encode()
        build_kernels(kernels, name, arch, image)
        return nvrtc.Image(arch, image, "")


def build_kernels(kernels: str, name: str, arch: str, image: bytes) -> None:
    """NAME.so and NAME.image in the folder where the fake driver looks. Several processes may make them at a time."""
    library, shared = images() / f"{name}_{arch}.so", images() / f"{name}.lib"
    if library.exists():
        return
    own = images() / f"{name}.{os.getpid()}"
    if not shared.exists():
        source = own.with_suffix(f"{own.suffix}.cpp")
        source.write_text(f'#include "{header()}"\n{kernels}\n{trampolines(kernels)}')
        done = subprocess.run([str(COMPILER), *FLAGS, "-shared", str(source), "-o", str(own)],
                              capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr[:3000]
        source.unlink()
        os.replace(own, shared)
    # As the artifact has it: PTX is lowered and ends with a zero.
    own.write_bytes(nvrtc.lowered_ptx(image) if arch.startswith("compute") else image)
    os.replace(own, images() / f"{name}_{arch}.image")
    with suppress(FileExistsError):
        os.link(shared, library)


def trampolines(kernels: str) -> str:
    """`fake_kernels`: what the driver calls with a launch's arguments, all of which are 64-bit words."""
    texts, rows = [], []
    for threads, name, signature in KERNEL.findall(kernels):
        parameters = [p.strip() for p in signature.split(",")]
        pointers = [p.rpartition("*")[0] for p in parameters if "*" in p]
        words = [f"({kind} *)w[{i}]" for i, kind in enumerate(pointers)]
        words += [f"(i64)w[{i}]" for i in range(len(pointers), len(parameters))]
        texts.append(f"static void run_{name}(long long grid, int threads, size_t shared, const unsigned long *w) "
                     f"{{ lp_sim::launch(grid, threads, shared, [=] {{ {name}({', '.join(words)}); }}); }}")
        rows.append(f'{{"{name}", {threads}, {len(pointers)}, {len(parameters)}, run_{name}}}')
    return "\n".join([
        *texts, "struct Kernel { const char *name; int threads, n_pointers, n_words; "
        "void (*run)(long long, int, size_t, const unsigned long *); };",
        f'extern "C" const Kernel fake_kernels[] = {{{", ".join([*rows, "{0, 0, 0, 0, 0}"])}}};'])


@cache
def images() -> Path:
    made = folder() / "images"
    made.mkdir(exist_ok=True)
    return made


@cache
def fake_driver() -> Fake:
    path = folder() / "libfakecuda.so"
    subprocess.run([str(COMPILER), "-std=c++17", "-O1", "-fPIC", "-shared", "-w", str(SOURCE), "-o", str(path), "-ldl"],
                   check=True)
    return Fake(path)


@contextmanager
def installed() -> Iterator[Fake]:
    """Models that are compiled and loaded inside find the fake driver."""
    fake = fake_driver()
    fake.set()
    variables = {"LEPTON_LIBCUDA": str(fake.path), "LEPTON_FAKECUDA": str(images()),
                 "LEPTON_CUDA_CACHE": "0"}
    with mock.patch.dict(os.environ, variables), mock.patch.object(nvrtc, "nvrtc", FakeNvrtc):
        yield fake
    fake.set()
    gc.collect()  # models that are no longer used: their memory is the driver's
