"""Control flow and sizes that depend on data, as steps of the program: jumps, copies, binds.

    if c: A else B            jump_if_false c -> else; A; jump -> end; else: B; end:
    loop trip, cond: body     i = 0; flag = cond; head: go = flag and i < trip; jump_if_false go -> end;
                              body; carried = next; i = i + 1; jump -> head; end:
    n = size of the data      count kernel -> i64; bind n; fill kernel

Everything a loop reads that was made before it stays alive until its end; what a body makes lives within one round.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lepton.codegen.lower.sized import SIZERS
from lepton.codegen.lower.slices import store_slice_kernel
from lepton.codegen.program import Step, StepKind
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, Expr, sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

if TYPE_CHECKING:
    from lepton.codegen.plan import Planner

LONG = TensorType(DType.I64, ())


def emit_if(p: Planner, node: Node) -> None:
    condition, *captures = node.inputs
    assert condition is not None
    if node.attrs["symbols"]:
        raise UnsupportedError("the branches give different sizes, which is not compiled yet", where=_where(node))
    for result in node.results:
        p.places[result] = p.wanted.get(result) or p.workspace(result.tensor)
    targets = [p.places[r] for r in node.results]
    skip = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(condition),), loc=node.loc))
    leave: Step | None = None
    for region in node.regions:
        _enter(p, region, captures)
        p.region(region, targets)
        if leave is None:
            leave = p.step(Step(StepKind.JUMP, loc=node.loc))
            skip.target = len(p.program.steps)
    assert leave is not None
    leave.target = len(p.program.steps)


def bind_sizes(p: Planner, node: Node) -> None:
    """Count, then bind the symbol, of an op whose result's size depends on its operands' elements."""
    count = p.value(LONG)
    group = p.group(node)
    p.call(group, SIZERS[node.op](group, count), node.loc)
    bind(p, node.attrs["symbol"], count)


def bind(p: Planner, symbol: str, count: Value) -> None:
    """From here on `symbol` has the size that `count` (i64[]) holds."""
    p.step(Step(StepKind.BIND, (p.operand(count),), bound=sym(symbol)))


def emit_loop(p: Planner, node: Node) -> None:
    trip, cond, *values = node.inputs
    carried, (body,) = node.attrs["carried"], node.regions
    symbols = list(node.attrs["symbols"])
    collected = node.results[carried:]
    _same_sizes(node, values[:carried], body, carried)
    if collected and trip is None:
        raise UnsupportedError("a loop without a limit that collects values is not compiled yet", where=_where(node))
    count = _copy_of(p, _long(0))
    state = [_copy_of(p, v) for v in values[:carried]]
    going = _copy_of(p, cond if cond is not None else constant(np.array(True)))
    stacks = _stacks(p, node, trip, body.outputs[1 + carried:], symbols) if collected and trip is not None else []
    head = len(p.program.steps)
    go = going if trip is None else p.apply(ops.logical_and, going, p.apply(ops.less, count, trip))
    leave = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(go),), loc=node.loc))
    _enter(p, body, [count, constant(np.array(True)), *state, *values[carried:]])
    made = _round(p, body)
    p.copy_value(made[0], going)
    for new, old in zip(made[1:1 + carried], state, strict=True):
        p.copy_value(new, old)
    for element, stack in zip(made[1 + carried:], stacks, strict=True):
        store_slice(p, element, count, stack, axis=0)
    p.apply(ops.add, count, _long(1), into=count)
    _close(p, head, leave, *stacks)
    for result, value in zip(node.results[:carried], state, strict=True):
        p.deliver(result, value)
    if collected:
        bind(p, _round_symbol(node, collected), count)
        for result, stack in zip(collected, stacks, strict=True):
            p.deliver(result, stack)


def emit_scan(p: Planner, node: Node) -> None:
    attrs, (body,) = node.attrs, node.regions
    carried, axes = attrs["carried"], attrs["input_axes"]
    last = carried + len(axes)
    scanned = [v for v in node.inputs[carried:last] if v is not None]
    rounds = scanned[0].tensor.shape[axes[0]]
    count, total = _copy_of(p, _long(0)), p.size_value(rounds)
    state = [_copy_of(p, v) for v in node.inputs[:carried]]
    for result in node.results[carried:]:
        p.places[result] = p.wanted.get(result) or p.workspace(result.tensor)
    head = len(p.program.steps)
    go = p.apply(ops.less, count, total)
    leave = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(go),), loc=node.loc))
    back = p.apply(ops.sub, p.apply(ops.sub, total, _long(1)), count)
    slices = [p.apply(ops.gather, v, back if reverse else count, axis=axis)
              for v, axis, reverse in zip(scanned, axes, attrs["input_reverse"], strict=True)]
    _enter(p, body, [*state, *slices, *node.inputs[last:]])
    made = _round(p, body)
    for new, old in zip(made[:carried], state, strict=True):
        p.copy_value(new, old)
    rows = zip(made[carried:], node.results[carried:], attrs["output_axes"], attrs["output_reverse"], strict=True)
    for element, stack, axis, reverse in rows:
        store_slice(p, element, back if reverse else count, stack, axis=axis)
    p.apply(ops.add, count, _long(1), into=count)
    _close(p, head, leave, *node.results[carried:])
    for result, value in zip(node.results[:carried], state, strict=True):
        p.deliver(result, value)


def store_slice(p: Planner, element: Value, index: Value, stack: Value, axis: int) -> None:
    """stack[..., index, ...] = element."""
    accesses = p.access(element), p.access(stack)
    p.launch(store_slice_kernel(element, index, stack, accesses, axis))


# --- parts of a loop ------------------------------------------------------------------------------


def _enter(p: Planner, region: Graph, outer: Sequence[Value | None]) -> None:
    """The region's inputs lie where the values that stand for them lie."""
    for inner, value in zip(region.inputs, outer, strict=True):
        assert value is not None
        p.places[inner] = p.place(value)


