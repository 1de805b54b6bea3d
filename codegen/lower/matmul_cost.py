"""Matrix products as the cost model sees them: their sizes, and which tile and blocks should be the fastest."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil, prod

from lepton.codegen.schedule import Schedule
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.fused import Strides
from lepton.codegen.templates.tiles import Tile, choose
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

UNKNOWN_ROWS, UNKNOWN_COLUMNS, UNKNOWN_K = 256, 512, 512   # what the cost model takes for run-time sizes
TASK_FLOPS = 3_000_000                                     # about 15 us of one core
SMALL_TASK_FLOPS = 250_000                                 # of kernels that make few tasks: 1.5 us
MOST_TASKS = 32
FEW_TASKS = 4
ENOUGH_TASKS = 8                                           # fewer leave threads without work
EVEN_TASKS = 64                                            # of more it does not matter how they are dealt out
READ_WORK = 24                                             # operations in the time that a core reads a float from L3


@dataclass(frozen=True, slots=True)
class Problem:
    """A matmul in matrix form. Views are over (*batch, m, n) but for a: (*batch, m, k) and b: (*batch, k, n)."""

    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    a: Strides
    b: Strides                    # of no use where there are weights
    views: list[Strides]          # of the epilogue's operands
    weights: Array | None         # the elements of b if it is a constant matrix

    def in_groups(self, group: int) -> Problem:
        """Of narrow elements, the same with a group of neighbours along k in the place of each float."""
        row = self.a[-2] // group if isinstance(self.a[-2], int) else self.a[-2]
        return replace(self, k=ceildiv(self.k, group), a=(*self.a[:-2], row, 1))


def gemm_schedule(target: Target, problem: Problem, dtype: DType, dot: Dot = FMA) -> Schedule:
    """What the cost model takes. Of narrow elements, k counts groups of them and `dtype` is what a group fills."""
    return with_blocks(target, problem, tile_of(target, problem, dtype, dot), dtype)


def with_blocks(target: Target, problem: Problem, tile: Tile, dtype: DType) -> Schedule:
    """The best blocks for a tile."""
    rows, panels, rows_fastest = blocks(target, problem, tile, dtype)
    return Schedule("gemm", (tile.rows, tile.vectors), (rows, panels), "rows" if rows_fastest else "columns")


def tile_of(target: Target, problem: Problem, dtype: DType, dot: Dot = FMA) -> Tile:
    rows = problem.m if isinstance(problem.m, int) else UNKNOWN_ROWS
    columns = problem.n if isinstance(problem.n, int) else UNKNOWN_COLUMNS
    k = problem.k if isinstance(problem.k, int) else UNKNOWN_K
    row, step = problem.a[-2:]
    stride = row * dtype.bytes if isinstance(row, int) and isinstance(step, int) else None
    return choose(target, rows, columns, k, dtype, row_stride=stride, dot=dot)


def blocks(target: Target, problem: Problem, tile: Tile, dtype: DType) -> tuple[int, int, bool]:
    """(rows of a task, panels of a task, whether row blocks follow each other in the order of tasks).

    Of all ways to cut the product into enough tasks, the one that moves least between L2 and what lies behind it."""
    m = max(problem.m, 1) if isinstance(problem.m, int) else UNKNOWN_ROWS
    n = max(problem.n, 1) if isinstance(problem.n, int) else UNKNOWN_COLUMNS
    k = max(problem.k if isinstance(problem.k, int) else UNKNOWN_K, 1)
    batch = product(problem.batch)
    entries = max(1, batch) if isinstance(batch, int) else 4
    panels = max(1, -(-n // (tile.vectors * target.lanes(dtype))))
    wanted = max(1, min(MOST_TASKS // entries, worth_tasks(work_of(m, n, k))))
    size = Traffic(m * k * dtype.bytes, n * k * dtype.bytes, panels, target.l2_bytes // 2, problem.weights is None)
    tiles = -(-m // tile.rows)
    found: list[tuple[float, int, int, bool]] = []
    for down in range(1, min(tiles, max(finer(wanted), -(-size.a * 2 // target.l2_bytes))) + 1):
        rows = -(-tiles // down) * tile.rows
        many = -(-m // rows)
        least = min(panels, -(-wanted // many))
        for each in {-(-panels // across) for across in range(least, finer(least) + 1)}:
            missing = max(0, min(wanted, ENOUGH_TASKS) - many * -(-panels // each)) * (size.a + size.b)
            waiting = uneven(entries, m / rows, panels / each) * work_of(m, n, k) * dtype.bytes / READ_WORK
            for rows_fastest in (True, False):
                found.append((size.moved(many, each, rows_fastest) + missing + waiting, rows, each, rows_fastest))
    _, rows, each, rows_fastest = min(found)
    return rows, each, rows_fastest


def finer(tasks: int) -> int:
    """Up to how many tasks to try where so many would do: among twice as many are some that divide evenly."""
    return max(tasks, min(2 * tasks, 2 * ENOUGH_TASKS))


@cache
def uneven(*blocks: float) -> float:
    """What tasks that do not come out even among threads add to the time, as a share of the work, on average: a third
    of all runs are on two threads, a sixth on four. `blocks`: along each axis, as a fraction where the last one is
    smaller."""
    if prod(ceil(n) for n in blocks) > EVEN_TASKS:
        return 0.0
    sizes = [1.0]
    for n in blocks:
        axis = [1.0] * int(n) + [n - int(n)] * (n > int(n))
        sizes = [size * part for size in sizes for part in axis]
    sizes.sort(reverse=True)
    waste = 0.0
    for threads, share in ((2, 1 / 3), (4, 1 / 6)):
        loads = [0.0] * threads
        for size in sizes:
            loads[loads.index(min(loads))] += size
        waste += share * (max(loads) * threads / sum(sizes) - 1)
    return waste


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of A and B, and what of them fits in the share of L2 that a task may fill."""

    a: int
    b: int
    panels: int
    room: int
    packs: bool         # every task packs the panels of B that it uses

    def moved(self, blocks: int, each: int, rows_fastest: bool) -> int:
        """Bytes from behind L2, for so many blocks of rows and panels of a task."""
        a_fits = self.a <= self.room * blocks
        b_fits = self.b * each <= self.room * self.panels
        groups = -(-self.panels // each)
        b_passes = 1 if rows_fastest and b_fits and not self.packs else blocks
        a_passes = self.panels if not a_fits else groups if rows_fastest else 1
        return self.a * a_passes + self.b * b_passes * (4 if self.packs else 1)


def worth_tasks(flops: int) -> int:
    """How many tasks so much work is worth, if any number can be had."""
    return max(flops // TASK_FLOPS, min(FEW_TASKS, flops // SMALL_TASK_FLOPS))


def work_of(m: int, n: int, k: int) -> int:
    """Operations, or what reading B takes where that is slower."""
    return max(2 * m * n * k, READ_WORK * n * k)
