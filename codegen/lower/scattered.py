"""Whether a product whose zeros follow no pattern is faster by lists, and its kernel."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.lower.matmul import grain_of
from lepton.codegen.lower.matmul_cost import MOST_TASKS, TASK_FLOPS, UNKNOWN_ROWS, Problem
from lepton.codegen.target import Target
from lepton.codegen.templates.fused import Bindings, Fused, outer
from lepton.codegen.templates.scattered import Scattered, lists_of, scratch_bytes
from lepton.codegen.templates.tiles import L2_BYTES_PER_CYCLE, LATENCY
from lepton.ir.core import Value
from lepton.ir.dims import ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

ACCUMULATORS = 8       # that hide the latency of a multiply-add
PACKING = 0.3          # cycles to transpose an element of A into scratch, and
FINISHING = 0.4        # a result out of it, by vectors of 16
L2_BYTES = 2 * L2_BYTES_PER_CYCLE   # whole vectors in a row come faster than a panel's


@dataclass(frozen=True, slots=True)
class Tiling:
    """Cycles of one batch entry, and how many vectors of rows and weights at a time they take."""

    cost: float
    vectors: int
    together: int


def tiling(target: Target, problem: Problem, weights: Array, dtype: DType) -> Tiling:
    """The cheapest tile."""
    lanes, (k, n) = target.lanes(dtype), weights.shape
    m = max(problem.m, 1) if isinstance(problem.m, int) else UNKNOWN_ROWS
    counts = np.count_nonzero(weights, axis=0)
    found = []
    for vectors in (1, 2, 4, 8):
        together = max(1, min(ACCUMULATORS, target.vector_registers // 2) // vectors)
        entries = int((-(-counts // together) * together).sum())
        step = max(vectors / 2, (vectors + 2) / 2, LATENCY / together)
        if (k + 1) * vectors * target.vector_bytes > target.l1_bytes:
            step = max(step, vectors * target.vector_bytes / L2_BYTES)
        tiles = -(-m // (vectors * lanes))
        rows = tiles * vectors * lanes
        moved = (PACKING * k + FINISHING * n) * rows * 16 / lanes
        found.append(Tiling(entries * step * tiles + moved, vectors, together))
    return min(found, key=lambda t: t.cost)


def scattered_kernel(group: Group, options: LowerOptions, fused: Fused, problem: Problem, x: Value,
                     how: Tiling) -> Kernel:
    """The kernel of a product with a constant matrix."""
    target, dtype, weights = options.target, x.tensor.dtype, problem.weights
    assert weights is not None
    lanes, (k, n) = target.lanes(dtype), weights.shape
    rows = how.vectors * lanes
    lists = lists_of(weights, rows * dtype.bytes, how.together, lanes)
    bindings = Bindings()
    view = bindings.operand(outer(group, x), x.tensor, problem.a)
    epilogue = fused.epilogue(bindings, problem.views)
    entries, places, turns = (bindings.buffer(packed(a)) for a in (lists.weights, lists.places, lists.turns))
    *batch, m = bindings.sizes((*problem.batch, problem.m))
    m_known = max(problem.m, 1) if isinstance(problem.m, int) else UNKNOWN_ROWS
    wanted = max(1, min(MOST_TASKS, 2 * m_known * lists.weights.size // TASK_FLOPS))
    block = max(1, -(-m_known // rows) // wanted)
    body = Scattered(dtype, tuple(batch), m, n, k, view, epilogue, how.vectors, how.together, block, entries, places,
                     turns)
    tasks = product((*problem.batch, ceildiv(problem.m, block * rows)))
    flops = product((*problem.batch, 2, problem.m, lists.weights.size))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims,
                  scratch_bytes(k, how.vectors, lanes, dtype), grain_of(flops, tasks), flops, group.outputs)
