"""As much of the CUDA driver as it takes to run single kernels from Python, by ctypes."""
from __future__ import annotations

import ctypes as c
import os
from collections.abc import Sequence

from lepton.ir.diagnostics import LeptonError

MAJOR, MINOR, DYNAMIC_SHARED, WITHOUT_ASKING = 75, 76, 8, 48 * 1024


class Device:
    """The first GPU. Raises LeptonError with the driver's words for whatever it refuses."""

    def __init__(self) -> None:
        try:
            self.lib = c.CDLL(os.environ.get("LEPTON_LIBCUDA") or "libcuda.so.1")
        except OSError as error:
            raise LeptonError(f"there is no CUDA driver ({error})") from error
        context, device, major, minor = c.c_void_p(), c.c_int(), c.c_int(), c.c_int()
        self("cuInit", 0)
        self("cuDeviceGet", c.byref(device), 0)
        self("cuDeviceGetAttribute", c.byref(major), MAJOR, device)
        self("cuDeviceGetAttribute", c.byref(minor), MINOR, device)
        self("cuDevicePrimaryCtxRetain", c.byref(context), device)
        self("cuCtxPushCurrent_v2", context)
        self.capability = 10 * major.value + minor.value
        self._blocks: list[int] = []
        self._modules: list[c.c_void_p] = []

    def __call__(self, name: str, *arguments: object) -> None:
        code = getattr(self.lib, name)(*arguments)
        if code:
            words = c.c_char_p()
            self.lib.cuGetErrorString(code, c.byref(words))
            raise LeptonError(f"{name}: {(words.value or b'?').decode()}")

    def function(self, image: bytes, name: bytes, shared: int) -> c.c_void_p:
        """A kernel of an image, until `free_all`."""
        module, function = c.c_void_p(), c.c_void_p()
        self("cuModuleLoadDataEx", c.byref(module), image, 0, None, None)
        self._modules.append(module)
        self("cuModuleGetFunction", c.byref(function), module, name)
        if shared > WITHOUT_ASKING:
            self("cuFuncSetAttribute", function, DYNAMIC_SHARED, shared)
        return function

    def allocate(self, size: int) -> int:
        pointer = c.c_uint64()
        self("cuMemAlloc_v2", c.byref(pointer), c.c_size_t(max(size, 1)))
        self._blocks.append(pointer.value)
        return pointer.value

    def put(self, start: int, size: int) -> int:
        """A copy of host memory."""
        there = self.allocate(size)
        if size:
            self("cuMemcpyHtoDAsync_v2", c.c_uint64(there), c.c_void_p(start), c.c_size_t(size), None)
        return there

    def get(self, start: int, there: int, size: int) -> None:
        if size:
            self("cuMemcpyDtoHAsync_v2", c.c_void_p(start), c.c_uint64(there), c.c_size_t(size), None)
            self("cuStreamSynchronize", None)

    def launch(self, function: c.c_void_p, grid: int, threads: int, shared: int, words: Sequence[int]) -> None:
        """Run it with 64-bit arguments, and wait."""
        values = [c.c_uint64(w % (1 << 64)) for w in words]
        parameters = (c.c_void_p * len(values))(*(c.addressof(v) for v in values))
        self("cuLaunchKernel", function, grid, 1, 1, threads, 1, 1, shared, None, parameters, None)
        self("cuStreamSynchronize", None)

    def free_all(self) -> None:
        for block in self._blocks:
            self("cuMemFree_v2", c.c_uint64(block))
        for module in self._modules:
            self("cuModuleUnload", module)
        self._blocks.clear()
        self._modules.clear()
