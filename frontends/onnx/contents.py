"""What small tensors hold, as far as it is known while the model is imported: the shape arithmetic of exporters.

`Contents.of(value)` is a partial evaluation of the graph built so far, on arrays of numbers (`numbers.Number`)
instead of elements: integers, dims, and quotients of dims. Because it looks at the ops of the graph and not at ONNX's,
every importer is covered once its result is built from the ops in the table.
Floats are computed exactly, not rounded: right for what exporters do with sizes (scale, floor), and used for no more.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton.frontends.onnx import numbers
from lepton.frontends.onnx.numbers import Number, Ratio, Undecided
from lepton.ir.core import Value
from lepton.ir.dims import Dim, Expr
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

LARGEST = 64  # elements; shapes are short
_KINDS = (DType.F16, DType.F32, DType.F64, DType.BOOL)

Objects = Array  # of dtype object, holding numbers


class Contents:
    """The known contents of values, remembered."""

    def __init__(self) -> None:
        self._known: dict[Value, Objects | None] = {}

    def of(self, value: Value) -> Objects | None:
        """An array of the value's shape, or None where it is too large or not known."""
        if value not in self._known:
            self._known[value] = self._compute(value)
        return self._known[value]

    def set(self, value: Value, contents: Objects | None) -> None:
        """For values whose contents their producer does not show: the inputs of regions."""
        self._known[value] = contents

    def _compute(self, value: Value) -> Objects | None:
        node = value.producer
        if node is None or len(node.results) != 1 or not _tracked(value.type):
            return None
        # Integers truncate, floats do not, and numbers do not tell which they are.
        name = "div_integers" if node.op.name == "div" and value.tensor.dtype.is_integer else node.op.name
        rule = _RULES.get(name)
        if rule is None:
            return None
        known = [None if v is None else self.of(v) for v in node.inputs]
        if any(k is None and v is not None for k, v in zip(known, node.inputs, strict=True)):
            return None
        try:
            result = rule(*known, **node.attrs)
            return _checked(result, value.tensor)
        except (Undecided, IndexError, ValueError):
            return None


def objects(values: Any, shape: tuple[int, ...]) -> Objects:
    """An object array with the given elements."""
    out = np.empty(shape, object)
    flat = out.reshape(-1)
    for i, v in enumerate(values):
        flat[i] = v
    return out


def _tracked(kind: Type) -> bool:
    return (isinstance(kind, TensorType) and (kind.dtype.is_integer or kind.dtype in _KINDS)
            and kind.is_static and isinstance(count := kind.size, int) and count <= LARGEST)


def _checked(result: Objects, kind: TensorType) -> Objects:
    if result.shape != kind.shape:
        raise Undecided
    if kind.dtype.is_integer:
        low, high = (-(2 ** (kind.dtype.bits - 1)), 2 ** (kind.dtype.bits - 1) - 1)
        if kind.dtype.is_unsigned:
            low, high = 0, 2**kind.dtype.bits - 1
        for v in result.reshape(-1):
            if isinstance(v, Ratio) or (isinstance(v, int) and not low <= v <= high):
                raise Undecided
    return result


def _each(function: Callable[..., Any]) -> Callable[..., Objects]:
    """A rule that applies `function` to each element, broadcasting."""

    def rule(*operands: Objects, **_attrs: Any) -> Objects:
        together = np.broadcast_arrays(*operands)
        return objects([function(*row) for row in zip(*(a.reshape(-1) for a in together), strict=True)],
                       together[0].shape)

    return rule


def _constant(*, value: Any) -> Objects:
    kind = value.type
    convert = numbers.from_float if kind.dtype.is_float else bool if kind.dtype is DType.BOOL else int
    return objects([convert(v) for v in value.array.reshape(-1).tolist()], value.array.shape)


def _shape_values(*, dims: tuple[Dim, ...], scalar: bool) -> Objects:
    return objects(dims, () if scalar else (len(dims),))


def _cast(x: Objects, *, to: DType, **_attrs: Any) -> Objects:
    if to.is_integer:
        return objects([int(v) if isinstance(v, bool) else numbers.trunc(v) for v in x.reshape(-1)], x.shape)
    if to is DType.BOOL:
        return objects([v if isinstance(v, bool) else not numbers.equal(v, 0) for v in x.reshape(-1)], x.shape)
    return objects([int(v) if isinstance(v, bool) else v for v in x.reshape(-1)], x.shape)


def _gather(x: Objects, indices: Objects, *, axis: int) -> Objects:
    return np.asarray(np.take(x, _ints(indices), axis), object)


