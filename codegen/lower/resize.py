"""Resizing: each element a weighted sum of a few source elements, with the group's epilogue.

An axis of known sizes reads its source places and weights from constant tables made by the op's own formulas, so every
mode is exact. An axis whose sizes come with the inputs computes them, in f32 as the op's meaning says; there the
antialiasing filters, whose number of taps depends on the sizes, are not supported. Few taps are written out, many
(antialiasing a strong reduction has hundreds) are loops over the tables.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import (
    Apply,
    Cast,
    Const,
    Expr,
    For,
    Let,
    LoopKind,
    Ref,
    Select,
    Stmt,
    Update,
    Var,
    add,
    i64,
    mul,
)
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import cut, grain_for, guess, least, load, most, nest_loops
from lepton.ir import ops
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, product
from lepton.ir.ops.resize import nearest_places, source_coordinates, taps
from lepton.ir.types import DType

F32 = DType.F32
CROP = "tf_crop_and_resize"
WRITTEN_OUT = 64  # taps of one element that are written one after the other
TERMS = 16        # of a sum that is one expression: all that handles expressions recurses


@dataclass(frozen=True, slots=True)
class Tap:
    """A source element along one axis and its weight; None stands for 1."""

    place: Expr
    weight: Expr | None = None


@dataclass(frozen=True, slots=True)
class Taps:
    """The taps along one axis: `count` of them, the t-th as `at(t, into)` gives it, its statements added to `into`."""

    count: int
    at: Callable[[Expr, list[Stmt]], Tap]

    def all(self, into: list[Stmt]) -> list[Tap]:
        return [self.at(i64(t), into) for t in range(self.count)]


@lowers(ops.resize)
def lower_resize(group: Group, options: LowerOptions) -> Kernel:
    """One task: a block of the result, vectorised along its last axis."""
    return _Resize(group).kernel()


class _Resize(Anchored):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        (x,) = (v for v in self.node.inputs if v is not None)
        self.x, self.attrs = x, self.node.attrs
        # Integers are computed in f64 and truncated; the nearest element needs no computing.
        own = widened(x.tensor.dtype)
        self.dtype = own if own.is_float or self.attrs["mode"] == "nearest" else DType.F64

    def kernel(self) -> Kernel:
        shape = self.result.shape
        work = {"nearest": 4, "linear": 16, "cubic": 64}[self.attrs["mode"]]
        tasks = cut(shape[:-1] or (1,), vector=False, work=work * guess(shape[-1]))
        coords, around = nest_loops(shape[:-1] or (1,), tasks, self.nest, vector=False)
        last = self.nest.var("x")
        point: list[Expr] = [*coords[:len(shape) - 1], last]
        outer: list[Stmt] = []
        inner: list[Stmt] = []
        found = [self._taps(axis, at, outer if at is not last else inner) for axis, at in enumerate(point)]
        far = [self._outside(axis, at) for axis, at in enumerate(point)]
        if math.prod(t.count if isinstance(t, Taps) else len(t) for t in found) > WRITTEN_OUT:
            total = self._looped(found, inner)
        else:
            total = self._sum([t.all(outer if at is not last else inner) if isinstance(t, Taps) else t
                               for t, at in zip(found, point, strict=True)], inner)
        outside = [e for e in far if e is not None]
        for test in outside:
            total = Select(test, Const(float(self.attrs["extrapolation"]), self.dtype), total)
        if self.dtype is not widened(self.x.tensor.dtype):
            total = Cast(total, widened(self.x.tensor.dtype))
        value = Ref(self.nest.fresh("value"), total.dtype)
        inner += [Let(value.name, total), *self.finish({self.node.results[0]: value}, point)]
        body = [*outer, For(last.name, self.nest.size(shape[-1]), tuple(inner), LoopKind.VECTOR)]
        return self.nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks), writes=self.group.outputs,
                                flops=product(list(shape)) * 2)

    def _term(self, chosen: Sequence[Tap]) -> Expr:
        """One source element times its weights."""
        value: Expr = self.element(self.x, [t.place for t in chosen])
        value = value if value.dtype is self.dtype else Cast(value, self.dtype)
        for tap in chosen:
            if tap.weight is not None:
                weight = tap.weight if self.dtype is F32 else Cast(tap.weight, self.dtype)
                value = Apply("mul", (value, weight), self.dtype)
        return value

    def _sum(self, choices: Sequence[Sequence[Tap]], into: list[Stmt]) -> Expr:
        total: Expr | None = None
        for n, chosen in enumerate(itertools.product(*choices)):
            value = self._term(chosen)
            total = value if total is None else Apply("add", (total, value), self.dtype)
            if n % TERMS == TERMS - 1:
                total = self._named("sum", total, into)
        assert total is not None
        return total

    def _looped(self, found: Sequence[Taps | list[Tap]], into: list[Stmt]) -> Expr:
        """The same sum: loops over the taps that tables hold, the others written out in the innermost."""
        total = Ref(self.nest.fresh("total"), self.dtype)
        into.append(Var(total.name, Const(0.0, self.dtype)))
        loops: list[tuple[Ref, int, list[Stmt]]] = []
        choices: list[list[Tap]] = []
        for taps_here in found:
            if isinstance(taps_here, Taps):
                var, body = self.nest.var("t"), list[Stmt]()
                choices.append([taps_here.at(var, body)])
                loops.append((var, taps_here.count, body))
            else:
                choices.append(taps_here)
        innermost: list[Stmt] = []
        innermost += [Update(total.name, "add", self._sum(choices, innermost))]
        for var, count, body in reversed(loops):
            innermost = [For(var.name, i64(count), (*body, *innermost))]
        into += innermost
        return total

    # --- one axis ---

    def _scale(self, axis: int) -> float | None:
        """The scale, where it is known."""
        old, new = self.x.tensor.shape[axis], self.result.shape[axis]
        if self.attrs["scales"]:
            return float(np.float32(self.attrs["scales"][axis]))
        if isinstance(old, int) and isinstance(new, int):
            return float(np.float32(new) / np.float32(max(old, 1)))
        return 1.0 if old == new else None

    def _taps(self, axis: int, at: Expr, into: list[Stmt]) -> Taps | list[Tap]:
        old, new = self.x.tensor.shape[axis], self.result.shape[axis]
        if old == new and self._scale(axis) == 1.0 and self.attrs["coordinates"] != CROP:
            return [Tap(at)]
        if isinstance(old, int) and isinstance(new, int):
            return self._table(axis, at, old, new)
        return self._computed(axis, at, old, new, into)

    def _named(self, stem: str, e: Expr, into: list[Stmt]) -> Expr:
        if isinstance(e, Const | Ref):
            return e
        ref = Ref(self.nest.fresh(stem), e.dtype)
        into.append(Let(ref.name, e))
        return ref

    def _source(self, axis: int, old: int, new: int) -> Any:
        """f32[new]: the source coordinate of every result element."""
        scale, roi = self._scale(axis), self.attrs["roi"]
        assert scale is not None
        rank = self.result.rank
        bounds = (roi[axis], roi[axis + rank]) if roi else (0.0, 1.0)
        return source_coordinates(self.attrs["coordinates"], old, new, scale, bounds)

    def _table(self, axis: int, at: Expr, old: int, new: int) -> Taps:
        source, scale = self._source(axis, old, new), self._scale(axis)
        assert scale is not None
        if self.attrs["mode"] == "nearest":
            places, weights = nearest_places(self.attrs["nearest"], source, old)[:, None], None
        else:
            shrink = scale if self.attrs["antialias"] else 1.0
            places, weights = taps(self.attrs["mode"], source, old, shrink, self.attrs["cubic_a"],
                                   self.attrs["exclude_outside"], self.attrs["antialias"])
        count = places.shape[1]
        where = self.nest.constant(packed(places.astype(np.int64)), DType.I64)
        heavy = None if weights is None else self.nest.constant(packed(weights.astype(np.float32)), F32)

        def tap(t: Expr, into: list[Stmt]) -> Tap:
            index = add(mul(at, i64(count)), t)
            place = self._named("from", load(where, DType.I64, index), into)
            return Tap(place, None if heavy is None else self._named("weight", load(heavy, F32, index), into))

        return Taps(count, tap)

    def _outside(self, axis: int, at: Expr) -> Expr | None:
        """Whether the source coordinate lies outside the axis, where such elements are extrapolated."""
        old, new = self.x.tensor.shape[axis], self.result.shape[axis]
        if self.attrs["coordinates"] != CROP:
            return None
        if not (isinstance(old, int) and isinstance(new, int)):
            raise UnsupportedError(f"resize with {CROP} needs known sizes", help="pin the dimensions with --dim")
        source = self._source(axis, old, new)
        table = packed(((source < 0) | (source > old - 1)).astype(np.int32))
        flag = load(self.nest.constant(table, DType.I32), DType.I32, at)
        return Apply("less", (Const(0, DType.I32), flag), DType.BOOL)

    def _computed(self, axis: int, at: Expr, old: Dim, new: Dim, into: list[Stmt]) -> list[Tap]:
        if self.attrs["antialias"] or self.attrs["coordinates"] == CROP:
            raise UnsupportedError("resize with antialiasing or cropping needs known sizes",
                                   help="pin the dimensions with --dim")
        size, count = self.nest.size(old), self.nest.size(new)
        last = add(size, i64(-1))
        source = self._named("source", self._coordinate(axis, at, size, count), into)
        if self.attrs["mode"] == "nearest":
            return [Tap(self._named("from", _clamp(_as_index(_round(self.attrs["nearest"], source)), last), into))]
        if self.attrs["mode"] == "linear":
            source = self._named("inside", _f("maximum", _c(0.0), _f("minimum", source, Cast(last, F32))), into)
        floor = self._named("floor", _f("floor", source), into)
        base = self._named("base", _as_index(floor), into)
        part = self._named("part", _f("sub", source, floor), into)
        reach = (0, 1) if self.attrs["mode"] == "linear" else (-1, 0, 1, 2)
        places = [add(base, i64(k)) for k in reach]
        if len(reach) == 2:
            weights = [_f("sub", _c(1.0), part), part]
        else:
            weights = [self._named("weight", _cubic(part, k, float(self.attrs["cubic_a"])), into) for k in reach]
            if self.attrs["exclude_outside"]:
                weights = self._inside_only(places, weights, last, into)
        return [Tap(self._named("from", _clamp(p, last), into), w) for p, w in zip(places, weights, strict=True)]

    def _inside_only(self, places: list[Expr], weights: list[Expr], last: Expr, into: list[Stmt]) -> list[Expr]:
        """Weights of places outside the axis become 0, the rest is scaled to sum 1."""
        kept = []
        for p, w in zip(places, weights, strict=True):
            inside = Apply("logical_and", (Apply("less_equal", (i64(0), p), DType.BOOL),
                                           Apply("less_equal", (p, last), DType.BOOL)), DType.BOOL)
            kept.append(self._named("kept", Select(inside, w, _c(0.0)), into))
        total = kept[0]
        for w in kept[1:]:
            total = _f("add", total, w)
        total = self._named("total", total, into)
        return [_f("div", w, total) for w in kept]

    def _coordinate(self, axis: int, at: Expr, old: Expr, new: Expr) -> Expr:
        """ONNX's formula of the source coordinate, in f32."""
        p, n, m = Cast(at, F32), Cast(old, F32), Cast(new, F32)
        known = self._scale(axis)
        scale: Expr = _c(known) if known is not None else _f("div", m, n)
        half = _f("sub", _f("div", _f("add", p, _c(0.5)), scale), _c(0.5))
        one = Apply("less_equal", (new, i64(1)), DType.BOOL)
        match self.attrs["coordinates"]:
            case "asymmetric":
                return _f("div", p, scale)
            case "align_corners":
                resized = _f("mul", scale, n)
                ratio = _f("div", _f("mul", p, _f("sub", n, _c(1.0))), _f("sub", resized, _c(1.0)))
                return Select(one, _c(0.0), ratio)
            case "pytorch_half_pixel":
                return Select(one, _c(0.0), half)
            case "half_pixel_symmetric":
                adjusted = _f("div", m, _f("mul", scale, n))
                centre = _f("mul", _f("div", n, _c(2.0)), _f("sub", _c(1.0), adjusted))
                return _f("add", centre, half)
        return half


