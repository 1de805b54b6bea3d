"""Which register tile a matrix product uses: a small cost model over what the registers allow.

Costs are cycles on a machine with two vector multiply-adds and two loads a cycle and a latency of four; only their
ratios matter, and they are the same from SSE to AVX-512.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.ir.types import DType

LATENCY = 4                 # of a multiply-add: fewer accumulators than twice this leave the units idle
L2_BYTES_PER_CYCLE = 24     # sustained, from L2 into registers
L3_BYTES_PER_CYCLE = 12     # and from behind it, prefetched
FEW_ROWS = 6                # that share sets of the L1 cache without harm
CROWDED = 1.06              # what more of them cost
CALL = 16                   # cycles to enter and leave a microkernel
MOST_ROWS = 28
WIDTHS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Tile:
    rows: int
    vectors: int


def most_rows(target: Target, vectors: int, dot: Dot = FMA) -> int:
    """Rows of accumulators that fit in registers beside a row of W and a broadcast (and a product, without FMA)."""
    columns, others = dot.registers(target)
    free = target.vector_registers - columns * vectors - others
    if not target.is_x86:
        # Loads that broadcast are instructions of their own there, and LLVM moves some of them up.
        return min(12, (free - 1) // vectors)
    return min(MOST_ROWS, free // vectors)


def aliases(target: Target, stride: int) -> bool:
    """Whether rows `stride` bytes apart share a few sets of the L1 cache, so that many at once evict each other."""
    sets = 4096  # bytes covered by one way; ways are 8 to 12
    lines = {stride * r % sets // 64 for r in range(8)}
    return stride >= 1024 and len(lines) <= 2


def per_step(rows: int, vectors: int) -> float:
    """Cycles for one k of a tile whose operands lie in L1."""
    return max(rows * vectors / 2, (rows + vectors) / 2, LATENCY)


def tile_cost(target: Target, rows: int, vectors: int, k: int, *, once: bool = False) -> float:
    """Cycles of one microkernel call; W comes from the cache that a panel of it fits into. `once`: it is read for the
    first and only time."""
    row, step = vectors * target.vector_bytes, per_step(rows, vectors)
    if once or k * row > target.l2_bytes * 3 // 4:
        step = max(step, row / L3_BYTES_PER_CYCLE)
    elif k * row > target.l1_bytes // 2:
        step = max(step, row / L2_BYTES_PER_CYCLE)
    return step * k + CALL + rows * vectors


def sweep_cost(target: Target, tile: Tile, rows: int, columns: int, k: int, dtype: DType) -> float:
    """Cycles for a whole rows x columns x k product in tiles, remainders included."""
    lanes = target.lanes(dtype)
    vectors = -(-columns // lanes)
    panels = [(vectors // tile.vectors, tile.vectors), (1, vectors % tile.vectors)]
    heights = [(rows // tile.rows, tile.rows), (1, rows % tile.rows)]
    total = 0.0
    for many, v in panels:
        for times, r in heights:
            if v and r:
                total += many * times * tile_cost(target, r, v, k, once=rows <= tile.rows)
    return total


def candidates(target: Target, rows: int, limit: int = MOST_ROWS, dot: Dot = FMA) -> Iterator[Tile]:
    """Tiles worth trying for a product of so many rows: as high as registers allow, or evenly split."""
    for vectors in WIDTHS:
        most = min(most_rows(target, vectors, dot), limit)
        if most < 1:
            continue
        yield Tile(min(most, max(rows, 1)), vectors)
        if rows > most:
            yield Tile(-(-rows // -(-rows // most)), vectors)


def choose(target: Target, rows: int, columns: int, k: int, dtype: DType, *, row_stride: int | None = None,
           dot: Dot = FMA) -> Tile:
    """The cheapest tile. `row_stride`: bytes between rows of A where that is known; aliasing rows had better be few."""
    limit = FEW_ROWS if row_stride is None else 14
    crowded = row_stride is not None and aliases(target, row_stride)
    lanes = target.lanes(dtype)
    widest = -(-max(columns, 1) // lanes)
    found = [t for t in candidates(target, rows, limit, dot) if t.vectors <= widest]
    found += [t for t in candidates(target, rows, FEW_ROWS, dot) if t.vectors <= widest and crowded]
    rows, columns, k = max(rows, 1), max(columns, 1), max(k, 1)

    def cost(tile: Tile) -> tuple[float, int]:
        harm = CROWDED if crowded and tile.rows > FEW_ROWS else 1.0
        return sweep_cost(target, tile, rows, columns, k, dtype) * harm, -tile.vectors

    return min(found, key=cost)
