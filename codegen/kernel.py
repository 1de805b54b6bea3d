"""What a kernel is: the unit that the plan schedules, the emitters spell and the runtime calls.

ABI of the code (docs/architecture.md §4.2):
    void kernel(ptr bufs, ptr dims, ptr scratch, i64 lo, i64 hi)
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lepton.codegen.llvm.builder import Module
from lepton.codegen.target import Target
from lepton.ir.core import Value
from lepton.ir.dims import Dim, Expr
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType


@dataclass(frozen=True, slots=True)
class Panels:
    """How a matrix lies that was packed for products: `width` columns of all rows, one row after the other, then the
    next columns; the last ones in rows of `last` elements."""

    rows: int
    columns: int
    width: int
    last: int

    @property
    def whole(self) -> int:
        """Columns in panels of full width."""
        return self.columns // self.width * self.width

    @property
    def size(self) -> int:
        return self.rows * (self.whole + self.last)


@dataclass(frozen=True, slots=True)
class Access:
    """How the elements of a value lie in memory: one stride per dimension, in elements.

    The kernel's pointer already includes the offset of element (0, …, 0). Stride 0: every index reads the
    same element (broadcast). Strides of dimensions of size 1 are never used.

    A table of rows that is a product's factor too may lie in `panels`, as the matrix or (`turned`) as its transpose:
    its strides say nothing then. Only groups that look rows up are given such (codegen/tables_in_panels.py)."""

    type: TensorType
    strides: tuple[Dim, ...]
    panels: Panels | None = None
    turned: bool = False

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def is_dense(self) -> bool:
        return self.strides == dense_strides(self.shape)


def dense_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major strides, in elements. Empty axes count as 1, so that no two axes share a stride of 0."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * (1 if d == 0 else d)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class DimRef:
    """The i-th run-time size of a kernel: dims[i] of its ABI. What is static is a plain int instead."""

    index: int


Size = int | DimRef


class DimTable:
    """Gives each symbolic expression a kernel reads a place in its `dims`; ints pass through."""

    def __init__(self) -> None:
        self._index: dict[Expr, int] = {}

    def ref(self, dim: Dim) -> Size:
        if isinstance(dim, int):
            return dim
        return DimRef(self._index.setdefault(dim, len(self._index)))

    @property
    def dims(self) -> tuple[Expr, ...]:
        return tuple(self._index)


class Body(Protocol):
    """The code of a kernel, as frozen data: equal bodies are emitted once and shared.

    Bodies name run-time sizes by `DimRef`, never by expression, so that equal layers of a dynamic model share too."""

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        """Add a function `symbol` with the kernel ABI to `module`."""


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A constant operand made by lowering: prepacked weights, tables. Shared by content."""

    array: Array            # C-contiguous
    alignment: int = 64


Operand = Value | Packed


@dataclass(frozen=True, eq=False, slots=True)
class Kernel:
    """One step of the program: code, operands, and the sizes that drive it."""

    name: str                          # a stem for symbols and profiles: "conv_relu"
    body: Body
    operands: tuple[Operand, ...]      # bufs, in order: values read and written, packed constants
    tasks: Dim                         # the kernel is called over sub-ranges of [0, tasks)
    dims: tuple[Dim, ...] = ()         # run-time sizes, see DimTable
    scratch: Dim = 0                   # bytes, per thread
    grain: Dim = 1                     # tasks that are worth waking a thread for
    flops: Dim = 0
    writes: tuple[Value, ...] = field(default=())
    before: Kernel | None = None       # a step right before this one; the values it writes are for this one alone


def align(size: int, to: int = 64) -> int:
    return -(-size // to) * to


def packed(array: Array) -> Packed:
    return Packed(np.ascontiguousarray(array))
