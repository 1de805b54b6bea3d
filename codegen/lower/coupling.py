"""couple_pairs: one row after the other; its matrix and its two vectors lie in scratch."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.loops import (
    Const,
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
from lepton.codegen.lower.nest import cut, grain_for, nest_loops
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.ops.coupling import LEAST_TURNS, NEAR
from lepton.ir.types import DType

F64 = DType.F64
USUAL_TURNS = 10


@lowers(ops.couple_pairs)
def couple_pairs(group: Group, options: LowerOptions) -> Kernel:
    """A task is one or more rows."""
    return _Coupling(group).kernel()


def number(value: float) -> Const:
    return Const(value, F64)


class _Coupling(Anchored):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        (r,) = self.node.inputs
        assert r is not None
        classes = r.tensor.shape[1]
        assert isinstance(classes, int)
        self.r, self.k = r, classes
        self.q, self.qp = self.nest.scratch(F64, classes * classes), self.nest.scratch(F64, classes)
        self.p = self.nest.scratch(F64, classes)

    def kernel(self) -> Kernel:
        rows, k = self.result.shape[0], self.k
        work = USUAL_TURNS * 4 * k * k
        tasks = cut((rows,), vector=False, work=work)
        (row,), around = nest_loops((rows,), tasks, self.nest, vector=False)
        j = self.nest.var("j")
        going, pqp = self.ref("going", DType.I64), self.ref("pqp")
        on = ap("equal", going, i64(1))
        turn = If(on, (*self.measure(going, pqp), If(on, self.turn(pqp))))
        results = {self.node.results[0]: self.at(self.p, j)}
        body = [*self.start(row), Var(going.name, i64(1)),
                For(self.nest.fresh("turn"), i64(max(LEAST_TURNS, k)), (turn,)),
                For(j.name, i64(k), tuple(self.finish(results, [row, j])))]
        return self.nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks), writes=self.group.outputs,
                                flops=rows * work)

    def ref(self, stem: str, dtype: DType = F64) -> Ref:
        return Ref(self.nest.fresh(stem), dtype)

    def at(self, buffer: str, index: Expr) -> Load:
        return Load(buffer, index, F64)

    def cell(self, t: Expr, j: Expr) -> Load:
        return self.at(self.q, self.place(t, j))

    def place(self, t: Expr, j: Expr) -> Expr:
        return add(mul(t, i64(self.k)), j)

    def start(self, row: Expr) -> Sequence[Stmt]:
        """The matrix q, and equal probabilities."""
        t, j, i = self.nest.var("t"), self.nest.var("j"), self.nest.var("i")
        k, own = i64(self.k), self.ref("own")

        def r(a: Expr, b: Expr) -> Expr:
            return self.element(self.r, [row, a, b])

        product = ap("neg", ap("mul", r(j, t), r(t, j)))
        square = Select(ap("equal", i, t), number(0), ap("mul", r(i, t), r(i, t)))
        body = (For(j.name, k, (Store(self.q, self.place(t, j), product),)), Var(own.name, number(0)),
                For(i.name, k, (Update(own.name, "add", square),)), Store(self.q, self.place(t, t), own),
                Store(self.p, t, number(1 / self.k)))
        return (For(t.name, k, body),)

    def measure(self, going: Ref, pqp: Ref) -> Sequence[Stmt]:
        """q p, p q p, and whether a coordinate is still far from its optimum."""
        t, j, u = (self.nest.var(name) for name in ("t", "j", "u"))
        far, total, k = self.ref("far"), self.ref("sum"), i64(self.k)
        product = ap("mul", self.cell(t, j), self.at(self.p, j))
        rows = (Var(total.name, number(0)),
                For(j.name, k, (Update(total.name, "add", product),), LoopKind.VECTOR), Store(self.qp, t, total),
                Update(pqp.name, "add", ap("mul", self.at(self.p, t), total)))
        error = ap("abs", ap("sub", self.at(self.qp, u), pqp))
        near = ap("less", far, number(NEAR / self.k))
        return (Var(pqp.name, number(0)), For(t.name, k, rows), Var(far.name, number(0)),
                For(u.name, k, (Update(far.name, "maximum", error),)),
                Update(going.name, "set", Select(near, i64(0), i64(1))))

    def turn(self, pqp: Ref) -> tuple[Stmt, ...]:
        """Each coordinate once to where it is best, the others scaled so that they sum to 1."""
        t, j, own, old, step, whole = (self.nest.var("t"), self.nest.var("j"), *(
            self.ref(name) for name in ("own", "old", "step", "whole")))
        gain = ap("mul", step, ap("add", ap("mul", step, own), ap("mul", number(2), old)))
        following = ap("add", self.at(self.qp, j), ap("mul", step, self.cell(t, j)))
        scale = (Store(self.qp, j, ap("div", following, whole)), Store(self.p, j, ap("div", self.at(self.p, j), whole)))
        body = (Let(own.name, self.cell(t, t)), Let(old.name, self.at(self.qp, t)),
                Let(step.name, ap("div", ap("sub", pqp, old), own)), Let(whole.name, ap("add", number(1), step)),
                Update(pqp.name, "set", ap("div", ap("add", pqp, gain), ap("mul", whole, whole))),
                Store(self.p, t, ap("add", self.at(self.p, t), step)),
                For(j.name, i64(self.k), scale, LoopKind.VECTOR))
        return (For(t.name, i64(self.k), body),)
