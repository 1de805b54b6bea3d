"""Quantization and lrn against the ops' meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen.harness import HERE, check_node, dense, gaps, run_node, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
SHAPES: list[tuple[tuple[int, ...], int, int]] = [((), 0, 0), ((5,), 1, 0), ((19,), 2, 0), ((4, 5, 19), 0, 2)]


@targets
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("to", [DType.U8, DType.I8, DType.I16, DType.I32], ids=lambda d: d.value)
def test_quantize(target: Target, case: Any, to: DType) -> None:
    parameter, axis, block = case
    x = np.random.default_rng(0).standard_normal((7, 5, 19)).astype(np.float32) * 300
    if parameter == (5,):
        axis = 1
    x.reshape(-1)[:4] = np.nan, -np.inf, 2.5, 3.5
    if to.bits < 32:  # f32 cannot hold the largest i32: what stands there is a matter of the reference's rounding
        x.reshape(-1)[5] = np.inf
    v, s, z = value(x.shape), value(parameter), value(parameter, to)
    scale = np.abs(np.random.default_rng(1).standard_normal(parameter)).astype(np.float32) + np.float32(0.5)
    zero = np.random.default_rng(2).integers(0, 100, parameter).astype(to.numpy)
    node = ops.quantize.node(v, s, z, axis=axis, to=to, block=block)
    check_node(node, {v: x, s: scale, z: zero}, target, layouts={v: gaps})
    q = value(x.shape, to)
    levels = np.random.default_rng(3).integers(0, 120, x.shape).astype(to.numpy)
    check_node(ops.dequantize.node(q, s, z, axis=axis, block=block), {q: levels, s: scale, z: zero}, target)
    check_node(ops.dequantize.node(q, s, axis=axis, block=block), {q: levels, s: scale}, target)


@targets
def test_dynamic_quantize(target: Target) -> None:
    x = value((3, 37))
    for array in (np.random.default_rng(0).standard_normal((3, 37)), np.zeros((3, 37)), np.full((3, 37), 4.0)):
        data = array.astype(np.float32)
        node = ops.dynamic_quantize.node(x)
        got = run_node(node, {x: data}, target)
        for g, e in zip(got, ops.dynamic_quantize.reference(data), strict=True):
            np.testing.assert_array_equal(g, e)


@targets
@pytest.mark.parametrize("shape", [(2, 7, 5, 19), (1, 3, 20), (2, 9), (1, 1, 3, 3)], ids=str)
def test_lrn(target: Target, shape: tuple[int, ...]) -> None:
    x = value(shape)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 3
    for size, beta, layout in ((5, 0.75, "nchw"), (2, 0.5, "nchw"), (3, 1.0, "nchw"), (5, 0.75, "nhwc"),
                               (4, 0.6, "nhwc"), (17, 0.5, "nhwc")):
        node = ops.lrn.node(x, size=size, alpha=1e-2, beta=beta, bias=1.5, layout=layout)
        check_node(node, {x: array}, target, rtol=1e-5)


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, h, w, c = dense((shape[0], *shape[2:], shape[1]))
    return n, c, h, w


@targets
def test_lrn_of_channels_last(target: Target) -> None:
    """More pixels than a band, open sizes, and what is larger, smaller or no number."""
    n, w, c = sym("N"), sym("W"), sym("C")
    x = value((n, 2, w, c))
    env = {"N": 2, "W": 37, "C": 21}
    array = np.random.default_rng(1).standard_normal((2, 2, 37, 21)).astype(np.float32)
    array[0, 0, :5, 7] = [np.nan, np.inf, -0.0, 1e19, 1e-30]
    node = ops.lrn.node(x, size=5, alpha=1e-1, beta=0.75, bias=0.0, layout="nhwc")
    check_node(node, {x: array}, target, env=env, rtol=1e-5)
    for layout in ("nchw", "nhwc"):  # either way of memory under either way of channels
        permuted = value((2, 5, 18, 21))
        some = np.random.default_rng(2).standard_normal((2, 5, 18, 21)).astype(np.float32)
        node = ops.lrn.node(permuted, size=3, alpha=1e-1, beta=0.75, bias=1.0, layout=layout)
        check_node(node, {permuted: some}, target, layouts={permuted: channels_last}, rtol=1e-5)
