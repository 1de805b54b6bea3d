"""quantize, dequantize, dynamic_quantize: one pass over the elements; parameters are scalars, per axis or per block."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Cast, Const, Expr, For, Let, LoopKind, Ref, Select, Stmt, Store, Update, Var, i64
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import broadcast_strides, cut, div, grain_for, nest_loops, offset
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap, c, to_dtype
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import product
from lepton.ir.ops.quant import bounds
from lepton.ir.types import DType


class _Quant:
    """A pass over x's elements with one dim for the vectors: the last."""

    def __init__(self, group: Group) -> None:
        self.fused, self.anchor = Fused(group), anchor_of(group)
        x, scale = self.anchor.inputs[0], self.anchor.inputs[1]
        assert x is not None
        assert scale is not None
        self.shape, self.scale = x.tensor.shape, scale
        wide = DType.F64 in (x.tensor.dtype, scale.tensor.dtype)
        self.wide = DType.F64 if wide else DType.F32
        self.sizes = list(self.shape) or [1]
        self.tasks = cut(self.sizes, work=2)
        self.coords, self.around = nest_loops(self.sizes, self.tasks, self.fused.nest)

    def parameter(self, k: int, lets: list[Stmt]) -> Expr | None:
        """Operand k (scale, zero) for the element at hand."""
        value = self.anchor.inputs[k] if k < len(self.anchor.inputs) else None
        if value is None:
            return None
        axis, block = self.anchor.attrs["axis"], self.anchor.attrs["block"]
        at: Sequence[Expr] = ()
        if value.tensor.rank:
            at = [div(x, i64(block)) if block and a == axis else x for a, x in enumerate(self.coords)]
            at = at if block else [self.coords[axis]]
        return self.fused.before(k, at, lets)

    def kernel(self, lets: list[Stmt], result: Expr) -> Kernel:
        at = self.coords[:len(self.shape)]
        body = [*lets, *self.fused.stores(at, result)]
        return self.fused.nest.kernel(self.around.around(body), self.tasks.count, grain=grain_for(self.tasks),
                                      writes=self.fused.group.outputs, flops=product(self.shape) * 4)


@lowers(ops.quantize)
def quantize(group: Group, options: LowerOptions) -> Kernel:
    q, lets = _Quant(group), list[Stmt]()
    to: DType = q.anchor.attrs["to"]
    x = to_dtype(q.fused.before(0, q.coords[:len(q.shape)], lets), q.wide)
    scale, zero = q.parameter(1, lets), q.parameter(2, lets)
    assert scale is not None
    ratio = ap("div", x, to_dtype(scale, q.wide))
    if not to.is_integer:
        shifted = ratio if zero is None else ap("add", ratio, to_dtype(zero, q.wide))
        return q.kernel(lets, ap(f"round_{to.value}", to_dtype(shifted, DType.F32)))
    level = ap("round", ratio)
    return q.kernel(lets, saturated(level, None if zero is None else to_dtype(zero, q.wide), to, lets, q.fused))


def saturated(level: Expr, zero: Expr | None, to: DType, lets: list[Stmt], fused: Fused) -> Expr:
    """level + zero within the range of `to`; NaN gives the least value. Compared as floats, converted in range."""
    low, high = bounds(to)
    shifted = level if zero is None else ap("add", level, zero)
    name = fused.nest.fresh("level")
    lets.append(Let(name, shifted))
    v = Ref(name, level.dtype)
    # Beyond 2**24 f32 cannot hold the largest integer: then the bound itself is chosen as an integer.
    inside = Select(ap("greater", v, c(low, v)), v, c(low, v))
    return Select(ap("greater_equal", v, c(high, v)), Const(high, widened(to)), Cast(inside, widened(to)))


