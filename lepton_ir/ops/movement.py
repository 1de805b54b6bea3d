"""Joining, padding and masking of tensors."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton.ir.dims import Dim
from lepton.ir.op import op
from lepton.ir.ops.rules import anything, check_axis, fail, not_empty, one_dtype, same_dim, size_is, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type

PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _concat_type(*xs: Type, axis: int) -> TensorType:
    if not xs:
        raise fail("concat needs an operand")
    tensors = [tensor(x) for x in xs]
    dtype, first = one_dtype(*tensors), tensors[0]
    check_axis(axis, first)
    shape = list(first.shape)
    for t in tensors[1:]:
        if t.rank != first.rank:
            raise fail("ranks differ", *xs)
        for a, d in enumerate(t.shape):
            shape[a] = shape[a] + d if a == axis else same_dim(shape[a], d, f"sizes on axis {a}", *xs)
    return TensorType(dtype, tuple(shape))


@op(_concat_type)
def concat(*xs: Array, axis: int) -> Array:
    """The operands one after the other along the axis; all other sizes agree. Empty operands add nothing."""
    return np.concatenate(xs, axis=axis)


def _pad_type(x: Type, value: Type | None = None, *, before: Sequence[Dim], after: Sequence[Dim],
              mode: str) -> TensorType:
    t = tensor(x)
    if mode not in PAD_MODES:
        raise fail(f"pad mode {mode!r} is none of {', '.join(PAD_MODES)}", x)
    if not len(before) == len(after) == t.rank:
        raise fail("pad needs an amount before and after each axis", x)
    if value is not None:
        one_dtype(t, tensor(value, anything, rank=0))
    shape = [size_is(b + n + a, f"axis {i}") for i, (b, n, a) in enumerate(zip(before, t.shape, after, strict=True))]
    for old, b, a in zip(t.shape, before, after, strict=True):
        if mode != "constant":
            not_empty(old, b + old + a, mode, x)
    return t.with_shape(shape)


@op(_pad_type)
def pad(
    x: Array, value: Array | None = None, *, before: tuple[Dim, ...], after: tuple[Dim, ...], mode: str = "constant"
) -> Array:
    """Grow each axis at both ends; negative amounts crop first. New elements: `value` (absent: 0), the mirror image
    without the edge ("reflect", again and again where the axis is short), the edge's, or those from the other end
    ("wrap")."""
    amounts = [(int(_number(b)), int(_number(a))) for b, a in zip(before, after, strict=True)]
    crop = tuple(slice(max(0, -b), n - max(0, -a)) for (b, a), n in zip(amounts, x.shape, strict=True))
    grow = [(max(0, b), max(0, a)) for b, a in amounts]
    if mode == "constant":
        shape = [b + n + a for (b, a), n in zip(grow, x[crop].shape, strict=True)]
        out = np.full(shape, _fill(x, value), x.dtype)
        out[tuple(slice(b, b + n) for (b, _), n in zip(grow, x[crop].shape, strict=True))] = x[crop]
        return out
    # By indices, because np.pad does not know every element type.
    x = x[crop]
    for axis, (b, a) in enumerate(grow):
        if b or a:
            x = np.take(x, _source(np.arange(-b, x.shape[axis] + a), x.shape[axis], mode), axis=axis)
    return x


def _number(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def _fill(x: Array, value: Array | None) -> Any:
    if value is None:
        return "" if x.dtype == object else np.zeros((), x.dtype)
    return value


def _source(places: Array, size: int, mode: str) -> Array:
    """Which element of an axis of `size` stands at each place, places before 0 and from `size` on included."""
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(1, 2 * (size - 1))
    folded = places % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(places)


def _trilu_type(x: Type, *, upper: bool, k: int) -> TensorType:
    return tensor(x, least=2)


@op(_trilu_type)
def trilu(x: Array, *, upper: bool = True, k: int = 0) -> Array:
    """The last two axes' upper triangle from the k-th diagonal on (`upper`), or the lower one up to it; 0 elsewhere."""
    rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    keep = columns - rows >= k if upper else columns - rows <= k
    return np.where(keep, x, np.zeros((), x.dtype))
