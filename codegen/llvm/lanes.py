"""How a VECTOR loop runs: which names vary across its lanes, how many lanes it has, whether its rest can be masked."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton.codegen import loops
from lepton.codegen.llvm.affine import linear, varies
from lepton.codegen.llvm.builder import Val
from lepton.codegen.llvm.expr import dtype_lanes
from lepton.codegen.llvm.math import LIBM, VECTOR
from lepton.codegen.loops import Apply, Cast, Const, Expr, For, If, Let, Load, Select, Store, Update, Var
from lepton.codegen.target import Target
from lepton.ir.types import DType

HEAVY = frozenset({*LIBM, *VECTOR})


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """What is known of a VECTOR loop before it is emitted."""

    varying: frozenset[str]          # names that differ from lane to lane
    lanes: int                       # of one vector
    unroll: int                      # vectors per turn of the main loop
    maskable: bool                   # the last, partial vector can run under a mask
    cost: int                        # about how many instructions a turn has
    accumulators: Mapping[str, str]  # outer variable -> the op that updates it


@dataclass(frozen=True, slots=True)
class Lanes:
    """The vector loop being emitted: its variable is `base` + 0, 1, … in the lanes."""

    var: str
    base: Val
    lanes: int
    facts: LoopFacts
    mask: Val | None = None


def analyse(
    loop: For, buffers: Mapping[str, loops.Buffer], outer_lets: Mapping[str, Expr], target: Target
) -> LoopFacts:
    """Raises ValueError for a loop that must not be run in lanes."""
    varying, lets = _varying(loop, outer_lets)
    accesses = [(buffers[b], index) for b, index in _accesses(loop.body)]
    contiguous = masked = True
    dtypes: set[DType] = set()
    for buffer, index in accesses:
        form = linear(index, loop.var, varying, lets)
        step = form[0] if form else None
        contiguous &= isinstance(step, Const) and step.value in (0, 1)
        masked &= target.vector_bytes >= 64 or buffer.dtype.bytes in (4, 8) or step == loops.i64(0)
        if step != loops.i64(0):
            dtypes.add(buffer.dtype)
    for s in loops.statements(loop.body):
        for e in loops.expressions(s)[(1 if isinstance(s, Store) else 0):]:
            dtypes |= _computed(e, varying)
    cost = _cost(loop.body)
    accumulators = _accumulators(loop)
    lanes = dtype_lanes(target, dtypes - {DType.BOOL} or dtypes)
    unroll = _unroll(loop, cost, bool(accumulators)) if contiguous else 1
    return LoopFacts(frozenset(varying), lanes, unroll, target.masks and contiguous and masked, cost, accumulators)


def _varying(loop: For, outer_lets: Mapping[str, Expr]) -> tuple[set[str], dict[str, Expr]]:
    varying, lets = {loop.var}, dict(outer_lets)
    for s in loops.statements(loop.body):
        match s:
            case Let(name, value):
                if varies(value, varying):
                    varying.add(name)
                if value.dtype is DType.I64:
                    lets[name] = value
            case Var(name, _):
                varying.add(name)
            case For(_, extent, _, _) if varies(extent, varying):
                raise ValueError(f"the extent of a loop inside vector loop {loop.var!r} varies with it")
            case If(condition, _, _) if varies(condition, varying):
                raise ValueError(f"a condition inside vector loop {loop.var!r} varies with it")
    return varying, lets


def _accesses(body: tuple[loops.Stmt, ...]) -> list[tuple[str, Expr]]:
    found = []
    for s in loops.statements(body):
        if isinstance(s, Store):
            found.append((s.buffer, s.index))
        for e in loops.expressions(s):
            found += [(x.buffer, x.index) for x in loops.walk(e) if isinstance(x, Load)]
    return found


def _computed(e: Expr, varying: set[str]) -> set[DType]:
    """The types computed with, below `e` but not inside indices of loads."""
    found: set[DType] = set()
    todo = [e]
    while todo:
        x = todo.pop()
        if isinstance(x, Load):
            continue
        if isinstance(x, Apply | Select | Cast) and varies(x, varying):
            found.add(x.dtype)
        todo += loops.children(x)
    return found


def _cost(body: tuple[loops.Stmt, ...]) -> int:
    total = 0
    for s in loops.statements(body):
        for e in loops.expressions(s)[(1 if isinstance(s, Store) else 0):]:
            todo = [e]
            while todo:
                x = todo.pop()
                if isinstance(x, Load):
                    continue
                total += (16 if x.op in HEAVY else 1) if isinstance(x, Apply) else isinstance(x, Select)
                todo += loops.children(x)
    return total


def _accumulators(loop: For) -> dict[str, str]:
    outer, found = set(loops.updated(loop.body)), dict[str, str]()
    for s in loops.statements(loop.body):
        if isinstance(s, Update) and s.name in outer:
            if s.op == "set" or found.setdefault(s.name, s.op) != s.op:
                raise ValueError(f"vector loop {loop.var!r} cannot update {s.name!r} by {s.op!r}")
    return found


def _unroll(loop: For, cost: int, accumulates: bool) -> int:
    """Independent chains hide latency; cheap bodies and inner loops want several vectors per turn."""
    inner = any(isinstance(s, For) for s in loops.statements(loop.body))
    if accumulates or inner:
        return 4 if cost <= 8 else 2 if cost <= 24 else 1
    return 4 if cost <= 2 else 2 if cost <= 8 else 1
