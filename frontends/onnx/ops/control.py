"""If, Loop and Scan: decided where the condition is known, regions otherwise."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from lepton.frontends.onnx.bundles import Bundle, alike, leaves, rebuilt
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.contents import only_dims
from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.registry import imports
from lepton.frontends.onnx.scope import Poisoned
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError, TypeRuleError, UnsupportedError
from lepton.ir.types import DType, TensorType


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
    regions = [graph_of(name, [], scope.captures or {}, outside, outputs)
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


def graph_of(name: str, inputs: Sequence[Value], captures: dict[Value, Value], outside: Sequence[Value],
             outputs: Sequence[Value]) -> Graph:
    """A region that takes `inputs` and the captured values in the order of `outside`."""
    passed = [captures.get(v) or Value(v.type, name=v.name) for v in outside]
    return Graph.of(name, [*inputs, *passed], outputs)


@imports("Loop")
def loop(c: Call) -> Sequence[Value]:
    """A region, or written out where sequences go round, or sizes need the number of the round."""
    body, rounds = c.g("body"), c.known(0)
    count = rounds[0] if rounds is not None and isinstance(rounds[0], int) else None
    if not any(isinstance(v, Bundle) for v in c.inputs):
        before = c.importer.problems.snapshot()
        try:
            return _region(c, body)
        except (Poisoned, UnsupportedError, TypeRuleError):
            if count is None and c.opt(0) is not None and c.importer.problems.data_dependent_since(before):
                c.depends(0, "the number of rounds")
            if count is None or not _short(body, count):
                raise
            c.importer.problems.restore(before)
    if count is None:
        if c.opt(0) is None:
            c.fail("a loop that carries sequences without a trip count")
        c.depends(0, "the number of rounds of a loop that carries sequences")
    if not _short(body, count):
        c.fail(f"a loop of {count} rounds that carries sequences: it would have to be written out")
    return _unrolled(c, body, count)


def _short(body: onnx.GraphProto, count: int) -> bool:
    """Whether the rounds may be written out one after the other."""
    return count <= LIMITS.unrolled or count * max(len(body.node), 1) <= LIMITS.unrolled_nodes


def _unrolled(c: Call, body: onnx.GraphProto, count: int) -> Sequence[Value]:
    """The rounds one after the other. The condition must be known in each."""
    state = [v for v in c.inputs[2:] if v is not None]
    collected: list[list[Value]] = []
    going = True if c.opt(1) is None else _decided(c, c.x(1))
    for k in range(max(count, 0)):
        if not going:
            break
        outputs = c.importer.branch(body, c.scope, [c.const(k, DType.I64), c.const(True), *state])
        going, state = _decided(c, outputs[0]), outputs[1:1 + len(state)]
        collected.append(outputs[1 + len(state):])
    if not collected and len(body.output) > 1 + len(state):
        c.fail("what a loop without rounds collects")
    return [*state, *(_stacked(c, column) for column in zip(*collected, strict=True))]


def _decided(c: Call, cond: Value) -> bool:
    known = only_dims(c.importer.contents.of(cond))
    if known is None or not isinstance(known[0], int):
        c.must_know(cond, "whether a loop that cannot be a region goes on")
    return bool(known[0])


def _stacked(c: Call, values: Sequence[Value]) -> Value:
    rows = [c.reshape(v, (1, *v.tensor.shape)) for v in values]
    return c(ops.concat, *rows, axis=0) if len(rows) > 1 else rows[0]


def _region(c: Call, body: onnx.GraphProto) -> Sequence[Value]:
    initial = [c.x(i) for i in range(2, len(c.inputs))]
    if len(body.input) != 2 + len(initial) or len(body.output) < 1 + len(initial):
        raise LeptonError(f"{len(initial)} values for a loop body of {len(body.input)} inputs", where=c.where)
    trip = None if c.opt(0) is None else c.reshape(c.cast(c.x(0), DType.I64), ())
    cond = None if c.opt(1) is None else c.reshape(c.x(1), ())
    inputs = [Value(TensorType(DType.I64, ()), name=body.input[0].name),
              Value(TensorType(DType.BOOL, ()), name=body.input[1].name)]
    types = _settled_types(c, body, initial)
    inputs += [Value(t, name=info.name) for t, info in zip(types, body.input[2:], strict=False)]
    scope, outputs = c.importer.region(body, c.scope, inputs)
    captures = scope.captures or {}
    outside = list(captures)
    outputs = [c.reshape(outputs[0], ()), *outputs[1:]]
    region = graph_of(body.name or "body", inputs, captures, outside, outputs)
    symbols = tuple(c.fresh("loop") for _ in range(_loop_symbols(initial, inputs[2:], outputs)))
    return c.multi(ops.loop_, trip, cond, *initial, *outside, carried=len(initial), symbols=symbols, regions=[region])


def _settled_types(c: Call, body: onnx.GraphProto, initial: Sequence[Value]) -> list[TensorType]:
    """The carried values' types inside: a size that a round changes is a symbol of its own."""
    types = [v.tensor for v in initial]
    for _ in range(8):
        inputs = [Value(TensorType(DType.I64, ())), Value(TensorType(DType.BOOL, ())), *(Value(t) for t in types)]
        _, outputs = c.importer.region(body, c.scope, inputs)
        if any(isinstance(v, Bundle) for v in outputs):
            c.fail("a loop whose rounds turn tensors into sequences")
        after = [v.tensor for v in outputs[1:1 + len(types)]]
        if after == types:
            return types
        widened = [_widened(c, a, b) for a, b in zip(types, after, strict=True)]
        if widened == types:
            return types
        types = widened
    c.fail("the sizes of the values that go round do not settle")


def _widened(c: Call, before: TensorType, after: TensorType) -> TensorType:
    if before.rank != after.rank or before.dtype is not after.dtype:
        c.fail(f"a carried value changes from {before} to {after}")
    own = {d for d in before.shape if not isinstance(d, int) and str(d).startswith("carried")}
    return before.with_shape([m if m == n or m in own else dims.sym(c.fresh("carried"))
                              for m, n in zip(before.shape, after.shape, strict=True)])


def _loop_symbols(initial: Sequence[Value], inside: Sequence[Value], outputs: Sequence[Value]) -> int:
    """Enough names: one for each carried size that changes, one for the count, one for each collected size."""
    changed = sum(m != n for a, b in zip(initial, inside, strict=True)
                  for m, n in zip(a.tensor.shape, b.tensor.shape, strict=True))
    return changed + 1 + sum(v.tensor.rank for v in outputs[1 + len(initial):])


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
    captures = scope.captures or {}
    outside = list(captures)
    out_axes = [c.axes_of((a,), v.tensor.rank + 1)[0] for a, v in
                zip(_entries(c, "scan_output_axes", collected), outputs[carried:], strict=True)]
    return c.multi(
        ops.scan, *values, *outside, carried=carried, input_axes=tuple(axes), output_axes=tuple(out_axes),
        input_reverse=tuple(map(bool, _entries(c, "scan_input_directions", count))),
        output_reverse=tuple(map(bool, _entries(c, "scan_output_directions", collected))),
        regions=[graph_of(body.name or "body", inputs, captures, outside, outputs)])


def _entries(c: Call, name: str, count: int) -> list[Any]:
    """A list attribute with one entry per scanned value; absent: zeros."""
    found = c.ints(name, (0,) * count)
    if len(found) != count:
        raise LeptonError(f"attribute '{name}' has {len(found)} entries, expected {count}", where=c.where)
    return list(found)


