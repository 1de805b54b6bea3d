"""The table of test cases: an op, operands, attributes, and who says what the result is."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import lepton.ir.ops  # noqa: F401  (fills OPS)
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import Dim
from lepton.ir.op import OPS
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from tests.ir.ops_oracle import Onnx

RANDOM = np.random.default_rng(20)
F32 = np.float32
NAN, INF = np.nan, np.inf
# What arithmetic gets wrong: NaN, infinities, both zeros, subnormals, the largest, halves.
HARD = np.array([NAN, INF, -INF, 0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-40, -1e-40, 3.4e38, -3.4e38, 1e-7,
                 88.9, -104.5, 20.0, 3.0], F32)
TAME = HARD[(np.abs(HARD) < 1e30) & ~np.isnan(HARD)]
INTEGERS = np.array([0, 1, -1, 2, -2, 7, -7, 100, 2**31 - 1, -(2**31)], np.int32)


@dataclass(frozen=True, eq=False)
class Case:
    """One application of an op. `onnx` or `expected` says what comes out."""

    op: str
    operands: tuple[Array | None, ...]
    attrs: dict[str, Any]
    onnx: Onnx | None = None
    expected: tuple[Array, ...] | None = None
    rtol: float = 1e-5
    atol: float = 1e-6
    label: str = ""

    def __str__(self) -> str:
        shapes = ",".join("_" if x is None else f"{DType.of(x).value}{list(x.shape)}".replace(" ", "")
                          for x in self.operands)
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.op}({shapes};{attrs})"[:110] + self.label


def case(op: str, *operands: Array | None, onnx: str | Onnx | None = None, expected: Any = None, rtol: float = 1e-5,
         atol: float = 1e-6, label: str = "", **attrs: Any) -> Case:
    """`onnx` may be an operator's name alone; `expected` one array or a tuple of them."""
    node = Onnx(onnx) if isinstance(onnx, str) else onnx
    wanted = None if expected is None else expected if isinstance(expected, tuple) else (np.asarray(expected),)
    assert (node is None) != (wanted is None), f"{op}: one oracle, please"
    return Case(op, operands, attrs, node, wanted, rtol, atol, label)


def build(c: Case, shapes: Sequence[Sequence[Dim]] | None = None) -> tuple[Graph, Node, list[Array]]:
    """The case as a graph of one node, its inputs' shapes replaced by `shapes`, and the arrays to give it."""
    arrays = [x for x in c.operands if x is not None]
    shapes = shapes if shapes is not None else [x.shape for x in arrays]
    values = iter([Value(TensorType(DType.of(x), tuple(s)), name=f"x{i}")
                   for i, (x, s) in enumerate(zip(arrays, shapes, strict=True))])
    operands = [None if x is None else next(values) for x in c.operands]
    node = OPS[c.op].node(*operands, **c.attrs)
    return Graph.of("case", [v for v in operands if v is not None], node.results), node, arrays


def normal(*shape: int, dtype: Any = F32) -> Array:
    return RANDOM.normal(size=shape).astype(dtype)


def whole(low: int, high: int, *shape: int, dtype: Any = np.int64) -> Array:
    return RANDOM.integers(low, high, shape).astype(dtype)


def assert_same(got: Array, wanted: Array, rtol: float, atol: float) -> None:
    """Same type and shape, same NaNs; integers exactly, floats within the tolerance (narrow ones to one step)."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    dtype = DType.of(got)
    if not dtype.is_float:
        np.testing.assert_array_equal(got, wanted)
        return
    if dtype.bits <= 16:
        rtol = max(rtol, 2.0**-7) if rtol else 0
    np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol)
