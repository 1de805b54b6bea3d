"""Kernels that combine elements along some axes of a value x: reductions, softmax, norms.

`Rows` sees everything over x's dims: what computes x (and the anchor's other operands) before the anchor, what is read
and written after it. Two shapes of loops come out. If the vectors' dim is reduced, tasks and serial loops go over the
rows and each pass over a row is a VECTOR loop with vector accumulators. If it is kept, a VECTOR loop goes over it, and
every lane has accumulators of its own while the passes inside are serial.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lepton.codegen import loops
from lepton.codegen.group import Group
from lepton.codegen.kernel import Access, Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Expr, For, Let, Load, LoopKind, Ref, Stmt, Store, Update, Var, i64, neutral
from lepton.codegen.lower.nest import (
    Nest,
    Strides,
    broadcast_strides,
    collapse,
    cut,
    grain_for,
    guess,
    guess_product,
    least,
    load,
    nest_loops,
    offset,
    sub,
)
from lepton.codegen.lower.scalar import Elements
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.types import DType

Coords = list[Expr]
PART = 32        # terms of a part of a sum, for each of its accumulators
VECTORS = 64     # accumulators where the vectors go along a row, about


class Rows:
    """One anchored group whose anchor combines x (operand `anchor.inputs[0]`) along `axes`.

    `full`: the anchor's result has x's shape; else it is x's shape reduced (with or without the 1s). `channel_axis`:
    other operands of rank 1 lie along that axis of x instead of the last. `split`: an axis of x seen as two, (axis,
    outer size). `vector_kept`: the vectors may not go along a row."""

    def __init__(self, group: Group, axes: Sequence[int], *, full: bool, channel_axis: int | None = None,
                 split: tuple[int, int] | None = None, vector_kept: bool = False) -> None:
        assert group.anchor is not None
        self.group, self.anchor, self.full = group, group.anchor, full
        x = self.anchor.inputs[0]
        assert x is not None
        self.shape = x.tensor.shape
        self.axes = frozenset(axes)
        self.channel_axis = channel_axis
        self.after = _depends(group, self.anchor)
        self.nest = Nest(group.name)
        self.views: dict[object, Strides] = {}
        self._collect()
        self._space(split, vector_kept)

    # --- views of every operand over x's dims ---

    def _collect(self) -> None:
        for k, operand in enumerate(self.anchor.inputs):
            if operand is not None:
                for v in _leaves(operand, None):
                    self.views[k, v] = self._before_view(k, self.group.access(v))
        for v in self.group.body.outputs:
            for leaf in _leaves(v, self.anchor):
                shown = self.after.get(v, False)
                access = self.group.access(leaf)
                self.views["after" if shown else 0, leaf] = self._view(shown, access)
        for i, v in enumerate(self.group.outputs):
            shown = self.after.get(self.group.body.outputs[i], False)
            self.views["out", i] = self._view(shown, self.group.accesses[v])

    def _view(self, after: bool, access: Access) -> Strides:
        return self._after_view(access) if after else self._before_view(0, access)

    def _before_view(self, operand: int, access: Access) -> Strides:
        if operand and self.channel_axis is not None and len(access.shape) == 1:
            stride = 0 if access.shape[0] == 1 else access.strides[0]
            return tuple(stride if a == self.channel_axis else 0 for a in range(len(self.shape)))
        return broadcast_strides(access, self.shape)

    def _after_view(self, access: Access) -> Strides:
        result = self.anchor.results[0].tensor.shape
        strides = broadcast_strides(access, result)
        if self.full or len(result) == len(self.shape):
            return tuple(0 if a in self.axes and not self.full else s for a, s in enumerate(strides))
        rest = iter(strides)
        return tuple(0 if a in self.axes else next(rest) for a in range(len(self.shape)))

    # --- the dims to loop over ---

    def _space(self, split: tuple[int, int] | None, vector_kept: bool) -> None:
        keys, sizes = list(self.views), list(self.shape)
        views = [list(self.views[k]) for k in keys]
        reduced = [a in self.axes for a in range(len(sizes))]
        if split is not None:
            axis, outer = split
            inner = sizes[axis] // outer
            sizes[axis:axis + 1] = [outer, inner]
            reduced[axis:axis + 1] = [False, True]
            for v in views:
                v[axis:axis + 1] = [v[axis] * inner, v[axis]]
        space, where = collapse(sizes, [tuple(v) for v in views], _borders(reduced, sizes))
        kind = {w: reduced[i] for i, w in enumerate(where) if w is not None}
        self._order(space.sizes, dict(zip(keys, space.views, strict=True)), kind, vector_kept)

    def _order(self, sizes: Sequence[Dim], views: Mapping[object, Strides], kind: Mapping[int, bool],
               vector_kept: bool) -> None:
        """Kept dims first, then reduced ones; the vectors' dim is the last of its kind."""

        def score(axis: int) -> tuple[int, int]:
            heavy = sum(s[axis] == 1 for k, s in views.items() if isinstance(k, tuple) and (k[0] == 0 or k[0] == "out"))
            return (heavy * (guess(sizes[axis]) >= 4), axis)

        candidates = [a for a in range(len(sizes)) if not (vector_kept and kind[a])]
        vector = max(candidates, key=score, default=None)
        self.lanes_reduced = vector is not None and kind[vector]
        if vector is not None and not self.lanes_reduced and score(vector)[0] == 0:
            vector = None  # nothing is contiguous along it
        self.vector_rows = vector is not None and not self.lanes_reduced
        kept = [a for a in range(len(sizes)) if not kind[a] and a != vector]
        inside = [a for a in range(len(sizes)) if kind[a] and a != vector]
        if vector is not None:
            (inside if self.lanes_reduced else kept).append(vector)
        self.kept = [sizes[a] for a in kept] or [1]
        self.reduced: list[Dim] = [sizes[a] for a in inside]
        # A row may be one element of many dims kept: then one dim of size 1 stands for them.
        pad = () if kept else (0,)
        order = [*kept, *inside]
        self.strides = {k: (*pad, *(v[a] for a in order)) for k, v in views.items()}

    @property
    def count(self) -> Dim:
        """Elements of a row."""
        return product(self.reduced)

    # --- building ---

    def kernel(self, build: Callable[[Coords], Sequence[Stmt]], *, cost: int = 1) -> Kernel:
        """`build(kept coords)` gives the statements for one row; `cost`: operations per element, about."""
        group, nest = self.group, self.nest
        self.bind()
        per_row = max(1, guess_product(self.reduced)) * cost
        tasks = cut(self.kept, vector=self.vector_rows, work=per_row)
        coords, shape = nest_loops(self.kept, tasks, nest, vector=self.vector_rows)
        body = build(coords)
        return nest.kernel(shape.around(body), tasks.count, grain=grain_for(tasks), writes=group.outputs,
                           flops=product(self.shape) * cost)

    def bind(self) -> None:
        """Make operands of what is read and written."""
        group, nest = self.group, self.nest
        self.inputs: dict[Value, str] = {}
        for inner, outer in zip(group.body.inputs, group.inputs, strict=True):
            if any(isinstance(k, tuple) and k[1] is inner for k in self.views):
                self.inputs[inner] = nest.reads(outer, inner.tensor.dtype)
        self.outputs = [nest.writes(v, v.tensor.dtype) for v in group.outputs]

    def each(self, kept: Coords, body: Callable[[Coords], Sequence[Stmt]], *, serial: bool = False,
             reverse: bool = False) -> list[Stmt]:
        """Loops over a row; `body` gets the full coordinates (kept, then reduced)."""
        names = [self.nest.var("r") for _ in self.reduced]
        inside: Coords = []
        for x, size in zip(names, self.reduced, strict=True):
            last = loops.add(self.nest.size(size), i64(-1))
            inside.append(loops.Apply("sub", (last, x), DType.I64) if reverse else x)
        statements = tuple(body([*kept, *inside]))
        for i in range(len(names) - 1, -1, -1):
            innermost = i == len(names) - 1 and self.lanes_reduced and not serial
            kind = LoopKind.VECTOR if innermost else LoopKind.SERIAL
            statements = (For(names[i].name, self.nest.size(self.reduced[i]), statements, kind),)
        return list(statements)

    def add_up(self, kept: Coords, total: Ref, term: Callable[[Coords, list[Stmt]], Expr]) -> list[Stmt]:
        """Loops over a row that add `term(full coordinates, statements it needs)` to `total`: along the last dim in
        parts with sums of their own, so that rounding errors grow with the parts and not with the row."""
        *names, last = (self.nest.var("r") for _ in self.reduced)
        size, length = self.reduced[-1], PART * VECTORS if self.lanes_reduced else PART
        whole = isinstance(size, int) and size <= length
        block, part = self.nest.var("b"), total if whole else Ref(self.nest.fresh("part"), total.dtype)
        start = i64(0) if whole else loops.mul(block, i64(length))
        lets: list[Stmt] = []
        value = term([*kept, *names, loops.add(start, last)], lets)
        extent = self.nest.size(size) if whole else least(i64(length), sub(self.nest.size(size), start))
        kind = LoopKind.VECTOR if self.lanes_reduced else LoopKind.SERIAL
        statements: tuple[Stmt, ...] = (For(last.name, extent, (*lets, Update(part.name, "add", value)), kind),)
        if not whole:
            added = (Var(part.name, neutral("add", part.dtype)), *statements, Update(total.name, "add", part))
            statements = (For(block.name, self.nest.size(ceildiv(size, length)), added),)
        for x, n in zip(reversed(names), reversed(self.reduced[:-1]), strict=True):
            statements = (For(x.name, self.nest.size(n), statements),)
        return list(statements)

    def operand(self, k: int, coords: Coords, lets: list[Stmt]) -> Expr:
        """The anchor's operand k at full coordinates; statements it needs are appended to `lets`."""
        value = self.anchor.inputs[k]
        assert value is not None
        return self._evaluate(value, lambda v: self._load(v, self.strides[k, v], coords), lets)

    def x(self, coords: Coords, lets: list[Stmt]) -> Expr:
        return self.operand(0, coords, lets)

    def stores(self, coords: Coords, result: Expr | None) -> list[Stmt]:
        """Write the outputs that follow the anchor, whose result at `coords` is given; without one, those before it."""
        statements: list[Stmt] = []

        def leaf(v: Value) -> Expr:
            if v is self.anchor.results[0]:
                assert result is not None
                return result
            return self._load(v, self.strides["after" if result is not None else 0, v], coords)

        lets: list[Let] = []
        elements = Elements(leaf, lets, self.nest.fresh("s") + "_", self.group.rounded)
        for i, v in enumerate(self.group.body.outputs):
            if self.after.get(v, False) == (result is not None):
                value = elements.expr(v)
                statements.append(Store(self.outputs[i], offset(coords, self.strides["out", i], self.nest), value))
        return [*lets, *statements]

    def early(self, coords: Coords) -> list[Stmt]:
        """Write the outputs that do not follow the anchor."""
        return self.stores(coords, None)

    def flat(self, coords: Coords) -> Expr:
        """The place of an element in its row."""
        total: Expr = i64(0)
        for x, size in zip(coords[len(self.kept):], self.reduced, strict=True):
            total = loops.add(loops.mul(total, self.nest.size(size)), x)
        return total

    @property
    def is_plain(self) -> bool:
        """Whether x is just read from memory, as it is."""
        x = self.anchor.inputs[0]
        return x is not None and x.producer is None and widened(x.tensor.dtype) is x.tensor.dtype

    def _load(self, v: Value, strides: Strides, coords: Coords) -> Load:
        return load(self.inputs[v], v.tensor.dtype, offset(coords, strides, self.nest))

    def _evaluate(self, value: Value, leaf: Callable[[Value], Expr], statements: list[Stmt]) -> Expr:
        lets: list[Let] = []
        e = Elements(leaf, lets, self.nest.fresh("e") + "_", self.group.rounded).expr(value)
        statements += lets
        return e


def _borders(reduced: Sequence[bool], sizes: Sequence[Dim]) -> list[int]:
    """Where the kind changes, dims of size 1 left out: the dims that must not merge into the one before."""
    found, last = [], None
    for i, (flag, n) in enumerate(zip(reduced, sizes, strict=True)):
        if n == 1:
            continue
        if last is not None and flag != last:
            found.append(i)
        last = flag
    return found


def _depends(group: Group, anchor: Node) -> dict[Value, bool]:
    """Which body values follow the anchor."""
    after: dict[Value, bool] = {r: True for r in anchor.results}
    for node in group.body.nodes:
        if node is not anchor:
            for r in node.results:
                after[r] = any(after.get(v, False) for v in node.inputs if v is not None)
    return after


def _leaves(value: Value, anchor: Node | None) -> list[Value]:
    """The body inputs that `value` is computed from, not looking behind the anchor."""
    found: dict[Value, None] = {}
    todo = [value]
    seen: set[Value] = set()
    while todo:
        v = todo.pop()
        if v in seen:
            continue
        seen.add(v)
        if v.producer is None:
            found[v] = None
        elif v.producer is not anchor:
            todo += [i for i in v.producer.inputs if i is not None]
    return list(found)
