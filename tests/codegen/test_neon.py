"""The templates on ARM, under qemu: one case of each, with remainders in every direction."""
from __future__ import annotations

import numpy as np
import pytest

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import run_node
from tests.codegen.test_attention import check as check_attention
from tests.codegen.test_coded import arrays, constant
from tests.codegen.test_coded import check as check_coded
from tests.codegen.test_conv import check, conv
from tests.codegen.test_recurrent import check as check_layer
from tests.codegen.test_recurrent import layer
from tests.codegen.test_trees import rows
from tests.codegen.test_winograd import error, random
from tests.ir.trees import ensemble

pytestmark = pytest.mark.qemu
NEON = "aarch64-neon"


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_products(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    shapes = ((2, 29, 37), (2, 37, 45))
    a, b = (Value(TensorType(dtype, s)) for s in shapes)
    x, y = (rng.standard_normal(s).astype(dtype.numpy) for s in shapes)
    (got,) = run_node(ops.matmul.node(a, b), {a: x, b: y}, NEON, shares=2)
    np.testing.assert_allclose(got, x @ y, rtol=1e-4, atol=1e-4)
    (got,) = run_node(ops.matmul.node(a, ops.constant(value=Tensor.of(y[0]))), {a: x}, NEON, shares=2)
    np.testing.assert_allclose(got, x @ y[0], rtol=1e-4, atol=1e-4)


def test_convolutions() -> None:
    check(*conv((2, 9, 10, 7), 21, (3, 3), pad=1), NEON)
    check(*conv((1, 3, 13, 12), 17, (5, 5), pad=2, stride=2, layout="nchw"), NEON)
    check(*conv((1, 9, 10, 21), 21, (3, 3), pad=1, group=21), NEON)
    node, x = conv((1, 15, 17, 16), 18, (3, 3), pad=1)
    assert error(node, x, random(1, 15, 17, 16), NEON) < 1e-5   # Winograd


def test_attention() -> None:
    check_attention((1, 2, 17, 33, 5, 19), (1, 1, 1, 33), NEON)


def test_recurrent_layer() -> None:
    check_layer(*layer(ops.lstm, 5, 3, 6, 11, direction="bidirectional"), NEON)


@pytest.mark.parametrize("target", [NEON, "aarch64-dotprod"])
def test_bytes(target: str) -> None:
    """Exact with and without dot products, for both signs."""
    rng = np.random.default_rng(1)
    for left, right, zero in ((DType.U8, DType.I8, 7), (DType.I8, DType.U8, -3)):
        shapes = ((2, 9, 22), (2, 22, 19))
        ends = [(-128, 128) if d.is_signed else (0, 256) for d in (left, right)]
        x, y = (rng.integers(*e, s).astype(d.numpy) for e, s, d in zip(ends, shapes, (left, right), strict=True))
        a, b = Value(TensorType(left, shapes[0])), Value(TensorType(right, shapes[1]))
        za = ops.constant(value=Tensor.of(np.array(zero, left.numpy)))
        zb = None if right.is_signed else ops.constant(value=Tensor.of(np.array(128, np.uint8)))
        want = ops.matmul_integer.reference(x, y, np.array(zero), None if right.is_signed else np.array(128))
        (got,) = run_node(ops.matmul_integer.node(a, b, za, zb), {a: x, b: y}, target, shares=2)
        np.testing.assert_array_equal(got, want)
        w = ops.constant(value=Tensor.of(y[0]))
        (got,) = run_node(ops.matmul_integer.node(a, w, za, zb), {a: x}, target, shares=2)
        np.testing.assert_array_equal(got, ops.matmul_integer.reference(x, y[0], np.array(zero), None if zb is None
                                                                        else np.array(128)))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_trees(dtype: DType) -> None:
    data = rows(19, 7, dtype.numpy)
    x = Value(TensorType(dtype, data.shape))
    for single in (False, True):
        tables = ensemble(11, 7, 3, dtype, single=single)
        node = ops.tree_ensemble.node(x, **tables)
        (got,) = run_node(node, {x: data}, NEON, shares=2)
        np.testing.assert_allclose(got, ops.tree_ensemble.reference(data, **tables), rtol=1e-6, atol=1e-6)


def test_weights_of_few_bits() -> None:
    """Levels with and without zero points, a table of 16 and one of 64; in registers and by way of memory."""
    for many, bits, zero, table in ((5, 4, "", False), (3, 4, "any", False), (2, 4, "", True), (30, 8, "whole", False),
                                    (1, 6, "", True)):
        x = Value(TensorType(DType.F32, (many, 37)))
        operands = [None if a is None else constant(a) for a in arrays(37, 21, bits, 16, zero, table)]
        check_coded(x, ops.matmul_coded.node(x, *operands, block=16), NEON)