def _ints(x: Objects) -> Array:
    if not all(isinstance(v, int) for v in x.reshape(-1)):
        raise Undecided
    return x.astype(np.int64)


def _slice(x: Objects, *, starts: tuple[Dim, ...], sizes: tuple[Dim, ...], steps: tuple[int, ...]) -> Objects:
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        if not isinstance(start, int) or not isinstance(size, int):
            raise Undecided
        x = np.take(x, [start + i * step for i in range(size)], axis)
    return x


def _sized(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    if not all(isinstance(d, int) for d in shape):
        raise Undecided
    return tuple(d for d in shape if isinstance(d, int))


def _reduce(fold: Callable[[Number, Number], Number], start: Number | None) -> Callable[..., Objects]:
    def rule(x: Objects, *, axes: tuple[int, ...], keepdims: bool) -> Objects:
        last = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        rows = last.reshape(*last.shape[:x.ndim - len(axes)], -1)
        out = []
        for row in rows.reshape(-1, rows.shape[-1]):
            items = list(row) if start is None else [start, *row]
            total = items[0]
            for item in items[1:]:
                total = fold(total, item)
            out.append(total)
        shape = [1 if a in axes else n for a, n in enumerate(x.shape)] if keepdims else rows.shape[:-1]
        return objects(out, tuple(shape))

    return rule


def _where(cond: Objects, a: Objects, b: Objects) -> Objects:
    return _each(lambda c, x, y: x if c else y)(cond, a, b)


def _clip(x: Objects, lo: Objects | None = None, hi: Objects | None = None) -> Objects:
    if lo is not None:
        x = _each(numbers.maximum)(x, lo)
    return x if hi is None else _each(numbers.minimum)(x, hi)


def _boolean(function: Callable[..., bool]) -> Callable[..., Objects]:
    def check(*values: Number | bool) -> bool:
        return function(*(int(v) if isinstance(v, bool) else v for v in values))

    return _each(check)


def _sign(a: Number) -> Number:
    return 0 if numbers.equal(a, 0) else 1 if numbers.less(0, a) else -1


def _iota(*, size: Dim, dtype: DType) -> Objects:
    (count,) = _sized((size,))
    return objects(range(count), (count,))


_RULES: dict[str, Callable[..., Objects]] = {
    "constant": _constant,
    "shape_values": _shape_values,
    "cast": _cast,
    "gather": _gather,
    "slice": _slice,
    "iota": _iota,
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "reshape": lambda x, *, shape: x.reshape(_sized(shape)),
    "transpose": lambda x, *, perm: x.transpose(perm),
    "broadcast_to": lambda x, *, shape: np.broadcast_to(x, _sized(shape)),
    "where": _where,
    "clip": _clip,
    "add": _each(numbers.add),
    "sub": _each(numbers.sub),
    "mul": _each(numbers.mul),
    "div": _each(numbers.true_div),
    "div_integers": _each(numbers.int_div),
    "neg": _each(numbers.neg),
    "pow": _each(numbers.power),
    "mod": lambda a, b, *, fmod: _each(numbers.mod)(a, b) if not fmod else _undecided(),
    "floor": _each(numbers.floor),
    "ceil": _each(numbers.ceil),
    "abs": _each(lambda a: numbers.maximum(a, numbers.neg(a))),
    "sign": _each(_sign),
    "minimum": _each(numbers.minimum),
    "maximum": _each(numbers.maximum),
    "reciprocal": _each(lambda a: numbers.true_div(1, a)),
    "equal": _boolean(numbers.equal),
    "less": _boolean(numbers.less),
    "less_equal": _boolean(numbers.less_equal),
    "greater": _boolean(lambda a, b: numbers.less(b, a)),
    "greater_equal": _boolean(lambda a, b: numbers.less_equal(b, a)),
    "logical_not": _each(lambda a: not a),
    "logical_and": _each(lambda a, b: a and b),
    "logical_or": _each(lambda a, b: a or b),
    "logical_xor": _each(lambda a, b: a != b),
    "reduce_prod": _reduce(numbers.mul, 1),
    "reduce_sum": _reduce(numbers.add, 0),
    "reduce_max": _reduce(numbers.maximum, None),
    "reduce_min": _reduce(numbers.minimum, None),
}


def _undecided() -> Objects:
    raise Undecided


def only_dims(contents: Objects | None) -> tuple[Dim, ...] | None:
    """The contents in row-major order if all are integers or dims."""
    if contents is None or not all(isinstance(v, int | Expr) for v in contents.reshape(-1)):
        return None
    return tuple(int(v) if isinstance(v, bool) else v for v in contents.reshape(-1))
