"""Branches and sizes that depend on data, as steps of the program: jumps, binds, checks. rounds.py has the loops.

    if c: A else B            jump_if_false c -> else; check; A; jump -> end; else: check; B; end:
    n = size of the data      count kernel -> i64; bind n; check; fill kernel

What a branch or a loop's body takes for granted counts only where it runs: a check step at its start holds its guards,
and that of a bind those that name the new size. A size on which two branches differ is written to memory by each and
bound behind them; what they give goes to memory that grows, reserved by the branch that runs.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lepton.codegen.lower.sized import SIZERS
from lepton.codegen.program import Operand, Step, StepKind
from lepton.codegen.views import Place, dense_place
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, sym, symbols
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

if TYPE_CHECKING:
    from lepton.codegen.plan import Planner

LONG = TensorType(DType.I64, ())


def emit_if(p: Planner, node: Node) -> None:
    condition, *captures = node.inputs
    assert condition is not None
    own = set(node.attrs["symbols"])
    sized = [any(symbols(d) & own for d in r.tensor.shape) for r in node.results]
    sizes = {name: p.value(LONG) for name in sorted(_names(node.results) & own)}
    for result, grows in zip(node.results, sized, strict=True):
        p.places[result] = p.growing(result.tensor) if grows else p.wanted.get(result) or p.workspace(result.tensor)
    skip = p.step(Step(StepKind.JUMP_IF_FALSE, (p.operand(condition),), loc=node.loc))
    leave: Step | None = None
    for region in node.regions:
        with part(p):
            enter(p, region, captures)
            _branch(p, region, node.results, sized, sizes)
        if leave is None:
            leave = p.step(Step(StepKind.JUMP, loc=node.loc))
            skip.target = len(p.program.steps)
    assert leave is not None
    leave.target = len(p.program.steps)
    for name, size in sizes.items():
        bind(p, name, size)
    for result, grows in zip(node.results, sized, strict=True):
        if grows:
            p.deliver(result, result)


def _branch(p: Planner, region: Graph, results: Sequence[Value], sized: Sequence[bool], sizes: Mapping[str, Value]
            ) -> None:
    """One branch, its sizes written to `sizes`; what has a size of its own is copied into memory reserved for it."""
    given = region.outputs
    targets = [p.workspace(v.tensor) if grows else p.place(r)
               for v, r, grows in zip(given, results, sized, strict=True)]
    p.region(region, targets)
    for value, result, target, grows in zip(given, results, targets, sized, strict=True):
        if grows:
            refill(p, p.place(result), value.tensor, target)
    for outer, inner in {o: i for r, v in zip(results, given, strict=True)
                         for o, i in zip(r.tensor.shape, v.tensor.shape, strict=True)}.items():
        if str(outer) in sizes:
            write_size(p, inner, sizes[str(outer)])


def bind_sizes(p: Planner, node: Node) -> None:
    """Count, then bind the symbol, of an op whose result's size depends on its operands' elements."""
    count = p.value(LONG)
    group = p.group(node)
    p.call(group, SIZERS[node.op](group, count), node.loc)
    bind(p, node.attrs["symbol"], count)


def emit_read_sizes(p: Planner, node: Node) -> None:
    """Bind each symbol to its element, where that lies."""
    (x,), (result,) = node.inputs, node.results
    assert x is not None
    place = p.places[result] = p.place(x)
    for i, symbol in enumerate(node.attrs["symbols"]):
        bind_at(p, symbol, Operand(place.buffer, (place.offset + place.strides[0] * i) * LONG.dtype.bytes))


def bind(p: Planner, symbol: str, count: Value, known: Dim | None = None) -> None:
    """From here on `symbol` has the size that `count` (i64[]) holds, or that is `known`."""
    if known is None:
        bind_at(p, symbol, p.operand(count))
        return
    p.step(Step(StepKind.BIND, bound=sym(symbol), size=known))
    known_from_here(p, symbol)


def bind_at(p: Planner, symbol: str, place: Operand) -> None:
    p.step(Step(StepKind.BIND, (place,), bound=sym(symbol)))
    known_from_here(p, symbol)


def known_from_here(p: Planner, *symbols: str) -> None:
    """The step before has bound these: what is taken for granted about them is checked now."""
    p.late.update(symbols)
    p.check = p.step(Step(StepKind.CHECK, target=len(p.program.steps) + 1))


@contextmanager
def part(p: Planner) -> Iterator[None]:
    """Steps that may not run, or run many times: what they take for granted is checked at their start."""
    before = p.check
    p.check = check = p.step(Step(StepKind.CHECK))
    p.depth += 1
    yield
    p.depth -= 1
    p.check = before
    check.target = len(p.program.steps)


def enter(p: Planner, region: Graph, outer: Sequence[Value | None]) -> None:
    """The region's inputs lie where the values that stand for them lie."""
    for inner, value in zip(region.inputs, outer, strict=True):
        assert value is not None
        p.places[inner] = p.place(value)


def refill(p: Planner, room: Place, type: TensorType, source: Place) -> None:
    """Make a growing buffer as large as a tensor of `type`, and it the tensor at `source`."""
    p.step(Step(StepKind.RESERVE, (Operand(room.buffer),), size=type.size * type.dtype.bytes))
    p.copy(type, source, dense_place(room.buffer, type))


def write_size(p: Planner, size: Dim, target: Value) -> None:
    """target (i64[]) = size."""
    if isinstance(size, int):
        p.copy_value(long(size), target)
    else:
        p.apply(ops.shape_values, into=target, dims=(size,), scalar=True)


def long(number: int) -> Value:
    return constant(np.array(number, np.int64))


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


def refused(node: Node, message: str) -> UnsupportedError:
    return UnsupportedError(message, where=node.loc[0] if node.loc else None)


def _names(values: Sequence[Value]) -> set[str]:
    return {name for v in values for d in v.tensor.shape for name in symbols(d)}
