"""Pooling in both layouts. Windows are clipped to the input by their loops' bounds, so nothing is padded.

Channels-last inputs run with vectors over the channels. Else vectors go over the last output axis, where its windows
lie inside the input; the windows at the two ends are done one by one.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton.codegen import loops
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, For, Let, LoopKind, Ref, Select, Stmt, Update, Var, i64, neutral
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import cut, div, grain_for, guess, least, most, nest_loops, sub
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap, to_dtype
from lepton.ir import ops
from lepton.ir.dims import Dim, ceildiv, dim_max, dim_min, floordiv, product
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: input and output sizes, and the window along it."""

    size: Dim
    out: Dim
    taps: int
    stride: int
    before: Dim
    after: Dim
    dilation: int

    @property
    def begins_inside(self) -> bool:
        return self.before == 0

    @property
    def ends_inside(self) -> bool:
        """Whether no window reaches beyond the input's end, as far as is known now."""
        room = self.size + self.before - (self.out - 1) * self.stride - (self.taps - 1) * self.dilation - 1
        return isinstance(room, int) and room >= 0

    @property
    def interior(self) -> tuple[Dim, Dim]:
        """The outputs [a, b) whose windows lie inside the input."""
        a = dim_min(ceildiv(self.before, self.stride), self.out)
        reach = self.size + self.before - (self.taps - 1) * self.dilation - 1
        b = dim_max(a, dim_min(self.out, floordiv(reach, self.stride) + 1))
        return a, b


@dataclass(frozen=True, slots=True)
class Clip:
    """The taps of one window that lie inside: `count` of them, the first at input place `start`."""

    start: Expr
    count: Expr
    counted: Expr     # taps that count for an average which includes padding


Window = Callable[["Pool", list[Expr], list[Clip]], Sequence[Stmt]]


class Pool:
    def __init__(self, group: Group) -> None:
        self.anchor = anchor_of(group)
        self.fused = Fused(group)
        self.nest = self.fused.nest
        attrs = self.anchor.attrs
        x, y = self.anchor.inputs[0], self.anchor.results[0]
        assert x is not None
        rank = len(attrs["kernel"])
        self.last = attrs["layout"] == "nhwc"
        self.channel = rank + 1 if self.last else 1
        self.space = [a + (1 if self.last else 2) for a in range(rank)]
        self.axes = [Axis(x.tensor.shape[a], y.tensor.shape[a], *rest) for a, *rest in zip(
            self.space, attrs["kernel"], attrs["strides"], attrs["pads_begin"], attrs["pads_end"], attrs["dilations"],
            strict=True)]
        self.shape_in, self.shape = x.tensor.shape, y.tensor.shape
        self.dtype = widened(y.tensor.dtype)
        leaves = self.fused.before_views(0).values()
        strides_c = [v[self.channel] for v in leaves]
        strides_w = [v[self.space[-1]] for v in leaves]
        self.over_channels = self.shape[self.channel] != 1 and (all(s == 1 for s in strides_c) or not all(
            s == 1 for s in strides_w))

    def kernel(self, window: Window) -> Kernel:
        """`window(pool, output coordinates, clips)` computes one output (or a vector of them) and stores it."""
        taps = 1
        for a in self.axes:
            taps *= a.taps
        inner = self.channel if self.over_channels else self.space[-1]
        order = [a for a in range(len(self.shape)) if a != inner] + [inner]
        sizes = [self.shape[a] for a in order]
        nest = self.nest
        if self.over_channels:
            tasks = cut(sizes, work=taps + 1)
            coords, shape = nest_loops(sizes, tasks, nest)
            body = self._windows(_unpermuted(coords, order), window)
        else:
            tasks = cut(sizes[:-1], vector=False, work=(2 * taps + 1) * guess(sizes[-1]))
            coords, shape = nest_loops(sizes[:-1], tasks, nest, vector=False)
            body = self._row([*coords], order, window)
        return nest.kernel(shape.around(body), tasks.count, grain=grain_for(tasks),
                           writes=self.fused.group.outputs, flops=product(self.shape) * taps)

    def _row(self, coords: list[Expr], order: Sequence[int], window: Window) -> list[Stmt]:
        """The two ends of an output row one by one, what lies between by vectors."""
        axis = self.axes[-1]
        a, b = axis.interior
        statements: list[Stmt] = []
        for start, end, kind in ((0, a, LoopKind.SERIAL), (a, b, LoopKind.VECTOR), (b, axis.out, LoopKind.SERIAL)):
            if start == end:
                continue
            x = self.nest.var("x")
            at = _unpermuted([*coords, loops.add(self.nest.size(start), x)], order)
            body = self._windows(at, window, inside=kind is LoopKind.VECTOR)
            statements.append(For(x.name, self.nest.size(end - start), tuple(body), kind))
        return statements

    def _windows(self, at: list[Expr], window: Window, inside: bool = False) -> list[Stmt]:
        clips = [self._clip(axis, at[a], inside and a == self.space[-1])
                 for axis, a in zip(self.axes, self.space, strict=True)]
        return list(window(self, at, clips))

    def _clip(self, axis: Axis, o: Expr, inside: bool) -> Clip:
        nest, taps, d = self.nest, i64(axis.taps), axis.dilation
        origin = sub(loops.mul(o, i64(axis.stride)), nest.size(axis.before))
        first: Expr = i64(0)
        if not (inside or axis.begins_inside):
            first = most(i64(0), div(loops.add(sub(i64(0), origin), i64(d - 1)), i64(d)))
        end: Expr = taps
        if not (inside or axis.ends_inside):
            end = least(taps, div(loops.add(sub(nest.size(axis.size), origin), i64(d - 1)), i64(d)))
        padded = nest.size(axis.size + axis.after)
        counted = taps if inside else least(taps, div(loops.add(sub(padded, origin), i64(d - 1)), i64(d)))
        return Clip(loops.add(origin, loops.mul(first, i64(d))), sub(end, first), counted)

    def taps(self, at: Sequence[Expr], clips: Sequence[Clip],
             body: Callable[[list[Expr]], Sequence[Stmt]]) -> list[Stmt]:
        """Loops over the taps of a window; `body` gets the input coordinates."""
        names = [self.nest.var("k") for _ in clips]
        place = list(at)
        for axis, a, k, clip in zip(self.axes, self.space, names, clips, strict=True):
            place[a] = loops.add(clip.start, loops.mul(k, i64(axis.dilation)))
        statements = tuple(body(place))
        total = 1
        for clip in clips:
            total *= int(clip.count.value) if isinstance(clip.count, Const) else 10**6
        for k, clip in zip(reversed(names), reversed(clips), strict=True):
            kind = LoopKind.UNROLL if total <= 16 else LoopKind.SERIAL
            statements = (For(k.name, clip.count, statements, kind),)
        return list(statements)

    def x(self, at: Sequence[Expr], lets: list[Stmt]) -> Expr:
        return self.fused.before(0, list(at), lets)


