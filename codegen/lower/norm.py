"""layer_norm, rms_norm, instance_norm, group_norm: statistics of a row, then its elements; and batch_norm, a map."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, If, Let, Ref, Select, Stmt, Update, Var
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.rows import Coords, Rows
from lepton.codegen.lower.scalar import ap, times, to_dtype
from lepton.codegen.lower.softmax import Kept
from lepton.ir import ops
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Units:
    """Powers of two that keep sums from overflowing."""

    sum: float        # elements are added up in this unit
    limit: float      # rows with larger magnitudes, all together, are computed in another one ...
    large: float      # ... which is this
    least: float      # what stands for epsilon there, where it vanishes beside any deviation but 0


UNITS = {DType.F32: Units(2.0**-30, 2.0**60, 2.0**-80, 2.0**-126),
         DType.F64: Units(2.0**-60, 2.0**500, 2.0**-560, 2.0**-1022)}


@lowers(ops.layer_norm)
def layer_norm(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rank = len(anchor.results[0].tensor.shape)
    return centred_norm(Rows(group, range(anchor.attrs["axis"], rank), full=True))


@lowers(ops.instance_norm)
def instance_norm(group: Group, options: LowerOptions) -> Kernel:
    rank = len(anchor_of(group).results[0].tensor.shape)
    return centred_norm(Rows(group, range(2, rank), full=True, channel_axis=1))


@lowers(ops.group_norm)
def group_norm(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rank = len(anchor.results[0].tensor.shape)
    split = (1, anchor.attrs["groups"])
    return centred_norm(Rows(group, range(2, rank), full=True, channel_axis=1, split=split))


def centred_norm(rows: Rows) -> Kernel:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias.

    The mean is rounded: to no more than an element's own precision, but that is much where all elements are far from 0
    and close together. So the deviations' own mean is subtracted once more. Rows whose squares overflow are computed
    again in a smaller unit; where the vectors hold many rows, that is decided beforehand and for each of them."""
    dtype = widened(rows.anchor.results[0].tensor.dtype)
    units = UNITS[dtype]
    kept_row = None if rows.is_plain else Kept(rows, dtype)

    def row(kept: Coords) -> Sequence[Stmt]:
        plain = _Moments(rows, kept, kept_row, dtype, None)
        if rows.vector_rows:
            return _each_in_its_unit(plain, units)
        small = replace(plain, unit=Const(units.large, dtype))
        mean, shift, inverse = plain.names("mean", "shift", "inv")
        squares, found = plain.centre(mean, shift)
        mean2, shift2, inverse2 = small.names("mean", "shift", "inv")
        squares2, found2 = small.centre(mean2, shift2)
        fine = ap("less_equal", squares, Const(units.limit**2, dtype))
        epsilon = Const(rows.anchor.attrs["epsilon"], dtype)
        return [*plain.sum(mean, first=True), *found,
                If(fine, (plain.invert(inverse, squares, shift, epsilon), *plain.write(mean, shift, inverse)),
                   (*small.sum(mean2, first=False), *found2,
                    small.invert(inverse2, squares2, shift2, Const(units.least, dtype)),
                    *small.write(mean2, shift2, inverse2)))]

    return rows.kernel(row, cost=4)


