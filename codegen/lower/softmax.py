"""softmax, log_softmax, hardmax: a maximum, a sum, and a pass that writes; a row stays in the cache in between.

Where one element is far above the others, its exponential is 1 and theirs are tiny: an f32 sum of them is rounded to
2**-23 by each, hundreds of times in a long row. So the exponentials are f32 and their sum is f64, whose rounding is
nothing beside theirs. On GPUs, most of which have few units for f64, it is f32: their threads add up a few each.
A NaN need not be found as the maximum: it makes the sum NaN, and so the whole row.
"""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, Let, Load, Ref, Select, Stmt, Store, Update, Var, neutral
from lepton.codegen.lower.reduce import anchor_of, find_extreme
from lepton.codegen.lower.rows import Coords, Rows
from lepton.codegen.lower.scalar import ap, to_dtype
from lepton.ir import ops
from lepton.ir.types import DType


class Kept:
    """Where the elements of a row are kept between passes: in scratch, or, with lanes over rows, where they were."""

    def __init__(self, rows: Rows, dtype: DType) -> None:
        self.rows, self.dtype = rows, dtype
        self.buffer = rows.nest.scratch(dtype, rows.count) if rows.lanes_reduced else None

    def put(self, at: Coords, value: Expr) -> list[Stmt]:
        return [Store(self.buffer, self.rows.flat(at), value)] if self.buffer else []

    def get(self, at: Coords, lets: list[Stmt]) -> Expr:
        if self.buffer is None:
            return self.rows.x(at, lets)
        return Load(self.buffer, self.rows.flat(at), self.dtype)


@lowers(ops.softmax, ops.log_softmax)
def softmax(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rows = Rows(group, (anchor.attrs["axis"],), full=True)
    dtype = widened(anchor.results[0].tensor.dtype)
    kept_row = Kept(rows, dtype)
    is_log = anchor.op is ops.log_softmax
    wide = dtype if options.target.family == "cuda" else DType.F64

    def row(kept: Coords) -> Sequence[Stmt]:
        top, m, finish = (Ref(rows.nest.fresh(n), dtype) for n in ("top", "m", "f"))
        total = Ref(rows.nest.fresh("sum"), wide)

        def find(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            x = rows.x(at, lets)
            if rows.is_plain or kept_row.buffer is None:
                return [*lets, *rows.early(at), Update(top.name, "larger", x)]
            z = Ref(rows.nest.fresh("z"), dtype)
            return [*lets, Let(z.name, x), *rows.early(at), *kept_row.put(at, z), Update(top.name, "larger", z)]

        def add_up(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            z, y = Ref(rows.nest.fresh("z"), dtype), Ref(rows.nest.fresh("y"), dtype)
            x = rows.x(at, lets) if rows.is_plain else kept_row.get(at, lets)
            return [*lets, Let(z.name, ap("sub", x, m)), Let(y.name, ap("exp_negative", z)),
                    *kept_row.put(at, z if is_log else y), Update(total.name, "add", to_dtype(y, wide))]

        def write(at: Coords) -> Sequence[Stmt]:
            lets: list[Stmt] = []
            e = kept_row.get(at, lets)
            if kept_row.buffer is None:
                e = ap("sub", e, m) if is_log else ap("exp_negative", ap("sub", e, m))
            return [*lets, *rows.stores(at, ap("sub", e, finish) if is_log else ap("mul", e, finish))]

        factor = ap("log", to_dtype(total, dtype)) if is_log else to_dtype(ap("reciprocal", total), dtype)
        return [Var(top.name, neutral("larger", dtype)), *rows.each(kept, find), Let(m.name, top),
                Var(total.name, Const(0.0, wide)), *rows.each(kept, add_up), Let(finish.name, factor),
                *rows.each(kept, write)]

    return rows.kernel(row, cost=8)


@lowers(ops.hardmax)
def hardmax(group: Group, options: LowerOptions) -> Kernel:
    anchor = anchor_of(group)
    rows = Rows(group, (anchor.attrs["axis"],), full=True)
    dtype = widened(anchor.results[0].tensor.dtype)

    def row(kept: Coords) -> Sequence[Stmt]:
        statements, index = find_extreme(rows, kept, "maximum", last=False)
        first = Ref(rows.nest.fresh("first"), DType.I64)

        def write(at: Coords) -> Sequence[Stmt]:
            here = ap("equal", rows.flat(at), first)
            return rows.stores(at, Select(here, Const(1.0, dtype), Const(0.0, dtype)))

        return [*statements, Let(first.name, index), *rows.each(kept, write)]

    return rows.kernel(row, cost=3)
