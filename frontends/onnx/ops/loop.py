"""Loop: a region; or written out, where sequences go round or sizes need the number of the round."""
from __future__ import annotations

from collections.abc import Sequence

import onnx

from lepton.frontends.onnx.bundles import Bundle, Growing, Stack, stack
from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.contents import only_dims
from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.ops.control import graph_of
from lepton.frontends.onnx.registry import imports
from lepton.frontends.onnx.scope import Poisoned
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError, TypeRuleError, UnsupportedError
from lepton.ir.types import DType, SequenceType, TensorType


@imports("Loop")
def loop(c: Call) -> Sequence[Value]:
    """Few rounds that carry sequences are written out: then members need not be alike. Otherwise a region, and if that
    cannot be, rounds written out after all."""
    body, rounds = c.g("body"), c.known(0)
    count = rounds[0] if rounds is not None and isinstance(rounds[0], int) else None
    sequences = any(isinstance(v, Bundle) for v in c.inputs)
    short = count is not None and _short(body, count)
    if sequences and short and count is not None:
        return _unrolled(c, body, count)
    before = c.importer.problems.snapshot()
    try:
        return _region(c, body)
    except (Poisoned, UnsupportedError, TypeRuleError):
        if count is None and c.opt(0) is not None and c.inputs_of(c.x(0)) and (
                sequences or c.importer.problems.data_dependent_since(before)):
            c.importer.problems.restore(before)
            c.depends(0, "the number of rounds")
        if sequences or not short or count is None:
            raise
        c.importer.problems.restore(before)
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


# --- as a region ----------------------------------------------------------------------------------


def _region(c: Call, body: onnx.GraphProto) -> Sequence[Value]:
    """Sequences that go round may only grow at their end, by tensors of one type: those are collected."""
    initial = [v for v in c.inputs[2:] if v is not None]
    if len(body.input) != 2 + len(initial) or len(body.output) < 1 + len(initial):
        raise LeptonError(f"{len(initial)} values for a loop body of {len(body.input)} inputs", where=c.where)
    for v in initial:
        if isinstance(v, Bundle) and not (type(v) in (Bundle, Stack) and isinstance(v.type, SequenceType)):
            c.fail(f"a loop of rounds that cannot be written out and carries {v.type}")
    trip = None if c.opt(0) is None else c.reshape(c.cast(c.x(0), DType.I64), ())
    cond = None if c.opt(1) is None else c.reshape(c.x(1), ())
    state = [v for v in initial if not isinstance(v, Bundle)]
    inside = _inside(initial, _settled_types(c, body, initial))
    for value, info in zip(inside, body.input, strict=True):
        value.name = info.name
    scope, outputs = c.importer.region(body, c.scope, inside)
    outside = list(scope.captures or {})
    after, added = _sorted(c, inside, outputs)
    flat = [leaf for values in added for leaf in values]
    after = [c.reshape(after[0], ()), *after[1:], *flat]
    own = [v for v in inside if not isinstance(v, Bundle)]
    region = graph_of(body.name or "body", own, scope, outside, after)
    _check_sizes(c, region, {d for v in state for d in v.tensor.shape}, flat)
    symbols = tuple(c.fresh("loop") for _ in range(_loop_symbols(state, own[2:], after)))
    results = iter(c.multi(ops.loop_, trip, cond, *state, *outside, carried=len(state), symbols=symbols,
                           regions=[region]))
    states = [v if isinstance(v, Bundle) else next(results) for v in initial]
    collected = [next(results) for _ in outputs[1 + len(initial):]]
    grown = iter([_grown(c, v, [next(results) for _ in values])
                  for v, values in zip((v for v in initial if isinstance(v, Bundle)), added, strict=True)])
    return [*(next(grown) if isinstance(v, Bundle) else v for v in states), *collected]


def _inside(initial: Sequence[Value], types: Sequence[TensorType]) -> list[Value]:
    """What the body is given: the number of the round, whether it goes on, the carried values."""
    kinds = iter(types)
    return [Value(TensorType(DType.I64, ())), Value(TensorType(DType.BOOL, ())),
            *(Growing(v.type) if isinstance(v, Bundle) else Value(next(kinds)) for v in initial)]


def _sorted(c: Call, inside: Sequence[Value], outputs: Sequence[Value]) -> tuple[list[Value], list[list[Value]]]:
    """The outputs that are tensors, and of each sequence what a round puts behind it."""
    added = []
    for before, after in zip(inside[1:], outputs, strict=False):
        if isinstance(before, Growing) and (not isinstance(after, Growing) or (after.origin or after) is not before):
            c.fail("a sequence that does more, in rounds that cannot be written out, than grow at its end")
        if isinstance(after, Growing):
            added.append(list(after.items))
    if any(len({v.type for v in values}) > 1 for values in added):
        c.fail("a sequence that grows by tensors of different types in rounds that cannot be written out")
    tensors = [v for v in outputs if not isinstance(v, Growing)]
    if any(isinstance(v, Bundle) for v in tensors):
        c.fail("a loop whose rounds turn tensors into sequences")
    return tensors, added


def _check_sizes(c: Call, region: Graph, outside: set[dims.Dim], added: Sequence[Value]) -> None:
    """What a sequence grows by must have the same size in each round: one that a round finds out has not."""
    own = {name for node in region.walk() for name in (*node.attrs.get("symbols", ()), node.attrs.get("symbol"))}
    own |= {name for v in region.inputs for d in v.tensor.shape if d not in outside
            for name in dims.symbols(d) if name.startswith("carried")}
    for value in added:
        if any(dims.symbols(d) & own for d in value.tensor.shape):
            c.fail(f"a sequence that grows by {value.type}, whose size is another in each round")


def _grown(c: Call, before: Value, collected: Sequence[Value]) -> Value:
    """The sequence after the rounds: `collected` holds [rounds, …] for each tensor that a round has put behind it."""
    assert isinstance(before, Bundle)
    if not collected:
        return before
    table = collected[0]
    if len(collected) > 1:
        rounds, *shape = table.tensor.shape
        parts = [c.reshape(v, (rounds, 1, *shape)) for v in collected]
        table = c.reshape(c(ops.concat, *parts, axis=1), (rounds * len(collected), *shape))
    first = before.items if isinstance(before, Stack) else [c.reshape(v, (1, *v.tensor.shape)) for v in before.items]
    if any(v.tensor.rank != table.tensor.rank for v in first):
        c.fail("a sequence that grows by tensors of another rank than it has")
    return stack(c(ops.concat, *first, table, axis=0) if first else table)


def _settled_types(c: Call, body: onnx.GraphProto, initial: Sequence[Value]) -> list[TensorType]:
    """The carried tensors' types inside: a size that a round changes is a symbol of its own."""
    types = [v.tensor for v in initial if not isinstance(v, Bundle)]
    for _ in range(8):
        inside = _inside(initial, types)
        _, outputs = c.importer.region(body, c.scope, inside)
        tensors, _ = _sorted(c, inside, outputs)
        after = [v.tensor for v in tensors[1:1 + len(types)]]
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
