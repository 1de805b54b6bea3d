"""Loops and scans as steps of the program.

    loop trip, cond: body     i = 0; go = cond; head: jump_if_false (go and i < trip) -> end; check;
                              body; carried = next; i = i + 1; jump -> head; end:
    scan: body                i = 0; head: round trip -> end; check; body; …; i = i + 1; jump -> head; end:

The rounds of a scan, and of a loop whose condition nothing changes, are counted beside the data (`round`), so that on
a GPU nobody waits for each of them: their number is a size, or an element that is read once.

Everything a loop reads that was made before it stays alive until its end; what a body makes lives within one round.
A carried value whose size changes lies in memory that grows. The size itself is carried beside it as an i64, bound at
the start of each round, so that whatever the body makes is planned after that. Collected values are stacked in memory
that grows by a row each round, so a loop needs no limit.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton.codegen.control import (
    LONG,
    bind,
    constant,
    enter,
    long,
    part,
    refill,
    refused,
    write_size,
)
from lepton.codegen.lower.slices import store_slice_kernel
from lepton.codegen.program import Operand, Step, StepKind
from lepton.codegen.views import dense_place
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import Dim, dim_max, product, symbols
from lepton.ir.rewrite import tensor_of

if TYPE_CHECKING:
    from lepton.codegen.plan import Planner


@dataclass(frozen=True, slots=True)
class _Size:
    """A size that a loop changes: its names inside and behind the loop, and the i64 that carries it."""

    inside: str
    behind: str
    carrier: Value
    after: Dim      # one round later, in the body's sizes


@dataclass(frozen=True, slots=True)
class _Stack:
    """Collected values: where they go, and the sizes of one that only the body knows (result's dim, element's dim)."""

    element: Value
    room: Value
    own: tuple[tuple[Dim, Dim, Value], ...]
    whole: bool     # there is room for all rounds before the first one


def emit_loop(p: Planner, node: Node) -> None:
    trip, cond, *values = node.inputs
    carried, (body,) = node.attrs["carried"], node.regions
    sizes, known, yes = _changing(p, node, body), rounds_of(node), constant(np.array(True))
    if isinstance(known, Value):
        known = p.apply(ops.maximum, known, long(0))
    count = copy_of(p, long(0))
    state = [_carrier(p, v, inner) for v, inner in zip(values[:carried], body.inputs[2:], strict=False)]
    going = copy_of(p, cond or yes) if known is None else yes
    stacks = [_stack(p, element, result, known) for element, result in
              zip(body.outputs[1 + carried:], node.results[carried:], strict=True)]
    head = len(p.program.steps)
    leave = _leave(p, node, known) if known is not None else _leave_if(p, node, going, count, trip)
    with part(p):
        for size in sizes:
            bind(p, size.inside, size.carrier)
        for outer, _, carrier in (own for stack in stacks for own in stack.own):
            bind(p, str(outer), carrier)
        enter(p, body, [count, yes, *state, *values[carried:]])
        made = _round(p, body, skip=known is not None)
        if known is None:
            p.copy_value(made[0], going)
        rounds = p.apply(ops.add, count, long(1))
        for stack, element in zip(stacks, made[1 + carried:], strict=True):
            _collect(p, node, stack, element, count, rounds)
        for new, old in zip(made[1:1 + carried], state, strict=True):
            _hand_over(p, new, old)
        for size in sizes:
            write_size(p, size.after, size.carrier)
        p.copy_value(rounds, count)
        _close(p, head, leave)
    for name, carrier in {s.behind: s.carrier for s in sizes}.items():
        bind(p, name, carrier)
    if stacks:
        bind(p, str(node.results[carried].tensor.shape[0]), count, None if isinstance(known, Value) else known)
    for outer, _, carrier in (own for stack in stacks for own in stack.own):
        bind(p, str(outer), carrier)
    for result, value in zip(node.results, [*state, *(s.room for s in stacks)], strict=True):
        p.deliver(result, value)


def emit_scan(p: Planner, node: Node) -> None:
    attrs, (body,) = node.attrs, node.regions
    carried, axes = attrs["carried"], attrs["input_axes"]
    last = carried + len(axes)
    scanned = [v for v in node.inputs[carried:last] if v is not None]
    rounds = scanned[0].tensor.shape[axes[0]]
    known = {name for v in node.inputs if v is not None for d in v.tensor.shape for name in symbols(d)}
    if strange := [d for v in body.outputs for d in v.tensor.shape if not symbols(d) <= known]:
        raise refused(node, f"a scan gives values whose size {strange[0]} only its body knows: use a loop")
    count = copy_of(p, long(0))
    backwards = any((*attrs["input_reverse"], *attrs["output_reverse"]))
    final = p.size_value(rounds - 1) if backwards else count
    state = [copy_of(p, v) for v in node.inputs[:carried]]
    for result in node.results[carried:]:
        p.places[result] = p.wanted.get(result) or p.workspace(result.tensor)
    head = len(p.program.steps)
    leave = _leave(p, node, rounds)
    with part(p):
        back = p.apply(ops.sub, final, count) if backwards else count
        slices = [p.apply(ops.gather, v, back if reverse else count, axis=axis)
                  for v, axis, reverse in zip(scanned, axes, attrs["input_reverse"], strict=True)]
        enter(p, body, [*state, *slices, *node.inputs[last:]])
        made = _round(p, body)
        for new, old in zip(made[:carried], state, strict=True):
            p.copy_value(new, old)
        rows = zip(made[carried:], node.results[carried:], attrs["output_axes"], attrs["output_reverse"], strict=True)
        for element, stack, axis, reverse in rows:
            _store(p, element, back if reverse else count, stack, axis)
        p.apply(ops.add, count, long(1), into=count)
        _close(p, head, leave, *node.results[carried:])
    for result, value in zip(node.results[:carried], state, strict=True):
        p.deliver(result, value)


def rounds_of(node: Node) -> Dim | Value | None:
    """How often a loop's body runs: a size, an i64[]; None where its condition has a say."""
    trip, cond, *_ = node.inputs
    (body,) = node.regions
    goes_on = body.outputs[0] is body.inputs[1] or _is_true(body.outputs[0])
    if trip is None or not goes_on or not (cond is None or _is_true(cond)):
        return None
    source = trip.producer
    while source is not None and source.op is ops.reshape and source.inputs[0] is not None:   # of one element
        source = source.inputs[0].producer
    if source is not None and source.op is ops.shape_values:
        (size,) = source.attrs["dims"]
        return dim_max(size, 0)
    number = tensor_of(trip)
    return trip if number is None else max(0, int(number.array))


