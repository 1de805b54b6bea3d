"""Ops whose every element is one chosen or computed element: gather, pad, one-hot, triangles, counting.

Indices that come from data are brought into range (negative ones count from the end, the rest is clamped), so that no
input can make compiled code read outside a buffer.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Apply, Cast, Const, Expr, For, If, Let, LoopKind, Ref, Select, Stmt, add, i64, mul
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import (
    TASK_ELEMENTS,
    LoopShape,
    Tasks,
    cut,
    grain_for,
    guess,
    least,
    mod,
    most,
    nest_loops,
    sub,
)
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, product
from lepton.ir.op import Op
from lepton.ir.types import DType

LONG_ROW = 16     # elements that are worth a loop of their own


class Indexed(Anchored):
    """One pass over the result; `lets` collects what an element's formula wants to name."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.lets: list[Stmt] = []
        self.unless: tuple[Expr, Expr] | None = None  # a condition (the same for all elements), and what stands there

    def name(self, stem: str, e: Expr) -> Expr:
        if isinstance(e, Const | Ref):
            return e
        name = self.nest.fresh(stem)
        self.lets.append(Let(name, e))
        return Ref(name, e.dtype)

    def index(self, indices: Value, coords: Sequence[Expr], size: Expr) -> Expr:
        """An index from data, within [0, size)."""
        raw = self.name("index", _as_i64(self.element(indices, coords)))
        wrapped = Select(Apply("less", (raw, i64(0)), DType.BOOL), add(raw, size), raw)
        return self.name("at", most(i64(0), least(wrapped, sub(size, i64(1)))))

    def kernel(self, formula: Formula) -> Kernel:
        sizes = self.result.shape or (1,)
        tasks = cut(sizes, TASK_ELEMENTS)
        coords, around = nest_loops(sizes, tasks, self.nest)
        return self._kernel(tasks, around, self.body(formula, list(coords) if self.result.shape else []))

    def in_stretches(self, stretches: Sequence[tuple[int, Formula]]) -> Kernel:
        """Each stretch of the last axis by a formula of its own: where it ends, in order, and the formula."""
        *outer, last = self.result.shape
        tasks = cut(outer or [1], TASK_ELEMENTS, vector=False, work=guess(last))
        coords, around = nest_loops(outer or [1], tasks, self.nest, vector=False)
        body, start = list[Stmt](), 0
        for end, formula in stretches:
            if end > start:
                x = self.nest.var("x")
                point = [*(coords if outer else []), add(i64(start), x)]
                body.append(For(x.name, i64(end - start), tuple(self.body(formula, point)), LoopKind.VECTOR))
            start = end
        return self._kernel(tasks, around, body)

    def body(self, formula: Formula, point: list[Expr]) -> list[Stmt]:
        """What is done at one place of the result."""
        self.lets = []
        value = self.name("element", formula(self, point))
        body = [*self.lets, *self.finish({self.node.results[0]: value}, point)]
        if self.unless is None:
            return body
        condition, instead = self.unless
        return [If(condition, tuple(self.finish({self.node.results[0]: instead}, point)), tuple(body))]

    def _kernel(self, tasks: Tasks, around: LoopShape, body: Sequence[Stmt]) -> Kernel:
        return self.nest.kernel(around.around(body), tasks.count, grain=grain_for(tasks),
                                writes=self.group.outputs, flops=product(list(self.result.shape)))


Formula = Callable[[Indexed, list[Expr]], Expr]
FORMULAS: dict[Op, Formula] = {}


def formula(op: Op) -> Callable[[Formula], Formula]:
    def register(function: Formula) -> Formula:
        FORMULAS[op] = function
        return function

    return register


def inputs_of(k: Indexed) -> list[Value]:
    return [v for v in k.node.inputs if v is not None]


@formula(ops.gather)
def gather(k: Indexed, point: list[Expr]) -> Expr:
    x, indices = inputs_of(k)
    axis, rank = k.node.attrs["axis"], indices.tensor.rank
    at = k.index(indices, point[axis:axis + rank], k.nest.size(x.tensor.shape[axis]))
    return k.element(x, [*point[:axis], at, *point[axis + rank:]])


@formula(ops.gather_elements)
def gather_elements(k: Indexed, point: list[Expr]) -> Expr:
    x, indices = inputs_of(k)
    axis = k.node.attrs["axis"]
    coords = list(point)
    coords[axis] = k.index(indices, point, k.nest.size(x.tensor.shape[axis]))
    return k.element(x, coords)


@formula(ops.gather_nd)
def gather_nd(k: Indexed, point: list[Expr]) -> Expr:
    x, indices = inputs_of(k)
    batch, depth = k.node.attrs["batch_dims"], indices.tensor.shape[-1]
    assert isinstance(depth, int)
    free = indices.tensor.rank - 1
    picked = [k.index(indices, [*point[:free], i64(d)], k.nest.size(x.tensor.shape[batch + d])) for d in range(depth)]
    return k.element(x, [*point[:batch], *picked, *point[free:]])


@formula(ops.pad)
def pad(k: Indexed, point: list[Expr]) -> Expr:
    return _padded(k, point, k.result.rank)


def _within_row(k: Indexed, point: list[Expr]) -> Expr:
    """`pad` where the last coordinate is known to lie in x: neighbours come of neighbours."""
    return _padded(k, point, k.result.rank - 1)


