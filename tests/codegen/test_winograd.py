"""Winograd's convolution: sizes that do and do not fill its tiles, borders, placement, and the rounding it adds."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton.codegen.group import LowerOptions
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.winograd import Winograd
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, inside, lower, run_node
from tests.codegen.test_conv import conv, meaning

rng = np.random.default_rng(5)


def error(node: Node, x: Value, data: Array, target: str, **given: Any) -> float:
    """Largest difference from the meaning, against the largest result."""
    (got,) = run_node(node, {x: data}, target, **given)
    want = meaning(node, data)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def random(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("size", "channels", "filters", "pad"), [
    ((16, 16), 16, 32, 1), ((15, 18), 20, 33, 1), ((17, 14), 16, 70, 0), ((15, 21), 35, 16, 1), ((14, 14), 64, 64, 1)])
def test_shapes(target: str, size: tuple[int, int], channels: int, filters: int, pad: int) -> None:
    node, x = conv((2, *size, channels), filters, (3, 3), pad=pad)
    assert isinstance(lower(node, LowerOptions(TARGETS[target]), {}, {}).body, Winograd)
    assert error(node, x, random(2, *size, channels), target, shares=3) < 1e-5


@pytest.mark.parametrize(("size", "channels", "chosen"), [
    (7, 512, False), (5, 64, False), (8, 64, True), (10, 32, True), (12, 256, True), (13, 64, True), (28, 16, True),
    (14, 8, False)])
def test_chosen_where_it_wins(size: int, channels: int, chosen: bool) -> None:
    """Few tiles do not pay for the transform of the filters; a quarter of the multiplications pays for wasted pixels.
    Measured: 0.98 of the direct form's speed at 7x7x512, 1.2 to 2.8 times it where it is chosen."""
    node, _ = conv((1, size, size, channels), channels, (3, 3), pad=1)
    assert isinstance(lower(node, LowerOptions(TARGETS[HERE[-1]]), {}, {}).body, Winograd) is chosen


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (13, 13), (12, 10)])
def test_few_tiles(size: tuple[int, int]) -> None:
    node, x = conv((1, *size, 24), 40, (3, 3), pad=1)
    assert isinstance(lower(node, LowerOptions(TARGETS[HERE[-1]]), {}, {}).body, Winograd)
    assert error(node, x, random(1, *size, 24), HERE[-1], shares=2) < 1e-5


@pytest.mark.parametrize(("images", "size", "channels"), [(1, 28, 128), (1, 56, 64), (2, 14, 256), (1, 14, 256)])
def test_filters_are_transformed_once(images: int, size: int, channels: int) -> None:
    """By a step before, which threads share, unless each task has filters of its own."""
    node, _ = conv((images, size, size, channels), channels, (3, 3), pad=1)
    kernel = lower(node, LowerOptions(TARGETS["x86-avx512"]), {}, {})
    assert isinstance(kernel.body, Winograd)
    own = size < 56 and images == 1
    assert (kernel.before is None, kernel.body.resident) == (own, not own)
    if kernel.before is not None:
        (u,) = kernel.before.writes
        assert u in kernel.operands
        assert isinstance(kernel.before.tasks, int)
        assert kernel.before.tasks >= 4


def test_uneven_borders_and_placement() -> None:
    node, x = conv((1, 15, 17, 16), 24, (3, 3), pads_begin=(2, 0), pads_end=(1, 2))
    layouts = {x: inside((1, 15, 17, 16), (1, 15, 17, 40), (0, 0, 0, 24)),
               node.result: inside((1, 16, 17, 24), (1, 16, 17, 50), (0, 0, 0, 26))}
    for at_end in (True, False):
        assert error(node, x, random(1, 15, 17, 16), HERE[-1], layouts=layouts if at_end else {}, at_end=at_end) < 1e-5
    node, x = conv((sym("N"), 14, 14, 16), 16, (3, 3), pad=1)
    assert error(node, x, random(3, 14, 14, 16), HERE[-1], env={"N": 3}) < 1e-5


def test_rounding_is_small() -> None:
    """Not more than six times the rounding of a direct convolution, on a layer of the usual size."""
    node, x = conv((1, 28, 28, 128), 128, (3, 3), pad=1)
    data = random(1, 28, 28, 128)
    want = meaning(node, data)
    errors = [float(np.sqrt(np.mean((run_node(node, {x: data}, HERE[-1], winograd=w)[0] - want)**2))) for w in (0, 1)]
    assert errors[1] < 6 * errors[0]


def test_strict_math_convolves_directly() -> None:
    node, _ = conv((1, 16, 16, 16), 16, (3, 3), pad=1)
    assert not isinstance(lower(node, LowerOptions(TARGETS[HERE[-1]], "strict"), {}, {}).body, Winograd)


@pytest.mark.parametrize("heavy", [False, True])
def test_epilogues(heavy: bool) -> None:
    """A residual and an activation, unrolled or in a loop."""
    shape = (1, 15, 16, 16)
    x, w, b, r = (Value(TensorType(DType.F32, s)) for s in (shape, (20, 16, 3, 3), (20,), (1, 15, 16, 20)))
    total = ops.add(ops.conv(x, w, b, strides=(1, 1), pads_begin=(1, 1), pads_end=(1, 1), dilations=(1, 1),
                             layout="nhwc"), r)
    body = Graph.of("body", (x, w, b, r), (ops.swish(total) if heavy else ops.relu(total),))
    weights, bias = random(20, 16, 3, 3), random(20)
    outer = [Value(x.type), ops.constant(value=Tensor.of(weights)), ops.constant(value=Tensor.of(bias)), Value(r.type)]
    node = ops.fusion.node(*outer, regions=(body,), kind="conv")
    data, residual = random(*shape), random(1, 15, 16, 20)
    (got,) = run_node(node, {outer[0]: data, outer[3]: residual}, HERE[-1])
    (want,) = evaluate(body, data, weights, bias, residual)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
