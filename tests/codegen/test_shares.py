"""How many tasks kernels are cut into, and how many a thread must get."""
from __future__ import annotations

import numpy as np
import pytest

from lepton.codegen.group import LowerOptions
from lepton.codegen.lower.matmul_cost import Problem, gemm_schedule, uneven, worth_tasks
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.winograd import Winograd
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.types import DType, TensorType
from tests.codegen.running import lower
from tests.codegen.test_conv import conv


def shares(rows: int) -> int:
    """Threads that a product of `rows` x 128 x 128 keeps busy."""
    a, b = Value(TensorType(DType.F32, (rows, 128))), Value(TensorType(DType.F32, (128, 128)))
    kernel = lower(ops.matmul.node(a, b), LowerOptions(TARGETS["x86-avx512"]), {}, {})
    assert isinstance(kernel.tasks, int)
    assert isinstance(kernel.grain, int)
    return kernel.tasks // kernel.grain


@pytest.mark.parametrize(("mega", "tasks"), [(0.1, 0), (0.3, 1), (0.6, 2), (6, 4), (12, 4), (30, 10)])
def test_small_kernels_make_up_to_four_tasks(mega: float, tasks: int) -> None:
    assert worth_tasks(int(mega * 1e6)) == tasks


def test_products_of_three_microseconds_occupy_two_threads() -> None:
    assert shares(4) == 1
    assert shares(32) >= 2


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512"])
@pytest.mark.parametrize(("rows", "columns", "depth"), [
    (3136, 24, 144), (784, 32, 192), (196, 96, 576), (49, 160, 960), (49, 320, 960), (3136, 128, 64), (100, 384, 384)])
def test_products_come_out_even_on_two_threads(target: str, rows: int, columns: int, depth: int) -> None:
    """Layers of mobile networks, whose natural numbers of tasks are 5 and 7: the tasks of one thread are at most a
    sixteenth more than half of the work."""
    problem = Problem((), rows, columns, depth, (depth, 1), (columns, 1), [(columns, 1)], np.zeros((1, 1)))
    schedule = gemm_schedule(TARGETS[target], problem, DType.F32)
    block, panels = (n for n in schedule.block if isinstance(n, int))
    width = schedule.tile[1] * TARGETS[target].lanes(DType.F32)
    heights = [min(block, rows - start) for start in range(0, rows, block)]
    widths = [min(panels * width, columns - start) for start in range(0, columns, panels * width)]
    loads = [0, 0]
    for work in sorted((high * wide for high in heights for wide in widths), reverse=True):
        loads[loads.index(min(loads))] += work
    assert max(loads) <= rows * columns * 9 / 16


@pytest.mark.parametrize(("blocks", "share"), [
    ((1,), 1 / 3 + 3 / 6), ((2,), 1 / 6), ((4,), 0), ((3,), 1 / 9 + 1 / 18), ((2, 2), 0), ((1.5, 2), 1 / 18),
    ((70,), 0)])
def test_what_waiting_threads_add(blocks: tuple[float, ...], share: float) -> None:
    assert uneven(*blocks) == pytest.approx(share)


def test_so_many_tasks_that_nobody_waits_are_not_listed() -> None:
    assert uneven(1e13, 1e13, 0.5) == 0     # a product of millions of small matrices: the list took gigabytes


@pytest.mark.parametrize(("size", "channels", "filters"), [(56, 128, 32), (28, 128, 32), (14, 128, 32), (14, 96, 96),
                                                           (28, 64, 96)])
def test_winograd_has_work_for_two_threads(size: int, channels: int, filters: int) -> None:
    node, _ = conv((1, size, size, channels), filters, (3, 3), pad=1)
    kernel = lower(node, LowerOptions(TARGETS["x86-avx512"]), {}, {})
    assert isinstance(kernel.body, Winograd)
    assert isinstance(kernel.tasks, int)
    assert kernel.tasks >= 8 or kernel.tasks % 2 == 0


@pytest.mark.parametrize(("elements", "tasks"), [(32768, 1), (65536, 2), (98304, 4), (2**20, 32)])
def test_elementwise_work_of_two_microseconds_is_shared_evenly(elements: int, tasks: int) -> None:
    x = Value(TensorType(DType.F32, (elements,)))
    kernel = lower(ops.neg.node(x), LowerOptions(TARGETS["x86-avx512"]), {}, {})
    assert kernel.tasks == tasks
    assert kernel.grain == (2 if tasks == 4 else 1)