def _round(p: Planner, body: Graph) -> list[Value]:
    """Emit the body once; fresh values that hold what it gives."""
    made = [p.value(v.tensor) for v in body.outputs]
    p.region(body, [p.place(v) for v in made])
    return made


def _copy_of(p: Planner, value: Value | None) -> Value:
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


def _stacks(p: Planner, node: Node, trip: Value, elements: Sequence[Value], symbols: list[str]) -> list[Value]:
    """Room for one element per round, as many as `trip` allows."""
    limit = p.apply(ops.maximum, trip, _long(0))
    room = f"{symbols[-1] if symbols else 'loop'}_room{len(p.program.steps)}"
    bind(p, room, limit)
    stacks = []
    known = {str(d) for v in node.inputs if v is not None for d in v.tensor.shape}
    for element in elements:
        strange = [d for d in element.tensor.shape if isinstance(d, Expr) and str(d) not in known]
        if strange:
            raise UnsupportedError(f"a loop collects values whose size {strange[0]} changes from round to round",
                                   where=_where(node))
        shape: tuple[Dim, ...] = (sym(room), *element.tensor.shape)
        stacks.append(p.value(element.tensor.with_shape(shape)))
    return stacks


def _round_symbol(node: Node, collected: Sequence[Value]) -> str:
    return str(collected[0].tensor.shape[0])


def _same_sizes(node: Node, initial: Sequence[Value | None], body: Graph, carried: int) -> None:
    outcomes = body.outputs[1:1 + carried]
    for before, inner, after in zip(initial, body.inputs[2:2 + carried], outcomes, strict=True):
        if before is None or not before.type == inner.type == after.type:
            raise UnsupportedError(f"a value carried round a loop changes its size ({inner.type} to {after.type})",
                                   where=_where(node))


def _long(number: int) -> Value:
    return constant(np.array(number, np.int64))


def _where(node: Node) -> object:
    return node.loc[0] if node.loc else None


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


