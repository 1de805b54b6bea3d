"""top_k, running sums, non_zero and sort_rows on GPUs: a block for each row, however long it is."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.codegen.cuda.templates.order import Firsts, Found, Piece, RowBody, Running, Sorted
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Expr, Let, Ref, Stmt, Var, add, i64
from lepton.codegen.lower.nest import Nest, guess, guess_product, sub, unflatten
from lepton.codegen.lower.reduce import anchor_of, scan
from lepton.codegen.lower.rows import Rows
from lepton.codegen.lower.scalar import ap
from lepton.codegen.lower.sized import Counter, indices, is_hit
from lepton.codegen.lower.sort_rows import SortRows, sort_rows
from lepton.codegen.lower.top_k import TopK
from lepton.ir import ops
from lepton.ir.dims import Dim, product
from lepton.ir.types import DType

SHARED_BYTES = 32768     # of what may be among the first
ROW_LENGTH = 64          # from here on a row is a block's
MANY_ROWS = 16384        # as many keep a GPU busy with a thread for each, where they lie side by side
TASK = "t"


def threads_of(n: Dim, each: int = 4) -> int:
    """Of a block that takes `n` elements, a few by each thread."""
    return min(256, max(32, 1 << (-(-guess(n) // each) - 1).bit_length())) if isinstance(n, int) else 256


def row_of(nest: Nest, sizes: Sequence[Dim]) -> tuple[list[Let], list[Expr]]:
    """The coordinates of the row that is task t."""
    lets = [Let(nest.fresh("row"), e) for e in unflatten(Ref(TASK, DType.I64), sizes, nest)]
    return lets, [Ref(x.name, DType.I64) for x in lets]


def kernel_of(group: Group, nest: Nest, body: RowBody, tasks: Dim, flops: Dim, scratch: Dim = 0) -> Kernel:
    return Kernel(nest.name, body, tuple(nest.operands), tasks, nest.table.dims, scratch=scratch, flops=flops,
                  writes=group.outputs)


@lowers(ops.top_k, family="cuda")
def top_k(group: Group, options: LowerOptions) -> Kernel:
    """The first few are gathered in shared memory; many of them, or an unknown number, by sorting the whole row."""
    t = TopK(group)
    nest, n, k = t.nest, t.shape[t.axis], t.anchor.attrs["k"]
    kept = [d for a, d in enumerate(t.shape) if a != t.axis]
    row, outer = row_of(nest, kept)
    i, j = nest.var("i"), nest.var("j")
    read: list[Stmt] = []
    value = t.fused.before(0, t.at(outer, i), read)
    again: list[Stmt] = []
    found = t.fused.before(0, t.at(outer, i), again)
    put = Piece((j.name, i.name), (*again, *t.put(outer, j, found, i)))
    threads = threads_of(n)
    run, entry = (2, 16) if t.dtype.bytes == 8 else (4, 8)   # elements of a thread at a time, as registers allow
    most, each = SHARED_BYTES // entry, threads * run
    room = most if isinstance(k, int) and k <= most // 2 else 0
    if isinstance(n, int) and n + each <= most:
        room = n + each
    body = Firsts(len(nest.operands), len(nest.table.dims), tuple(nest.buffers.values()), tuple(row), t.n, threads,
                  t.k, t.dtype, t.largest, Piece((i.name,), tuple(read), value), put, room, run)
    return kernel_of(group, nest, body, product(kept), product(t.shape) * 2, 0 if room else n * entry)


@lowers(ops.cumsum, ops.cumprod, family="cuda")
def running(group: Group, options: LowerOptions) -> Kernel:
    """Short rows, and very many rows side by side, are a thread's each."""
    anchor = anchor_of(group)
    rows = Rows(group, (anchor.attrs["axis"],), full=True, vector_kept=True)
    dtype, nest = widened(anchor.results[0].tensor.dtype), rows.nest
    crowded = guess_product(rows.kept) >= MANY_ROWS and rows.strides["out", 0][-1] != 1
    if len(rows.reduced) != 1 or guess(rows.reduced[0]) < ROW_LENGTH or crowded or dtype.bytes < 4:
        return scan(group, options)
    rows.bind()
    row, outer = row_of(nest, rows.kept)
    n, i, total = nest.size(rows.reduced[0]), nest.var("i"), Ref(nest.fresh("sum"), dtype)
    at = [*outer, sub(add(n, i64(-1)), i) if anchor.attrs["reverse"] else i]
    read: list[Stmt] = []
    value = rows.x(at, read)
    get = Piece((i.name,), (*read, *rows.early(at)), value)
    put = Piece((i.name, total.name), tuple(rows.stores(at, total)))
    body = Running(len(nest.operands), len(nest.table.dims), tuple(nest.buffers.values()), tuple(row), n,
                   threads_of(rows.reduced[0]), dtype, "add" if anchor.op is ops.cumsum else "mul",
                   bool(anchor.attrs["exclusive"]), get, put)
    return kernel_of(group, nest, body, product(rows.kept), product(rows.shape) * 4)


@lowers(ops.non_zero, family="cuda")
def non_zero(group: Group, options: LowerOptions) -> Kernel:
    """One row: all elements."""
    c = Counter(group)
    (result,), nest, x = group.outputs, c.nest, c.node.inputs[0]
    assert x is not None
    target, shape = nest.writes(result, DType.I64), x.tensor.shape
    i, place = nest.var("i"), nest.var("place")
    coords = unflatten(i, shape, nest)
    put = tuple(indices(c, target, group.accesses[result].strides, place, coords))
    hit, n = is_hit(c.element(x, coords)), nest.size(product(shape))
    body = Found(len(nest.operands), len(nest.table.dims), tuple(nest.buffers.values()), (), n, 1024,
                 Piece((i.name,), (), hit), Piece((place.name, i.name), put))
    return kernel_of(group, nest, body, 1, product(shape))


@lowers(ops.sort_rows, family="cuda")
def sorted_rows(group: Group, options: LowerOptions) -> Kernel:
    """One row: the numbers of the rows of a matrix, in the result itself."""
    s = SortRows(group)
    nest, i, j = s.nest, s.nest.var("i"), s.nest.var("j")
    if s.stride != 1:
        return sort_rows(group, options)
    order = Ref(nest.fresh("order"), DType.I64)
    compared = (Var(order.name, i64(0)), *s.compare(order, i, j))
    level = ap("logical_and", ap("equal", order, i64(0)), ap("less", i, j))
    before = Piece((i.name, j.name), compared, ap("logical_or", ap("less", order, i64(0)), level))
    body = Sorted(len(nest.operands), len(nest.table.dims), tuple(nest.buffers.values()), (), s.rows, 512,
                  s.targets[0], before)
    return kernel_of(group, nest, body, 1, s.x.tensor.size * 32)
