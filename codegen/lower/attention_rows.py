"""Attention as a loop kernel of any float type: one task per row of scores, which stay in scratch."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, For, Let, Load, LoopKind, Ref, Stmt, Store, Update, Var, i64, neutral
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import broadcast_strides, offset, unflatten
from lepton.codegen.lower.scalar import ap
from lepton.ir.core import Value
from lepton.ir.dims import product


def attention_rows(group: Group, options: LowerOptions) -> Kernel:
    """softmax(scale * q @ k^T + mask) @ v."""
    return _Attention(group).kernel()


class _Attention(Anchored):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        q, k, v, *rest = self.node.inputs
        assert q is not None
        assert k is not None
        assert v is not None
        self.q, self.k, self.v, self.mask = q, k, v, rest[0] if rest else None
        self.dtype = widened(q.tensor.dtype)
        (self.batch, self.heads, self.rows, self.depth) = q.tensor.shape
        self.length, self.width = v.tensor.shape[2:]
        self.row = self.nest.scratch(self.dtype, self.length)

    def kernel(self) -> Kernel:
        nest, shape = self.nest, (self.batch, self.heads, self.rows)
        task = nest.var("t")
        b, h, s = unflatten(task, shape, nest)
        top, total = self.variable("top"), self.variable("sum")
        body: list[Stmt] = [
            Var(top.name, neutral("maximum", self.dtype)), *self.scores([b, h, s], top),
            Var(total.name, Const(0.0, self.dtype)), *self.exponentials(top, total),
            *self.sums([b, h, s], total)]
        flops = product((2, *shape, self.length, self.depth + self.width))
        return nest.kernel((For(task.name, i64(0), tuple(body), LoopKind.TASKS),), product(shape),
                           writes=self.group.outputs, flops=flops)

    def variable(self, stem: str) -> Ref:
        return Ref(self.nest.fresh(stem), self.dtype)

    def scores(self, at: Sequence[Expr], top: Ref) -> list[Stmt]:
        j, d, dot, score = self.nest.var("j"), self.nest.var("d"), self.variable("dot"), self.variable("score")
        term = ap("mul", self.element(self.q, [*at, d]), self.element(self.k, [*at[:2], j, d]))
        value: Expr = ap("mul", dot, Const(float(self.node.attrs["scale"]), self.dtype))
        if self.mask is not None:
            value = ap("add", value, self.masked(self.mask, [*at, j]))
        body = (Var(dot.name, Const(0.0, self.dtype)),
                For(d.name, self.nest.size(self.depth), (Update(dot.name, "add", term),)),
                Let(score.name, value), Store(self.row, j, score), Update(top.name, "maximum", score))
        return [For(j.name, self.nest.size(self.length), body, LoopKind.VECTOR)]

    def masked(self, mask: Value, at: Sequence[Expr]) -> Expr:
        shape = (self.batch, self.heads, self.rows, self.length)
        strides = broadcast_strides(self.group.access(mask), shape)
        return Load(self.buffers[mask], offset(at, strides, self.nest), widened(mask.tensor.dtype))

    def exponentials(self, top: Ref, total: Ref) -> list[Stmt]:
        j, e = self.nest.var("j"), self.variable("e")
        value = ap("exp", ap("sub", Load(self.row, j, self.dtype), top))
        body = (Let(e.name, value), Store(self.row, j, e), Update(total.name, "add", e))
        return [For(j.name, self.nest.size(self.length), body, LoopKind.VECTOR)]

    def sums(self, at: Sequence[Expr], total: Ref) -> list[Stmt]:
        c, j, acc = self.nest.var("c"), self.nest.var("j"), self.variable("acc")
        term = ap("mul", Load(self.row, j, self.dtype), self.element(self.v, [*at[:2], j, c]))
        body = (Var(acc.name, Const(0.0, self.dtype)),
                For(j.name, self.nest.size(self.length), (Update(acc.name, "add", term),)),
                *self.finish({self.node.results[0]: ap("div", acc, total)}, [*at, c]))
        return [For(c.name, self.nest.size(self.width), body, LoopKind.VECTOR)]
