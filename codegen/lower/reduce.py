"""Reductions, arg_max and arg_min, running sums, over any axes and strides, with what is fused before and after."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, Ref, Select, Stmt, Update, Var, neutral
from lepton.codegen.lower.rows import Coords, Rows
from lepton.codegen.lower.scalar import ap, to_dtype
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.op import Op
from lepton.ir.types import DType

UPDATES: dict[Op, str] = {
    ops.reduce_sum: "add", ops.reduce_mean: "add", ops.reduce_prod: "mul", ops.reduce_max: "maximum",
    ops.reduce_min: "minimum",
}


def anchor_of(group: Group) -> Node:
    assert group.anchor is not None
    return group.anchor


@lowers(*UPDATES)
def reduction(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rows = Rows(group, anchor.attrs["axes"], full=False)
    own = widened(anchor.results[0].tensor.dtype)
    wide = DType.I64 if anchor.op is ops.reduce_mean and own.is_integer else own
    op = UPDATES[anchor.op]

    def row(kept: Coords) -> Sequence[Stmt]:
        acc = Ref(rows.nest.fresh("acc"), wide)

        def term(at: Coords, lets: list[Stmt]) -> Expr:
            x = rows.x(at, lets)
            lets += rows.early(at)
            return to_dtype(x, wide)

        def element(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            update = Update(acc.name, op, term(at, lets))
            return [*lets, update]

        parted = op == "add" and wide.is_float and rows.reduced
        each = rows.add_up(kept, acc, term) if parted else rows.each(kept, element)
        at = [*kept, *(Const(0, DType.I64) for _ in rows.reduced)]
        result: Expr = acc
        if anchor.op is ops.reduce_mean:
            result = to_dtype(ap("div", acc, to_dtype(rows.nest.size(rows.count), wide)), own)
        return [Var(acc.name, neutral(op, wide)), *each, *rows.stores(at, result)]

    return rows.kernel(row)


@lowers(ops.arg_max, ops.arg_min)
def arg_extreme(group: Group, options: LowerOptions) -> Kernel:
    """First the extreme, then the least (greatest) index where it stands. NaN is more extreme than all."""
    anchor = anchor_of(group)
    rows = Rows(group, (anchor.attrs["axis"],), full=False)
    last = bool(anchor.attrs["select_last"])

    def row(kept: Coords) -> Sequence[Stmt]:
        at = [*kept, *(Const(0, DType.I64) for _ in rows.reduced)]
        statements, index = find_extreme(rows, kept, "maximum" if anchor.op is ops.arg_max else "minimum", last)
        return [*statements, *rows.stores(at, index)]

    return rows.kernel(row, cost=2)


def find_extreme(rows: Rows, kept: Coords, op: str, last: bool) -> tuple[list[Stmt], Ref]:
    """Statements that find where the extreme of a row stands, and the variable that then holds it."""
    x = rows.anchor.inputs[0]
    assert x is not None
    dtype = widened(x.tensor.dtype)
    best, index = Ref(rows.nest.fresh("best"), dtype), Ref(rows.nest.fresh("index"), DType.I64)
    choose = "maximum" if last else "minimum"

    def find(at: Coords) -> Sequence[Stmt]:
        lets: list[Stmt] = []
        value = rows.x(at, lets)
        return [*lets, *rows.early(at), Update(best.name, op, value)]

    def place(at: Coords) -> Sequence[Stmt]:
        lets: list[Stmt] = []
        value = rows.x(at, lets)
        hit: Expr = ap("equal", value, best)
        if dtype.is_float:
            hit = ap("logical_or", hit, ap("is_nan", value))
        return [*lets, Update(index.name, choose, Select(hit, rows.flat(at), neutral(choose, DType.I64)))]

    return [Var(best.name, neutral(op, dtype)), *rows.each(kept, find), Var(index.name, neutral(choose, DType.I64)),
            *rows.each(kept, place)], index


@lowers(ops.cumsum, ops.cumprod)
def scan(group: Group, options: LowerOptions) -> Kernel:
    """One element after the other along the axis; the vectors go over another axis if one is contiguous."""
    anchor = anchor_of(group)
    rows = Rows(group, (anchor.attrs["axis"],), full=True, vector_kept=True)
    dtype = widened(anchor.results[0].tensor.dtype)
    op = "add" if anchor.op is ops.cumsum else "mul"

    def row(kept: Coords) -> Sequence[Stmt]:
        acc = Ref(rows.nest.fresh("acc"), dtype)

        def element(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            update = Update(acc.name, op, rows.x(at, lets))
            store = rows.stores(at, acc)
            order = [*store, update] if anchor.attrs["exclusive"] else [update, *store]
            return [*lets, *rows.early(at), *order]

        loops = rows.each(kept, element, serial=True, reverse=anchor.attrs["reverse"])
        return [Var(acc.name, neutral(op, dtype)), *loops]

    return rows.kernel(row, cost=4)

