"""Functions written in numpy, followed with stand-ins for arrays: what they compute becomes ops of the graph.

    results = trace(lambda x: np.tanh(x) * 2 + x.mean(axis=-1, keepdims=True), [value], {})

A stand-in takes part in numpy's ufuncs, in the functions of the tables below and in Python's operators. Element types
follow numpy's rules, sizes may be expressions. What the tables lack raises UnsupportedError: no array is ever computed.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import Location, UnsupportedError
from lepton.ir.dims import Dim
from lepton.ir.op import Op
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType


def trace(function: Callable[..., Any], operands: Sequence[Value | None], attributes: Mapping[str, Any],
          loc: tuple[Location, ...] = ()) -> tuple[Value, ...]:
    """The results of the function on these values. Raises UnsupportedError for numpy functions that are no ops."""
    given = [None if v is None else Traced(v, loc) for v in operands]
    made = function(*given, **attributes)
    return tuple(_value(r, loc) for r in (made if isinstance(made, tuple) else (made,)))


class Traced(NDArrayOperatorsMixin):
    """What stands for an array while a function is followed."""

    __slots__ = ("loc", "value")
    __array_priority__ = 100

    def __init__(self, value: Value, loc: tuple[Location, ...] = ()) -> None:
        self.value, self.loc = value, loc

    shape = property(lambda self: self.value.tensor.shape)
    ndim = property(lambda self: self.value.tensor.rank)
    dtype = property(lambda self: self.value.tensor.dtype.numpy)
    T = property(lambda self: self.transpose())

    def _apply(self, op: Op, *operands: Value | None, **attrs: Any) -> Traced:
        return Traced(op(*operands, loc=self.loc, **attrs), self.loc)

    def __bool__(self) -> bool:
        raise UnsupportedError("Python cannot decide on what only the running model knows", help="use np.where")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise UnsupportedError("this numpy function has no counterpart among Lepton's ops", help=HELP)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Traced:
        build = _UFUNCS.get(ufunc)
        if build is None or method != "__call__" or options:
            raise UnsupportedError(f"numpy.{ufunc.__name__} (or this form of it) has no counterpart among Lepton's ops",
                                   help=HELP)
        asked = [type(x) if type(x) in (int, float) else np.asarray(x).dtype if not isinstance(x, Traced) else x.dtype
                 for x in inputs]
        wanted = ufunc.resolve_dtypes((*asked, *[None] * ufunc.nout))
        operands = [self.astype(w, x).value for x, w in zip(inputs, wanted, strict=False)]
        return build(self, operands) if callable(build) and not isinstance(build, Op) else self._apply(build, *operands)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function not in _FUNCTIONS:
            raise UnsupportedError(f"numpy.{function.__name__} has no counterpart among Lepton's ops", help=HELP)
        return _FUNCTIONS[function](*args, **options)

    # --- methods of arrays ------------------------------------------------------------------------

    def astype(self, dtype: Any, of: Any = None) -> Traced:
        """This, or `of` (a number, array or stand-in), with another element type."""
        x = self if of is None else of
        if not isinstance(x, Traced):
            return self._apply(ops.constant, value=Tensor.of(np.asarray(x, dtype)))
        to = DType.of(np.dtype(dtype))
        return x if x.value.tensor.dtype is to else self._apply(ops.cast, x.value, to=to)

    def reshape(self, *shape: Any) -> Traced:
        given = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if -1 in given:
            rest = dims.product([d for d in given if d != -1])
            given = tuple(dims.floordiv(self.value.tensor.size, rest) if d == -1 else d for d in given)
        return self._apply(ops.reshape, self.value, shape=given)

    def transpose(self, *axes: Any) -> Traced:
        given = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return self._apply(ops.transpose, self.value, perm=given or tuple(reversed(range(self.ndim))))

    def sum(self, axis: Any = None, keepdims: bool = False) -> Traced:
        kind = self.dtype.kind  # numpy adds small integers up in large ones
        x = self.astype(np.uint64 if kind == "u" else np.int64) if kind in "biu" else self
        return _reduced(ops.reduce_sum, x, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Traced:
        x = self if self.value.tensor.dtype.is_float else self.astype(np.float64)
        return _reduced(ops.reduce_mean, x, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Traced:
        return _reduced(ops.reduce_max, self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Traced:
        return _reduced(ops.reduce_min, self, axis, keepdims)

    def __getitem__(self, index: Any) -> Traced:
        """Integers, slices, None and `...`."""
        given = list(index) if isinstance(index, tuple) else [index]
        real = sum(i is not None and i is not Ellipsis for i in given)
        if Ellipsis not in given:
            given.append(Ellipsis)
        at = given.index(Ellipsis)
        given[at:at + 1] = [slice(None)] * (self.ndim - real)
        starts: list[Dim] = []
        sizes: list[Dim] = []
        steps: list[int] = []
        shape: list[Dim] = []
        for i in given:
            if i is None:
                shape.append(1)
                continue
            start, size, step = _range(i, self.shape[len(starts)])
            starts.append(start)
            sizes.append(size)
            steps.append(step)
            if isinstance(i, slice):
                shape.append(size)
        cut = self._apply(ops.slice_, self.value, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
        return cut.reshape(shape)


HELP = "numpy functions that can be followed: operators, most ufuncs, where, clip, sum, mean, max, min, concatenate, …"


def _value(x: Any, loc: tuple[Location, ...]) -> Value:
    return x.value if isinstance(x, Traced) else ops.constant(value=Tensor.of(np.asarray(x)), loc=loc)


def _range(index: Any, extent: Dim) -> tuple[Dim, Dim, int]:
    """(start, size, step) of one axis. Raises UnsupportedError where that is not plain."""
    if isinstance(index, int):
        return (extent + index if index < 0 else index), 1, 1
    if not isinstance(index, slice) or (not isinstance(extent, int) and (index.step or 1) < 0):
        raise UnsupportedError(f"an index like {index!r} has no counterpart among Lepton's ops")
    if isinstance(extent, int):
        at = range(*index.indices(extent))
        return at.start, len(at), at.step
    start, stop = (_edge(edge, extent, otherwise) for edge, otherwise in ((index.start, 0), (index.stop, extent)))
    step = index.step or 1
    size = dims.dim_max(stop - start, 0)
    return start, dims.floordiv(size + (step - 1), step), step


def _edge(edge: int | None, extent: Dim, otherwise: Dim) -> Dim:
    if edge is None:
        return otherwise
    return dims.dim_max(extent + edge, 0) if edge < 0 else dims.dim_min(extent, edge)


def _reduced(op: Op, x: Traced, axis: Any, keepdims: bool) -> Traced:
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return x._apply(op, x.value, axes=tuple(sorted(a % max(x.ndim, 1) for a in axes)), keepdims=bool(keepdims))


def _any(*xs: Any) -> Traced:
    return next(x for x in xs if isinstance(x, Traced))


def _common(first: Any, *rest: Any) -> list[Traced]:
    """The same element type for all, by numpy's rules."""
    t = _any(first, *rest)
    dtype = np.result_type(*(x.dtype if isinstance(x, Traced) else x for x in (first, *rest)))
    return [t.astype(dtype, x) for x in (first, *rest)]


