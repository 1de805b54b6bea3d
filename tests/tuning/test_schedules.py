"""Schedules: their text, and that any of them gives the bits that the cost model's gives."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.codegen.group import LowerOptions
from lepton.codegen.schedule import FORMS, Choice, Schedule, Table
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.winograd import Winograd
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import ParseError
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, lower, run_node
from tests.codegen.test_conv import conv

rng = np.random.default_rng(1)
sizes = st.integers(1, 2**31 - 1)


@given(st.sampled_from(FORMS), st.lists(sizes, min_size=1, max_size=3), st.lists(sizes, min_size=1, max_size=3),
       st.sampled_from(("rows", "columns")))
def test_text_reads_back(form: str, tile: list[int], block: list[int], order: str) -> None:
    made = Schedule(form, tuple(tile), tuple(block), order if form == "gemm" else "")
    assert Schedule.parse(str(made)) == made


@pytest.mark.parametrize("text", [
    "", "gemm", "gemm tile 1x2 block 3x4", "direct tile 1x2x3 block 1x2x3 by rows", "odd tile 1 block 1",
    "depthwise tile 0 block 1", "depthwise tile 1 block 2147483648", "depthwise tile 1 block -1",
    "depthwise tile 1x block 1", "gemm tile 1x2 block 3x4 by rows ", "depthwise tile ١ block 1"])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ParseError, match="is no schedule"):
        Schedule.parse(text)


def matmul(m: int, k: int, n: int) -> tuple[Node, Value]:
    x = Value(TensorType(DType.F32, (m, k)))
    w = ops.constant(value=Tensor.of(rng.standard_normal((k, n)).astype(np.float32)))
    return ops.matmul.node(x, w), x


NODES: dict[str, Callable[[], tuple[Node, Value]]] = {
    "product": lambda: matmul(37, 50, 70), "one row": lambda: matmul(1, 64, 90), "narrow": lambda: matmul(80, 24, 3),
    "3x3": lambda: conv((2, 9, 11, 12), 40, (3, 3), pad=1), "1x1": lambda: conv((1, 6, 7, 16), 33, (1, 1)),
    "strided": lambda: conv((1, 13, 12, 5), 20, (3, 3), stride=2, pad=1),
    "planes": lambda: conv((1, 3, 12, 13), 20, (3, 3), pad=1, layout="nchw"),
    "depthwise": lambda: conv((1, 10, 15, 24), 24, (3, 3), pad=1, group=24)}


def recorded(node: Node, math: str = "strict") -> Choice:
    found: list[Choice] = []

    def choose(choice: Choice) -> Schedule:
        found.append(choice)
        return choice.model()

    lower(node, LowerOptions(TARGETS[HERE[-1]], math, choose=choose), {}, {})
    (choice,) = found
    return choice


@pytest.mark.parametrize("name", NODES)
def test_strict_answers_stay_the_same_bits(name: str) -> None:
    """Every candidate that tuning may take under strict math, against the cost model's."""
    node, x = NODES[name]()
    data = rng.standard_normal([d for d in x.tensor.shape if isinstance(d, int)]).astype(np.float32)
    choice = recorded(node)
    model = choice.model()
    found = [s for s in dict.fromkeys((*choice.others(), *choice.around(model))) if choice.legal(s) and s != model]
    assert choice.legal(model)
    assert len(found) >= 2

    def answer(schedule: Schedule) -> Array:
        (got,) = run_node(node, {x: data}, HERE[-1], math="strict", choose=lambda _: schedule, shares=3)
        return got

    want = answer(model)
    for schedule in rng.permutation(np.array(found, object))[:3]:
        assert {schedule.form} == {model.form}
        np.testing.assert_array_equal(answer(schedule).view(np.uint32), want.view(np.uint32), err_msg=str(schedule))


def test_winograd_is_tried_where_math_allows_it() -> None:
    """12x12x32 gains from it, 4x4x512 does not by the cost model but is worth a measurement."""
    for size, channels in ((12, 32), (7, 64)):
        node, _ = conv((1, size, size, channels), channels, (3, 3), pad=1)
        forms = {s.form for s in recorded(node, "default").others()}
        assert forms == {"direct", "winograd"}
        assert {s.form for s in recorded(node).others()} == {"direct"}
        assert recorded(node).key != recorded(node, "default").key


def test_a_table_decides() -> None:
    node, _ = conv((1, 12, 12, 32), 32, (3, 3), pad=1)
    choice = recorded(node, "default")
    direct = next(s for s in choice.others() if s.form == "direct")
    options = LowerOptions(TARGETS[HERE[-1]])
    assert isinstance(lower(node, options, {}, {}).body, Winograd)
    tabled = LowerOptions(TARGETS[HERE[-1]], choose=Table({choice.key: direct}))
    assert not isinstance(lower(node, tabled, {}, {}).body, Winograd)


@pytest.mark.parametrize("text", [
    "gemm tile 4x2 block 4x1 by rows", "direct tile 40x1x8 block 40x12x1", "direct tile 2x3x1 block 3x12x1",
    "winograd tile 30x4 block 1x1", "winograd tile 3x5 block 1x1", "depthwise tile 4 block 4"])
def test_impossible_schedules_are_left_to_the_cost_model(text: str) -> None:
    """A table may hold anything: what registers do not allow, or blocks that tiles do not fill, are not taken."""
    node, _ = conv((1, 12, 12, 32), 32, (3, 3), pad=1)
    choice = recorded(node, "default")
    assert not choice.legal(Schedule.parse(text))
    assert Table({choice.key: Schedule.parse(text)})(choice) == choice.model()


def test_open_sizes_have_no_key() -> None:
    node, _ = conv((sym("N"), 12, 12, 32), 32, (3, 3), pad=1)
    assert recorded(node).key == ""
    x = Value(TensorType(DType.F32, (sym("M"), 8)))
    w = ops.constant(value=Tensor.of(np.ones((8, 16), np.float32)))
    assert recorded(ops.matmul.node(x, w)).key == ""
