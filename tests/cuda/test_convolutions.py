"""Depthwise and transposed convolutions for CUDA, on the simulator."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from lepton.codegen.cuda.templates.depthwise import Depthwise
from lepton.codegen.cuda.templates.transposed import PhasedProduct
from lepton.codegen.llvm.spell import LoopBody
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen import harness
from tests.cuda.checking import check, constant, random
from tests.cuda.simulated import COMPILER

pytestmark = [
    pytest.mark.usefixtures("on_simulator"),
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]

SAME = {"pads_begin": (1, 1), "pads_end": (1, 1)}
# layout, shape, kernel, filters of a channel, attributes
DEPTHWISE: list[tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = [
    ("nhwc", (2, 7, 9, 24), (3, 3), 1, SAME),
    ("nhwc", (1, 9, 10, 13), (3, 3), 1, {"strides": (2, 2), **SAME}),         # channels that fill no run
    ("nhwc", (1, 8, 9, 6), (3, 5), 3, {"strides": (1, 3), "pads_end": (2, 1)}),
    ("nhwc", (1, 12, 14, 8), (3, 3), 1, {"dilations": (2, 3)}),
    ("nhwc", (1, 30, 5), (21,), 1, {"pads_begin": (20,)}),                     # a line of taps too long to hold
    ("nhwc", (1, 4, 5, 6, 16), (2, 3, 3), 1, {"pads_begin": (1, 1, 0)}),
    ("nchw", (2, 5, 7, 11), (3, 3), 1, SAME),
    ("nchw", (1, 3, 6, 9), (1, 4), 2, {"strides": (1, 2)}),
]


def attributes(rank: int, given: dict[str, Any]) -> dict[str, Any]:
    return {"strides": (1,) * rank, "dilations": (1,) * rank, "pads_begin": (0,) * rank, "pads_end": (0,) * rank,
            **given}


def some(cases: list[Any], *quick: tuple[int, DType], more: tuple[DType, ...] = (DType.F32, DType.F16)) -> list[Any]:
    """Every case with every type; all but a few are slow."""
    return [pytest.param(case, dtype, id=f"{i}-{dtype.value}", marks=[] if (i, dtype) in quick else pytest.mark.slow)
            for i, case in enumerate(cases) for dtype in more]


@pytest.mark.parametrize(("case", "dtype"), some(
    DEPTHWISE, (0, DType.F16), (1, DType.F32), (2, DType.F32), (6, DType.F32), more=(DType.F32, DType.F16, DType.F64)))
def test_depthwise(case: Any, dtype: DType) -> None:
    layout, shape, kernel, per, given = case
    x, channels = harness.value(shape, dtype), shape[1 if layout == "nchw" else -1]
    w, b = constant(random((channels * per, 1, *kernel), dtype)), constant(random((channels * per,), dtype))
    node = ops.conv.node(x, w, b, layout=layout, group=channels, **attributes(len(kernel), given))
    check(node, {x: random(shape, dtype)}, Depthwise, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_depthwise_of_any_size_and_place() -> None:
    x = harness.value((1, sym("h"), 9, 8))
    node = ops.conv.node(x, constant(random((8, 1, 3, 3))), None, layout="nhwc", group=8, **attributes(2, SAME))
    for high in (0, 1, 6):
        check(node, {x: random((1, high, 9, 8))}, Depthwise, env={"h": high}, rtol=2e-5, atol=2e-5)
    x = harness.value((1, 5, 9, 8))
    node = ops.conv.node(x, constant(random((8, 1, 3, 3))), None, layout="nhwc", group=8, **attributes(2, SAME))
    for layout in (harness.gaps, harness.reversed_axes, harness.backwards):
        check(node, {x: random((1, 5, 9, 8))}, Depthwise, rtol=2e-5, atol=2e-5,
              layouts={x: layout, node.results[0]: layout})


TRANSPOSED: list[tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = [
    ("nhwc", (2, 5, 4, 16), (2, 2), 12, {"strides": (2, 2)}),
    ("nhwc", (1, 4, 5, 8), (3, 3), 5, {"strides": (2, 2), **SAME, "output_padding": (1, 0)}),
    ("nhwc", (1, 4, 5, 16), (4, 3), 8, {"strides": (2, 1), "pads_begin": (1, 0), "pads_end": (0, 2)}),
    ("nhwc", (1, 4, 4, 8), (3, 3), 8, {"strides": (2, 3), "dilations": (2, 2)}),    # phases that nothing meets
    ("nhwc", (1, 3, 3, 8), (1, 2), 8, {"strides": (3, 3)}),
    ("nhwc", (1, 4, 3, 32), (3, 3), 16, {"strides": (2, 2), "group": 2}),
    ("nchw", (1, 6, 9), (4,), 3, {"strides": (2,)}),
    ("nchw", (1, 4, 2, 3, 2), (2, 3, 2), 4, {"strides": (2, 2, 1)}),
]


@pytest.mark.parametrize(("case", "dtype"), some(TRANSPOSED, (1, DType.F32), (2, DType.F16), (3, DType.F32)))
def test_transposed(case: Any, dtype: DType) -> None:
    layout, shape, kernel, filters, given = case
    rank, group = len(kernel), given.get("group", 1)
    x, channels = harness.value(shape, dtype), shape[1 if layout == "nchw" else -1]
    w, b = constant(random((channels, filters // group, *kernel), dtype)), constant(random((filters,), dtype))
    more = {"output_padding": (0,) * rank, "group": 1, **attributes(rank, given)}
    node = ops.conv_transpose.node(x, w, b, layout=layout, **more)
    check(node, {x: random(shape, dtype)}, PhasedProduct, rtol=2e-5, atol=2e-5)


def test_transposed_keeps_what_is_infinite_apart() -> None:
    """Phases with fewer taps than others multiply nothing by zeros."""
    x = harness.value((1, 3, 3, 4))
    data = random((1, 3, 3, 4))
    data[0, 1, 1, 0] = np.inf
    node = ops.conv_transpose.node(x, constant(random((4, 3, 3, 3))), None, layout="nhwc", group=1,
                                   output_padding=(0, 0), **attributes(2, {"strides": (2, 2)}))
    check(node, {x: data}, PhasedProduct, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_transposed_of_any_size_and_place() -> None:
    x = harness.value((1, sym("h"), 3, 8))
    node = ops.conv_transpose.node(x, constant(random((8, 8, 3, 3))), None, layout="nhwc", group=1,
                                   output_padding=(0, 0), **attributes(2, {"strides": (2, 2)}))
    for high in (1, 5):
        check(node, {x: random((1, high, 3, 8))}, PhasedProduct, env={"h": high}, rtol=2e-5, atol=2e-5)
    x = harness.value((1, 4, 3, 8))
    node = ops.conv_transpose.node(x, constant(random((8, 8, 3, 3))), None, layout="nhwc", group=1,
                                   output_padding=(0, 0), **attributes(2, {"strides": (2, 2)}))
    check(node, {x: random((1, 4, 3, 8))}, PhasedProduct, rtol=2e-5, atol=2e-5,
          layouts={x: harness.gaps, node.results[0]: harness.reversed_axes})


@pytest.mark.slow
def test_groups_of_few_filters_stay_loops() -> None:
    x = harness.value((1, 4, 4, 6))
    node = ops.conv_transpose.node(x, constant(random((6, 1, 2, 2))), None, layout="nhwc", group=6,
                                   output_padding=(0, 0), **attributes(2, {"strides": (2, 2)}))
    check(node, {x: random((1, 4, 4, 6))}, LoopBody, rtol=2e-5, atol=2e-5)
