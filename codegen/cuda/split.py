"""Products of few tiles: blocks share a sum along k. Each writes its part to the workspace, a second kernel adds them.

A part is an entry of a batch: it begins further along k in both factors; a convolution's has some of the channels, as a
group has, at all taps.
"""
from __future__ import annotations

from dataclasses import replace

from lepton.codegen.cuda.templates.parts import SumOfParts
from lepton.codegen.group import Group
from lepton.codegen.kernel import Kernel, dense_strides
from lepton.codegen.lower.conv_cost import Shape
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
    return _parts(many * -(-m // rows) * -(-n // columns), k * dtype.bytes, k * dtype.bytes)


def parts_of_windows(shape: Shape, m: Dim, rows: int, columns: int, dtype: DType) -> int:
    """The same for a convolution, whose channels are shared."""
    if not isinstance(m, int):
        return 1
    blocks = shape.groups * -(-m // rows) * -(-shape.filters // columns)
    return _parts(blocks, shape.depth * dtype.bytes, shape.channels * dtype.bytes)


def _parts(blocks: int, length: int, run: int) -> int:
    """Of sums over `length` bytes, in runs of which each part has its share."""
    most = min(MOST_PARTS, ENOUGH_BLOCKS // blocks, length // LEAST_BYTES) if blocks else 1
    return max((p for p in range(2, most + 1) if run % (p * STEP_BYTES) == 0), default=1)


def in_parts(problem: Problem, parts: int, sums: DType) -> tuple[Problem, Value]:
    """The product of all parts, the last axis of the batch, and what it gives."""
    assert isinstance(problem.k, int)
    depth, made = problem.k // parts, made_of(problem.batch, parts, (problem.m,), problem.n, sums)
    *batch, k_step, n_step = problem.b if problem.weights is None else (*(0 for _ in problem.batch), 0, 0)
    return replace(
        problem, batch=(*problem.batch, parts), k=depth, a=along(problem.a, depth),
        b=(*batch, depth * k_step, k_step, n_step), views=[]), made


def made_of(batch: tuple[Dim, ...], parts: int, rows: tuple[Dim, ...], n: Dim, sums: DType) -> Value:
    """What the parts are."""
    return Value(TensorType(sums, (*batch, parts, *rows, n)))


def along(strides: Strides, depth: Dim) -> Strides:
    """Over (*batch, part, row, k) of what is strided over (*batch, row, k)."""
    *batch, row, k = strides
    return (*batch, depth * k, row, k)


def stored(bindings: Bindings, made: Value) -> Epilogue:
    """The parts' sums as they are."""
    return plain(bindings.operand(made, made.tensor, dense_strides(made.tensor.shape)))


def sum_of_parts(group: Group, fused: Fused, entries: int, views: list[Strides], made: Value, before: Kernel) -> Kernel:
    """The kernel behind `before`, which makes the parts. `entries`: how many axes the batch has."""
    bindings, shape = Bindings(), made.tensor.shape
    batch, parts, rows, n = shape[:entries], shape[entries], shape[entries + 1:-1], shape[-1]
    assert isinstance(parts, int)
    read = bindings.operand(made, made.tensor, dense_strides(shape))
    epilogue = fused.epilogue(bindings, views)
    entry, places, (columns,) = map(bindings.sizes, (batch, rows, (n,)))
    body = SumOfParts(len(bindings.bound), len(bindings.table.dims), made.tensor.dtype, entry, places, columns, parts,
                      read, epilogue)
    return Kernel(group.name, body, tuple(bindings.bound), product((*batch, *rows, n)), bindings.table.dims,
                  writes=group.outputs, before=replace(before, name=f"{group.name}_parts", writes=(made,)))
