"""Whole translation units: the prelude and kernels, for NVRTC or for the simulator."""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

COMMON = ("math.cuh", "ops.cuh", "block.cuh", "order.cuh", "product.cuh", "moves.cuh", "depthwise.cuh", "tensor.cuh",
          "warpgroup.cuh", "attention.cuh")
MACHINES = {"device.cuh": ("device.cuh",), "sim.hpp": ("sim.hpp", "sim_cores.hpp")}


@cache
def prelude(machine: str) -> str:
    """What stands before kernels. `machine`: "device.cuh" (NVRTC) or "sim.hpp" (g++)."""
    folder = files("lepton.codegen.cuda") / "prelude"
    return "".join((folder / name).read_text(encoding="utf-8") for name in (*MACHINES[machine], *COMMON))


def device_source(kernels: Sequence[str]) -> str:
    """CUDA C for NVRTC."""
    return prelude("device.cuh") + "\n" + "\n".join(kernels)


def simulator_source(kernels: Sequence[str]) -> str:
    """C++17 for a CPU."""
    return prelude("sim.hpp") + "\n" + "\n".join(kernels)
