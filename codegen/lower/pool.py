"""Pooling: max, average and p-norm over sliding windows, with the group's epilogue.

    for n, oy, ox:                     tasks
      interior:  for c: acc = x[...] op x[...] op ...          all taps, unrolled
      border:    for c: for ky, kx inside the input: acc = acc op x[...]

Channels-last vectorises over the channels. Channels-first runs its elements one by one: the layout pass turns it
around wherever speed matters.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import (
    Apply,
    Cast,
    Const,
    Expr,
    For,
    If,
    Let,
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
from lepton.codegen.lower.nest import (
    TASK_ELEMENTS,
    Nest,
    broadcast_strides,
    cut,
    div,
    grain_for,
    least,
    load,
    most,
    nest_loops,
    offset,
    sub,
)
from lepton.codegen.lower.scalar import Elements, power_of_known
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, product
from lepton.ir.types import DType

MAX_UNROLL = 32  # taps of a window spelled out; larger windows loop everywhere


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a window, in the coordinates of one output."""

    size: Expr       # of the input
    taps: int
    dilation: int
    start: Expr      # input coordinate of tap 0; negative in the padding
    first: Expr      # taps [first, last) lie inside the input
    last: Expr
    counted: Expr    # taps that count for an average that includes padding


@lowers(ops.max_pool, ops.avg_pool, ops.lp_pool, ops.max_pool_indices)
def lower_pool(group: Group, options: LowerOptions) -> Kernel:
    """One task: a run of output pixels, all channels."""
    assert group.anchor is not None
    return _Pool(group, group.anchor).kernel()


