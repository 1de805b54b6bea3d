"""A pytest plugin: the CPU lowerings' own tests with CUDA's lowerings, their kernels run on the simulator.

    python -m pytest -p tests.cuda.replay tests/codegen/test_lower_map.py -k x86-avx2
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lepton.codegen.cuda.lowering  # noqa: F401  (fills the family's lowerings)
from lepton.codegen.cuda.templates.text import DeviceBody
from lepton.codegen.group import Group, LowerOptions, group_of, lowering_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.target import Target
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array
from tests.codegen import harness, running
from tests.cuda.simulated import CUDA, packed_copies, run_on_simulator

on_cpu, called_on_cpu, compiled_for_cpu = harness.run_kernel, running._call, running.compile_kernel
counts = {"simulated": 0, "left": 0}


def lower(group: Group, options: LowerOptions) -> Kernel:
    """With CUDA's lowering, where that gives a kernel for GPUs."""
    lowering = lowering_of(group.anchor.op if group.anchor is not None else None, CUDA)
    assert lowering is not None
    kernel = lowering(group, replace(options, target=CUDA))
    if isinstance(kernel.body, LoopBody | DeviceBody):
        counts["simulated"] += 1
        return kernel
    counts["left"] += 1
    return lowering(group, options)


def lower_node(node: Node, options: LowerOptions, layouts: Mapping[Value, running.Layout],
               env: Mapping[str, int]) -> Kernel:
    def access(value: Value) -> Access:
        type = value.tensor
        return Access(type, layouts[value].strides if value in layouts else dense_strides(type.shape))

    return lower(group_of(node, access), options)


def run_kernel(kernel: Kernel, places: Mapping[Value, harness.Placed], target: Target, env: Mapping[str, int]) -> None:
    if not isinstance(kernel.body, LoopBody | DeviceBody):
        on_cpu(kernel, places, target, env)
        return
    if kernel.before is not None:
        places = {**places, **harness.room_of(kernel.before, env)}
        run_kernel(kernel.before, places, target, env)
    constants = packed_copies(kernel)
    addresses = [constants[i].ctypes.data if isinstance(o, Packed) else places[o].address
                 for i, o in enumerate(kernel.operands)]
    run_on_simulator(kernel, addresses, env)


def compile_kernel(kernel: Kernel, target: Target) -> Any:
    return None if isinstance(kernel.body, LoopBody | DeviceBody) else compiled_for_cpu(kernel, target)


def call(code: harness.Code | None, kernel: Kernel, arrays: Sequence[Array], starts: Sequence[int],
         env: Mapping[str, int], shares: int) -> None:
    if code is not None:
        called_on_cpu(code, kernel, arrays, starts, env, shares)
        return
    run_on_simulator(kernel, [a.ctypes.data + s for a, s in zip(arrays, starts, strict=True)], env)


harness.run_kernel, harness.lower = run_kernel, lower
running.compile_kernel, running._call, running.lower = compile_kernel, call, lower_node


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"kernels: {counts}")
