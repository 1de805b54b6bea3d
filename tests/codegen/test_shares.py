"""How many tasks kernels are cut into, and how many a thread must get."""
from __future__ import annotations

import pytest

from lepton.codegen.group import LowerOptions
from lepton.codegen.lower.matmul_cost import worth_tasks
from lepton.codegen.target import TARGETS
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.types import DType, TensorType
from tests.codegen.running import Layout, lower


def shares(rows: int) -> int:
    """Threads that a product of `rows` x 128 x 128 keeps busy."""
    a, b = Value(TensorType(DType.F32, (rows, 128))), Value(TensorType(DType.F32, (128, 128)))
    kernel = lower(ops.matmul.node(a, b), LowerOptions(TARGETS["x86-avx512"]), {}, {})
    assert isinstance(kernel.tasks, int)
    assert isinstance(kernel.grain, int)
    return kernel.tasks // kernel.grain


@pytest.mark.parametrize(("mega", "tasks"), [(0.1, 0), (1, 1), (1.5, 2), (6, 4), (12, 4), (30, 10)])
def test_small_kernels_make_up_to_four_tasks(mega: float, tasks: int) -> None:
    assert worth_tasks(int(mega * 1e6)) == tasks


def test_products_of_five_microseconds_occupy_two_threads() -> None:
    assert shares(8) == 1
    assert shares(64) >= 2


@pytest.mark.parametrize(("strides", "shared"), [((3, 1), False), ((1, 32768), True)])
def test_scattered_elements_are_shared_earlier(strides: tuple[int, int], shared: bool) -> None:
    """100 000 elements side by side take a few microseconds, scattered ones six times as long."""
    x = Value(TensorType(DType.F32, (32768, 3)))
    kernel = lower(ops.neg.node(x), LowerOptions(TARGETS["x86-avx512"]), {x: Layout(strides, 0, 3 * 32768)}, {})
    assert isinstance(kernel.tasks, int)
    assert isinstance(kernel.grain, int)
    assert (kernel.tasks // kernel.grain > 1) == shared
