"""top_k: the best so far, kept in order in the result itself; most elements fail the look at its last entry."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Expr, For, If, Let, Load, LoopKind, Ref, Select, Stmt, Store, Update, Var, add, i64
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import cut, grain_for, guess, least, nest_loops, offset, sub
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import product
from lepton.ir.types import DType


class TopK:
    """The operands of a group, and what its lowerings do with an element."""

    def __init__(self, group: Group) -> None:
        self.fused, self.anchor = Fused(group), anchor_of(group)
        self.nest = self.fused.nest
        places = {inner: outer for inner, outer in zip(group.body.outputs, group.outputs, strict=True)}
        if any(v.producer is not self.anchor for v in places) or self.anchor.results[0] not in places:
            raise UnsupportedError("ops fused behind top_k are not supported")
        x = self.anchor.inputs[0]
        assert x is not None
        self.shape, self.axis, self.dtype = x.tensor.shape, self.anchor.attrs["axis"], widened(x.tensor.dtype)
        self.largest = bool(self.anchor.attrs["largest"])
        self.n, self.k = self.nest.size(self.shape[self.axis]), self.nest.size(self.anchor.attrs["k"])
        values, indices = (places.get(r) for r in self.anchor.results)
        assert values is not None
        if indices is None:
            raise UnsupportedError("top_k whose indices are not used is not supported")
        self.values = self.nest.writes(values, values.tensor.dtype), group.accesses[values].strides
        self.indices = self.nest.writes(indices, DType.I64), group.accesses[indices].strides

    def better(self, a: Expr, b: Expr) -> Expr:
        """Whether a stands strictly before b. NaN is larger than all."""
        high, low = (a, b) if self.largest else (b, a)
        result = ap("greater", high, low)
        if self.dtype.is_float:
            only = ap("logical_and", ap("is_nan", high), ap("logical_not", ap("is_nan", low)))
            result = ap("logical_or", result, only)
        return result

    def at(self, outer: Sequence[Expr], j: Expr) -> list[Expr]:
        return [*outer[:self.axis], j, *outer[self.axis:]]

    def value(self, outer: Sequence[Expr], j: Expr) -> Load:
        return Load(self.values[0], offset(self.at(outer, j), self.values[1], self.nest), self.dtype)

    def put(self, outer: Sequence[Expr], j: Expr, value: Expr, index: Expr) -> list[Stmt]:
        at = self.at(outer, j)
        return [Store(self.values[0], offset(at, self.values[1], self.nest), value),
                Store(self.indices[0], offset(at, self.indices[1], self.nest), index)]

    def row(self, outer: Sequence[Expr]) -> list[Stmt]:
        """Element after element: it enters the list while that is short, or where it beats the last entry."""
        nest, i = self.nest, self.nest.var("i")
        x, end = Ref(nest.fresh("x"), self.dtype), Ref(nest.fresh("end"), DType.I64)
        lets: list[Stmt] = []
        lets.append(Let(x.name, self.fused.before(0, self.at(outer, i), lets)))
        last = add(self.k, i64(-1))
        wins = ap("logical_or", ap("less", i, self.k), self.better(x, self.value(outer, end)))
        body = (*lets, Let(end.name, least(i, last)), If(wins, tuple(self.insert(outer, i, x, end))))
        return [If(ap("greater", self.k, i64(0)), (For(i.name, self.n, body),))]

    def insert(self, outer: Sequence[Expr], i: Expr, x: Expr, end: Expr) -> list[Stmt]:
        """Put x behind all of the first `end` entries that are not worse; what is worse moves up by one."""
        nest = self.nest
        count, j, s = Ref(nest.fresh("count"), DType.I64), nest.var("j"), nest.var("s")
        found = Ref(nest.fresh("found"), DType.I64)
        stays = Select(self.better(x, self.value(outer, j)), i64(0), i64(1))
        to = sub(end, s)
        index = Load(self.indices[0], offset(self.at(outer, add(to, i64(-1))), self.indices[1], nest), DType.I64)
        move = For(s.name, sub(end, found), tuple(self.put(outer, to, self.value(outer, add(to, i64(-1))), index)))
        return [Var(count.name, i64(0)), For(j.name, end, (Update(count.name, "add", stays),), LoopKind.VECTOR),
                Let(found.name, count), move, *self.put(outer, found, x, i)]


@lowers(ops.top_k)
def top_k(group: Group, options: LowerOptions) -> Kernel:
    """A task is one or more rows along the axis."""
    t = TopK(group)
    kept = [d for a, d in enumerate(t.shape) if a != t.axis]
    sizes = kept or [1]
    per_row = 2 * guess(t.shape[t.axis])
    tasks = cut(sizes, vector=False, work=4 * per_row)
    coords, around = nest_loops(sizes, tasks, t.nest, vector=False)
    return t.nest.kernel(around.around(t.row(coords if kept else [])), tasks.count,
                         grain=grain_for(tasks), writes=group.outputs, flops=product(t.shape) * 2)
