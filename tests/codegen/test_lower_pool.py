"""Pools in both layouts against the ops' meanings."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import sym
from lepton.ir.types import DType
from tests.codegen.harness import HERE, backwards, check_node, gaps, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)


def window(kernel: tuple[int, ...], stride: int = 1, begin: int = 0, end: int | None = None, dilation: int = 1,
           **rest: Any) -> dict[str, Any]:
    n = len(kernel)
    return {"kernel": kernel, "strides": (stride,) * n, "pads_begin": (begin,) * n,
            "pads_end": (begin if end is None else end,) * n, "dilations": (dilation,) * n, **rest}


WINDOWS = [
    window((3, 3), 2, 1), window((2, 2), 2), window((3, 3), 1, 1), window((3, 3), 2, 0, 1, ceil_mode=True),
    window((3, 2), 1, 1, 0), window((5, 5), 3, 2), window((3, 3), 1, 2, dilation=2), window((3, 3), 2, 2, 2, 2),
    window((1, 1), 1), window((2, 2), 3, 1, 1, ceil_mode=True),
]
OPS = [(ops.max_pool, {}), (ops.avg_pool, {}), (ops.avg_pool, {"count_include_pad": True}), (ops.lp_pool, {"p": 2}),
       (ops.lp_pool, {"p": 3}), (ops.max_pool_indices, {}), (ops.max_pool_indices, {"storage_order": 1})]


@targets
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("op", OPS, ids=lambda o: o[0].name)
def test_pool(target: Target, op: Any, layout: str) -> None:
    rng = np.random.default_rng(0)
    for attrs in WINDOWS:
        shape = (2, 3, 9, 23) if layout == "nchw" else (2, 9, 10, 19)
        x = value(shape)
        array = rng.standard_normal(shape).round(1).astype(np.float32)
        array.reshape(-1)[::97] = np.nan
        array.reshape(-1)[::31] = -np.inf
        check_node(op[0].node(x, layout=layout, **attrs, **op[1]), {x: array}, target, rtol=1e-5)


@targets
@pytest.mark.parametrize("shape", [(1, 2, 17), (2, 2, 4, 5, 6), (1, 1, 3), (2, 0, 5), (0, 2, 5)], ids=str)
def test_ranks(target: Target, shape: tuple[int, ...]) -> None:
    x = value(shape)
    attrs = window((3,) * (len(shape) - 2), 1, 1)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for op in (ops.max_pool, ops.avg_pool):
        node = op.node(x, **attrs)
        check_node(node, {x: array}, target, layouts={x: backwards, node.results[0]: gaps}, rtol=1e-5)


@targets
def test_integers(target: Target) -> None:
    for dtype in (DType.U8, DType.I8, DType.F16):
        x = value((1, 2, 8, 20), dtype)
        array = np.random.default_rng(0).integers(0, 100, (1, 2, 8, 20)).astype(dtype.numpy)
        check_node(ops.max_pool.node(x, **window((3, 3), 1, 1)), {x: array}, target)


@targets
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_dynamic_and_fused(target: Target, layout: str) -> None:
    h, w = sym("H"), sym("W")
    shape = (1, 4, h, w) if layout == "nchw" else (1, h, w, 4)
    x, y = value(shape), value((4, 1, 1) if layout == "nchw" else (4,))
    pooled = ops.avg_pool(ops.relu(x), layout=layout, **window((3, 3), 2, 1))
    body = Graph.of("body", [x, y], [ops.relu(ops.add(pooled, y))])
    for sizes in ({"H": 7, "W": 50}, {"H": 1, "W": 1}, {"H": 5, "W": 2}):
        node = ops.fusion.node(Value(x.type), Value(y.type), regions=(body,), kind="pool")
        numbers: Any = tuple(sizes.get(str(d), d) for d in shape)
        arrays = [np.random.default_rng(0).standard_normal(numbers).astype(np.float32),
                  np.ones((4, 1, 1) if layout == "nchw" else (4,), np.float32)]
        check_node(node, dict(zip(node.inputs, arrays, strict=True)), target, env=sizes, rtol=1e-5)  # type: ignore[arg-type]
