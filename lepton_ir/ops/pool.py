"""Pooling over sliding windows. Global pooling is a reduction, not a pool."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.ops.conv import assemble, channel_axis, check_lengths, pad_spatial, spatial, unfold
from lepton.ir.ops.rules import fail, floating, number, size_is, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


def pool_sizes(
    sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], pads_begin: Sequence[Dim],
    pads_end: Sequence[Dim], dilations: Sequence[int], ceil_mode: bool,
) -> tuple[Dim, ...]:
    """How many windows there are on each axis.

    `ceil_mode` rounds the number up, but no window begins in the padding after the input's end."""
    out: list[Dim] = []
    for n, k, s, b, e, d in zip(sizes, kernel, strides, pads_begin, pads_end, dilations, strict=True):
        room = n + b + e - d * (k - 1) - 1
        if ceil_mode:
            out.append(dims.dim_min(dims.ceildiv(room, s), dims.floordiv(n + b - 1, s)) + 1)
        else:
            out.append(dims.floordiv(room, s) + 1)
    return tuple(size_is(n, "the output") for n in out)


def _pool_type(
    x: Type, *, kernel: Sequence[int], strides: Sequence[int], pads_begin: Sequence[Dim], pads_end: Sequence[Dim],
    dilations: Sequence[int], ceil_mode: bool, layout: str, **_rest: Any,
) -> TensorType:
    data = tensor(x, number)
    axis, sizes = channel_axis(layout, data), spatial(layout, data)
    check_lengths(len(sizes), data, kernel, strides, pads_begin, pads_end, dilations)
    if min((*kernel, *strides, *dilations), default=1) < 1:
        raise fail("kernel, strides and dilations must be positive", x)
    if any(isinstance(pad, int) and pad < 0 for pad in (*pads_begin, *pads_end)):
        raise fail("pads must not be negative", x)
    out = pool_sizes(sizes, kernel, strides, pads_begin, pads_end, dilations, ceil_mode)
    return data.with_shape(assemble(layout, data.shape[0], data.shape[axis], out))


def _float_pool_type(x: Type, **attrs: Any) -> TensorType:
    tensor(x, floating)
    return _pool_type(x, **attrs)


def _indices_type(x: Type, *, storage_order: int, **attrs: Any) -> tuple[TensorType, TensorType]:
    if storage_order not in (0, 1):
        raise fail(f"storage_order {storage_order} is neither 0 nor 1", x)
    values = _pool_type(x, **attrs)
    return values, values.with_dtype(DType.I64)