def _is_true(cond: Value) -> bool:
    known = tensor_of(cond)
    return known is not None and bool(known.array)


def _leave(p: Planner, node: Node, rounds: Dim | Value) -> Step:
    if isinstance(rounds, Value):
        return p.step(Step(StepKind.ROUND, (p.operand(rounds),), loc=node.loc))
    return p.step(Step(StepKind.ROUND, size=rounds, loc=node.loc))


def _leave_if(p: Planner, node: Node, going: Value, count: Value, trip: Value | None) -> Step:
    go = going if trip is None else p.apply(ops.logical_and, going, p.apply(ops.less, count, trip))
    return p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(go),), loc=node.loc))


# --- carried values -------------------------------------------------------------------------------


def _changing(p: Planner, node: Node, body: Graph) -> list[_Size]:
    """The sizes that change, each once for each value it occurs in; their carriers hold the first round's."""
    carried = node.attrs["carried"]
    found: dict[tuple[str, str], _Size] = {}
    rows = zip(node.inputs[2:2 + carried], body.inputs[2:2 + carried], body.outputs[1:1 + carried],
               node.results[:carried], strict=True)
    for before, inside, after, behind in rows:
        assert before is not None
        for a, b, c, d in zip(*(v.tensor.shape for v in (before, inside, after, behind)), strict=True):
            if a == b == c or (str(b), str(d)) in found:
                continue
            if not str(b).isidentifier():
                raise refused(node, f"a value carried round a loop changes its size from {a} to {c} inside {b}")
            carrier = next((s.carrier for s in found.values() if s.inside == str(b)), None) or p.value(LONG)
            write_size(p, a, carrier)
            found[str(b), str(d)] = _Size(str(b), str(d), carrier, c)
    return list(found.values())


