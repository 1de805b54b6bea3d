"""Reductions, running sums and selection along axes.

The order of summation is not defined. Narrow floats accumulate in f32, integers wrap in their own type."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.op import Trait
from lepton.ir.ops.elementwise import truncated_division
from lepton.ir.ops.rules import Kind, check_axes, check_axis, floating, not_empty, number, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


def reduced_shape(x: TensorType, axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    """x's shape with the axes dropped, or 1 where kept."""
    checked = check_axes(axes, x)
    return tuple(1 if a in checked else d for a, d in enumerate(x.shape) if keepdims or a not in checked)


def _reduction(kind: Kind) -> Callable[..., TensorType]:
    def rule(x: Type, *, axes: Sequence[int], keepdims: bool) -> TensorType:
        t = tensor(x, kind)
        return t.with_shape(reduced_shape(t, axes, keepdims))

    return rule


def ordered(dtype: DType) -> bool:
    """floats, integers or bool"""
    return number(dtype) or dtype is DType.BOOL


@wide_op(_reduction(number), Trait.REDUCTION)
def reduce_sum(x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The sum over the axes; of nothing: 0; over no axes: x. Integers wrap."""
    return np.asarray(np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype))


@wide_op(_reduction(number), Trait.REDUCTION)
def reduce_mean(x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The mean over the axes; of nothing: NaN. Integers sum in i64, then divide truncating toward zero (of nothing:
    0)."""
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    if x.dtype.kind == "f":
        return np.asarray(np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype) / x.dtype.type(count))
    total = np.asarray(np.sum(x.astype(np.int64), axis=axes, keepdims=keepdims))
    return truncated_division(total, np.asarray(count, np.int64)).astype(x.dtype)


@wide_op(_reduction(ordered), Trait.REDUCTION, Trait.IDEMPOTENT)
def reduce_max(x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The largest element; NaN if there is one; of nothing: -inf, the least integer, or False. Of bools: any."""
    return np.asarray(np.max(x, axis=axes, keepdims=keepdims, initial=extreme(x.dtype, least=True)))


@wide_op(_reduction(ordered), Trait.REDUCTION, Trait.IDEMPOTENT)
def reduce_min(x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The least element; NaN if there is one; of nothing: inf, the largest integer, or True. Of bools: all."""
    return np.asarray(np.min(x, axis=axes, keepdims=keepdims, initial=extreme(x.dtype, least=False)))


@wide_op(_reduction(number), Trait.REDUCTION)
def reduce_prod(x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The product over the axes; of nothing: 1. Integers wrap."""
    return np.asarray(np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype))


def extreme(dtype: np.dtype[Any], *, least: bool) -> Any:
    """The least or largest value of an element type."""
    if dtype.kind == "b":
        return not least
    if dtype.kind == "f":
        return -np.inf if least else np.inf
    return np.iinfo(dtype).min if least else np.iinfo(dtype).max


# --- one axis -------------------------------------------------------------------------------------


def _arg_type(x: Type, *, axis: int, keepdims: bool, select_last: bool) -> TensorType:
    t = tensor(x, number)
    result = TensorType(DType.I64, reduced_shape(t, (check_axis(axis, t),), keepdims))
    not_empty(t.shape[axis], dims.product(result.shape), "choose from", x)
    return result


@wide_op(_arg_type)
def arg_max(x: Array, *, axis: int, keepdims: bool = False, select_last: bool = False) -> Array:
    """Where the largest element stands, the first (or last) of equals; NaN counts as larger than all. An axis that is
    empty when the model runs is an error."""
    return _arg(np.argmax, x, axis, keepdims, select_last)


@wide_op(_arg_type)
def arg_min(x: Array, *, axis: int, keepdims: bool = False, select_last: bool = False) -> Array:
    """Where the least element stands, the first (or last) of equals; NaN counts as less than all. An axis that is
    empty when the model runs is an error."""
    return _arg(np.argmin, x, axis, keepdims, select_last)


def _arg(choose: Callable[..., Any], x: Array, axis: int, keepdims: bool, last: bool) -> Array:
    if not last:
        return np.asarray(choose(x, axis=axis, keepdims=keepdims), np.int64)
    return np.asarray(x.shape[axis] - 1 - choose(np.flip(x, axis), axis=axis, keepdims=keepdims), np.int64)


def _scan_type(x: Type, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
    t = tensor(x, number)
    check_axis(axis, t)
    return t


@wide_op(_scan_type)
def cumsum(x: Array, *, axis: int, exclusive: bool = False, reverse: bool = False) -> Array:
    """Running sums along the axis, without the element itself if `exclusive`, from the end if `reverse`."""
    return _running(np.cumsum, 0, x, axis, exclusive, reverse)


@wide_op(_scan_type)
def cumprod(x: Array, *, axis: int, exclusive: bool = False, reverse: bool = False) -> Array:
    """Running products along the axis, without the element itself if `exclusive`, from the end if `reverse`."""
    return _running(np.cumprod, 1, x, axis, exclusive, reverse)


def _running(scan: Callable[..., Any], start: int, x: Array, axis: int, exclusive: bool, reverse: bool) -> Array:
    x = np.flip(x, axis) if reverse else x
    if exclusive and x.shape[axis]:
        first = np.full_like(np.take(x, [0], axis), start)
        x = np.concatenate([first, np.delete(x, -1, axis)], axis)
    total = scan(x, axis=axis, dtype=x.dtype)
    return np.ascontiguousarray(np.flip(total, axis) if reverse else total)


# --- softmax --------------------------------------------------------------------------------------


def _axis_type(x: Type, *, axis: int) -> TensorType:
    t = tensor(x, floating)
    check_axis(axis, t)
    return t


@wide_op(_axis_type)
def softmax(x: Array, *, axis: int) -> Array:
    """exp(x - m) / sum of exp(x - m) along the axis, where m is the maximum. A row with NaN or inf in it or
    with -inf throughout has NaN at least in one place; which others are 0 is not defined."""
    e = np.exp(x - _row_max(x, axis))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


@wide_op(_axis_type)
def log_softmax(x: Array, *, axis: int) -> Array:
    """The logarithm of softmax: x - m - log(sum of exp(x - m))."""
    shifted = x - _row_max(x, axis)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


@wide_op(_axis_type)
def hardmax(x: Array, *, axis: int) -> Array:
    """1 where the first maximum along the axis stands (`arg_max`'s choice), else 0."""
    if not x.size:
        return x
    first = np.expand_dims(np.argmax(x, axis=axis), axis)
    places = np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return np.asarray(np.equal(places, first).astype(x.dtype))


def _row_max(x: Array, axis: int) -> Any:
    return np.max(x, axis=axis, keepdims=True, initial=-np.inf)