def _where(condition: Any, a: Any, b: Any) -> Traced:
    t = _any(condition, a, b)
    if not isinstance(a, Traced) and not isinstance(b, Traced):
        a, b = np.asarray(a, np.result_type(a, b)), np.asarray(b, np.result_type(a, b))
    x, y = _common(a, b) if isinstance(a, Traced) or isinstance(b, Traced) else (t.astype(v.dtype, v) for v in (a, b))
    return t._apply(ops.where, t.astype(np.bool_, condition).value, x.value, y.value)


def _clip(x: Traced, low: Any = None, high: Any = None) -> Traced:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _concatenate(xs: Sequence[Any], axis: int = 0) -> Traced:
    made = _common(*xs)
    return made[0]._apply(ops.concat, *(x.value for x in made), axis=axis % made[0].ndim)


def _stack(xs: Sequence[Any], axis: int = 0) -> Traced:
    made = _common(*xs)
    axis %= made[0].ndim + 1
    return _concatenate([x.reshape((*x.shape[:axis], 1, *x.shape[axis:])) for x in made], axis)


def _full(x: Traced, value: Any) -> Traced:
    return x._apply(ops.broadcast_to, x.astype(x.dtype, value).value, shape=x.shape)


def _negated(op: Op) -> Callable[[Traced, list[Value]], Traced]:
    return lambda t, xs: t._apply(ops.logical_not, t._apply(op, *xs).value)


def _bits(integers: Op, bools: Op) -> Callable[[Traced, list[Value]], Traced]:
    return lambda t, xs: t._apply(bools if xs[0].tensor.dtype is DType.BOOL else integers, *xs)


# ufuncs whose op has the name that numpy gives it (or it with an underscore, where Python has taken the name).
_SAME = ("add negative:neg absolute:abs_ fabs:abs_ subtract:sub multiply:mul true_divide:div exp expm1 log log1p sqrt "
         "sin cos tan arcsin:asin arccos:acos arctan:atan sinh cosh tanh arcsinh:asinh arccosh:acosh arctanh:atanh "
         "floor ceil rint:round_ sign maximum minimum equal less less_equal greater greater_equal logical_and "
         "logical_or logical_xor logical_not isnan:is_nan isinf:is_inf reciprocal power:pow_ remainder:mod matmul "
         "left_shift:shift_left right_shift:shift_right")
_UFUNCS: dict[np.ufunc, Any] = {
    **{getattr(np, a): getattr(ops, b or a) for a, _, b in (word.partition(":") for word in _SAME.split())},
    np.bitwise_and: _bits(ops.bit_and, ops.logical_and), np.bitwise_or: _bits(ops.bit_or, ops.logical_or),
    np.bitwise_xor: _bits(ops.bit_xor, ops.logical_xor), np.invert: _bits(ops.bit_not, ops.logical_not),
    np.not_equal: _negated(ops.equal),
    np.square: lambda t, xs: t._apply(ops.mul, xs[0], xs[0]),
    np.positive: lambda t, xs: Traced(xs[0], t.loc),
    np.fmod: lambda t, xs: t._apply(ops.mod, *xs, fmod=True),
    np.trunc: lambda t, xs: np.sign(Traced(xs[0], t.loc)) * np.floor(abs(Traced(xs[0], t.loc))),
}
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where, np.clip: _clip, np.concatenate: _concatenate, np.stack: _stack,
    np.sum: Traced.sum, np.mean: Traced.mean, np.max: Traced.max, np.amax: Traced.max, np.min: Traced.min,
    np.amin: Traced.min, np.reshape: Traced.reshape, np.transpose: Traced.transpose,
    np.expand_dims: lambda x, axis: x.reshape((*x.shape[:axis % (x.ndim + 1)], 1, *x.shape[axis % (x.ndim + 1):])),
    np.swapaxes: lambda x, a, b: x.transpose([b % x.ndim if i == a % x.ndim else a % x.ndim if i == b % x.ndim else i
                                              for i in range(x.ndim)]),
    np.shape: lambda x: x.shape, np.ndim: lambda x: x.ndim,
    np.ones_like: lambda x: _full(x, 1), np.zeros_like: lambda x: _full(x, 0),
    np.full_like: lambda x, value: _full(x, value),
}
