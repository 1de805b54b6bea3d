"""Nodes lowered for CUDA and run on the simulator, late and early, against what they mean."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import lepton.codegen.cuda.lowering
from lepton.codegen.group import Group, LowerOptions, lowering_of
from lepton.codegen.kernel import Kernel, Packed
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda.simulated import CUDA, packed_copies, run_on_simulator

assert lepton.codegen.cuda.lowering
rng = np.random.default_rng(3)
TURNS: list[float] = []
BODIES: list[Any] = []


@pytest.fixture
def on_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness with CUDA's lowerings; each kernel runs with late and with early copies."""
    def lower(group: Group, options: LowerOptions) -> Kernel:
        lowering = lowering_of(group.anchor.op if group.anchor else None, CUDA)
        assert lowering is not None
        return lowering(group, options)

    def run(kernel: Kernel, places: Mapping[Value, harness.Placed], target: Target, env: Mapping[str, int]) -> None:
        if kernel.before is not None:
            places = {**places, **harness.room_of(kernel.before, env)}
            run(kernel.before, places, target, env)
        constants = packed_copies(kernel)
        addresses = [constants[i].ctypes.data if isinstance(o, Packed) else places[o].address
                     for i, o in enumerate(kernel.operands)]
        BODIES.append(kernel.body)
        found: list[bytes] = []
        for late, seed in ((True, 1), (False, 2)):
            TURNS.append(run_on_simulator(kernel, addresses, env, late, seed))
            found.append(b"".join(places[v].view.tobytes() for v in kernel.writes))
        assert found[0] == found[1], "results depend on when copies happen or on the order of threads"

    monkeypatch.setattr(harness, "lower", lower)
    monkeypatch.setattr(harness, "run_kernel", run)


def check(node: Node, arrays: Mapping[Value, Array], kind: type, **more: Any) -> None:
    """The node on the simulator against its meaning; `kind`: of the kernel's body."""
    harness.check_node(node, arrays, CUDA, **more)
    assert isinstance(BODIES[-1], kind), BODIES[-1]


def random(shape: tuple[int, ...], dtype: DType = DType.F32) -> Array:
    return (rng.standard_normal(shape) * 0.5).astype(dtype.numpy)


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def node_of(v: Value) -> Node:
    assert v.producer is not None
    return v.producer
