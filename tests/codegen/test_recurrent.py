"""lstm, gru and rnn against their meaning: directions, lengths, states, peepholes, activations, run-time sizes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.codegen.templates.cells import NAMES
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import sym
from lepton.ir.op import Op
from lepton.ir.ops.recurrent import ACTIVATIONS
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import HERE, run_node

assert lepton.codegen.lower

rng = np.random.default_rng(6)
GATES = {ops.lstm: 4, ops.gru: 3, ops.rnn: 1}


def layer(op: Op, steps: int, batch: int, inputs: int, hidden: int, *, absent: str = "", constant: bool = True,
          names: tuple[Any, Any] | None = None, **attrs: Any) -> tuple[Node, dict[Value, Array]]:
    """A layer with all optional operands but those in `absent` (of b, l, h, c, p), and its inputs."""
    d = 2 if attrs.get("direction") == "bidirectional" else 1
    gates, first = GATES[op], attrs.get("layout", 0) == 0
    state = (d, batch, hidden) if first else (batch, d, hidden)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (steps, batch, inputs) if first else (batch, steps, inputs), "w": (d, gates * hidden, inputs),
        "r": (d, gates * hidden, hidden), "b": (d, 2 * gates * hidden), "l": (batch,), "h": state}
    if op is ops.lstm:
        shapes |= {"c": state, "p": (d, 3 * hidden)}
    operands: list[Value | None] = []
    given: dict[Value, Array] = {}
    for name, shape in shapes.items():
        if name in absent:
            operands.append(None)
            continue
        array = (rng.standard_normal(shape) * hidden ** -0.5).astype(np.float32)
        dtype, symbolic = DType.F32, shape
        if name == "l":
            array, dtype = rng.integers(0, steps + 1, shape).astype(np.int32), DType.I32
        if names is not None:
            t, n = names
            symbolic = {"x": (t, n, inputs), "l": (n,), "h": (d, n, hidden), "c": (d, n, hidden)}.get(name, shape)
        if constant and name in "wr":
            operands.append(ops.constant(value=Tensor.of(array)))
        else:
            operands.append(value := Value(TensorType(dtype, symbolic)))
            given[value] = array
    return op.node(*operands, hidden=hidden, **attrs), given


def check(node: Node, given: dict[Value, Array], target: str = HERE[-1], **more: Any) -> None:
    constants = {v: v.producer.attrs["value"].array for v in node.inputs if v is not None and v.producer is not None}
    arrays = [None if v is None else (given | constants)[v] for v in node.inputs]
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in arrays]
    want = node.op.reference(*wide, **node.attrs)
    got = run_node(node, given, target, **more)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(target: str, op: Op, direction: str) -> None:
    check(*layer(op, 7, 5, 9, 19, direction=direction), target)
    check(*layer(op, 5, 1, 4, 16, direction=direction, absent="lhcpb"), target)


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("absent", ["b", "l", "hc", "p", "blhcp"])
def test_absent_operands(op: Op, absent: str) -> None:
    check(*layer(op, 4, 3, 5, 6, absent=absent))


@pytest.mark.parametrize("op", list(GATES))
def test_forms(op: Op) -> None:
    check(*layer(op, 6, 3, 5, 8, layout=1, direction="bidirectional"))
    check(*layer(op, 6, 3, 5, 8, clip=0.3))
    check(*layer(op, 6, 3, 5, 17, constant=False, direction="bidirectional"))
    check(*layer(op, 100, 2, 5, 300, absent="hcp"))
    check(*layer(op, 3, 30, 40, 33))


def test_special_attributes() -> None:
    check(*layer(ops.lstm, 6, 3, 5, 8, input_forget=True))
    check(*layer(ops.gru, 6, 3, 5, 19, linear_before_reset=True, direction="bidirectional"))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str) -> None:
    check(*layer(ops.rnn, 4, 2, 3, 5, activations=(name,)))
    check(*layer(ops.rnn, 4, 2, 3, 5, activations=(name,), alphas=(0.7,), betas=(0.3,)))


def test_every_activation_is_spelled() -> None:
    assert set(ACTIVATIONS) == NAMES


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (9, 6), (70, 2)])
def test_run_time_sizes(op: Op, steps: int, batch: int) -> None:
    node, given = layer(op, steps, batch, 5, 12, names=(sym("T"), sym("N")))
    check(node, given, env={"T": steps, "N": batch})


def coded(op: Op, *sizes: int, **options: Any) -> tuple[Node, dict[Value, Array]]:
    """A layer whose weights are levels in i8, with a scale for each column."""
    node, given = layer(op, *sizes, **options)
    operands = [*node.inputs, *(None,) * ((8 if op is ops.lstm else 6) - len(node.inputs))]
    for slot in (1, 2):
        value = operands[slot]
        assert value is not None
        assert value.producer is not None
        array = value.producer.attrs["value"].array
        scale = (np.abs(array).max(axis=2) / 127).astype(np.float32)
        operands[slot] = ops.constant(value=Tensor.of(np.rint(array / scale[..., None]).astype(np.int8)))
        operands.append(ops.constant(value=Tensor.of(scale)))
    return op.node(*operands, **node.attrs), given


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("op", list(GATES))
def test_weights_of_bytes(target: str, op: Op) -> None:
    check(*coded(op, 7, 5, 9, 19, direction="bidirectional"), target)
    check(*coded(op, 70, 1, 5, 33, absent="lhcpb"), target)
    check(*coded(op, 3, 30, 40, 1, layout=1, **({"linear_before_reset": True} if op is ops.gru else {})), target)


def test_weights_of_bytes_that_are_no_constants_are_refused() -> None:
    node, given = coded(ops.gru, 3, 2, 4, 5)
    levels = Value(TensorType(DType.I8, (1, 15, 4)))
    node.set_input(1, levels)
    with pytest.raises(UnsupportedError, match="gru with levels that are no constants"):
        check(node, given | {levels: np.zeros((1, 15, 4), np.int8)})
