"""Sizes, starts and amounts that only the running model knows: computed in the graph, then read into symbols.

A size that is data is computed by ordinary ops on i64 scalars, where it is clamped as ONNX says, and `read_sizes` gives
it a name that shapes can mention. What is known of a tensor's elements stays known: of `[N, -1, k]` only k is read.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton.frontends.onnx.contents import LARGEST, only_dims
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.types import DType

if TYPE_CHECKING:
    from lepton.frontends.onnx.call import Call


@dataclass(frozen=True, slots=True)
class Element:
    """Element `index` of a small integer tensor, in row-major order: known when the model runs."""

    value: Value
    index: int


Known = Dim | Element


def elements(c: Call, value: Value) -> list[Known] | None:
    """What a small integer tensor holds, each element as far as it is known; None for one that is not small."""
    kind = value.tensor
    if (known := only_dims(c.importer.contents.of(value))) is not None:
        return list(known)
    if not kind.dtype.is_integer or not isinstance(kind.size, int) or kind.size > LARGEST:
        return None
    node = value.producer
    if node is not None and (node.op in (ops.reshape, ops.cast) or (node.op is ops.concat and kind.rank == 1)):
        parts = [elements(c, v) for v in node.inputs if v is not None and v.tensor.dtype.is_integer]
        if len(parts) == len(node.inputs) and all(p is not None for p in parts):
            return [e for p in parts if p is not None for e in p]
    return [Element(value, i) for i in range(kind.size)]


def scalar(c: Call, known: Known) -> Value:
    """The element as an i64[]."""
    if not isinstance(known, Element):
        return c.size(known)
    x = known.value
    if x.tensor.size != 1:
        x = c(ops.gather, c.reshape(x, (x.tensor.size,)), c.const(known.index, DType.I64), axis=0)
    return c.cast(c.reshape(x, ()), DType.I64)


def read(c: Call, scalars: Sequence[Value], hint: str) -> list[Dim]:
    """New symbols for these i64[], which must not be negative when the model runs."""
    if not scalars:
        return []
    rows = [c.reshape(s, (1,)) for s in scalars]
    names = tuple(c.fresh(hint) for _ in rows)
    inputs = list(dict.fromkeys(name for s in scalars for name in c.inputs_of(s)))
    c.importer.read_from.update(dict.fromkeys(names, inputs))
    c(ops.read_sizes, c(ops.concat, *rows, axis=0) if len(rows) > 1 else rows[0], symbols=names)
    return [dims.sym(name) for name in names]


def read_all(c: Call, found: Sequence[Known], hint: str) -> tuple[Dim, ...]:
    """The elements as dims. One that was read before keeps its name, so that equal sizes are known to be equal."""
    seen = c.scope.read
    new = list(dict.fromkeys(e for e in found if isinstance(e, Element) and (e.value, e.index) not in seen))
    for element, name in zip(new, read(c, [scalar(c, e) for e in new], hint), strict=True):
        seen[element.value, element.index] = name
    return tuple(seen[e.value, e.index] if isinstance(e, Element) else e for e in found)


# --- arithmetic on known and unknown numbers -------------------------------------------------------


def larger(c: Call, a: Value, b: int) -> Value:
    return c(ops.maximum, a, c.const(b, DType.I64))


def place(c: Call, known: Known, size: Dim, low: int, high: Dim) -> Value:
    """A start or end, counted from the end where it is negative, kept within [low, high]."""
    v = scalar(c, known)
    back = c(ops.add, v, c.size(size))
    v = c(ops.where, c(ops.less, v, c.const(0, DType.I64)), back, v)
    return larger(c, c(ops.minimum, v, c.size(high)), low)


def span(c: Call, size: Dim, start: Known, end: Known, step: int) -> tuple[Dim, Dim]:
    """(first element, number of elements) of `start:end:step` on an axis, where start or end is only known later."""
    high = size if step > 0 else size - 1
    first, last = place(c, start, size, 0, high), place(c, end, size, 0 if step > 0 else -1, high)
    way = c(ops.sub, last, first) if step > 0 else c(ops.sub, first, last)
    reach = c(ops.add, larger(c, way, 0), c.const(abs(step) - 1, DType.I64))
    count = reach if abs(step) == 1 else c(ops.div, reach, c.const(abs(step), DType.I64))
    if start == 0 and step > 0:
        return 0, read(c, [count], "slice")[0]
    begin, many = read(c, [first, count], "slice")
    return begin, many


def shape_of(c: Call, x: Value, wanted: Sequence[Known], *, allow_zero: bool) -> list[Dim]:
    """The shape that Reshape's target stands for, where some of it is only known later. Known entries stay: a 0 copies
    x's size, one -1 takes what is left."""
    old = x.tensor.shape
    shape: list[Known] = [old[i] if e == 0 and not allow_zero and i < len(old) else e for i, e in enumerate(wanted)]
    unknown = [i for i, e in enumerate(shape) if isinstance(e, Element)]
    values = {i: scalar(c, shape[i]) for i in unknown}
    zero, minus = c.const(0, DType.I64), c.const(-1, DType.I64)
    if not allow_zero:
        for i in unknown:
            if i < len(old):
                values[i] = c(ops.where, c(ops.equal, values[i], zero), c.size(old[i]), values[i])
    if -1 not in shape:
        total = c.size(dims.product([d for d in shape if not isinstance(d, Element)]))
        for v in values.values():
            total = c(ops.mul, total, v)
        # One of them may be -1: then the total has the wrong sign, and its size is what the others leave.
        left = c(ops.div, c.size(x.tensor.size), larger(c, c(ops.neg, total), 1))
        values = {i: c(ops.where, c(ops.equal, v, minus), left, v) for i, v in values.items()}
    names = dict(zip(unknown, read(c, list(values.values()), "shape"), strict=True))
    return [names[i] if isinstance(e, Element) else e for i, e in enumerate(shape)]


def signed(c: Call, found: Sequence[Known]) -> tuple[Dim, ...]:
    """Amounts that may be negative: each unknown one is the difference of two sizes."""
    unknown = list(dict.fromkeys(e for e in found if isinstance(e, Element)))
    # -2**63 has no opposite, and two of them have no sum.
    numbers = [larger(c, scalar(c, e), -(2**62)) for e in unknown]
    parts = read(c, [larger(c, n, 0) for v in numbers for n in (v, c(ops.neg, v))], "pad")
    names = {e: parts[2 * i] - parts[2 * i + 1] for i, e in enumerate(unknown)}
    return tuple(names[e] if isinstance(e, Element) else e for e in found)
