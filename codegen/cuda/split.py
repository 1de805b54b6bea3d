"""Products of few tiles: blocks share a sum along k. Each writes its part to the workspace, a second kernel adds them.

A part is an entry of a batch: it begins further along k in both factors.
"""
from __future__ import annotations

from dataclasses import replace

from lepton.codegen.cuda.templates.parts import SumOfParts
from lepton.codegen.group import Group
from lepton.codegen.kernel import Kernel, dense_strides
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.templates.epilogue import Epilogue, plain
from lepton.codegen.templates.fused import Bindings, Fused, Strides
from lepton.ir.core import Value
from lepton.ir.dims import Dim, product
from lepton.ir.types import DType, TensorType

ENOUGH_BLOCKS = 128        # about the multiprocessors of a large GPU
LEAST_BYTES = 1024         # of a row along k for a part: below, a launch costs more than it saves
STEP_BYTES = 64            # parts begin where a tile's steps do, so that runs of 16 bytes stay whole
MOST_PARTS = 16


def parts_of(problem: Problem, rows: int, columns: int, dtype: DType) -> int:
    """How many blocks share each tile's sum; 1 where sizes are unknown, tiles are enough or sums short."""
    m, n, k, many = problem.m, problem.n, problem.k, product(problem.batch)
    if not (isinstance(m, int) and isinstance(n, int) and isinstance(k, int) and isinstance(many, int)):
        return 1
    blocks = many * -(-m // rows) * -(-n // columns)
    most = min(MOST_PARTS, ENOUGH_BLOCKS // blocks, k * dtype.bytes // LEAST_BYTES) if blocks else 1
    return max((p for p in range(2, most + 1) if k * dtype.bytes % (p * STEP_BYTES) == 0), default=1)


def in_parts(problem: Problem, parts: int, sums: DType) -> tuple[Problem, Value]:
    """The product of all parts, the last axis of the batch, and what it gives."""
    assert isinstance(problem.k, int)
    depth = problem.k // parts
    made = Value(TensorType(sums, (*problem.batch, parts, problem.m, problem.n)))
    *batch, k_step, n_step = problem.b if problem.weights is None else (*(0 for _ in problem.batch), 0, 0)
    return replace(
        problem, batch=(*problem.batch, parts), k=depth, a=along(problem.a, depth),
        b=(*batch, depth * k_step, k_step, n_step), views=[]), made


def along(strides: Strides, depth: Dim) -> Strides:
    """Over (*batch, part, row, k) of what is strided over (*batch, row, k)."""
    *batch, row, k = strides
    return (*batch, depth * k, row, k)


def stored(bindings: Bindings, made: Value) -> Epilogue:
    """The parts' sums as they are."""
    return plain(bindings.operand(made, made.tensor, dense_strides(made.tensor.shape)))


def sum_of_parts(group: Group, fused: Fused, problem: Problem, made: Value, before: Kernel) -> Kernel:
    """The kernel behind `before`, which makes the parts of `problem`."""
    bindings, (*_, parts, m, n) = Bindings(), made.tensor.shape
    assert isinstance(parts, int)
    read = bindings.operand(made, made.tensor, dense_strides(made.tensor.shape))
    epilogue = fused.epilogue(bindings, problem.views)
    batch, (rows, columns) = bindings.sizes(problem.batch), bindings.sizes((m, n))
    body = SumOfParts(len(bindings.bound), len(bindings.table.dims), made.tensor.dtype, batch, rows, columns, parts,
                      read, epilogue)
    return Kernel(group.name, body, tuple(bindings.bound), product((*problem.batch, m, n)), bindings.table.dims,
                  writes=group.outputs, before=replace(before, name=f"{group.name}_parts", writes=(made,)))
