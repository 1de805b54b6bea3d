"""A pytest plugin: kernels of the lowerings' tests run on the GPU, where they otherwise run on a CPU or the simulator.

    python -m pytest -p benchmarks.cuda.replay -n0 tests/codegen/test_lower_map.py -k x86-avx2

Operands are copied to the device and back, so what the tests check of memory they do not own is checked too; reads
outside are for compute-sanitizer to find.
"""
from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks.cuda.driver import Device
from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.source import device_source
from lepton.codegen.cuda.spell import ScratchIn
from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.target import Target
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import evaluate
from lepton.ir.tensor import Array
from tests.codegen import harness
from tests.cuda import simulated

ARCHS = {8: "sm_80", 9: "sm_90a", 12: "sm_120"}
on_cpu = harness.run_kernel
copies_of_packed = simulated.packed_copies
memory: list[weakref.ref[Any]] = []
counts = {"on the GPU": 0, "left to the CPU": 0}


@cache
def device() -> Device:
    return Device()


class Recorded(harness.Guarded):
    """The harness's memory, which can be found by an address in it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        memory.append(weakref.ref(self.bytes))


def packed_copies(kernel: Kernel) -> dict[int, Array]:
    made = copies_of_packed(kernel)
    memory.extend(weakref.ref(array) for array in made.values())
    return made


def part_of(address: int) -> tuple[int, int]:
    """Start and size of the recorded memory that the address lies in or at the end of."""
    for reference in reversed(memory):
        array = reference()
        if array is not None and array.ctypes.data <= address <= array.ctypes.data + array.nbytes:
            return array.ctypes.data, array.nbytes
    return address, 0


def run_on_device(kernel: Kernel, addresses: list[int], env: Mapping[str, int], *_: Any, **__: Any) -> float:
    """As `simulated.run_on_simulator`."""
    spelled = simulated.spelled_of(kernel, "k")
    gpu = device()
    arch = ARCHS[gpu.capability // 10]
    image = nvrtc.nvrtc().compile(device_source([spelled.text]), arch).data
    function = gpu.function(image, b"k", spelled.geometry.shared_bytes)
    parts = {part_of(a) for a in addresses}
    there = {start: gpu.put(start, size) for start, size in parts}
    tasks, stride = evaluate(kernel.tasks, env), -(-evaluate(kernel.scratch, env) // 256) * 256
    grid = max(1, min(1024, -(-tasks // spelled.geometry.tasks_per_block)))
    room = gpu.allocate(grid * stride) if spelled.geometry.scratch is ScratchIn.GLOBAL else 0
    words = [*(there[part_of(a)[0]] + a - part_of(a)[0] for a in addresses), room, stride,
             *(evaluate(d, env) for d in kernel.dims), tasks]
    gpu.launch(function, grid, spelled.geometry.threads, spelled.geometry.shared_bytes, words)
    for start, size in parts:
        gpu.get(start, there[start], size)
    gpu.free_all()
    counts["on the GPU"] += 1
    return 1.0


def run_kernel(kernel: Kernel, places: Mapping[Value, harness.Placed], target: Target, env: Mapping[str, int]) -> None:
    try:
        simulated.spelled_of(kernel, "k")
    except UnsupportedError:
        counts["left to the CPU"] += 1
        on_cpu(kernel, places, target, env)
        return
    if kernel.before is not None:
        places = {**places, **harness.room_of(kernel.before, env)}
        run_kernel(kernel.before, places, target, env)
    constants = packed_copies(kernel)
    run_on_device(kernel, [constants[i].ctypes.data if isinstance(o, Packed) else places[o].address
                           for i, o in enumerate(kernel.operands)], env)


harness.Guarded = Recorded  # type: ignore[misc]
harness.run_kernel = run_kernel
simulated.run_on_simulator = run_on_device
simulated.packed_copies = packed_copies


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"kernels: {counts}")
