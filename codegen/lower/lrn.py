"""lrn: each element divided by a power of the sum of squares over the channels around it."""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Const, Expr, For, Let, Ref, Stmt, Update, Var, add, i64
from lepton.codegen.lower.fused import Fused
from lepton.codegen.lower.nest import cut, grain_for, least, most, nest_loops, sub
from lepton.codegen.lower.reduce import anchor_of
from lepton.codegen.lower.scalar import ap
from lepton.ir import ops
from lepton.ir.dims import product


@lowers(ops.lrn)
def lrn(group: Group, options: LowerOptions) -> Kernel:
    """Vectors go over the last spatial axis, a serial loop over those channels of the window that exist."""
    anchor, fused = anchor_of(group), Fused(group)
    nest, shape = fused.nest, fused.result.shape
    size, dtype = anchor.attrs["size"], widened(anchor.results[0].tensor.dtype)
    sizes = list(shape)
    lanes_last = len(sizes) > 2
    tasks = cut(sizes, vector=lanes_last, work=size + 8)
    coords, around = nest_loops(sizes, tasks, nest, vector=lanes_last)
    acc, k = Ref(nest.fresh("acc"), dtype), nest.var("k")
    start = most(i64(0), sub(coords[1], i64((size - 1) // 2)))
    end = least(nest.size(shape[1]), add(coords[1], i64(size - (size - 1) // 2)))
    lets: list[Stmt] = []
    neighbour = Ref(nest.fresh("n"), dtype)
    lets.append(Let(neighbour.name, fused.before(0, [coords[0], add(start, k), *coords[2:]], lets)))
    window = For(k.name, sub(end, start), (*lets, Update(acc.name, "add", ap("mul", neighbour, neighbour))))
    after: list[Stmt] = []
    x = fused.before(0, coords, after)
    base = ap("add", ap("mul", acc, Const(anchor.attrs["alpha"] / size, dtype)), Const(anchor.attrs["bias"], dtype))
    result = ap("mul", x, _to_minus(base, anchor.attrs["beta"]))
    body: list[Stmt] = [Var(acc.name, Const(0.0, dtype)), window, *after, *fused.stores(coords, result)]
    return nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks),
                       writes=group.outputs, flops=product(shape) * (2 * size + 20))


def _to_minus(base: Expr, beta: float) -> Expr:
    """base ** -beta for a base that is hardly ever negative: through log and exp, where NaN comes out as it should."""
    if beta == 0.5:
        return ap("rsqrt", base)
    return ap("exp", ap("mul", ap("log", base), Const(-beta, base.dtype)))