def lowest(dtype: np.dtype[Any]) -> Any:
    """What the maximum of nothing is: -inf, or the least integer."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _windows(x: Array, value: Any, kernel: Sequence[int], strides: Sequence[int], pads_begin: Sequence[Dim],
             pads_end: Sequence[Dim], dilations: Sequence[int], ceil_mode: bool) -> Array:
    """Windows [N,C,out...,k...] of [N,C,spatial...]; cells outside the input hold `value`."""
    out = pool_sizes(x.shape[2:], kernel, strides, pads_begin, pads_end, dilations, ceil_mode)
    last = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
    after = [end - size - b for end, size, b in zip(last, x.shape[2:], pads_begin, strict=True)]
    return unfold(pad_spatial(x, pads_begin, after, value), kernel, strides, dilations)


def _channels_first(x: Array, layout: str) -> Array:
    return x if layout == "nchw" else np.moveaxis(x, -1, 1)


def _restore(x: Array, layout: str) -> Array:
    return np.ascontiguousarray(x if layout == "nchw" else np.moveaxis(x, 1, -1))


def _fold(views: Array, kernel: Sequence[int], combine: np.ufunc) -> Array:
    """The cells of each window combined. One strided pass per cell: numpy reduces short axes slowly."""
    cells: list[Any] = [(..., *cell) for cell in product(*map(range, kernel))]
    total = np.array(views[cells[0]])
    for cell in cells[1:]:
        combine(total, views[cell], out=total)
    return total


@wide_op(_pool_type)
def max_pool(
    x: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], ceil_mode: bool = False, layout: str = "nchw",
) -> Array:
    """The largest element of each window; NaN if the window holds one; padding never wins. A window that sees only
    padding gives -inf, or the least integer."""
    first = _channels_first(x, layout)
    views = _windows(first, lowest(x.dtype), kernel, strides, pads_begin, pads_end, dilations, ceil_mode)
    return _restore(_fold(views, kernel, np.maximum), layout)


@wide_op(_indices_type)
def max_pool_indices(
    x: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], ceil_mode: bool = False, layout: str = "nchw",
    storage_order: int = 0,
) -> tuple[Array, Array]:
    """`max_pool`, and where in x each maximum stands first: i64 offsets into x flattened in row-major order (with
    `storage_order` 1: the spatial axes in column-major order). A window that sees only padding points anywhere."""
    first = _channels_first(x, layout)
    args = (kernel, strides, pads_begin, pads_end, dilations, ceil_mode)
    flat = _flat(_windows(first, lowest(x.dtype), *args), kernel)
    sizes = first.shape[2:]
    cells = np.arange(prod(sizes)).reshape(sizes, order="F" if storage_order else "C")
    where = np.broadcast_to(_flat(_windows(cells[None, None], -1, *args), kernel), flat.shape)
    values = flat.max(axis=-1)
    # Padding may hold the same value as the maximum; only a NaN differs from itself.
    hits = (where >= 0) & ((flat == values[..., None]) | (flat != flat))
    offsets = np.take_along_axis(where, hits.argmax(-1)[..., None], -1)[..., 0].astype(np.int64)
    planes = np.arange(prod(first.shape[:2])).reshape(*first.shape[:2], *[1] * len(sizes)) * cells.size
    return _restore(values, layout), _restore(offsets + planes, layout)


def _flat(views: Array, kernel: Sequence[int]) -> Array:
    """Windows [N,C,out...,k...] with the cells of each on one axis."""
    return views.reshape(*views.shape[:views.ndim - len(kernel)], prod(kernel))


@wide_op(_float_pool_type)
def avg_pool(
    x: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], ceil_mode: bool = False, count_include_pad: bool = False,
    layout: str = "nchw",
) -> Array:
    """The mean of each window over the cells inside x, or inside x and its padding (as zeros) with `count_include_pad`;
    cells that `ceil_mode` adds beyond the padding never count. A window with no cell that counts gives NaN."""
    first = _channels_first(x, layout)
    args = (kernel, strides, pads_begin, pads_end, dilations, ceil_mode)
    ones = np.ones((1, 1, *first.shape[2:]), x.dtype)
    if count_include_pad:
        ones = pad_spatial(ones, pads_begin, pads_end, 1)
        reach = pool_sizes(first.shape[2:], *args)
        after = [(n - 1) * s + (k - 1) * d + 1 - size for n, s, k, d, size in
                 zip(reach, strides, kernel, dilations, ones.shape[2:], strict=True)]
        counted = unfold(pad_spatial(ones, [0] * len(kernel), after), kernel, strides, dilations)
    else:
        counted = _windows(ones, 0, *args)
    total, count = _fold(_windows(first, 0, *args), kernel, np.add), _fold(counted, kernel, np.add)
    return _restore(total / count, layout)


@wide_op(_float_pool_type)
def lp_pool(
    x: Array, *, p: int, kernel: tuple[int, ...], strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], ceil_mode: bool = False, layout: str = "nchw",
) -> Array:
    """(sum of |x|**p over each window) ** (1/p); padding counts as zero."""
    views = _windows(np.abs(_channels_first(x, layout)) ** p, 0, kernel, strides, pads_begin, pads_end, dilations,
                     ceil_mode)
    return _restore(_fold(views, kernel, np.add) ** (1 / p), layout)
