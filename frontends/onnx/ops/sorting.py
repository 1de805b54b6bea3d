"""Unique: sorted rows, of which the first of each run of equals is kept."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.types import DType

I64 = DType.I64


@imports("Unique", since=11)
def unique(c: Call) -> list[Value]:
    """(the different elements, or slices along `axis`; where each stands first; which one each place holds; how
    often each occurs). In ascending order, or unsorted in order of appearance. NaN equals NaN."""
    x = c.x()
    axis = c.axis() if c.has("axis") else None
    flat = c.reshape(x, (x.tensor.size,)) if axis is None else x
    return distinct(c, flat, axis or 0, in_order=c.flag("sorted", True))


def distinct(c: Call, flat: Value, along: int, *, in_order: bool) -> list[Value]:
    """Unique's four results for the slices along an axis, ascending or in order of appearance."""
    count = flat.tensor.shape[along]
    rows = _rows(c, flat, along, count)
    ordered = c(ops.string_rank, rows) if rows.tensor.dtype is DType.STRING else rows
    order = c(ops.sort_rows, ordered)
    begins = _begins(c, c(ops.gather, rows, order, axis=0), count)
    starts = c(ops.non_zero, begins, symbol=c.fresh("unique"))
    number = starts.tensor.shape[1]
    starts = c.reshape(starts, (number,))
    first = c(ops.gather, order, starts, axis=0)  # the sort is stable: the first of equals stands first
    group = c(ops.sub, c(ops.cumsum, c.cast(begins, I64), axis=0), c.const(1, I64))
    inverse = _inverted(c, order, group, count)
    ends = c(ops.slice_, c(ops.concat, starts, c.sizes((count,)), axis=0), starts=(1,), sizes=(number,), steps=(1,))
    counts = c(ops.sub, ends, starts)
    if not in_order:
        again = c(ops.sort_rows, c.reshape(first, (number, 1)))
        first, counts = c(ops.gather, first, again, axis=0), c(ops.gather, counts, again, axis=0)
        inverse = c(ops.gather, _inverted(c, again, c(ops.iota, size=number, dtype=I64), number), inverse, axis=0)
    return [c(ops.gather, flat, first, axis=along), first, inverse, counts]


def _rows(c: Call, x: Value, axis: int, count: Dim) -> Value:
    """The slices along an axis as rows."""
    rest = [a for a in range(x.tensor.rank) if a != axis]
    front = c(ops.transpose, x, perm=(axis, *rest)) if axis else x
    return c.reshape(front, (count, dims.product([x.tensor.shape[a] for a in rest])))


def _begins(c: Call, rows: Value, count: Dim) -> Value:
    """bool[count]: which rows differ from the one before."""
    places = c(ops.iota, size=count, dtype=I64)
    zero = c.const(0, I64)
    before = c(ops.gather, rows, c(ops.maximum, c(ops.sub, places, c.const(1, I64)), zero), axis=0)
    same = c(ops.equal, rows, before)
    if rows.tensor.dtype.is_float:
        nans = c(ops.logical_and, c(ops.is_nan, rows), c(ops.is_nan, before))
        same = c(ops.logical_or, same, nans)
    differ = c(ops.reduce_max, c.cast(c(ops.logical_not, same), DType.I32), axes=(1,), keepdims=False)
    return c(ops.logical_or, c(ops.equal, places, zero), c(ops.greater, differ, c.const(0, DType.I32)))


def _inverted(c: Call, order: Value, what: Value, count: Dim) -> Value:
    """out[order[i]] = what[i]"""
    zeros = c(ops.broadcast_to, c.const(0, I64), shape=(count,))
    return c(ops.scatter_elements, zeros, order, what, axis=0)
