"""Every elementwise op has a formula and computes what it means, for every element type it takes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.lower.scalar import FORMULAS, SIMPLE
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.op import OPS, Op, Trait
from lepton.ir.types import DType
from tests.codegen.harness import HERE, check_node, value

ELEMENTWISE = [o for o in OPS.values() if o.has(Trait.ELEMENTWISE)]
DTYPES = [DType.F32, DType.F64, DType.F16, DType.BF16, DType.I8, DType.U8, DType.I32, DType.I64, DType.U64, DType.BOOL]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5, 3.0, 1e-40, 60.0, -60.0, 1e30, np.inf, -np.inf, np.nan]
ATTRS: dict[str, list[dict[str, Any]]] = {
    "leaky_relu": [{"alpha": 0.1}], "elu": [{"alpha": 1.5}], "selu": [{"alpha": 1.6, "gamma": 1.05}],
    "celu": [{"alpha": 2.0}], "hard_sigmoid": [{"alpha": 0.2, "beta": 0.5}], "gelu": [{}, {"approximate": "tanh"}],
    "swish": [{}, {"alpha": 1.702}], "thresholded_relu": [{"alpha": 0.7}], "shrink": [{"lambd": 0.5, "bias": 0.2}],
    "is_inf": [{}, {"positive": False}, {"negative": False}, {"positive": False, "negative": False}],
    "mod": [{}, {"fmod": True}], "bitcast": [], "cast": [],
    "to_level": [{"to": DType.U8}, {"to": DType.I8, "zero": -3}, {"to": DType.U16, "zero": 40000}, {"to": DType.I16}],
}


def test_every_elementwise_op_has_a_formula() -> None:
    assert not [o.name for o in ELEMENTWISE if o not in SIMPLE and o not in FORMULAS]
    assert not [o.name for o in [*SIMPLE, *FORMULAS] if not o.has(Trait.ELEMENTWISE)]


def operand(dtype: DType, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, 83).astype(bool)
    if dtype.is_integer:
        return rng.integers(-9 if dtype.is_signed else 0, 10, 83).astype(dtype.numpy)
    x = rng.standard_normal(83) * 2
    x[:len(SPECIAL)] = SPECIAL
    rng.shuffle(x)
    with np.errstate(over="ignore"):
        return x.astype(dtype.numpy)


def nodes(op: Op, dtype: DType) -> list[tuple[Node, dict[Value, Any]]]:
    """Applications of the op to operands of this type; none where its type rule refuses it."""
    count = op.arity[1] or 2
    made = []
    for attrs in ATTRS.get(op.name, [{}]):
        kinds = [DType.BOOL if op is ops.where and k == 0 else dtype for k in range(count)]
        shapes: list[tuple[int, ...]] = [() if op is ops.clip and k else (83,) for k in range(count)]
        values = [value(s, d) for s, d in zip(shapes, kinds, strict=True)]
        try:
            node = op.node(*values, **attrs)
        except LeptonError:
            continue
        arrays = {v: operand(d, k)[:1].reshape(()) if s == () else operand(d, k)
                  for k, (v, d, s) in enumerate(zip(values, kinds, shapes, strict=True))}
        made.append((node, arrays))
    return made


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda o: o.name)
def test_op(op: Op, target: Target) -> None:
    for dtype in DTYPES:
        for node, arrays in nodes(op, dtype):
            with np.errstate(all="ignore"):
                check_node(node, arrays, target, rtol=2e-6, atol=2e-6 if op is ops.gelu else 1e-7)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_powers_of_other_types(target: Target) -> None:
    for a, b in ((DType.F32, DType.I64), (DType.F32, DType.I8), (DType.I32, DType.F32), (DType.I64, DType.I32),
                 (DType.F64, DType.F32)):
        x, y = value((83,), a), value((83,), b)
        with np.errstate(all="ignore"):
            check_node(ops.pow_.node(x, y), {x: operand(a, 0), y: operand(b, 1)}, target)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0, 1.7])
def test_known_powers(target: Target, exponent: float) -> None:
    from lepton.ir.core import Graph
    from lepton.ir.tensor import Tensor

    x = value((83,))
    body = Graph.of("body", [x], [ops.pow_(x, ops.constant(value=Tensor.of(np.float32(exponent))))])
    node = ops.fusion.node(Value(x.type), regions=(body,), kind="map")
    with np.errstate(all="ignore"):
        check_node(node, {node.inputs[0]: operand(DType.F32, 0)}, target)  # type: ignore[dict-item]


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_bitcast(target: Target) -> None:
    for a, b in ((DType.F32, DType.I32), (DType.U32, DType.F32), (DType.I64, DType.F64), (DType.I8, DType.U8),
                 (DType.BOOL, DType.U8)):
        x = value((83,), a)
        array = operand(DType.I32 if a is DType.U32 else a, 0).astype(a.numpy)
        check_node(ops.bitcast.node(x, to=b), {x: array}, target)
