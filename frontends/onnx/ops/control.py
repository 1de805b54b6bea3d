"""If and Scan: an If is decided where its condition is known, a region otherwise."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from lepton.frontends.onnx.bundles import alike, leaves, rebuilt
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.contents import only_dims
from lepton.frontends.onnx.registry import imports
from lepton.frontends.onnx.scope import Scope
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import TensorType


@imports("If")
def if_(c: Call) -> Sequence[Value]:
    then, other = c.g("then_branch"), c.g("else_branch")
    known = c.known(0)
    if known is not None and isinstance(known[0], int):
        return c.importer.branch(then if known[0] else other, c.scope, [])
    made = [c.importer.region(graph, c.scope, []) for graph in (then, other)]
    if not all(map(alike, *(outputs for _, outputs in made))):
        c.must_know(c.x(), "which branch runs, since their results hold different numbers of members,")
    flat = [[leaf for value in outputs for leaf in leaves(value)] for _, outputs in made]
    for a, b in zip(*flat, strict=False):
        if isinstance(a.type, TensorType) and isinstance(b.type, TensorType) and a.type.rank != b.type.rank:
            if (taken := _implied(c, then)) is not None:
                return taken
            if c.inputs_of(c.x()):
                c.must_know(c.x(), f"which branch runs, since their results differ in rank ({a.type} and {b.type}),")
            c.fail(f"the branches' results differ in rank: {a.type} and {b.type}",
                   help="the condition may be known once open dimensions are pinned (--dim, dims=)")
    if not flat[0]:  # empty sequences and optionals
        return made[0][1]
    outside = list(dict.fromkeys(v for scope, _ in made for v in scope.captures or {}))
    regions = [graph_of(name, [], scope, outside, outputs)
               for name, (scope, _), outputs in zip(("then", "else"), made, flat, strict=True)]
    symbols = [c.fresh("if") for _ in range(_open_sizes(*flat))]
    results = iter(c.multi(ops.if_, c.reshape(c.x(), ()), *outside, symbols=tuple(symbols), regions=regions))
    return [rebuilt(value, results) for value in made[0][1]]


def _implied(c: Call, then: onnx.GraphProto) -> Sequence[Value] | None:
    """The first branch in place of the node, if it can only run where the condition holds.

    Scripted models ask `if x.shape[2] == 1: x = x.squeeze(2)`. Both branches cannot be typed at once, but the squeeze
    is itself guarded by the very condition, so taking it turns the other case into an error when the model runs."""
    apart = _difference(c, c.x())
    if apart is None:
        return None
    with dims.collect_guards() as guards:
        taken = c.importer.branch(then, c.scope, [])
    implied = any(left != right and dims.mod(left - right, apart) == 0 for left, right in guards)
    return taken if implied else None


def _difference(c: Call, cond: Value) -> dims.Dim | None:
    """a - b, where the condition is a == b of two sizes."""
    node = cond.producer
    while node is not None and node.op in (ops.reshape, ops.cast):
        node = node.inputs[0].producer if node.inputs[0] is not None else None
    if node is None or node.op is not ops.equal:
        return None
    sides = [only_dims(c.importer.contents.of(v)) for v in node.inputs if v is not None]
    if len(sides) != 2 or any(s is None or len(s) != 1 for s in sides):
        return None
    (a,), (b,) = sides[0] or (0,), sides[1] or (0,)
    return a - b


def _open_sizes(then: Sequence[Value], other: Sequence[Value]) -> int:
    """How many sizes differ between the branches' results."""
    return sum(m != n for a, b in zip(then, other, strict=False) if isinstance(a.type, TensorType)
               and isinstance(b.type, TensorType) for m, n in zip(a.tensor.shape, b.tensor.shape, strict=False))


def graph_of(name: str, inputs: Sequence[Value], scope: Scope, outside: Sequence[Value], outputs: Sequence[Value]
             ) -> Graph:
    """A region that takes `inputs` and the captured values in the order of `outside`."""
    captures = scope.captures or {}
    passed = [captures.get(v) or Value(v.type, name=v.name) for v in outside]
    graph = Graph.of(name, [*inputs, *passed], outputs)
    graph.define(scope.definers)
    return graph


@imports("Scan", since=9)
def scan(c: Call) -> Sequence[Value]:
    body, count = c.g("body"), c.i("num_scan_inputs", REQUIRED)
    values = c.all()
    carried = len(values) - count
    collected = len(c.node.output) - carried
    axes = _entries(c, "scan_input_axes", count)
    axes = [c.axes_of((a,), v.tensor.rank)[0] for a, v in zip(axes, values[carried:], strict=True)]
    types = [v.tensor for v in values[:carried]]
    types += [v.tensor.with_shape([d for a, d in enumerate(v.tensor.shape) if a != axis])
              for v, axis in zip(values[carried:], axes, strict=True)]
    inputs = [Value(t, name=info.name) for t, info in zip(types, body.input, strict=True)]
    scope, outputs = c.importer.region(body, c.scope, inputs)
    outside = list(scope.captures or {})
    out_axes = [c.axes_of((a,), v.tensor.rank + 1)[0] for a, v in
                zip(_entries(c, "scan_output_axes", collected), outputs[carried:], strict=True)]
    return c.multi(
        ops.scan, *values, *outside, carried=carried, input_axes=tuple(axes), output_axes=tuple(out_axes),
        input_reverse=tuple(map(bool, _entries(c, "scan_input_directions", count))),
        output_reverse=tuple(map(bool, _entries(c, "scan_output_directions", collected))),
        regions=[graph_of(body.name or "body", inputs, scope, outside, outputs)])


def _entries(c: Call, name: str, count: int) -> list[Any]:
    """A list attribute with one entry per scanned value; absent: zeros."""
    found = c.ints(name, (0,) * count)
    if len(found) != count:
        raise LeptonError(f"attribute '{name}' has {len(found)} entries, expected {count}", where=c.where)
    return list(found)


