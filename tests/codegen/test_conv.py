"""Convolutions against their meaning in numpy: layouts, borders, strides, groups, run-time sizes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower.conv
from lepton.codegen.group import LowerOptions
from lepton.codegen.target import TARGETS
from lepton.codegen.templates.convolution import Convolution
from lepton.codegen.templates.depthwise import Depthwise
from lepton.codegen.templates.gemm import Gemm
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, inside, lower, run_node

assert lepton.codegen.lower.conv

rng = np.random.default_rng(2)


def conv(shape: tuple[Any, ...], filters: int, kernel: tuple[int, ...], *, stride: int = 1, pad: int = 0,
         dilation: int = 1, group: int = 1, layout: str = "nhwc", bias: bool = True, dtype: DType = DType.F32,
         **attrs: Any) -> tuple[Node, Value]:
    """A convolution node with constant filters, and its input."""
    rank = len(kernel)
    x = Value(TensorType(dtype, shape))
    channels = shape[1] if layout == "nchw" else shape[-1]
    w = rng.standard_normal((filters, channels // group, *kernel)).astype(dtype.numpy)
    b = ops.constant(value=Tensor.of(rng.standard_normal(filters).astype(dtype.numpy))) if bias else None
    given: dict[str, Any] = {
        "strides": (stride,) * rank, "pads_begin": (pad,) * rank, "pads_end": (pad,) * rank,
        "dilations": (dilation,) * rank, "group": group, "layout": layout, **attrs}
    node = ops.conv.node(x, ops.constant(value=Tensor.of(w)), b, **given)
    return node, x


def meaning(node: Node, x: Array) -> Array:
    constants = [v.producer.attrs["value"].array.astype(np.float64) if v is not None and v.producer else None
                 for v in node.inputs[1:]]
    return np.asarray(node.op.reference(x.astype(np.float64), *constants, **node.attrs))


def check(node: Node, x: Value, target: str, env: dict[str, int] | None = None, **given: Any) -> None:
    shape = tuple(d if isinstance(d, int) else (env or {})[str(d)] for d in x.tensor.shape)
    data = rng.standard_normal(shape).astype(x.tensor.dtype.numpy)
    (got,) = run_node(node, {x: data}, target, env=env, **given)
    want = meaning(node, data)
    assert got.shape == want.shape
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    assert float(np.abs(got - want).max(initial=0)) / scale < {4: 3e-6, 8: 1e-13}[got.dtype.itemsize]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("size", "channels", "filters", "kernel", "more"), [
    (9, 8, 40, 3, {"pad": 1}), (7, 5, 17, 3, {"pad": 1}), (13, 3, 33, 7, {"stride": 2, "pad": 3}),
    (11, 4, 8, 3, {}), (12, 6, 9, 3, {"stride": 2, "pad": 1}), (10, 4, 6, 3, {"pad": 2, "dilation": 2}),
    (8, 16, 32, 1, {}), (8, 16, 20, 1, {"stride": 2}), (6, 12, 24, 3, {"group": 3, "pad": 1}),
    (5, 1, 1, 5, {"pad": 2}), (4, 7, 13, 2, {}), (3, 3, 3, 3, {"bias": False}), (6, 9, 18, 3, {"group": 9, "pad": 1}),
    (9, 4, 4, 3, {"pads_begin": (2, 0), "pads_end": (0, 3)}),
    (9, 4, 4, 3, {"pads_begin": (-1, 1), "pads_end": (2, -2)}),
])
def test_shapes(target: str, layout: str, size: int, channels: int, filters: int, kernel: int,
                more: dict[str, Any]) -> None:
    spatial = (size, size + 1)
    shape = (2, channels, *spatial) if layout == "nchw" else (2, *spatial, channels)
    node, x = conv(shape, filters, (kernel, kernel), layout=layout, **more)
    check(node, x, target, shares=3)


@pytest.mark.parametrize(("shape", "kernel"), [((2, 30, 5), (3,)), ((1, 5, 6, 7, 4), (3, 2, 3)), ((3, 200, 3), (9,))])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_other_ranks(shape: tuple[int, ...], kernel: tuple[int, ...], layout: str) -> None:
    if layout == "nchw":
        shape = (shape[0], shape[-1], *shape[1:-1])
    check(*conv(shape, 19, kernel, pad=1, layout=layout), HERE[-1])


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("high", "channels", "more"), [
    (40, 8, {}), (41, 5, {"pads_begin": (2, 0), "pads_end": (1, 0)}), (40, 6, {"strides": (3, 2), "group": 2}),
    (23, 9, {"group": 9, "pads_begin": (1, 0), "pads_end": (1, 0)}), (30, 4, {"dilations": (2, 3)}), ("H", 4, {})])
def test_one_column(layout: str, high: int | str, channels: int, more: dict[str, Any]) -> None:
    """What exporters make of a convolution with one axis: [H, 1]."""
    size = sym(high) if isinstance(high, str) else high
    node, x = conv((2, channels, size, 1) if layout == "nchw" else (2, size, 1, channels), 18, (5, 1), layout=layout,
                   **more)
    check(node, x, HERE[-1], {"H": 33}, shares=3)


SMALL: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((5, 1, 6), (3,), {"pad": 1}), ((5, 2, 6), (3,), {"stride": 2, "pad": 1}), ((5, 2, 6), (2,), {"bias": False}),
    ((3, 40, 1), (16,), {"stride": 8}), ((2, 1, 1, 5), (3, 3), {"pad": 1}), ((2, 3, 1, 5), (3, 3), {"pad": 1}),
    ((2, 1, 2, 6), (3, 5), {"pads_begin": (1, 2), "pads_end": (1, 2), "strides": (1, 3)}),
    ((2, 1, 4), (5,), {"pad": 4, "dilation": 2}), ((2, 2, 2, 8), (5, 5), {"pad": 2, "group": 8}),
    ((2, 2, 2, 4), (3, 3), {"pad": 3, "dilation": 2}), ((2, 4, 1, 1), (2, 4), {"pads_begin": (0, 3)}),
    ((2, 3, 1, 64), (1, 1), {"stride": 3, "pads_begin": (0, 1), "pads_end": (0, 1)})]


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("shape", "kernel", "more"), SMALL, ids=str)
def test_small_images(target: str, layout: str, shape: tuple[int, ...], kernel: tuple[int, ...],
                      more: dict[str, Any]) -> None:
    """Taps that only ever see padding, and rows that are one window."""
    if layout == "nchw":
        shape = (shape[0], shape[-1], *shape[1:-1])
    check(*conv(shape, 24, kernel, layout=layout, **more), target, shares=2)


@pytest.mark.parametrize(("shape", "kernel", "more"), [
    ((32, 1, 64), (3,), {"pad": 1}), ((32, 2, 64), (3,), {"stride": 2, "pad": 1}), ((4, 1, 1, 8), (3, 3), {"pad": 1})])
def test_images_of_one_window_are_rows_of_a_product(shape: tuple[int, ...], kernel: tuple[int, ...],
                                                    more: dict[str, Any]) -> None:
    body = lower(conv(shape, 48, kernel, **more)[0], LowerOptions(TARGETS[HERE[-1]]), {}, {}).body
    assert isinstance(body, Gemm)
    assert not body.batch
    assert body.m == shape[0]


def test_padding_times_infinity_is_no_number() -> None:
    w = np.ones((3, 2, 3), np.float32)
    w[1, 0, 0] = np.inf
    x = Value(TensorType(DType.F32, (1, 1, 2)))
    node = ops.conv.node(x, ops.constant(value=Tensor.of(w)), strides=(1,), pads_begin=(1,), pads_end=(1,),
                         dilations=(1,), layout="nhwc")
    (got,) = run_node(node, {x: np.ones((1, 1, 2), np.float32)}, HERE[-1])
    np.testing.assert_array_equal(got, [[[2, np.nan, 2]]])


def test_one_column_is_tiled_along_its_rows() -> None:
    node, _ = conv((1, 64, 1, 32), 48, (5, 1))
    body = lower(node, LowerOptions(TARGETS[HERE[-1]]), {}, {}).body
    assert isinstance(body, Convolution)
    assert body.tile[0] == 1
    assert body.tile[1] > 4


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("more", [{"pad": 1}, {"stride": 2, "pad": 1}, {}])
def test_run_time_sizes(layout: str, more: dict[str, Any]) -> None:
    n, h, w = sym("N"), sym("H"), sym("W")
    shape = (n, 6, h, w) if layout == "nchw" else (n, h, w, 6)
    for env in ({"N": 1, "H": 3, "W": 3}, {"N": 2, "H": 17, "W": 30}):
        check(*conv(shape, 20, (3, 3), layout=layout, **more), HERE[-1], env)
    check(*conv(shape, 20, (1, 1), layout=layout), HERE[-1], {"N": 2, "H": 5, "W": 9})


def test_double_and_empty() -> None:
    check(*conv((1, 6, 6, 5), 7, (3, 3), pad=1, dtype=DType.F64), HERE[-1])
    check(*conv((0, 6, 6, 5), 7, (3, 3), pad=1), HERE[-1])


def test_inside_a_concat() -> None:
    """Reads from and writes to a part of the channels of a larger tensor; reads end at the buffer."""
    for kernel, pad in ((1, 0), (3, 1)):
        node, x = conv((2, 6, 7, 12), 20, (kernel, kernel), pad=pad)
        layouts = {x: inside((2, 6, 7, 12), (2, 6, 7, 30), (0, 0, 0, 18)),
                   node.result: inside((2, 6, 7, 20), (2, 6, 7, 50), (0, 0, 0, 13))}
        check(node, x, HERE[-1], layouts=layouts)
        check(node, x, HERE[-1], at_end=False)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("size", "channels", "kernel", "more"), [
    (9, 40, 3, {"pad": 1}), (12, 17, 3, {"stride": 2, "pad": 1}), (7, 8, 5, {"pad": 2}), (20, 33, 3, {}),
    (3, 5, 7, {"pad": 3}), (11, 16, 3, {"pad": 2, "dilation": 2}), (1, 4, 3, {"pad": 1}), (10, 19, 2, {}),
    (6, 4, 3, {"pads_begin": (2, 0), "pads_end": (0, 3)}), (9, 4, 3, {"pads_begin": (-1, 1), "pads_end": (2, -2)})])
def test_depthwise(target: str, size: int, channels: int, kernel: int, more: dict[str, Any]) -> None:
    node, x = conv((2, size, size + 2, channels), channels, (kernel, kernel), group=channels, **more)
    check(node, x, target, shares=3)
    node, x = conv((2, sym("H"), sym("W"), channels), channels, (kernel, kernel), group=channels, **more)
    check(node, x, target, env={"H": size, "W": size + 2})


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize(("shape", "kernel", "more"), [
    ((1, 9, 16, 267), (3, 3), {"pad": 1}), ((2, 10, 9, 200), (5, 5), {"stride": 2, "pad": 2}),
    ((1, 4, 5, 16, 133), (3, 3, 3), {"pad": 1})])
def test_depthwise_in_blocks_of_channels(target: str, shape: tuple[int, ...], kernel: tuple[int, ...],
                                         more: dict[str, Any]) -> None:
    """So many that a tile's lines do not stay in L1; the last block has a part of a vector."""
    node, x = conv(shape, shape[-1], kernel, group=shape[-1], **more)
    body = lower(node, LowerOptions(TARGETS[target]), {}, {}).body
    assert isinstance(body, Depthwise)
    assert body.block_channels < shape[-1]
    check(node, x, target, shares=3)
    open_sizes = [sym(f"d{i}") for i in range(len(shape) - 2)]
    node, x = conv((shape[0], *open_sizes, shape[-1]), shape[-1], kernel, group=shape[-1], **more)
    check(node, x, target, {f"d{i}": d for i, d in enumerate(shape[1:-1])})


def test_depthwise_inside_a_concat() -> None:
    node, x = conv((2, 6, 7, 12), 12, (3, 3), pad=1, group=12)
    layouts = {x: inside((2, 6, 7, 12), (2, 6, 7, 30), (0, 0, 0, 18)),
               node.result: inside((2, 6, 7, 12), (2, 6, 7, 50), (0, 0, 0, 13))}
    check(node, x, HERE[-1], layouts=layouts)
    check(node, x, HERE[-1], at_end=False)
    check(*conv((1, 4, 5, 6, 7), 7, (3, 3, 3), pad=1, group=7), HERE[-1])
    check(*conv((1, 30, 7), 7, (5,), pad=1, group=7), HERE[-1])


@pytest.mark.parametrize(("channels", "filters"), [(0, 5), (4, 0), (0, 0)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_no_channels_or_no_filters(channels: int, filters: int, kernel: tuple[int, ...]) -> None:
    """Empty sums are the bias."""
    check(*conv((2, 6, 7, channels), filters, kernel, pad=kernel[0] // 2), HERE[-1])
