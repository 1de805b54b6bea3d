"""Scan as it was in opset 8: a batch of sequences, each of a length of its own."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.control import graph_of
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Graph, User, Value, inline
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

LONG = TensorType(DType.I64, ())


@imports("Scan", since=8)
def scan_8(c: Call) -> Sequence[Value]:
    """Along the batch one scan, whose body is the scan along a sequence. Where `sequence_lens` is given, rounds past a
    sequence's end change nothing and give zeros."""
    body, count = c.g("body"), c.i("num_scan_inputs", REQUIRED)
    lengths, values = c.opt(0), [c.x(i) for i in range(1, len(c.inputs))]
    carried, reverse = len(values) - count, _directions(c, count)
    if carried < 0 or any(v.tensor.rank < (1 if i < carried else 2) for i, v in enumerate(values)):
        raise LeptonError("states have a batch axis, scanned values one and an axis of rounds", where=c.where)
    rows = [v.tensor.with_shape(v.tensor.shape[1:]) for v in values]
    inner = [*rows[:carried], *(t.with_shape(t.shape[1:]) for t in rows[carried:])]
    inputs = [Value(t, name=info.name) for t, info in zip(inner, body.input, strict=True)]
    scope, outputs = c.importer.region(body, c.scope, inputs)
    outside = list(scope.captures or {})
    graph = graph_of(body.name or "body", inputs, scope, outside, outputs)
    row = _row(graph, rows, carried, reverse, lengths is not None, outside)
    scanned = values if lengths is None else [*values, lengths]
    collected = len(outputs)
    return c.multi(ops.scan, *scanned, *outside, carried=0, input_axes=(0,) * len(scanned),
                   output_axes=(0,) * collected, input_reverse=(False,) * len(scanned),
                   output_reverse=(False,) * collected, regions=[row])


def _directions(c: Call, count: int) -> list[bool]:
    found = c.ints("directions", (0,) * count)
    if len(found) != count or any(d not in (0, 1) for d in found):
        raise LeptonError(f"directions {list(found)} for {count} scanned values", where=c.where)
    return [bool(d) for d in found]


def _row(body: Graph, rows: Sequence[TensorType], carried: int, reverse: Sequence[bool], measured: bool,
         outside: Sequence[Value]) -> Graph:
    """The scan of one sequence as a region: (states…, sequences…, its length if `measured`, captures…)."""
    values = [Value(t) for t in rows]
    length = [Value(LONG)] if measured else []
    inner = [Value(v.type) for v in outside]
    if measured:
        results = _measured(body, values, carried, reverse, length[0], inner)
    else:
        results = _scan(body, values, carried, reverse, inner)
    return Graph.of("row", (*values, *length, *inner), results)


def _scan(body: Graph, values: Sequence[Value], carried: int, reverse: Sequence[bool],
          captures: Sequence[Value]) -> tuple[Value, ...]:
    count, collected = len(values) - carried, len(body.outputs) - carried
    return ops.scan.node(*values, *captures, carried=carried, input_axes=(0,) * count, output_axes=(0,) * collected,
                         input_reverse=tuple(reverse), output_reverse=(False,) * collected, regions=(body,)).results


def _measured(body: Graph, values: Sequence[Value], carried: int, reverse: Sequence[bool], length: Value,
              captures: Sequence[Value]) -> tuple[Value, ...]:
    """A scan of all rounds, which counts them. What goes backwards is taken by index, as it starts at its own end."""
    states, sequences = values[:carried], values[carried:]
    number, size = Value(LONG), Value(LONG)
    old = [Value(v.type) for v in states]
    whole = [Value(v.type) for v in sequences]
    slices = [Value(v.tensor.with_shape(v.tensor.shape[1:])) for v in sequences]
    inner = [Value(v.type) for v in captures]
    one, zero = (ops.constant(value=Tensor.of(np.array(n))) for n in (1, 0))
    back = ops.maximum(ops.sub(ops.sub(size, one), number), zero)
    taken = [ops.gather(w, back, axis=0) if r else s for w, s, r in zip(whole, slices, reverse, strict=True)]
    region = Graph.of("measured", (number, *old, *slices, size, *whole, *inner), ())
    made = inline(body, [*old, *taken, *inner], region)
    runs = ops.less(number, size)
    otherwise = [*old, *(_zeros(v) for v in made[carried:])]
    kept = [ops.where(runs, new, other) for new, other in zip(made, otherwise, strict=True)]
    region.ret = User((ops.add(number, one), *kept))
    start = ops.constant(value=Tensor.of(np.array(0)))
    return _scan(region, [start, *states, *sequences], 1 + carried, [False] * len(sequences),
                 [length, *sequences, *captures])[1:]


def _zeros(like: Value) -> Value:
    zero = ops.constant(value=Tensor.of(np.zeros((), like.tensor.dtype.numpy)))
    return ops.broadcast_to(zero, shape=like.tensor.shape)