@lowers(ops.dequantize)
def dequantize(group: Group, options: LowerOptions) -> Kernel:
    q, lets = _Quant(group), list[Stmt]()
    x = q.fused.before(0, q.coords[:len(q.shape)], lets)
    scale, zero = q.parameter(1, lets), q.parameter(2, lets)
    assert scale is not None
    wide = DType.F64 if scale.dtype is DType.F64 else DType.F32
    if zero is None or x.dtype.is_float:
        level = to_dtype(x, wide) if zero is None else ap("sub", to_dtype(x, wide), to_dtype(zero, wide))
    else:
        exact = DType.I32 if x.dtype.bits < 32 else DType.I64
        level = to_dtype(ap("sub", to_dtype(x, exact), to_dtype(zero, exact)), wide)
    return q.kernel(lets, to_dtype(ap("mul", level, to_dtype(scale, wide)), scale.dtype))


@lowers(ops.dynamic_quantize)
def dynamic_quantize(group: Group, options: LowerOptions) -> Kernel:
    """One task: the extremes of x first, then a pass that writes."""
    anchor, fused = anchor_of(group), Fused(group)
    nest, x = fused.nest, anchor.inputs[0]
    assert x is not None
    dtype = widened(x.tensor.dtype)
    low, high = Ref(nest.fresh("low"), dtype), Ref(nest.fresh("high"), dtype)
    scale, zero = Ref(nest.fresh("scale"), dtype), Ref(nest.fresh("zero"), dtype)

    def find(at: list[Expr]) -> list[Stmt]:
        lets: list[Stmt] = []
        value = Ref(nest.fresh("x"), dtype)
        lets.append(Let(value.name, fused.before(0, at, lets)))
        return [*lets, Update(low.name, "minimum", value), Update(high.name, "maximum", value)]

    def write(at: list[Expr]) -> list[Stmt]:
        lets: list[Stmt] = []
        level = ap("add", ap("round", ap("div", fused.before(0, at, lets), scale)), zero)
        name = nest.fresh("level")
        lets.append(Let(name, level))
        y = _byte(Ref(name, dtype))
        return [*lets, *_results(group, fused, at, {anchor.results[0]: y})]

    span = ap("div", ap("sub", high, low), Const(255.0, dtype))
    step = Select(ap("equal", high, low), Const(1.0, dtype), span)
    start = ap("round", ap("div", ap("neg", low), scale))
    bounded = Ref(nest.fresh("start"), dtype)
    body: list[Stmt] = [
        Var(low.name, Const(0.0, dtype)), Var(high.name, Const(0.0, dtype)), *_over(fused, x, find),
        Let(scale.name, step), Let(bounded.name, start),
        Let(zero.name, Select(ap("less_equal", bounded, c(0, bounded)), c(0, bounded), Select(
            ap("less", bounded, c(255, bounded)), bounded, c(255, bounded)))),  # NaN: 255
        *_results(group, fused, [], {anchor.results[1]: scale, anchor.results[2]: _byte(zero)}),
        *_over(fused, x, write)]
    task = For(nest.var("t").name, i64(0), tuple(body), LoopKind.TASKS)
    return nest.kernel((task,), 1, writes=group.outputs, flops=product(x.tensor.shape) * 4)


def _byte(level: Expr) -> Expr:
    inside = Select(ap("greater", level, c(0, level)), ap("minimum", level, c(255, level)), c(0, level))
    return Cast(inside, DType.U8)


def _over(fused: Fused, x: Value, body: object) -> list[Stmt]:
    assert callable(body)
    names = [fused.nest.var("i") for _ in x.tensor.shape]
    statements: tuple[Stmt, ...] = tuple(body(list(names)))
    for i in range(len(names) - 1, -1, -1):
        kind = LoopKind.VECTOR if i == len(names) - 1 else LoopKind.SERIAL
        statements = (For(names[i].name, fused.nest.size(x.tensor.shape[i]), statements, kind),)
    return list(statements)


def _results(group: Group, fused: Fused, at: list[Expr], known: dict[Value, Expr]) -> list[Stmt]:
    """Stores of the anchor's results that are given; nothing is fused behind an op of several results."""
    found: list[Stmt] = []
    for inner, outer in zip(group.body.outputs, group.outputs, strict=True):
        if inner in known:
            access = group.accesses[outer]
            strides = broadcast_strides(access, outer.tensor.shape)
            buffer = fused.nest.writes(outer, outer.tensor.dtype)
            found.append(Store(buffer, offset(at, strides, fused.nest), known[inner]))
    return found
