"""sort_rows: merge sort, bottom up. The order so far lies in the result; a pass merges into scratch and copies back."""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import (
    Cast,
    Expr,
    For,
    If,
    Let,
    Load,
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
from lepton.codegen.lower.nest import div, least, offset, sub
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.types import DType

PASSES = 40  # more rows than 2**40 do not fit into memory


@lowers(ops.sort_rows)
def sort_rows(group: Group, options: LowerOptions) -> Kernel:
    """One task."""
    return SortRows(group).kernel()


class SortRows(Anchored):
    """The operands of a group, and how two rows are compared."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        if group.body.outputs != self.node.results:
            raise UnsupportedError("ops fused behind sort_rows are not supported")
        x = self.node.inputs[0]
        assert x is not None
        self.merged = ""     # scratch, where runs are merged
        self.x, self.rows, self.columns = x, self.nest.size(x.tensor.shape[0]), self.nest.size(x.tensor.shape[1])
        (self.stride,) = group.accesses[group.outputs[0]].strides

    def place(self, i: Expr) -> Expr:
        return offset([i], (self.stride,), self.nest)

    def row(self, i: Expr) -> Load:
        """The row that stands at place i so far."""
        return Load(self.targets[0], self.place(i), DType.I64)

    def kernel(self) -> Kernel:
        self.merged = self.nest.scratch(DType.I64, self.x.tensor.shape[0])
        nest, i, j, p, width = self.nest, self.nest.var("i"), self.nest.var("i"), self.nest.var("p"), self.ref("width")
        start = For(i.name, self.rows, (Store(self.targets[0], self.place(i), i),), LoopKind.VECTOR)
        back = For(j.name, self.rows, (Store(self.targets[0], self.place(j), Load(self.merged, j, DType.I64)),),
                   LoopKind.VECTOR)
        q, double = nest.var("q"), mul(width, i64(2))
        pairs = div(add(self.rows, add(double, i64(-1))), double)
        whole = For(q.name, pairs, tuple(self.merge(mul(q, double), width)))
        once = If(ap("less", width, self.rows), (whole, back, Update(width.name, "mul", i64(2))))
        body = (start, Var(width.name, i64(1)), For(p.name, i64(PASSES), (once,)))
        task = For(nest.var("t").name, i64(0), body, LoopKind.TASKS)
        return nest.kernel((task,), 1, writes=self.group.outputs, flops=self.x.tensor.size * 32)

    def ref(self, stem: str, dtype: DType = DType.I64) -> Ref:
        return Ref(self.nest.fresh(stem), dtype)

    def merge(self, low: Expr, width: Expr) -> list[Stmt]:
        """The runs [low, low + width) and [low + width, low + 2*width), cut to the number of rows, into one."""
        first, middle, high = self.ref("low"), self.ref("middle"), self.ref("high")
        a, b, k, one, two = self.ref("a"), self.ref("b"), self.nest.var("k"), self.ref("one"), self.ref("two")
        left = self.ref("left", DType.BOOL)
        last = add(self.rows, i64(-1))
        order = self.ref("order")
        body: list[Stmt] = [
            Let(one.name, self.row(least(a, last))), Let(two.name, self.row(least(b, last))),
            Var(order.name, i64(0)), *self.compare(order, one, two)]
        mine = ap("logical_or", ap("greater_equal", b, high), ap("less_equal", order, i64(0)))
        body += [Let(left.name, ap("logical_and", ap("less", a, middle), mine)),
                 Store(self.merged, add(first, k), Select(left, one, two)),
                 Update(a.name, "add", Select(left, i64(1), i64(0))),
                 Update(b.name, "add", Select(left, i64(0), i64(1)))]
        return [Let(first.name, low), Let(middle.name, least(add(first, width), self.rows)),
                Let(high.name, least(add(middle, width), self.rows)), Var(a.name, first), Var(b.name, middle),
                For(k.name, sub(high, first), tuple(body))]

    def compare(self, order: Ref, one: Expr, two: Expr) -> list[Stmt]:
        """order = -1, 0 or 1 as row `one` stands before, level with or behind row `two`."""
        c = self.nest.var("c")
        x, y = (self.element(self.x, [row, c]) for row in (one, two))
        if x.dtype is DType.BOOL:
            x, y = Cast(x, DType.I32), Cast(y, DType.I32)
        u, v = self.ref("x", x.dtype), self.ref("y", y.dtype)
        sign = Select(self.before(u, v), i64(-1), Select(self.before(v, u), i64(1), i64(0)))
        level = ap("equal", order, i64(0))
        body = (If(level, (Let(u.name, x), Let(v.name, y), Update(order.name, "set", sign))),)
        return [For(c.name, self.columns, body)]

    def before(self, x: Expr, y: Expr) -> Expr:
        result = ap("less", x, y)
        if x.dtype.is_float:
            only = ap("logical_and", ap("is_nan", y), ap("logical_not", ap("is_nan", x)))
            result = ap("logical_or", result, only)
        return result
