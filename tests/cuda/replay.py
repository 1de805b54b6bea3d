"""A pytest plugin: the CPU lowerings' own tests, their loop kernels run as CUDA text on the simulator.

    python -m pytest -p tests.cuda.replay tests/codegen/test_lower_map.py -k x86-avx2
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.target import Target
from lepton.ir.core import Value
from tests.codegen import harness
from tests.cuda.simulated import packed_copies, run_loop_kernel

on_cpu = harness.run_kernel
counts = {"simulated": 0, "left": 0}


def run_kernel(kernel: Kernel, places: Mapping[Value, harness.Placed], target: Target, env: Mapping[str, int]) -> None:
    if not isinstance(kernel.body, LoopBody):
        counts["left"] += 1
        on_cpu(kernel, places, target, env)
        return
    counts["simulated"] += 1
    constants = packed_copies(kernel)
    addresses = [constants[i].ctypes.data if isinstance(o, Packed) else places[o].address
                 for i, o in enumerate(kernel.operands)]
    run_loop_kernel(kernel, addresses, env)


harness.run_kernel = run_kernel


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"kernels: {counts}")
