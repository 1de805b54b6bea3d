"""The loop kernels behind matmul, conv and conv_transpose: other element types, filters that are not constant."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, run_node

assert lepton.codegen.lower

rng = np.random.default_rng(3)


def value(dtype: DType, *shape: Any) -> Value:
    return Value(TensorType(dtype, shape))


def random(dtype: DType, *shape: int) -> Array:
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    return rng.integers(max(info.min, -100), min(info.max, 100), shape).astype(dtype.numpy)


def check(node: Node, inputs: dict[Value, Array], target: str = HERE[-1], env: dict[str, int] | None = None) -> None:
    constants = {v: v.producer.attrs["value"].array for v in node.inputs if v is not None and v.producer}
    operands = [None if v is None else (constants | inputs)[v] for v in node.inputs]
    want = node.op.reference(*operands, **node.attrs)
    (got,) = run_node(node, inputs, target, env=env, shares=3)
    assert got.shape == want.shape
    tolerance = {DType.F16: 2e-2, DType.BF16: 1e-1, DType.F32: 1e-5, DType.F64: 1e-12}.get(DType.of(want), 0)
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("dtype", [DType.I32, DType.I64, DType.U8, DType.F16, DType.BF16])
def test_matmul_of_other_types(target: str, dtype: DType) -> None:
    for shapes in (((5, 7), (7, 19)), ((2, 3, 4), (4,)), ((4,), (3, 4, 2)), ((2, 1, 3, 4), (5, 4, 6)),
                   ((3, 0), (0, 2))):
        a, b = (value(dtype, *s) for s in shapes)
        check(ops.matmul.node(a, b), {a: random(dtype, *shapes[0]), b: random(dtype, *shapes[1])}, target)


def test_matmul_integer() -> None:
    for zeros in ((), ((), ()), ((1,), (6,)), ((4,), (6,))):
        a, b = value(DType.U8, 2, 4, 9), value(DType.I8, 9, 6)
        points = [value(d, *z) for d, z in zip((DType.U8, DType.I8), zeros, strict=False)]
        given = {a: random(DType.U8, 2, 4, 9), b: random(DType.I8, 9, 6)}
        given |= {p: random(p.tensor.dtype, *z) for p, z in zip(points, zeros, strict=False)}
        check(ops.matmul_integer.node(a, b, *points), given)


def attrs(rank: int, **more: Any) -> dict[str, Any]:
    usual = {"strides": (1,) * rank, "pads_begin": (1,) * rank, "pads_end": (1,) * rank, "dilations": (1,) * rank,
             "group": 1, "layout": "nchw"}
    return usual | more


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64])
def test_conv_with_any_filters(layout: str, dtype: DType) -> None:
    for group, constant in ((1, False), (2, False), (2, True)):
        shape = (2, 4, 7, 6) if layout == "nchw" else (2, 7, 6, 4)
        weights = random(dtype, 6, 4 // group, 3, 2)
        x, b = value(dtype, *shape), value(dtype, 6)
        w = ops.constant(value=Tensor.of(weights)) if constant else value(dtype, *weights.shape)
        node = ops.conv.node(x, w, b, **attrs(2, group=group, layout=layout, strides=(2, 1), dilations=(1, 2)))
        check(node, {x: random(dtype, *shape), w: weights, b: random(dtype, 6)})


def test_conv_of_rank_six() -> None:
    x, w = value(DType.F32, 1, 2, 3, 3, 3, 3), ops.constant(value=Tensor.of(random(DType.F32, 3, 2, 2, 2, 2, 2)))
    check(ops.conv.node(x, w, **attrs(4)), {x: random(DType.F32, 1, 2, 3, 3, 3, 3)})


def test_conv_integer() -> None:
    x, w = value(DType.U8, 1, 3, 6, 6), value(DType.I8, 5, 3, 3, 3)
    zx, zw = value(DType.U8), value(DType.I8, 5)
    given = {x: random(DType.U8, 1, 3, 6, 6), w: random(DType.I8, 5, 3, 3, 3), zx: random(DType.U8),
             zw: random(DType.I8, 5)}
    check(ops.conv_integer.node(x, w, zx, zw, **attrs(2)), given)
    check(ops.conv_integer.node(x, w, **attrs(2)), given)


TRANSPOSED = [
    ((2, 4, 5, 6), (4, 6, 3, 3), {}), ((1, 4, 5, 6), (4, 6, 4, 4), {"strides": (2, 2)}),
    ((2, 3, 4, 4), (3, 5, 2, 2), {"strides": (2, 2), "pads_begin": (0, 0), "pads_end": (0, 0)}),
    ((1, 4, 5, 5), (4, 3, 3, 3), {"group": 2, "strides": (2, 3), "output_padding": (1, 2)}),
    ((1, 2, 9), (2, 3, 5), {"strides": (3,), "dilations": (2,)}),
    ((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), {"strides": (2, 1, 2)}),
    ((1, 3, 6, 6), (3, 17, 3, 3), {"strides": (1, 2), "pads_begin": (2, 0), "pads_end": (0, 3), "dilations": (2, 1)}),
    ((1, 0, 4, 4), (0, 5, 3, 3), {"strides": (2, 2)}), ((1, 4, 4, 4), (4, 0, 3, 3), {"strides": (2, 2)}),
]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("shape", "filters", "more"), TRANSPOSED)
@pytest.mark.parametrize("constant", [True, False])
def test_conv_transpose(layout: str, shape: tuple[int, ...], filters: tuple[int, ...], more: dict[str, Any],
                        constant: bool) -> None:
    rank = len(shape) - 2
    if layout == "nhwc":
        shape = (shape[0], *shape[2:], shape[1])
    given = attrs(rank, output_padding=(0,) * rank, layout=layout) | more
    weights, x = random(DType.F32, *filters), value(DType.F32, *shape)
    w = ops.constant(value=Tensor.of(weights)) if constant else value(DType.F32, *filters)
    b = value(DType.F32, filters[1] * given["group"])
    node = ops.conv_transpose.node(x, w, b, **given)
    check(node, {x: random(DType.F32, *shape), w: weights, b: random(DType.F32, filters[1] * given["group"])})


def test_conv_transpose_of_run_time_sizes() -> None:
    for layout in ("nchw", "nhwc"):
        shape = (sym("N"), 3, sym("H"), sym("W")) if layout == "nchw" else (sym("N"), sym("H"), sym("W"), 3)
        real = (2, 3, 5, 4) if layout == "nchw" else (2, 5, 4, 3)
        x, w = value(DType.F32, *shape), ops.constant(value=Tensor.of(random(DType.F32, 3, 9, 4, 4)))
        given = attrs(2, output_padding=(0, 0), layout=layout, strides=(2, 2))
        node = ops.conv_transpose.node(x, w, **given)
        check(node, {x: random(DType.F32, *real)}, env={"N": 2, "H": 5, "W": 4})
