"""layer_norm, rms_norm, instance_norm, group_norm: statistics of a row, then its elements; and batch_norm, a map."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, Let, Ref, Stmt, Update, Var
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.rows import Coords, Rows
from lepton.codegen.lower.scalar import ap, to_dtype
from lepton.codegen.lower.softmax import Kept
from lepton.ir import ops


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
    """(x - mean) / sqrt(variance + epsilon) * scale + bias; the variance from the deviations."""
    anchor = rows.anchor
    dtype = widened(anchor.results[0].tensor.dtype)
    kept_row = None if rows.is_plain else Kept(rows, dtype)

    def again(at: Coords, lets: list[Stmt]) -> Expr:
        return rows.x(at, lets) if kept_row is None else kept_row.get(at, lets)

    def row(kept: Coords) -> Sequence[Stmt]:
        total, squares = Ref(rows.nest.fresh("sum"), dtype), Ref(rows.nest.fresh("squares"), dtype)
        mean, inverse = Ref(rows.nest.fresh("mean"), dtype), Ref(rows.nest.fresh("inv"), dtype)
        count = to_dtype(rows.nest.size(rows.count), dtype)

        def add_up(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            z = Ref(rows.nest.fresh("z"), dtype)
            x = rows.x(at, lets)
            keep = kept_row.put(at, z) if kept_row is not None else []
            return [*lets, Let(z.name, x), *rows.early(at), *keep, Update(total.name, "add", z)]

        def deviate(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            d = Ref(rows.nest.fresh("d"), dtype)
            x = again(at, lets)
            return [*lets, Let(d.name, ap("sub", x, mean)), Update(squares.name, "add", ap("mul", d, d))]

        def write(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            y = ap("mul", ap("sub", again(at, lets), mean), inverse)
            return _finish(rows, at, y, lets)

        deviation = ap("sqrt", ap("add", ap("div", squares, count), Const(anchor.attrs["epsilon"], dtype)))
        return [Var(total.name, Const(0.0, dtype)), *rows.each(kept, add_up), Let(mean.name, ap("div", total, count)),
                Var(squares.name, Const(0.0, dtype)), *rows.each(kept, deviate),
                Let(inverse.name, ap("reciprocal", deviation)), *rows.each(kept, write)]

    return rows.kernel(row, cost=4)


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

    def row(kept: Coords) -> Sequence[Stmt]:
        squares, inverse = Ref(rows.nest.fresh("squares"), dtype), Ref(rows.nest.fresh("inv"), dtype)

        def add_up(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            z = Ref(rows.nest.fresh("z"), dtype)
            x = rows.x(at, lets)
            keep = kept_row.put(at, z) if kept_row is not None else []
            return [*lets, Let(z.name, x), *rows.early(at), *keep, Update(squares.name, "add", ap("mul", z, z))]

        def write(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            x = rows.x(at, lets) if kept_row is None else kept_row.get(at, lets)
            return _finish(rows, at, ap("mul", x, inverse), lets)

        mean = ap("div", squares, to_dtype(rows.nest.size(rows.count), dtype))
        root = ap("sqrt", ap("add", mean, Const(anchor.attrs["epsilon"], dtype)))
        return [Var(squares.name, Const(0.0, dtype)), *rows.each(kept, add_up),
                Let(inverse.name, ap("reciprocal", root)), *rows.each(kept, write)]

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
