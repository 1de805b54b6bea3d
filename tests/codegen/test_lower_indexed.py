"""Gathers, pads, one-hot, triangles, pools and resizes, compiled, against the ops' meanings; nothing reads outside."""
from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.op import Op
from lepton.ir.types import DType
from tests.codegen.harness import HERE, backwards, check_node, dense, gaps, reversed_axes, run_node, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


@targets
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0,)], ids=str)
@pytest.mark.parametrize("layout", [dense, reversed_axes, backwards, gaps])
def test_gather(target: Target, axis: int, shape: tuple[int, ...], layout: Any) -> None:
    x, i = value((4, 5, 19)), value(shape, DType.I64)
    node = ops.gather.node(x, i, axis=axis)
    indices = RNG.integers(-4, 4, shape).astype(np.int64)
    check_node(node, {x: floats(4, 5, 19), i: indices}, target, layouts={x: layout})


@targets
def test_wild_indices_read_nothing_outside(target: Target) -> None:
    x, i = value((4, 7)), value((6,), DType.I64)
    node = ops.gather.node(x, i, axis=0)
    data = floats(4, 7)
    wild = np.array([-2**63, -5, 4, 99, 2**62, -1], np.int64)
    (got,) = run_node(node, {x: data, i: wild}, target)
    assert np.array_equal(got, data[[0, 0, 3, 3, 3, 3]])


@targets
def test_gather_elements_and_nd(target: Target) -> None:
    x, i = value((4, 5, 6)), value((4, 3, 6), DType.I32)
    check_node(ops.gather_elements.node(x, i, axis=1),
               {x: floats(4, 5, 6), i: RNG.integers(-5, 5, (4, 3, 6)).astype(np.int32)}, target)
    for batch, depth in ((0, 1), (0, 3), (1, 1), (1, 2)):
        i = value((4, 2, depth), DType.I64)
        indices = RNG.integers(-4, 4, (4, 2, depth)).astype(np.int64)
        check_node(ops.gather_nd.node(x, i, batch_dims=batch), {x: floats(4, 5, 6), i: indices}, target)


@targets
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(("before", "after"), [
    ((1, 2), (3, 0)), ((0, 0), (0, 0)), ((-1, 4), (2, -2)), ((7, 0), (0, 40))])
