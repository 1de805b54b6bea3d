"""Loops and scans as steps of the program.

    loop trip, cond: body     i = 0; go = cond; head: jump_if_false (go and i < trip) -> end; check;
                              body; carried = next; i = i + 1; jump -> head; end:

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
from lepton.ir.dims import Dim, symbols

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


def emit_loop(p: Planner, node: Node) -> None:
    trip, cond, *values = node.inputs
    carried, (body,) = node.attrs["carried"], node.regions
    sizes = _changing(p, node, body)
    count = copy_of(p, long(0))
    state = [_carrier(p, v, inner) for v, inner in zip(values[:carried], body.inputs[2:], strict=False)]
    going = copy_of(p, cond if cond is not None else constant(np.array(True)))
    stacks = [_stack(p, element, result) for element, result in
              zip(body.outputs[1 + carried:], node.results[carried:], strict=True)]
    head = len(p.program.steps)
    go = going if trip is None else p.apply(ops.logical_and, going, p.apply(ops.less, count, trip))
    leave = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(go),), loc=node.loc))
    with part(p):
        for size in sizes:
            bind(p, size.inside, size.carrier)
        for stack in stacks:
            for outer, _, carrier in stack.own:
                bind(p, str(outer), carrier)
        enter(p, body, [count, constant(np.array(True)), *state, *values[carried:]])
        made = _round(p, body)
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
        bind(p, str(node.results[carried].tensor.shape[0]), count)
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
    count, total = copy_of(p, long(0)), p.size_value(rounds)
    state = [copy_of(p, v) for v in node.inputs[:carried]]
    for result in node.results[carried:]:
        p.places[result] = p.wanted.get(result) or p.workspace(result.tensor)
    head = len(p.program.steps)
    go = p.apply(ops.less, count, total)
    leave = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(go),), loc=node.loc))
    with part(p):
        back = p.apply(ops.sub, p.apply(ops.sub, total, long(1)), count)
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


def _stack(p: Planner, element: Value, result: Value) -> _Stack:
    own = []
    for outer, inner in zip(result.tensor.shape[1:], element.tensor.shape, strict=True):
        if outer != inner:
            own.append((outer, inner, copy_of(p, long(0))))
    room = Value(result.type)
    p.places[room] = p.growing(result.tensor)
    return _Stack(element, room, tuple(own))


def _collect(p: Planner, node: Node, stack: _Stack, element: Value, count: Value, rounds: Value) -> None:
    """One more row, of the size of those before it."""
    if stack.own:
        again = p.apply(ops.less, long(0), count)
        skip = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(again),)))
        check = p.step(Step(StepKind.CHECK, target=len(p.program.steps) + 1))
        for outer, inner, _ in stack.own:
            p.guard(check, inner, outer, f"{p.where(node)}: what a loop collects must keep its size")
        skip.target = len(p.program.steps)
    type = element.tensor
    room = p.place(stack.room).buffer
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


def _round(p: Planner, body: Graph) -> list[Value]:
    """Emit the body once; fresh values that hold what it gives."""
    made = [p.value(v.tensor) for v in body.outputs]
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
