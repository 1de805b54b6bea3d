"""Products with one-hot rows are look-ups, and what is done to each looked-up element can be done to the table."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import apply
from lepton.ir.op import Trait
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType
from lepton.passes.base import Pass
from lepton.passes.common import array_of, graphs, substitute


@dataclass(frozen=True)
class Tables(Pass):
    """gelu(matmul(cast(x == [0 … n-1]), w) + b)  ->  gather(gelu([w; 0] + b), x, or n where x is no index of w)

    w and b are constants, w is finite (0 times infinity would be NaN). Elementwise ops move to the table, and are done
    at once, where it has no more elements than what is looked up."""

    name: ClassVar[str] = "tables"

    def run(self, graph: Graph) -> bool:
        changed = False
        for part in graphs(graph):
            for node in part.nodes:
                new = _look_up(node) if node.op is ops.matmul else _move(node)
                if new is not None and new.type == node.result.type:
                    changed |= substitute(part, node.result, new)
        return changed


def _look_up(node: Node) -> Value | None:
    """The product of a matrix with rows that are one-hot."""
    rows, w = node.inputs
    assert rows is not None
    table = array_of(w)
    if table is None or table.ndim != 2 or table.dtype.kind != "f":
        return None
    index = _hot(rows, len(table))
    if index is None or not np.isfinite(table).all():
        return None
    count = ops.constant(value=Tensor.of(np.array(len(table), index.tensor.dtype.numpy)))
    zero = ops.constant(value=Tensor.of(np.array(0, index.tensor.dtype.numpy)))
    known = ops.logical_and(ops.greater_equal(index, zero), ops.less(index, count))
    padded = np.concatenate([table + 0, np.zeros_like(table[:1])])  # -0.0 + 0: sums of products start from 0.0
    return ops.gather(ops.constant(value=Tensor.of(padded), loc=node.loc), ops.where(known, index, count), axis=0,
                      loc=node.loc)


def _hot(rows: Value, n: int) -> Value | None:
    """The indices that rows [..., n] of zeros with one 1 stand for: rows are cast(index == [0 … n-1])."""
    made = rows.producer
    compared = made.inputs[0].producer if made is not None and made.op is ops.cast and made.inputs[0] else None
    if compared is None or compared.op is not ops.equal:
        return None
    for index, numbers in (compared.inputs, compared.inputs[::-1]):
        found = array_of(numbers)
        if index is None or found is None or found.size != n or found.shape[-1:] != (n,):
            continue
        shape = index.tensor.shape
        whole = shape[-1:] == (1,) and rows.tensor.shape == (*shape[:-1], n)
        if whole and index.tensor.dtype in (DType.I32, DType.I64) and (found.reshape(-1) == np.arange(n)).all():
            return ops.reshape(index, shape=shape[:-1])
    return None


def _move(node: Node) -> Value | None:
    """An elementwise op on looked-up rows, as a look-up in the table of its results."""
    if not node.op.has(Trait.ELEMENTWISE) or len(node.results) != 1:
        return None
    gathers = [v.producer for v in node.inputs if v is not None and v.producer and v.producer.op is ops.gather]
    if not gathers or gathers[0].attrs["axis"] != 0:
        return None
    first, indices = gathers[0].inputs
    if first is None or indices is None or array_of(first) is None:
        return None
    result, rank = node.result.tensor, indices.tensor.rank
    if not isinstance(result.size, int) or not isinstance(first.tensor.size, int) or first.tensor.size > result.size:
        return None
    if result.shape != gathers[0].result.tensor.shape:
        return None
    operands = [None if v is None else _per_row(v, first, indices, rank) for v in node.inputs]
    if any(new is None and old is not None for new, old in zip(operands, node.inputs, strict=True)):
        return None
    try:
        (table,) = apply(node.op.node(*operands, loc=node.loc, **node.attrs), [array_of(v) for v in operands])
    except (LeptonError, MemoryError):
        return None  # left to run time, as Fold does
    return ops.gather(ops.constant(value=Tensor.of(table), loc=node.loc), indices, axis=0, loc=node.loc)


def _per_row(value: Value, table: Value, indices: Value, rank: int) -> Value | None:
    """What an operand is in each row of the table: a column of it, or the same in all rows."""
    made = value.producer
    if made is not None and made.op is ops.gather:
        held, where = made.inputs
        same = made.attrs["axis"] == 0 and where is indices and array_of(held) is not None
        return held if same and held is not None and held.tensor.shape == table.tensor.shape else None
    array = array_of(value)
    if array is None:
        return None
    inner = table.tensor.rank - 1
    full = (1,) * (rank + inner - array.ndim) + array.shape
    if len(full) != rank + inner or any(d != 1 for d in full[:rank]):
        return None
    return ops.constant(value=Tensor.of(array.reshape(1, *full[rank:])))
