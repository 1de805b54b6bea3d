"""lstm, gru and rnn at odd sizes, on strided operands and results between guard pages, in f64, and what is refused."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError, Location
from lepton.ir.dims import sym
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.harness import HERE, Layout, backwards, check_node, gaps, meaning, reversed_axes, run_node

assert lepton.codegen.lower

GATES = {ops.lstm: 4, ops.gru: 3, ops.rnn: 1}
SIZES = [  # steps, batch, inputs, hidden
    (0, 2, 3, 4), (1, 1, 5, 1), (1, 2, 4, 3), (7, 5, 3, 17), (7, 1, 128, 128), (1, 5, 2, 128), (66, 2, 1, 3),
    (3, 0, 2, 4),
]


def check(node: Node, given: dict[Value, Array], target: Target, **more: Any) -> None:
    check_node(node, given, target, rtol=2e-4, atol=2e-5, **more)


def array(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, scale: float) -> Array:
    made: Array = (rng.standard_normal(shape) * scale).astype(dtype.numpy)
    return made


def layer(
    op: Op, sizes: tuple[int, int, int, int], *, dtype: DType = DType.F32, absent: str = "", constant: str = "wrbp",
    dynamic: bool = False, loc: tuple[Location, ...] = (), **attrs: Any,
) -> tuple[Node, dict[Value, Array]]:
    """A layer with every operand not in `absent`; those in `constant` are constants. Of x w r b l(engths) h c p."""
    rng = np.random.default_rng(sum(sizes))
    steps, batch, inputs, hidden = sizes
    d, gates = (2 if attrs.get("direction") == "bidirectional" else 1), GATES[op]
    t, n = (sym("T"), sym("N")) if dynamic else (steps, batch)

    def ordered(*dims: Any) -> tuple[Any, ...]:
        return dims if attrs.get("layout", 0) == 0 else (dims[1], dims[0], dims[2])

    state, symbolic = ordered(d, batch, hidden), ordered(d, n, hidden)
    shapes: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
        "x": (ordered(steps, batch, inputs), ordered(t, n, inputs)), "w": ((d, gates * hidden, inputs),) * 2,
        "r": ((d, gates * hidden, hidden),) * 2, "b": ((d, 2 * gates * hidden),) * 2, "l": ((batch,), (n,)),
        "h": (state, symbolic), "c": (state, symbolic), "p": ((d, 3 * hidden),) * 2,
    }
    operands: list[Value | None] = []
    given: dict[Value, Array] = {}
    for name, (shape, type_) in list(shapes.items())[:8 if op is ops.lstm else 6]:
        if name in absent:
            operands.append(None)
            continue
        if name == "l":
            data: Array = rng.integers(0, steps + 1, shape).astype(np.int32)
        else:
            data = array(rng, shape, dtype, 1.0 if name == "x" else hidden ** -0.5)
        if name in constant:
            operands.append(ops.constant(value=Tensor.of(data)))
            continue
        value = Value(TensorType(DType.I32 if name == "l" else dtype, type_))
        operands.append(value)
        given[value] = data
    return Node(op, operands, {**_defaults(op), **attrs, "hidden": hidden}, loc=loc), given


def _defaults(op: Op) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "direction": "forward", "activations": (), "clip": 0.0, "layout": 0, "alphas": (), "betas": ()}
    return shared | {ops.lstm: {"input_forget": False}, ops.gru: {"linear_before_reset": False}}.get(op, {})


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("op", list(GATES), ids=lambda o: o.name)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(target: Target, op: Op, sizes: tuple[int, int, int, int]) -> None:
    check(*layer(op, sizes, direction="bidirectional"), target)
    if target is HERE[-1]:
        check(*layer(op, sizes, absent="blhcp", layout=1), target)
        check(*layer(op, sizes, absent="l", constant=""), target)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("op", list(GATES), ids=lambda o: o.name)
@pytest.mark.parametrize("layout", [gaps, reversed_axes, backwards], ids=lambda f: f.__name__)
@pytest.mark.parametrize("first", [0, 1], ids=["time-first", "batch-first"])
def test_strides(target: Target, op: Op, layout: Layout, first: int) -> None:
    for constant in ("wr", "") if target is HERE[-1] else ("",):
        node, given = layer(op, (7, 3, 5, 17), direction="bidirectional", layout=first, constant=constant)
        layouts = dict.fromkeys([v for v in (*node.inputs, *node.results) if v is not None], layout)
        check(node, given, target, layouts=layouts)


@pytest.mark.parametrize("op", list(GATES), ids=lambda o: o.name)
@pytest.mark.parametrize("sizes", [(0, 1, 3, 5), (1, 1, 3, 128), (7, 9, 3, 5), (130, 2, 4, 20), (5, 0, 2, 3)], ids=str)
@pytest.mark.parametrize("absent", ["", "l"])
def test_run_time_sizes(op: Op, sizes: tuple[int, int, int, int], absent: str) -> None:
    env = {"T": sizes[0], "N": sizes[1]}
    for first in (0, 1):
        node, given = layer(op, sizes, dynamic=True, direction="bidirectional", absent=absent, layout=first)
        check(node, given, HERE[-1], env=env)


@pytest.mark.parametrize("op", list(GATES), ids=lambda o: o.name)
@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_double(op: Op, target: Target) -> None:
    node, given = layer(op, (4, 3, 5, 7), dtype=DType.F64, direction="bidirectional")
    check_node(node, given, target, rtol=1e-11, atol=1e-12)


def test_reset_before_and_after() -> None:
    for before in (False, True):
        for constant in ("wrb", ""):
            node, given = layer(ops.gru, (6, 3, 5, 19), linear_before_reset=before, constant=constant,
                                direction="bidirectional", clip=0.5)
            check(node, given, HERE[-1])


def test_each_direction_has_its_activations() -> None:
    names = ("sigmoid", "tanh", "relu", "hard_sigmoid", "elu", "scaled_tanh")
    node, given = layer(ops.lstm, (6, 2, 5, 9), direction="bidirectional", activations=names, input_forget=True,
                        alphas=(0.0, 0.0, 0.0, 0.3, 0.9, 1.5), betas=(0.0, 0.0, 0.0, 0.4, 0.0, 0.6))
    check(node, given, HERE[-1])


def test_half_is_refused_with_its_place() -> None:
    node, given = layer(ops.lstm, (2, 1, 3, 4), dtype=DType.F16, absent="lhcp", loc=(Location("decoder/rnn", "LSTM"),))
    with pytest.raises(LeptonError, match=r"lstm(.|\n)*f16(.|\n)*decoder/rnn"):
        check(node, given, HERE[-1])


@pytest.mark.parametrize("op", list(GATES), ids=lambda o: o.name)
def test_lengths_out_of_range_stay_inside(op: Op) -> None:
    """Lengths are data: too long ones count as all steps and negative ones as none, nothing outside is touched."""
    node, given = layer(op, (5, 3, 4, 6), direction="bidirectional")
    lengths = node.inputs[4]
    assert lengths is not None
    got = run_node(node, given | {lengths: np.array([900, -7, 6], np.int32)}, HERE[-1])
    bounded = given | {lengths: np.array([5, 0, 5], np.int32)}
    want = meaning(Graph.of("test", tuple(bounded), node.results), list(bounded.values()), {})
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-5)
