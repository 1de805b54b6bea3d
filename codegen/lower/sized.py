"""Ops whose result's size depends on the data: first a kernel that counts, then (the size bound) one that fills."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import (
    Apply,
    Cast,
    Const,
    Expr,
    For,
    If,
    LoopKind,
    Ref,
    Select,
    Stmt,
    Store,
    Update,
    Var,
    add,
    i64,
    mul,
)
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.indexed import Indexed, formula, inputs_of, lower_indexed
from lepton.codegen.lower.nest import Strides, collapse, div, load, most, offset, sub
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType

Sizer = Callable[[Group, Value], Kernel]
SIZERS: dict[Op, Sizer] = {}  # op -> the kernel that writes its result's size, an i64


def sizer(op: Op) -> Callable[[Sizer], Sizer]:
    def register(function: Sizer) -> Sizer:
        SIZERS[op] = function
        return function

    return register


class Counter(Anchored):
    """A single task over the operands of the op; the group's own outputs are not touched."""

    def __init__(self, group: Group) -> None:
        super().__init__(group, written=False)

    def kernel(self, body: list[Stmt], *writes: Value) -> Kernel:
        task = self.nest.var("t")
        return self.nest.kernel([For(task.name, i64(0), tuple(body), LoopKind.TASKS)], 1, writes=writes)


_ENDLESS = 2**62  # more elements than any tensor may have


def _f64(e: Expr) -> Expr:
    return e if e.dtype is DType.F64 else Cast(e, DType.F64)


def _long(e: Expr) -> Expr:
    return e if e.dtype is DType.I64 else Cast(e, DType.I64)


@sizer(ops.range_)
def range_size(group: Group, count: Value) -> Kernel:
    """max(0, ceil((limit - start) / delta)); 0 for a delta of 0. A count beyond 64 bits is one that is refused."""
    k = Counter(group)
    target = k.nest.writes(count, DType.I64)
    start, limit, delta = (k.element(v, []) for v in k.node.inputs if v is not None)
    if start.dtype.is_float:
        steps: Expr = Apply("div", (Apply("sub", (_f64(limit), _f64(start)), DType.F64), _f64(delta)), DType.F64)
        endless = Apply("less", (Const(float(_ENDLESS), DType.F64), steps), DType.BOOL)
        total = Select(endless, i64(_ENDLESS), _long(Apply("ceil", (steps,), DType.F64)))
    else:
        first, last, step = _long(start), _long(limit), _long(delta)
        up = Apply("less", (i64(0), step), DType.BOOL)
        low, high = Select(up, first, last), Select(up, last, first)
        way = Apply("sub", (high, low), DType.I64)  # negative although high is above low: it has wrapped
        stride = most(i64(1), Select(up, step, Apply("neg", (most(step, i64(1 - 2**63)),), DType.I64)))
        counted = Select(Apply("less", (way, i64(0)), DType.BOOL), i64(_ENDLESS),
                         add(div(sub(way, i64(1)), stride), i64(1)))
        total = Select(Apply("less", (low, high), DType.BOOL), counted, i64(0))
    none = Apply("equal", (delta, Const(0, delta.dtype)), DType.BOOL)
    return k.kernel([Store(target, i64(0), Select(none, i64(0), most(i64(0), total)))], count)


@formula(ops.range_)
def range_element(k: Indexed, point: list[Expr]) -> Expr:
    start, _limit, delta = (k.element(v, []) for v in inputs_of(k))
    if start.dtype.is_float:
        reach = Apply("mul", (Cast(point[0], DType.F64), _f64(delta)), DType.F64)
        exact = Apply("add", (_f64(start), reach), DType.F64)
        return exact if start.dtype is DType.F64 else Cast(exact, start.dtype)
    index = point[0] if start.dtype is DType.I64 else Cast(point[0], start.dtype)
    return Apply("add", (start, Apply("mul", (index, delta), start.dtype)), start.dtype)


lowers(ops.range_)(lower_indexed)


def is_hit(value: Expr) -> Expr:
    """Whether an element is not zero."""
    if value.dtype is DType.BOOL:
        return value
    return Apply("logical_not", (Apply("equal", (value, Const(0, value.dtype)), DType.BOOL),), DType.BOOL)


@sizer(ops.non_zero)
def non_zero_size(group: Group, count: Value) -> Kernel:
    k = Counter(group)
    target = k.nest.writes(count, DType.I64)
    total, x = Ref("total", DType.I64), k.node.inputs[0]
    assert x is not None
    space, _ = collapse(x.tensor.shape, [group.access(x).strides])
    coords = [k.nest.var("i") for _ in space.sizes]
    value = load(k.buffers[x], x.tensor.dtype, offset(coords, space.views[0], k.nest))
    body: tuple[Stmt, ...] = (Update(total.name, "add", Select(is_hit(value), i64(1), i64(0))),)
    for c, size, kind in reversed(list(zip(coords, space.sizes, kinds(space.rank), strict=True))):
        body = (For(c.name, k.nest.size(size), body, kind),)
    return k.kernel([Var(total.name, i64(0)), *body, Store(target, i64(0), total)], count)


def kinds(rank: int) -> list[LoopKind]:
    """Of the loops of a nest, the innermost one in vectors."""
    return [LoopKind.VECTOR if i == rank - 1 else LoopKind.SERIAL for i in range(rank)]


@lowers(ops.non_zero)
def non_zero(group: Group, options: LowerOptions) -> Kernel:
    """One task: the indices are found in order."""
    k = Counter(group)
    (result,) = group.outputs
    target = k.nest.writes(result, DType.I64)
    strides = group.accesses[result].strides
    place = Ref("place", DType.I64)
    x = k.node.inputs[0]
    assert x is not None
    coords = [k.nest.var("i") for _ in x.tensor.shape]
    body: list[Stmt] = [If(is_hit(k.element(x, coords)), (
        *indices(k, target, strides, place, coords), Update(place.name, "add", i64(1))))]
    for c, size in reversed(list(zip(coords, x.tensor.shape, strict=True))):
        body = [For(c.name, k.nest.size(size), tuple(body))]
    return k.kernel([Var(place.name, i64(0)), *body], result)


def indices(k: Counter, target: str, strides: Strides, place: Expr, coords: Sequence[Expr]) -> list[Stmt]:
    """The coordinates as a column of the result."""
    column = mul(place, k.nest.size(strides[1]))
    return [Store(target, add(mul(i64(d), k.nest.size(strides[0])), column), c) for d, c in enumerate(coords)]