@dataclass(frozen=True, eq=False)
class _Moments:
    """The passes over one row, its elements taken in a unit (None: as they are; else one by one: that is rare and keeps
    the code small)."""

    rows: Rows
    kept: Coords
    kept_row: Kept | None
    dtype: DType
    unit: Expr | None

    def names(self, *stems: str) -> list[Ref]:
        return [Ref(self.rows.nest.fresh(stem), self.dtype) for stem in stems]

    @property
    def count(self) -> Expr:
        return to_dtype(self.rows.nest.size(self.rows.count), self.dtype)

    def each(self, body: Callable[[Coords], Sequence[Stmt]]) -> list[Stmt]:
        return self.rows.each(self.kept, body, serial=self.unit is not None)

    def zero(self, variable: Ref) -> Stmt:
        return Var(variable.name, Const(0.0, self.dtype))

    def first(self, at: Coords, lets: list[Stmt]) -> Expr:
        """The element, computed; what is stored early and kept for later is."""
        (z,) = self.names("z")
        x = self.rows.x(at, lets)
        keep = self.kept_row.put(at, z) if self.kept_row is not None else []
        lets += [Let(z.name, x), *self.rows.early(at), *keep]
        return z

    def again(self, at: Coords, lets: list[Stmt]) -> Expr:
        x = self.rows.x(at, lets) if self.kept_row is None else self.kept_row.get(at, lets)
        return x if self.unit is None else ap("mul", x, self.unit)

    def sum(self, mean: Ref, *, first: bool) -> list[Stmt]:
        (total,) = self.names("sum")

        def body(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            x = self.first(at, lets) if first else self.again(at, lets)
            return [*lets, Update(total.name, "add", x)]

        return [self.zero(total), *self.each(body), Let(mean.name, ap("div", total, self.count))]

    def centre(self, mean: Ref, shift: Ref) -> tuple[Ref, list[Stmt]]:
        """The sum of the deviations' squares, and their mean as `shift`."""
        rest, squares = self.names("rest", "squares")

        def body(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            (d,) = self.names("d")
            x = self.again(at, lets)
            return [*lets, Let(d.name, ap("sub", x, mean)), Update(rest.name, "add", d),
                    Update(squares.name, "add", ap("mul", d, d))]

        return squares, [self.zero(rest), self.zero(squares), *self.each(body),
                         Let(shift.name, ap("div", rest, self.count))]

    def invert(self, inverse: Ref, squares: Ref, shift: Ref, epsilon: Expr) -> Stmt:
        variance = ap("sub", ap("div", squares, self.count), ap("mul", shift, shift))
        variance = ap("maximum", variance, Const(0.0, self.dtype))
        return Let(inverse.name, ap("reciprocal", ap("sqrt", ap("add", variance, epsilon))))

    def write(self, mean: Ref, shift: Ref, inverse: Ref) -> list[Stmt]:
        def body(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            d = ap("sub", ap("sub", self.again(at, lets), mean), shift)
            return _finish(self.rows, at, ap("mul", d, inverse), lets)

        return self.each(body)


def _each_in_its_unit(m: _Moments, units: Units) -> list[Stmt]:
    """One row in each lane: its unit follows from the sum of magnitudes."""
    total, size, unit, mean, shift, inverse = m.names("sum", "size", "unit", "mean", "shift", "inv")

    def body(at: Coords) -> Sequence[Stmt]:
        lets: list[Stmt] = []
        (small,) = m.names("small")
        x = m.first(at, lets)
        return [*lets, Let(small.name, times(x, units.sum)), Update(total.name, "add", small),
                Update(size.name, "add", ap("abs", small))]

    large = ap("less", Const(units.limit * units.sum, m.dtype), size)

    def if_large(then: float, otherwise: float) -> Expr:
        return Select(large, Const(then, m.dtype), Const(otherwise, m.dtype))

    whole = ap("mul", ap("div", total, m.count), if_large(units.large / units.sum, 1 / units.sum))
    m = replace(m, unit=unit)
    squares, centred = m.centre(mean, shift)
    epsilon = if_large(units.least, m.rows.anchor.attrs["epsilon"])
    return [m.zero(total), m.zero(size), *m.rows.each(m.kept, body), Let(unit.name, if_large(units.large, 1.0)),
            Let(mean.name, whole), *centred, m.invert(inverse, squares, shift, epsilon), *m.write(mean, shift, inverse)]


def _finish(rows: Rows, at: Coords, y: Expr, lets: list[Stmt]) -> list[Stmt]:
    """Scale, shift, and what is fused behind."""
    y = ap("mul", y, rows.operand(1, at, lets))
    if len(rows.anchor.inputs) > 2 and rows.anchor.inputs[2] is not None:
        y = ap("add", y, rows.operand(2, at, lets))
    stores = rows.stores(at, y)
    return [*lets, *stores]


@lowers(ops.rms_norm)
def rms_norm(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rank = len(anchor.results[0].tensor.shape)
    rows = Rows(group, range(anchor.attrs["axis"], rank), full=True)
    dtype = widened(anchor.results[0].tensor.dtype)
    kept_row = None if rows.is_plain else Kept(rows, dtype)

    units = UNITS[dtype]

    def row(kept: Coords) -> Sequence[Stmt]:
        m = _Moments(rows, kept, kept_row, dtype, None)
        squares, small, unit, inverse = m.names("squares", "small", "unit", "inv")

        def square(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            z = m.first(at, lets)
            return [*lets, Update(squares.name, "add", ap("mul", z, z))]

        def square_small(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            (y,) = m.names("y")
            x = m.again(at, lets)
            return [*lets, Let(y.name, times(x, units.large)), Update(small.name, "add", ap("mul", y, y))]

        def write(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            return _finish(rows, at, ap("mul", replace(m, unit=unit).again(at, lets), inverse), lets)

        fine = ap("less_equal", squares, Const(units.limit**2, dtype))
        again = rows.each(kept, square_small, serial=True)  # rare
        total = ap("div", Select(fine, squares, small), m.count)
        epsilon = Select(fine, Const(anchor.attrs["epsilon"], dtype), Const(0.0, dtype))
        return [m.zero(squares), m.zero(small), *rows.each(kept, square),
                *(again if rows.vector_rows else [If(fine, (), tuple(again))]),
                Let(unit.name, Select(fine, Const(1.0, dtype), Const(units.large, dtype))),
                Let(inverse.name, ap("reciprocal", ap("sqrt", ap("add", total, epsilon)))), *rows.each(kept, write)]

    return rows.kernel(row, cost=3)


@lowers(ops.batch_norm)
def batch_norm(group: Group, options: LowerOptions) -> Kernel:
    """One pass: a row is a single element, its parameters lie along the channels."""
    anchor = anchor_of(group)
    rank = len(anchor.results[0].tensor.shape)
    rows = Rows(group, (), full=True, channel_axis=1 if anchor.attrs["layout"] == "nchw" else rank - 1)
    dtype = widened(anchor.results[0].tensor.dtype)

    def element(at: Coords) -> Sequence[Stmt]:
        lets: list[Stmt] = []
        x, scale, bias, mean, var = (rows.operand(k, at, lets) for k in range(5))
        deviation = ap("sqrt", ap("add", var, Const(anchor.attrs["epsilon"], dtype)))
        y = ap("add", ap("mul", ap("sub", x, mean), ap("div", scale, deviation)), bias)
        return [*lets, *rows.early(at), *rows.stores(at, y)]

    return rows.kernel(element, cost=2)