def _carrier(p: Planner, initial: Value | None, inside: Value) -> Value:
    """Memory for a value that goes round, with what it starts from."""
    assert initial is not None
    if initial.type == inside.type:
        return copy_of(p, initial)
    mine = Value(inside.type)
    p.places[mine] = p.growing(inside.tensor)
    refill(p, p.place(mine), initial.tensor, p.place(initial))
    return mine


def _hand_over(p: Planner, new: Value, old: Value) -> None:
    """What a round made becomes what the next one takes. The size is that of before, until it is bound."""
    if p.grows(old):
        refill(p, p.place(old), new.tensor, p.place(new))
    else:
        p.copy_value(new, old)


# --- collected values -----------------------------------------------------------------------------


def _stack(p: Planner, element: Value, result: Value, rounds: Dim | Value | None) -> _Stack:
    own = []
    for outer, inner in zip(result.tensor.shape[1:], element.tensor.shape, strict=True):
        if outer != inner:
            own.append((outer, inner, copy_of(p, long(0))))
    room = Value(result.type)
    place = p.places[room] = p.growing(result.tensor)
    if rounds is None or own:
        return _Stack(element, room, tuple(own), whole=False)
    row = element.tensor.size * element.tensor.dtype.bytes
    if isinstance(rounds, Value):
        p.step(Step(StepKind.RESERVE, (Operand(place.buffer), p.operand(rounds)), size=row))
    else:
        p.step(Step(StepKind.RESERVE, (Operand(place.buffer),), size=product((rounds, row))))
    return _Stack(element, room, (), whole=True)


def _collect(p: Planner, node: Node, stack: _Stack, element: Value, count: Value, rounds: Value) -> None:
    """One more row, of the size of those before it; with it there are `rounds`."""
    if stack.own:
        again = p.apply(ops.less, long(0), count)
        skip = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(again),)))
        check = p.step(Step(StepKind.CHECK, target=len(p.program.steps) + 1))
        for outer, inner, _ in stack.own:
            p.guard(check, inner, outer, f"{p.where(node)}: what a loop collects must keep its size")
        skip.target = len(p.program.steps)
    type = element.tensor
    room = p.place(stack.room).buffer
    if not stack.whole:
        p.step(Step(StepKind.RESERVE, (Operand(room), p.operand(rounds)), size=type.size * type.dtype.bytes))
    rows = Value(type.with_shape((1, *type.shape)))
    p.places[rows] = dense_place(room, rows.tensor)
    _store(p, element, count, rows, axis=0)
    for _, inner, carrier in stack.own:
        write_size(p, inner, carrier)


def _store(p: Planner, element: Value, index: Value, stack: Value, axis: int) -> None:
    """stack[..., index, ...] = element."""
    accesses = p.access(element), p.access(stack)
    p.launch(store_slice_kernel(element, index, stack, accesses, axis))


# --- parts of a loop ------------------------------------------------------------------------------


def _round(p: Planner, body: Graph, *, skip: bool = False) -> list[Value]:
    """Emit the body once; fresh values that hold what it gives. `skip`: the first of them lies where it is."""
    made = [body.outputs[i] if skip and i == 0 else p.value(v.tensor) for i, v in enumerate(body.outputs)]
    p.region(body, [p.place(v) for v in made])
    return made


def copy_of(p: Planner, value: Value | None) -> Value:
    """A value of the same type in memory of its own, with these elements."""
    assert value is not None
    mine = p.value(value.tensor)
    p.copy_value(value, mine)
    return mine


def _close(p: Planner, head: int, leave: Step, *across: Value) -> None:
    """Jump back to the head. What was alive there is alive until here, and so are the values that go `across` rounds
    but are first written inside."""
    p.step(Step(StepKind.JUMP, target=head))
    end = len(p.program.steps)
    leave.target = end
    for value in across:
        p.place(value).buffer.touch(head)
    for buffer in p.program.buffers:
        if 0 <= buffer.first <= head <= buffer.last:
            buffer.last = max(buffer.last, end - 1)