def _unpermuted(coords: Sequence[Expr], order: Sequence[int]) -> list[Expr]:
    result: list[Expr] = [i64(0)] * len(order)
    for a, x in zip(order, coords, strict=True):
        result[a] = x
    return result


@lowers(ops.max_pool)
def max_pool(group: Group, options: LowerOptions) -> Kernel:
    def window(pool: Pool, at: list[Expr], clips: list[Clip]) -> Sequence[Stmt]:
        acc = Ref(pool.nest.fresh("acc"), pool.dtype)

        def tap(place: list[Expr]) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            value = pool.x(place, lets)
            return [*lets, Update(acc.name, "maximum", value)]

        return [Var(acc.name, neutral("maximum", pool.dtype)), *pool.taps(at, clips, tap), *pool.fused.stores(at, acc)]

    return Pool(group).kernel(window)


@lowers(ops.avg_pool, ops.lp_pool)
def sum_pool(group: Group, options: LowerOptions) -> Kernel:
    """Averages, and the p-norms of windows."""
    anchor = anchor_of(group)
    power = anchor.attrs.get("p")

    def window(pool: Pool, at: list[Expr], clips: list[Clip]) -> Sequence[Stmt]:
        acc = Ref(pool.nest.fresh("acc"), pool.dtype)

        def tap(place: list[Expr]) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            value = pool.x(place, lets)
            if power is not None:
                name = pool.nest.fresh("a")
                lets.append(Let(name, ap("abs", value)))
                value = _powered(Ref(name, pool.dtype), power)
            return [*lets, Update(acc.name, "add", value)]

        count: Expr = i64(1)
        for clip in clips:
            taken = clip.counted if anchor.attrs.get("count_include_pad") else clip.count
            count = loops.mul(count, most(taken, i64(0)))
        if power is None:
            result = ap("div", acc, to_dtype(count, pool.dtype))
        else:
            result = acc if power == 1 else ap("sqrt", acc) if power == 2 else ap(
                "pow", acc, Const(1 / power, pool.dtype))
        return [Var(acc.name, Const(0.0, pool.dtype)), *pool.taps(at, clips, tap), *pool.fused.stores(at, result)]

    return Pool(group).kernel(window)


def _powered(x: Expr, p: int) -> Expr:
    if p == 1:
        return x
    return ap("mul", x, x) if p == 2 else ap("pow", x, Const(float(p), x.dtype))


@lowers(ops.max_pool_indices)
def max_pool_indices(group: Group, options: LowerOptions) -> Kernel:
    """The first of equal maxima in row-major order, a NaN before all; indices count row-major in [N,C,spatial]."""
    anchor = anchor_of(group)

    def window(pool: Pool, at: list[Expr], clips: list[Clip]) -> Sequence[Stmt]:
        nest, best = pool.nest, Ref(pool.nest.fresh("best"), pool.dtype)
        index = Ref(nest.fresh("index"), DType.I64)
        sizes = [nest.size(a.size) for a in pool.axes]
        plane = loops.add(loops.mul(at[0], nest.size(pool.shape[pool.channel])), at[pool.channel])

        def place_of(spatial: Sequence[Expr]) -> Expr:
            pairs = list(zip(spatial, sizes, strict=True))
            total: Expr = i64(0)
            for x, n in reversed(pairs) if anchor.attrs["storage_order"] else pairs:
                total = loops.add(loops.mul(total, n), x)
            cells: Expr = i64(1)
            for n in sizes:
                cells = loops.mul(cells, n)
            return loops.add(loops.mul(plane, cells), total)

        def tap(place: list[Expr]) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            value = Ref(nest.fresh("x"), pool.dtype)
            lets.append(Let(value.name, pool.x(place, lets)))
            better = ap("greater", value, best)
            if pool.dtype.is_float:
                fresh_nan = ap("logical_and", ap("is_nan", value), ap("logical_not", ap("is_nan", best)))
                better = ap("logical_or", better, fresh_nan)
            name = nest.fresh("better")
            take = Ref(name, DType.BOOL)
            here = place_of([place[a] for a in pool.space])
            return [*lets, Let(name, better), Update(index.name, "set", Select(take, here, index)),
                    Update(best.name, "set", Select(take, value, best))]

        start = place_of([clip.start for clip in clips])
        return [Var(best.name, neutral("maximum", pool.dtype)), Var(index.name, start),
                *pool.taps(at, clips, tap), *pool.fused.stores_of(at, {0: best, 1: index})]

    return Pool(group).kernel(window)