def _padded(k: Indexed, point: list[Expr], axes: int) -> Expr:
    """The first `axes` coordinates may lie in the padding."""
    x, *fill = inputs_of(k)
    attrs, coords, inside = k.node.attrs, [], []
    empty: list[Expr] = []
    for axis, at in enumerate(point):
        before, after = attrs["before"][axis], attrs["after"][axis]
        if axis >= axes or (before == 0 and after == 0):
            coords.append(sub(at, k.nest.size(before)))
            continue
        crop, crop_end = _crop(before), _crop(after)  # negative amounts crop before anything else happens
        left = x.tensor.shape[axis] - crop - crop_end
        place = k.name("place", sub(at, k.nest.size(before + crop)))
        last = k.name("last", k.nest.size(left - 1))
        if attrs["mode"] == "constant":
            inside += [Apply("less_equal", (i64(0), place), DType.BOOL), Apply("less_equal", (place, last), DType.BOOL)]
            if not isinstance(left, int) or left <= 0:
                empty.append(Apply("less", (k.nest.size(left - 1), i64(0)), DType.BOOL))
        coords.append(add(k.name("from", _source(k, attrs["mode"], place, last)), i64(crop)))
    value: Expr = k.element(x, coords)
    if not inside:
        return value
    dtype = value.dtype
    other = k.element(fill[0], []) if fill else Const(False if dtype is DType.BOOL else 0, dtype)
    if empty:  # nothing may be read then, whatever comes of it
        k.unless = _all(empty, "logical_or"), other
    return Select(_all(inside), value, other)


def _crop(amount: Dim) -> int:
    """How much a negative amount takes away; sizes that are not known yet only ever add."""
    return max(0, -amount) if isinstance(amount, int) else 0


def _source(k: Indexed, mode: str, place: Expr, last: Expr) -> Expr:
    """Which element stands at `place`, for places outside [0, last] too."""
    clamped = most(i64(0), least(place, last))
    if mode == "wrap":
        return mod(place, add(last, i64(1)))
    if mode == "reflect":
        period = k.name("period", most(i64(1), mul(last, i64(2))))
        folded = k.name("folded", mod(place, period))
        return most(i64(0), least(least(folded, sub(period, folded)), last))
    return clamped


@formula(ops.one_hot)
def one_hot(k: Indexed, point: list[Expr]) -> Expr:
    indices, values = inputs_of(k)
    axis = k.node.attrs["axis"]
    raw = k.name("index", _as_i64(k.element(indices, [*point[:axis], *point[axis + 1:]])))
    depth = k.nest.size(k.node.attrs["depth"])
    index = Select(Apply("less", (raw, i64(0)), DType.BOOL), add(raw, depth), raw)
    hit = Apply("equal", (index, point[axis]), DType.BOOL)
    return Select(hit, k.element(values, [i64(1)]), k.element(values, [i64(0)]))


@formula(ops.trilu)
def trilu(k: Indexed, point: list[Expr]) -> Expr:
    (x,) = inputs_of(k)
    diagonal = add(point[-2], i64(k.node.attrs["k"]))
    test = "greater_equal" if k.node.attrs["upper"] else "less_equal"
    value = k.element(x, point)
    return Select(Apply(test, (point[-1], diagonal), DType.BOOL), value,
                  Const(False if value.dtype is DType.BOOL else 0, value.dtype))


@formula(ops.iota)
def iota(k: Indexed, point: list[Expr]) -> Expr:
    dtype = widened(k.node.attrs["dtype"])
    return point[0] if dtype is DType.I64 else Cast(point[0], dtype)


@formula(ops.shape_values)
def shape_values(k: Indexed, point: list[Expr]) -> Expr:
    sizes = [k.nest.size(d) for d in k.node.attrs["dims"]]
    chosen = sizes[-1]
    for i in range(len(sizes) - 2, -1, -1):
        chosen = Select(Apply("equal", (point[0], i64(i)), DType.BOOL), sizes[i], chosen)
    return chosen


def _as_i64(e: Expr) -> Expr:
    return e if e.dtype is DType.I64 else Cast(e, DType.I64)


def _all(tests: Sequence[Expr], join: str = "logical_and") -> Expr:
    found = tests[0]
    for test in tests[1:]:
        found = Apply(join, (found, test), DType.BOOL)
    return found


def _row_of_pad(k: Indexed) -> tuple[int, int, int] | None:
    """Where x begins, where it ends and where the padding behind it ends along the last axis, if that is padded, and x
    long enough for vectors of its own but the row no task of its own."""
    if not k.result.rank:
        return None
    x, before, after = inputs_of(k)[0], k.node.attrs["before"][-1], k.node.attrs["after"][-1]
    size = x.tensor.shape[-1]
    if not (isinstance(size, int) and isinstance(before, int) and isinstance(after, int)) or max(before, after) <= 0:
        return None
    start, length = max(0, before), size + min(0, before) + min(0, after)
    out = start + length + max(0, after)
    return (start, start + length, out) if length >= LONG_ROW and out <= TASK_ELEMENTS else None


@lowers(*FORMULAS)
def lower_indexed(group: Group, options: LowerOptions) -> Kernel:
    """A kernel with a task for each block of the result."""
    assert group.anchor is not None
    k = Indexed(group)
    if group.anchor.op is ops.pad and options.target.family == "cpu" and (row := _row_of_pad(k)) is not None:
        start, end, out = row
        return k.in_stretches([(start, pad), (end, _within_row), (out, pad)])
    return k.kernel(FORMULAS[group.anchor.op])