def _c(value: float) -> Const:
    return Const(value, F32)


def _f(op: str, *args: Expr) -> Expr:
    return Apply(op, args, F32)


def _as_index(e: Expr) -> Expr:
    return Cast(e, DType.I64)


def _clamp(place: Expr, last: Expr) -> Expr:
    return most(i64(0), least(place, last))


def _round(how: str, e: Expr) -> Expr:
    match how:
        case "round_prefer_floor":
            return _f("ceil", _f("sub", e, _c(0.5)))
        case "round_prefer_ceil":
            return _f("floor", _f("add", e, _c(0.5)))
        case "floor":
            return _f("floor", e)
    return _f("ceil", e)


def _cubic(part: Expr, k: int, a: float) -> Expr:
    """Keys' kernel at the distance of tap k from the coordinate."""
    d = _f("add", part, _c(1.0)) if k == -1 else part if k == 0 else _f("sub", _c(float(k)), part)
    if k in (0, 1):
        return _f("add", _f("mul", _f("mul", _f("sub", _f("mul", _c(a + 2), d), _c(a + 3)), d), d), _c(1.0))
    inner = _f("add", _f("mul", _f("sub", _f("mul", _c(a), d), _c(5 * a)), d), _c(8 * a))
    return _f("sub", _f("mul", inner, d), _c(4 * a))
