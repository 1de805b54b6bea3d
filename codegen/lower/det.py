"""Determinants by elimination with row exchanges, in f64: one matrix after the other in scratch."""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import (
    Cast,
    Const,
    Expr,
    For,
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
from lepton.codegen.lower.nest import cut, grain_for, guess, nest_loops, sub
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.dims import product
from lepton.ir.types import DType

F64 = DType.F64


@lowers(ops.det)
def det(group: Group, options: LowerOptions) -> Kernel:
    """A task is one or more matrices."""
    return _Det(group).kernel()


class _Det(Anchored):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        x = self.node.inputs[0]
        assert x is not None
        self.x, self.side = x, x.tensor.shape[-1]
        self.n = self.nest.size(self.side)
        self.matrix = self.nest.scratch(F64, self.side * self.side)

    def kernel(self) -> Kernel:
        shape = self.result.shape
        work = guess(self.side) ** 3
        tasks = cut(shape or (1,), vector=False, work=work)
        coords, around = nest_loops(shape or (1,), tasks, self.nest, vector=False)
        point = coords if shape else []
        value, k = self.ref("det"), self.nest.var("k")
        total: Expr = value
        dtype = widened(self.x.tensor.dtype)
        if dtype is not F64:
            total = Cast(total, dtype)
        body = [*self.copy(point), Var(value.name, Const(1.0, F64)),
                For(k.name, self.n, tuple(self.column(k, value))),
                *self.finish({self.node.results[0]: total}, point)]
        return self.nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks), writes=self.group.outputs,
                                flops=product([*shape, self.side, self.side, self.side]))

    def ref(self, stem: str, dtype: DType = F64) -> Ref:
        return Ref(self.nest.fresh(stem), dtype)

    def place(self, row: Expr, column: Expr) -> Expr:
        return add(mul(row, self.n), column)

    def cell(self, row: Expr, column: Expr) -> Load:
        return Load(self.matrix, self.place(row, column), F64)

    def copy(self, point: list[Expr]) -> list[Stmt]:
        i, j = self.nest.var("i"), self.nest.var("j")
        x = self.element(self.x, [*point, i, j])
        store = Store(self.matrix, self.place(i, j), x if x.dtype is F64 else Cast(x, F64))
        return [For(i.name, self.n, (For(j.name, self.n, (store,), LoopKind.VECTOR),))]

    def column(self, k: Ref, value: Ref) -> list[Stmt]:
        """Bring the largest element of column k from row k on to the diagonal, and clear those below it."""
        best, pivot, i = self.ref("best"), self.ref("pivot", DType.I64), self.nest.var("i")
        size, larger, row = self.ref("size"), self.ref("larger", DType.BOOL), add(k, i)
        search = (Let(size.name, ap("abs", self.cell(row, k))), Let(larger.name, ap("greater", size, best)),
                  Update(best.name, "set", Select(larger, size, best)),
                  Update(pivot.name, "set", Select(larger, row, pivot)))
        corner = self.ref("corner")
        sign = Select(ap("equal", pivot, k), Const(1.0, F64), Const(-1.0, F64))
        return [Var(best.name, Const(-1.0, F64)), Var(pivot.name, k), For(i.name, sub(self.n, k), search),
                *self.exchange(k, pivot), Let(corner.name, self.cell(k, k)),
                Update(value.name, "mul", ap("mul", sign, corner)), *self.clear(k, corner)]

    def exchange(self, k: Ref, pivot: Ref) -> list[Stmt]:
        j, upper, lower = self.nest.var("j"), self.ref("upper"), self.ref("lower")
        body = (Let(upper.name, self.cell(k, j)), Let(lower.name, self.cell(pivot, j)),
                Store(self.matrix, self.place(k, j), lower), Store(self.matrix, self.place(pivot, j), upper))
        return [For(j.name, self.n, body, LoopKind.VECTOR)]

    def clear(self, k: Ref, corner: Ref) -> list[Stmt]:
        """Rows below k lose their part in column k; where the whole column is zero there is nothing to lose."""
        i, j, factor = self.nest.var("i"), self.nest.var("j"), self.ref("factor")
        rest = add(sub(self.n, k), i64(-1))
        row, column = add(add(k, i), i64(1)), add(add(k, j), i64(1))
        none = ap("equal", corner, Const(0.0, F64))
        quotient = Select(none, Const(0.0, F64), ap("div", self.cell(row, k), corner))
        less = ap("sub", self.cell(row, column), ap("mul", factor, self.cell(k, column)))
        inner = For(j.name, rest, (Store(self.matrix, self.place(row, column), less),), LoopKind.VECTOR)
        return [For(i.name, rest, (Let(factor.name, quotient), inner))]