def test_pad(target: Target, mode: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    x, fill = value((5, 19)), value(())
    inputs = (x, fill) if mode == "constant" else (x,)
    node = ops.pad.node(*inputs, before=before, after=after, mode=mode)
    arrays = {x: floats(5, 19), fill: np.array(2.5, np.float32)}
    check_node(node, {v: arrays[v] for v in inputs}, target)


@targets
@pytest.mark.parametrize(("rows", "before", "after"), [(0, 2, 1), (2, -2, 3), (3, -1, -2), (4, 1, -1)])
@pytest.mark.parametrize("open_size", [False, True])
def test_pad_of_nothing_reads_nothing(target: Target, rows: int, before: int, after: int, open_size: bool) -> None:
    """Far rows too: those of an empty axis have places in memory that nobody owns."""
    x, fill = value((sym("N") if open_size else rows, 4000)), value(())
    node = ops.pad.node(x, fill, before=(before, 1), after=(after, 0))
    check_node(node, {x: floats(rows, 4000), fill: floats()}, target, env={"N": rows})


@targets
def test_pad_by_an_open_amount(target: Target) -> None:
    n = sym("N")
    x = value((2, n))
    node = ops.pad.node(x, before=(0, n // 2), after=(0, 3), mode="reflect")
    check_node(node, {x: floats(2, 11)}, target, env={"N": 11})


@targets
def test_one_hot_trilu_iota_shape_values(target: Target) -> None:
    i, v = value((3, 5), DType.I64), value((2,))
    check_node(ops.one_hot.node(i, v, depth=7, axis=1),
               {i: RNG.integers(-9, 9, (3, 5)).astype(np.int64), v: np.array([2, 3], np.float32)}, target)
    x = value((3, 6, 21))
    for upper, k in itertools.product((True, False), (-2, 0, 3)):
        check_node(ops.trilu.node(x, upper=upper, k=k), {x: floats(3, 6, 21)}, target)
    for dtype in (DType.I64, DType.I32, DType.F32):
        check_node(ops.iota.node(size=37, dtype=dtype), {}, target)
    n = sym("N")
    check_node(ops.shape_values.node(dims=(n, 3, n * 4)), {}, target, env={"N": 5})
    check_node(ops.shape_values.node(dims=(n + 1,), scalar=True), {}, target, env={"N": 5})


POOLS: list[tuple[Op, dict[str, Any]]] = [
    (ops.max_pool, {}), (ops.avg_pool, {}), (ops.avg_pool, {"count_include_pad": True}), (ops.lp_pool, {"p": 2}),
    (ops.lp_pool, {"p": 3}), (ops.max_pool_indices, {}), (ops.max_pool_indices, {"storage_order": 1})]


@targets
@pytest.mark.parametrize(("op", "extra"), POOLS, ids=lambda x: getattr(x, "name", ""))
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("ceil_mode", "dilation"), [(False, 1), (True, 1), (False, 2)])
def test_pools(target: Target, op: Op, extra: dict[str, Any], layout: str, ceil_mode: bool, dilation: int) -> None:
    shape = (2, 9, 11, 19) if layout == "nhwc" else (2, 5, 9, 11)
    x = value(shape)
    node = op.node(x, kernel=(3, 2), strides=(2, 2), pads_begin=(1, 1), pads_end=(1, 0), ceil_mode=ceil_mode,
                   dilations=(dilation, dilation), layout=layout, **extra)
    data = RNG.integers(-3, 4, shape).astype(np.float32)  # with ties
    if op is not ops.lp_pool:
        data[0, 0, 0, :3] = [np.nan, -np.inf, np.inf]
    check_node(node, {x: data}, target, rtol=1e-5)


@targets
def test_pools_of_other_ranks_types_and_open_sizes(target: Target) -> None:
    x = value((1, 3, 10), DType.I8)
    window: dict[str, Any] = {"kernel": (3,), "strides": (1,), "pads_begin": (1,), "pads_end": (1,), "dilations": (1,)}
    check_node(ops.max_pool.node(x, **window), {x: RNG.integers(-99, 99, (1, 3, 10)).astype(np.int8)}, target)
    n = sym("N")
    y = value((1, n, n, 17))
    node = ops.avg_pool.node(y, kernel=(2, 2), strides=(2, 2), pads_begin=(0, 0), pads_end=(1, 1), dilations=(1, 1),
                             layout="nhwc", ceil_mode=True)
    check_node(node, {y: floats(1, 7, 7, 17)}, target, env={"N": 7}, rtol=1e-5)


@targets
def test_a_pool_with_an_epilogue(target: Target) -> None:
    x, bias = value((1, 6, 6, 20)), value((20,))
    pooled = ops.max_pool(x, kernel=(2, 2), strides=(2, 2), pads_begin=(0, 0), pads_end=(0, 0), dilations=(1, 1),
                          layout="nhwc")
    out = ops.relu(ops.add(pooled, bias))
    outer = Value(x.type), Value(bias.type)
    node = ops.fusion.node(*outer, regions=(Graph.of("body", (x, bias), (out,)),), kind="pool")
    check_node(node, {outer[0]: floats(1, 6, 6, 20), outer[1]: floats(20)}, target)


RESIZES: list[dict[str, Any]] = [
    {"mode": m, "coordinates": c} for m in ("nearest", "linear", "cubic")
    for c in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")]
RESIZES += [{"mode": "nearest", "nearest": n} for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
RESIZES += [{"mode": "cubic", "exclude_outside": True, "cubic_a": -0.5}]


@targets
@pytest.mark.parametrize("how", RESIZES, ids=lambda h: "-".join(map(str, h.values())))
@pytest.mark.parametrize("open_size", [False, True])
def test_resize(target: Target, how: dict[str, Any], open_size: bool) -> None:
    h: Dim = sym("H") if open_size else 6
    shapes: list[tuple[tuple[Dim, ...], tuple[Dim, ...]]] = [
        ((1, h, 5, 18), (1, 2 * h, 7, 18)), ((2, 3, h, 5), (2, 3, h * 3, 3))]
    for shape, sizes in shapes:
        x = value(shape)
        node = ops.resize.node(x, sizes=sizes, **how)
        known = [d if isinstance(d, int) else 6 for d in shape]
        check_node(node, {x: floats(*known)}, target, env={"H": 6}, rtol=1e-4, atol=1e-5)


@targets
def test_resize_with_hundreds_of_taps(target: Target) -> None:
    """What is written out for a few taps are loops here: antialiasing a strong reduction, cubics of many axes."""
    x = value((3, 41, 37, 1))
    node = ops.resize.node(x, sizes=(3, 2, 3, 4), mode="cubic", antialias=True, exclude_outside=True)
    check_node(node, {x: floats(3, 41, 37, 1)}, target, rtol=1e-4, atol=1e-5)
    n = sym("N")
    y = value((2, n, n, n, 3))
    node = ops.resize.node(y, sizes=(1, 2 * n, n + 1, n + 2, 7), mode="cubic")
    check_node(node, {y: floats(2, 3, 3, 3, 3)}, target, env={"N": 3}, rtol=1e-4, atol=1e-5)


@targets
def test_resize_with_tables_only(target: Target) -> None:
    x = value((1, 2, 9, 11))
    for mode in ("linear", "cubic"):
        node = ops.resize.node(x, sizes=(1, 2, 4, 5), mode=mode, antialias=True)
        check_node(node, {x: floats(1, 2, 9, 11)}, target, rtol=1e-4, atol=1e-5)
    roi = (0.0, 0.0, 0.2, -0.3, 1.0, 1.0, 1.4, 0.9)
    node = ops.resize.node(x, sizes=(1, 2, 6, 6), mode="linear", coordinates="tf_crop_and_resize", roi=roi,
                           extrapolation=7.0)
    check_node(node, {x: floats(1, 2, 9, 11)}, target, rtol=1e-4, atol=1e-5)
