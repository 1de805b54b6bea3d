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
from tests.codegen.test_conv import check, conv
from tests.codegen.test_recurrent import check as check_layer
from tests.codegen.test_recurrent import layer
from tests.codegen.test_winograd import error, random

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