class _Pool:
    def __init__(self, group: Group, node: Node) -> None:
        self.group, self.node, self.nest = group, node, Nest(group.name)
        (x,) = (v for v in node.inputs if v is not None)
        self.x, self.y = x, node.results[0]
        rank = x.tensor.rank
        last = node.attrs["layout"] == "nhwc"
        self.channel = rank - 1 if last else 1
        self.spatial = tuple(range(1, rank - 1)) if last else tuple(range(2, rank))
        self.order = (0, *self.spatial, self.channel) if last else (0, self.channel, *self.spatial)
        self.dtype = widened(x.tensor.dtype)
        nest = self.nest
        self.buffers = {v: nest.reads(outer, v.tensor.dtype)
                        for v, outer in zip(group.body.inputs, group.inputs, strict=True)}
        self.targets = [nest.writes(v, v.tensor.dtype) for v in group.outputs]
        self.strides = group.access(x).strides

    def kernel(self) -> Kernel:
        shape = self.y.tensor.shape
        taps = prod(self.node.attrs["kernel"])
        vector = self.order[-1] == self.channel
        sizes = tuple(shape[a] for a in self.order)
        outer = sizes[:-1] if vector else sizes
        tasks = cut(outer, max(1, TASK_ELEMENTS // taps // (16 if vector else 1)))
        coords, loops_around = nest_loops(outer, tasks, self.nest, vector=False)
        c = self.nest.var("c") if vector else None
        by_axis = dict(zip(self.order, [*coords, c] if c is not None else coords, strict=True))
        axes = [self._axis(i, by_axis[a]) for i, a in enumerate(self.spatial)]
        point = [by_axis[a] for a in range(len(shape))]

        def channels(body: list[Stmt]) -> tuple[Stmt, ...]:
            if c is None:
                return tuple(body)
            return (For(c.name, self.nest.size(shape[self.channel]), tuple(body), LoopKind.VECTOR),)

        statements = self._windows(axes, point, channels)
        return self.nest.kernel(loops_around.around(statements), tasks.count, grain=grain_for(tasks),
                                writes=self.group.outputs, flops=product(list(shape)) * taps)

    def _axis(self, i: int, at: Expr) -> Axis:
        attrs = self.node.attrs
        taps, dilation, before = attrs["kernel"][i], attrs["dilations"][i], attrs["pads_begin"][i]
        size = self.nest.size(self.x.tensor.shape[self.spatial[i]])
        start = sub(mul(at, i64(attrs["strides"][i])), self.nest.size(before))
        end = add(size, self.nest.size(attrs["pads_end"][i]))
        first = most(i64(0), _ceildiv(sub(i64(0), start), dilation))
        return Axis(size, taps, dilation, start, first, least(i64(taps), _ceildiv(sub(size, start), dilation)),
                    least(i64(taps), _ceildiv(sub(end, start), dilation)))

    def _windows(self, axes: list[Axis], point: list[Expr],
                 channels: Callable[[list[Stmt]], tuple[Stmt, ...]]) -> list[Stmt]:
        """The work of one output pixel: unrolled where the whole window lies inside, looping at the borders."""
        border = channels(self._border(axes, point))
        if prod(a.taps for a in axes) > MAX_UNROLL or self.node.op is ops.max_pool_indices:
            return list(border)
        return [If(_inside(axes), channels(self._interior(axes, point)), border)]

    # --- one window ---

    def _interior(self, axes: list[Axis], point: list[Expr]) -> list[Stmt]:
        total: Expr | None = None
        for taps in itertools.product(*(range(a.taps) for a in axes)):
            where = [add(a.start, i64(t * a.dilation)) for a, t in zip(axes, taps, strict=True)]
            value = self._tap(where, point)
            total = value if total is None else Apply(self._combine, (total, value), self.dtype)
        assert total is not None
        return self._finish(total, i64(prod(a.taps for a in axes)), point)

    def _border(self, axes: list[Axis], point: list[Expr]) -> list[Stmt]:
        acc = Ref(self.nest.fresh("acc"), self.dtype)
        steps = [self.nest.var("k") for _ in axes]
        taps = [add(a.first, k) for a, k in zip(axes, steps, strict=True)]
        where = [add(a.start, mul(t, i64(a.dilation))) for a, t in zip(axes, taps, strict=True)]
        head: list[Stmt] = [Var(acc.name, self._neutral())]
        place: Ref | None = None
        if self.node.op is ops.max_pool_indices:
            place = Ref(self.nest.fresh("place"), DType.I64)
            inside = [add(a.start, mul(a.first, i64(a.dilation))) for a in axes]
            head.append(Var(place.name, self._cell(inside, point)))
            body = self._take_larger(acc, place, where, point)
        else:
            body = [Update(acc.name, self._combine, self._tap(where, point))]
        for a, k in reversed(list(zip(axes, steps, strict=True))):
            body = [For(k.name, sub(a.last, a.first), tuple(body))]
        counts = [a.counted if self.node.attrs.get("count_include_pad") else sub(a.last, a.first) for a in axes]
        count: Expr = i64(1)
        for n in counts:
            count = mul(count, n)
        return [*head, *body, *self._finish(acc, count, point, place)]

    def _take_larger(self, acc: Ref, place: Ref, where: list[Expr], point: list[Expr]) -> list[Stmt]:
        """The first largest element, or the first NaN, and where it stands."""
        x = Ref(self.nest.fresh("x"), self.dtype)
        better: Expr = Apply("greater", (x, acc), DType.BOOL)
        if self.dtype.is_float:
            fresh = Apply("logical_and", (Apply("is_nan", (x,), DType.BOOL), Apply("equal", (acc, acc), DType.BOOL)),
                          DType.BOOL)
            better = Apply("logical_or", (better, fresh), DType.BOOL)
        take = Ref(self.nest.fresh("take"), DType.BOOL)
        return [Let(x.name, self._tap(where, point)), Let(take.name, better),
                Update(acc.name, "set", Select(take, x, acc)),
                Update(place.name, "set", Select(take, self._cell(where, point), place))]

    @property
    def _combine(self) -> str:
        return "maximum" if self.node.op in (ops.max_pool, ops.max_pool_indices) else "add"

    def _neutral(self) -> Const:
        if self._combine == "add":
            return Const(0.0, self.dtype)
        if self.dtype.is_float:
            return Const(float("-inf"), self.dtype)
        return Const(int(np.iinfo(self.dtype.numpy).min), self.dtype)

    def _tap(self, where: Sequence[Expr], point: Sequence[Expr]) -> Expr:
        """The element of x under one tap, as it enters the sum."""
        coords = list(point)
        for axis, at in zip(self.spatial, where, strict=True):
            coords[axis] = at
        value: Expr = load(self.buffers[self.x], self.x.tensor.dtype, offset(coords, self.strides, self.nest))
        if self.node.op is ops.lp_pool:
            return power_of_known(Apply("abs", (value,), self.dtype), float(self.node.attrs["p"]))
        return value

    def _cell(self, where: Sequence[Expr], point: Sequence[Expr]) -> Expr:
        """The offset of an element in x flattened as [N, C, spatial…]."""
        shape = self.x.tensor.shape
        cell: Expr = i64(0)
        column_major = bool(self.node.attrs["storage_order"])
        pairs = list(zip(self.spatial, where, strict=True))
        for axis, at in reversed(pairs) if column_major else pairs:
            cell = add(mul(cell, self.nest.size(shape[axis])), at)
        plane = add(mul(point[0], self.nest.size(shape[self.channel])), point[self.channel])
        return add(mul(plane, self.nest.size(product([shape[a] for a in self.spatial]))), cell)

    def _finish(self, total: Expr, count: Expr, point: list[Expr], place: Ref | None = None) -> list[Stmt]:
        """The epilogue on the window's result, and the stores."""
        if self.node.op is ops.avg_pool:
            total = Apply("div", (total, Cast(count, self.dtype)), self.dtype)
        elif self.node.op is ops.lp_pool:
            total = power_of_known(total, 1.0 / self.node.attrs["p"])
        done = Ref(self.nest.fresh("window"), self.dtype)
        anchor: dict[Value, Expr] = {self.y: done}
        if place is not None:
            anchor[self.node.results[1]] = place
        lets: list[Let] = []
        shape = self.y.tensor.shape

        def leaf(v: Value) -> Expr:
            if v in anchor:
                return anchor[v]
            strides = broadcast_strides(self.group.access(v), shape)
            return load(self.buffers[v], v.tensor.dtype, offset(point, strides, self.nest))

        elements = Elements(leaf, lets, self.nest.fresh("e"))
        values = [elements.expr(v) for v in self.group.body.outputs]
        stores = [Store(b, offset(point, self.group.accesses[v].strides, self.nest), e)
                  for b, v, e in zip(self.targets, self.group.outputs, values, strict=True)]
        return [Let(done.name, total), *lets, *stores]


def _ceildiv(a: Expr, by: int) -> Expr:
    return a if by == 1 else div(add(a, i64(by - 1)), i64(by))


def _inside(axes: Sequence[Axis]) -> Expr:
    """Whether every tap lies inside the input."""
    tests = [Apply("less_equal", (i64(0), a.start), DType.BOOL) for a in axes]
    tests += [Apply("less", (add(a.start, i64((a.taps - 1) * a.dilation)), a.size), DType.BOOL) for a in axes]
    found: Expr = tests[0]
    for test in tests[1:]:
        found = Apply("logical_and", (found, test), DType.BOOL)
    return found
