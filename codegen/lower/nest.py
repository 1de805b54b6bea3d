"""What the lowerings to loop kernels share: collecting operands and sizes, merging dims, cutting work into tasks."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from lepton.codegen import loops
from lepton.codegen.group import Group
from lepton.codegen.kernel import Access, DimTable, Kernel, Operand, Packed
from lepton.codegen.llvm.convert import register_type, widened
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.loops import Apply, Buffer, Expr, For, Load, LoopKind, Ref, Select, Stmt, i64
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.types import DType

Strides = tuple[Dim, ...]
GUESS = 64            # what a size that is not known yet is taken for where it only steers a choice
TASK_ELEMENTS = 32768    # of cheap elementwise work: 2 microseconds out of a cache, 20 out of memory
GRAIN_ELEMENTS = TASK_ELEMENTS   # what is worth a thread that is awake
MANY_PARTS = 16          # of which one more or less does not matter
SHARE: ContextVar[int] = ContextVar("SHARE", default=1)


@dataclass(eq=False)
class Nest:
    """A loop kernel under construction."""

    name: str
    table: DimTable = field(default_factory=DimTable)
    operands: list[Operand] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    scratch_bytes: Dim = 0
    names: dict[str, int] = field(default_factory=dict)

    def size(self, dim: Dim) -> Expr:
        """A size as an expression: a constant where it is known."""
        ref = self.table.ref(dim)
        return i64(ref) if isinstance(ref, int) else loops.Dim(ref.index)

    def fresh(self, stem: str) -> str:
        """A name of its own."""
        count = self.names[stem] = self.names.get(stem, 0) + 1
        return f"{stem}{count}" if count > 1 else stem

    def var(self, stem: str) -> Ref:
        return Ref(self.fresh(stem), DType.I64)

    def reads(self, operand: Operand, dtype: DType) -> str:
        """The buffer name of an operand that is read; each operand is passed once."""
        return self._operand(operand, dtype, False)

    def writes(self, operand: Operand, dtype: DType) -> str:
        return self._operand(operand, dtype, True)

    def constant(self, packed: Packed, dtype: DType) -> str:
        return self._operand(packed, dtype, False)

    def _operand(self, operand: Operand, dtype: DType, written: bool) -> str:
        register_type(dtype)
        for i, known in enumerate(self.operands):
            name = f"b{i}"
            if known is operand:
                self.buffers[name] = Buffer(name, dtype, written or self.buffers[name].written)
                return name
        name = f"b{len(self.operands)}"
        self.operands.append(operand)
        self.buffers[name] = Buffer(name, dtype, written)
        return name

    def scratch(self, dtype: DType, count: Dim) -> str:
        """Private memory for `count` elements. Raises ValueError when asked for more after a size that is not known."""
        if not isinstance(self.scratch_bytes, int):
            raise ValueError("scratch of unknown size must come last")
        name = self.fresh("tmp")
        start = -(-self.scratch_bytes // 64) * 64
        self.buffers[name] = Buffer(name, dtype, True, start)
        self.scratch_bytes = start + count * dtype.bytes
        return name

    def kernel(self, body: Sequence[Stmt], tasks: Dim, *, grain: Dim = 1, writes: Sequence[Value] = (),
               flops: Dim = 0) -> Kernel:
        buffers = tuple(self.buffers.values())
        code = loops.Kernel("k", buffers, len(self.table.dims), tuple(body))
        return Kernel(self.name, LoopBody(code), tuple(self.operands), tasks, self.table.dims,
                      scratch=self.scratch_bytes, grain=grain, flops=flops, writes=tuple(writes))


def guess(dim: Dim) -> int:
    """About how large a size is."""
    return max(1, dim) if isinstance(dim, int) else GUESS


def guess_product(dims: Sequence[Dim]) -> int:
    total = 1
    for d in dims:
        total *= guess(d)
    return total


def broadcast_strides(access: Access, shape: Sequence[Dim]) -> Strides:
    """The strides of an operand over the dims of `shape`, which it broadcasts to."""
    missing = len(shape) - len(access.shape)
    own = (0 if n == 1 and to != 1 else s
           for n, s, to in zip(access.shape, access.strides, shape[missing:], strict=True))
    return (0,) * missing + tuple(own)


@dataclass(frozen=True, slots=True)
class Space:
    """Dims to loop over, and the strides of every operand along them."""

    sizes: tuple[Dim, ...]
    views: tuple[Strides, ...]

    @property
    def rank(self) -> int:
        return len(self.sizes)

    def permuted(self, order: Sequence[int]) -> Space:
        return Space(tuple(self.sizes[i] for i in order), tuple(tuple(v[i] for i in order) for v in self.views))

    def select(self, axes: Sequence[int]) -> Space:
        return self.permuted(axes)


def collapse(
    sizes: Sequence[Dim], views: Sequence[Strides], keep: Sequence[int] = ()
) -> tuple[Space, list[int | None]]:
    """Merge neighbouring dims that every view walks as one, and drop dims of size 1.

    Also gives where each old dim went (None: dropped). Dims only merge within runs: none across the borders in `keep`
    (dim i is not merged into dim i - 1 for i in keep)."""
    new_sizes: list[Dim] = []
    new_views: list[list[Dim]] = [[] for _ in views]
    where: list[int | None] = []
    blocked = False
    for axis, extent in enumerate(sizes):
        blocked |= axis in keep
        if extent == 1:
            where.append(None)
            continue
        if new_sizes and not blocked and all(n[-1] == v[axis] * extent for n, v in zip(new_views, views, strict=True)):
            new_sizes[-1] = new_sizes[-1] * extent
            for n, v in zip(new_views, views, strict=True):
                n[-1] = v[axis]
        else:
            new_sizes.append(extent)
            for n, v in zip(new_views, views, strict=True):
                n.append(v[axis])
        where.append(len(new_sizes) - 1)
        blocked = False
    return Space(tuple(new_sizes), tuple(map(tuple, new_views))), where


def offset(coords: Sequence[Expr], strides: Strides, nest: Nest) -> Expr:
    """The index of the element at `coords`."""
    total: Expr = i64(0)
    for x, s in zip(coords, strides, strict=True):
        total = loops.add(total, loops.mul(x, nest.size(s)))
    return total


def index_of(coords: Sequence[Expr], access: Access, nest: Nest) -> Expr:
    """The index of the element at `coords` of what lies so."""
    if access.panels is None:
        return offset(coords, access.strides, nest)
    panels, (row, column) = access.panels, reversed(coords) if access.turned else coords
    pitch: Expr = i64(panels.width)
    if panels.last:
        before_it = Apply("less", (column, i64(panels.whole)), DType.BOOL)
        pitch = Select(before_it, pitch, i64(panels.last))
    start = loops.mul(div(column, i64(panels.width)), i64(panels.rows * panels.width))
    return loops.add(loops.add(start, mod(column, i64(panels.width))), loops.mul(row, pitch))


def load(buffer: str, dtype: DType, index: Expr) -> Load:
    return Load(buffer, index, widened(dtype))


def div(a: Expr, b: Expr) -> Expr:
    """a // b for a >= 0 and b >= 1; folds."""
    if isinstance(b, loops.Const):
        if b.value == 1:
            return a
        if isinstance(a, loops.Const):
            return i64(int(a.value) // int(b.value))
    return Apply("floordiv", (a, b), DType.I64)


def mod(a: Expr, b: Expr) -> Expr:
    if isinstance(b, loops.Const):
        if b.value == 1:
            return i64(0)
        if isinstance(a, loops.Const):
            return i64(int(a.value) % int(b.value))
    return Apply("floormod", (a, b), DType.I64)


def sub(a: Expr, b: Expr) -> Expr:
    if isinstance(b, loops.Const):
        return loops.add(a, i64(-int(b.value)))
    return Apply("sub", (a, b), DType.I64)


def least(a: Expr, b: Expr) -> Expr:
    if isinstance(a, loops.Const) and isinstance(b, loops.Const):
        return i64(min(int(a.value), int(b.value)))
    return Apply("minimum", (a, b), DType.I64)


def most(a: Expr, b: Expr) -> Expr:
    if isinstance(a, loops.Const) and isinstance(b, loops.Const):
        return i64(max(int(a.value), int(b.value)))
    return Apply("maximum", (a, b), DType.I64)


def unflatten(index: Expr, sizes: Sequence[Dim], nest: Nest) -> list[Expr]:
    """The coordinates of a row-major index into `sizes`."""
    coords: list[Expr] = []
    for i in range(len(sizes) - 1, -1, -1):
        coords.append(index if i == 0 else mod(index, nest.size(sizes[i])))
        if i > 0:
            index = div(index, nest.size(sizes[i]))
    return coords[::-1]


@dataclass(frozen=True, slots=True)
class Tasks:
    """How a row-major space of dims is cut: tasks own whole outer dims and blocks of dim `axis`."""

    axis: int
    block: int
    count: Dim
    work: int         # of one task, about, in cheap elementwise operations


@contextmanager
def smaller_tasks(share: int) -> Iterator[None]:
    """What is lowered inside is cut into tasks of 1/`share` of the usual work: for machines that run many at once."""
    before = SHARE.set(share)
    try:
        yield
    finally:
        SHARE.reset(before)


def cut(sizes: Sequence[Dim], target: int = TASK_ELEMENTS, *, vector: bool = True, work: int = 1) -> Tasks:
    """Tasks of about `target` cheap elementwise operations, of which each element takes `work`. With `vector`, blocks
    of the last dim are whole vectors."""
    work = max(1, work)
    target = max(1, target // SHARE.get() // work)
    axis = len(sizes) - 1
    inner = 1
    while axis > 0 and inner * guess(sizes[axis]) < target:
        inner *= guess(sizes[axis])
        axis -= 1
    extent = sizes[axis]
    block = max(1, target // inner)
    if isinstance(extent, int):
        block = max(1, min(block, extent))
    lanes = vector and axis == len(sizes) - 1
    if lanes and block > 64:
        block = block // 64 * 64
    if isinstance(extent, int):
        parts = -(-extent // block) if extent else 1
        parts += parts % 2 if 1 < parts < MANY_PARTS else 0     # so that two threads have the same
        block = max(1, -(-extent // parts))
        if lanes and parts > 1:
            block = -(-block // 64) * 64
    count = product([*sizes[:axis], ceildiv(extent, block)])
    return Tasks(axis, block, count, block * inner * work)


def nest_loops(sizes: Sequence[Dim], tasks: Tasks, nest: Nest, vector: bool = True) -> tuple[list[Expr], LoopShape]:
    """Coordinates for every dim, and the loops to put around a body that uses them."""
    t = nest.var("t")
    axis, block = tasks.axis, tasks.block
    extent = sizes[axis]
    whole = isinstance(extent, int) and extent <= block
    coords = unflatten(t, [*sizes[:axis], 1 if whole else ceildiv(extent, block)], nest)
    levels: list[tuple[Ref, Expr, LoopKind]] = []
    for i in range(axis, len(sizes)):
        kind = LoopKind.VECTOR if vector and i == len(sizes) - 1 else LoopKind.SERIAL
        x = nest.var("i")
        if i == axis and not whole:
            start = loops.mul(coords[axis], i64(block))
            size: Expr = i64(block)
            if not (isinstance(extent, int) and extent % block == 0):
                size = least(size, sub(nest.size(extent), start))
            levels.append((x, size, kind))
            coords[axis] = loops.add(start, x)
        else:
            levels.append((x, nest.size(sizes[i]), kind))
            coords[i:] = [x]
    return coords, LoopShape(t.name, tuple(levels))


@dataclass(frozen=True, slots=True)
class LoopShape:
    task: str
    levels: tuple[tuple[Ref, Expr, LoopKind], ...]

    def around(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        statements = tuple(body)
        for x, size, kind in reversed(self.levels):
            statements = (For(x.name, size, statements, kind),)
        return (For(self.task, i64(0), statements, LoopKind.TASKS),)


def grain_for(tasks: Tasks) -> int:
    """Tasks that together are worth waking a thread for."""
    return max(1, -(-GRAIN_ELEMENTS // max(1, tasks.work)))


def only_output(group: Group) -> Value:
    (value,) = group.outputs
    return value

