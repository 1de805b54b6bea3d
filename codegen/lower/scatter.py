"""scatter_elements and scatter_nd: x is copied, then the updates go in one after the other.

One task: updates may meet in one place, and there the last one wins. Indices outside the axis are skipped."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Expr, For, If, Let, Load, LoopKind, Ref, Select, Stmt, Store, add, i64, mul
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import offset
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap, to_dtype
from lepton.ir import ops
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, product
from lepton.ir.types import DType

COMBINE = {"add": "add", "mul": "mul", "max": "maximum", "min": "minimum"}


class _Scatter:
    def __init__(self, group: Group) -> None:
        self.group, self.anchor, self.fused = group, anchor_of(group), Fused(group)
        self.nest = self.fused.nest
        if group.body.outputs != self.anchor.results:
            raise UnsupportedError(f"ops fused behind {self.anchor.op.name} are not supported")
        self.result = group.outputs[0]
        self.shape = self.result.tensor.shape
        self.out = self.nest.writes(self.result, self.result.tensor.dtype)
        self.dtype = widened(self.result.tensor.dtype)
        self.strides = group.accesses[self.result].strides

    def over(self, sizes: Sequence[Dim], body: Callable[[list[Expr]], Sequence[Stmt]], vector: bool) -> list[Stmt]:
        """Loops over `sizes`, the last one of vectors if wanted."""
        names: list[Expr] = [self.nest.var("i") for _ in sizes]
        statements = tuple(body(names))
        for n, (x, size) in enumerate(reversed(list(zip(names, sizes, strict=True)))):
            assert isinstance(x, Ref)
            kind = LoopKind.VECTOR if vector and n == 0 else LoopKind.SERIAL
            statements = (For(x.name, self.nest.size(size), statements, kind),)
        return list(statements)

    def copy(self) -> list[Stmt]:
        def element(at: list[Expr]) -> list[Stmt]:
            lets: list[Stmt] = []
            x = self.fused.before(0, at, lets)
            return [*lets, Store(self.out, offset(at, self.strides, self.nest), x)]

        return self.over(self.shape, element, vector=True)

    def index(self, at: Sequence[Expr], size: Dim, lets: list[Stmt]) -> tuple[Ref, Expr]:
        """(index counted from the front, whether it is in range)."""
        name, extent = self.nest.fresh("at"), self.nest.size(size)
        raw = Ref(name + "_raw", DType.I64)
        lets.append(Let(raw.name, to_dtype(self.fused.before(1, at, lets), DType.I64)))
        lets.append(Let(name, Select(ap("less", raw, i64(0)), add(raw, extent), raw)))
        place = Ref(name, DType.I64)
        inside = ap("logical_and", ap("greater_equal", place, i64(0)), ap("less", place, extent))
        return place, inside

    def combine(self, at: Expr, update: Expr) -> Store:
        how = self.anchor.attrs["reduction"]
        if how != "none":
            update = ap(COMBINE[how], Load(self.out, at, self.dtype), update)
        return Store(self.out, at, update)

    def kernel(self, updates: Sequence[Stmt]) -> Kernel:
        task = For(self.nest.var("t").name, i64(0), (*self.copy(), *updates), LoopKind.TASKS)
        return self.nest.kernel((task,), 1, writes=self.group.outputs, flops=product(self.shape))


@lowers(ops.scatter_elements)
def scatter_elements(group: Group, options: LowerOptions) -> Kernel:
    s = _Scatter(group)
    axis, indices = s.anchor.attrs["axis"], s.anchor.inputs[1]
    assert indices is not None

    def element(at: list[Expr]) -> list[Stmt]:
        lets: list[Stmt] = []
        place, inside = s.index(at, s.shape[axis], lets)
        target = [place if a == axis else x for a, x in enumerate(at)]
        update: list[Stmt] = []
        value = s.fused.before(2, at, update)
        store = s.combine(offset(target, s.strides, s.nest), value)
        return [*lets, If(inside, (*update, store))]

    return s.kernel(s.over(indices.tensor.shape, element, vector=False))


@lowers(ops.scatter_nd)
def scatter_nd(group: Group, options: LowerOptions) -> Kernel:
    s = _Scatter(group)
    indices = s.anchor.inputs[1]
    assert indices is not None
    depth = indices.tensor.shape[-1]
    assert isinstance(depth, int)

    def row(at: list[Expr]) -> list[Stmt]:
        lets: list[Stmt] = []
        start: Expr = i64(0)
        conditions: list[Expr] = []
        for k in range(depth):
            place, inside = s.index([*at, i64(k)], s.shape[k], lets)
            start = add(start, mul(place, s.nest.size(s.strides[k])))
            conditions.append(inside)

        def element(inner: list[Expr]) -> list[Stmt]:
            update: list[Stmt] = []
            value = s.fused.before(2, [*at, *inner], update)
            return [*update, s.combine(add(start, offset(inner, s.strides[depth:], s.nest)), value)]

        body: Sequence[Stmt] = s.over(s.shape[depth:], element, vector=True)
        for condition in conditions:
            body = [If(condition, tuple(body))]
        return [*lets, *body]

    return s.kernel(s.over(indices.tensor.shape[:-1], row, vector=False))
