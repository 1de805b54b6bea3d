"""Convolutions: any number of spatial axes, by unfolding into one matrix product per group."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.op import op
from lepton.ir.ops.matmul import eight_bits
from lepton.ir.ops.rules import fail, fits_into, floating, one_dtype, same_dim, size_is, tensor, wide_op, windows
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

LAYOUTS = ("nchw", "nhwc")


def channel_axis(layout: str, x: TensorType) -> int:
    """Where the channels are. Raises TypeRuleError for an unknown layout or a rank below 2."""
    if layout not in LAYOUTS or x.rank < 2:
        raise fail(f"layout {layout!r} does not apply", x)
    return 1 if layout == "nchw" else x.rank - 1


def spatial(layout: str, x: TensorType) -> tuple[Dim, ...]:
    """The sizes of the spatial axes."""
    return x.shape[2:] if channel_axis(layout, x) == 1 else x.shape[1:-1]


def assemble(layout: str, batch: Dim, channels: Dim, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
    return (batch, channels, *sizes) if layout == "nchw" else (batch, *sizes, channels)


def check_lengths(rank: int, what: TensorType, *lists: Sequence[Any]) -> None:
    """Each attribute list has one entry per spatial axis."""
    if any(len(entries) != rank for entries in lists):
        raise fail(f"attributes need {rank} entries, one per spatial axis", what)


def _bias(channels: Dim, x: TensorType, b: Type | None) -> None:
    if b is not None:
        bias = tensor(b, rank=1)
        one_dtype(x, bias)
        same_dim(bias.shape[0], channels, "sizes of bias and output channels", x, b)


def _static_kernel(w: TensorType) -> tuple[int, ...]:
    kernel = tuple(d for d in w.shape[2:] if isinstance(d, int) and d > 0)
    if len(kernel) != w.rank - 2:
        raise fail("the kernel's spatial sizes must be known and positive", w)
    return kernel


def conv_shape(x: TensorType, w: TensorType, *, strides: Sequence[int], pads_begin: Sequence[Dim],
               pads_end: Sequence[Dim], dilations: Sequence[int], group: int, layout: str) -> tuple[Dim, ...]:
    """Shape of a convolution's result. Raises TypeRuleError."""
    axis, sizes, kernel = channel_axis(layout, x), spatial(layout, x), _static_kernel(w)
    check_lengths(len(sizes), x, kernel, strides, pads_begin, pads_end, dilations)
    filters = w.shape[0]
    if group < 1 or (isinstance(filters, int) and filters % group) or min((*strides, *dilations), default=1) < 1:
        raise fail(f"group {group}, strides {strides} or dilations {dilations} do not fit", x, w)
    if dims.unify(x.shape[axis], w.shape[1] * group) is None:
        raise fail(f"the input has {x.shape[axis]} channels, the weight expects {w.shape[1] * group}", x, w)
    out = [size_is(windows(s, k, st, d, pb + pe), "the output")
           for s, k, st, d, pb, pe in zip(sizes, kernel, strides, dilations, pads_begin, pads_end, strict=True)]
    return assemble(layout, x.shape[0], filters, out)


def _conv_type(x: Type, w: Type, b: Type | None = None, **attrs: Any) -> TensorType:
    data, weight = tensor(x, floating), tensor(w, floating)
    dtype = one_dtype(data, weight)
    _bias(weight.shape[0], data, b)
    return TensorType(dtype, conv_shape(data, weight, **attrs))


@wide_op(_conv_type)
def conv(
    x: Array, w: Array, b: Array | None = None, *, strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], group: int = 1, layout: str = "nchw",
) -> Array:
    """Cross-correlation: x [N,C,spatial...] (nhwc: [N,spatial...,C]), w always [O,C/group,k...], b [O].

    out[n,o,p] = b[o] + sum over c, k of x[n, c, p*stride + k*dilation - pad_begin] * w[o,c,k]; outside x is 0. Sizes:
    (in + pads - dilation*(k-1) - 1) // stride + 1. Negative pads crop. The order of summation is not defined."""
    first = x if layout == "nchw" else np.moveaxis(x, -1, 1)
    out = convolve(first, w, strides=strides, pads_begin=pads_begin, pads_end=pads_end, dilations=dilations,
                   group=group)
    if b is not None:
        out = out + b.reshape(1, -1, *[1] * (x.ndim - 2))
    return out if layout == "nchw" else np.ascontiguousarray(np.moveaxis(out, 1, -1))


def convolve(x: Array, w: Array, *, strides: Sequence[int], pads_begin: Sequence[Dim], pads_end: Sequence[Dim],
             dilations: Sequence[int], group: int) -> Array:
    """Convolution of [N,C,spatial...]; one image at a time, which bounds the unfolded copy."""
    x = pad_spatial(x, pads_begin, pads_end)
    kernel, filters = w.shape[2:], w.shape[0]
    views = unfold(x, kernel, strides, dilations)
    sizes = views.shape[2:2 + len(kernel)]
    rank = len(kernel)
    weights = w.reshape(group, filters // group, prod(w.shape[1:]))
    out = np.empty((x.shape[0], group, filters // group, prod(sizes)), np.result_type(x, w))
    order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))  # [C, k..., out...]
    for n in range(x.shape[0]):
        columns = views[n].transpose(order).reshape(group, weights.shape[2], prod(sizes))
        np.matmul(weights, columns, out=out[n])
    return out.reshape(x.shape[0], filters, *sizes)


def _number(dim: Dim) -> int:
    """References see numbers only: the interpreter has replaced the symbols."""
    assert isinstance(dim, (int, np.integer)), dim
    return int(dim)


def pad_spatial(x: Array, begin: Sequence[Dim], end: Sequence[Dim], value: Any = 0) -> Array:
    """Surround the axes from 2 on by `value`; negative pads crop."""
    widths = [(_number(b), _number(e)) for b, e in zip(begin, end, strict=True)]
    crop = tuple(slice(max(0, -b), n - max(0, -e)) for (b, e), n in zip(widths, x.shape[2:], strict=True))
    x = x[(slice(None), slice(None), *crop)]
    grow = [(max(0, b), max(0, e)) for b, e in widths]
    return np.pad(x, [(0, 0), (0, 0), *grow], constant_values=value) if any(map(any, grow)) else x


def unfold(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """The windows of [N,C,spatial...] as a view [N,C,out...,k...]."""
    rank = len(kernel)
    if not rank:
        return x
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    room = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    if min(room) < 0:
        raise ValueError(f"windows reaching over {reach} do not fit into {list(x.shape[2:])}")
    if min(room) == 0:
        return np.zeros((*x.shape[:2], *room, *kernel), x.dtype)
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    index: Any = (..., *[slice(None, None, step) for step in (*strides, *dilations)])
    return np.asarray(views[index])


# --- transposed -----------------------------------------------------------------------------------


def _conv_transpose_type(
    x: Type, w: Type, b: Type | None = None, *, strides: Sequence[int], pads_begin: Sequence[Dim],
    pads_end: Sequence[Dim], dilations: Sequence[int], output_padding: Sequence[int], group: int, layout: str,
) -> TensorType:
    data, weight = tensor(x, floating), tensor(w, floating)
    axis, sizes, kernel = channel_axis(layout, data), spatial(layout, data), _static_kernel(weight)
    check_lengths(len(sizes), data, kernel, strides, pads_begin, pads_end, dilations, output_padding)
    channels = same_dim(data.shape[axis], weight.shape[0], "channels of input and weight", x, w)
    if group < 1 or (isinstance(channels, int) and channels % group):
        raise fail(f"group {group} does not divide the channels", x, w)
    filters = weight.shape[1] * group
    _bias(filters, data, b)
    out = [size_is((s - 1) * st + (k - 1) * d + 1 + extra - pb - pe, "the output") for s, k, st, d, extra, pb, pe in
           zip(sizes, kernel, strides, dilations, output_padding, pads_begin, pads_end, strict=True)]
    return TensorType(one_dtype(data, weight), assemble(layout, data.shape[0], filters, out))


@wide_op(_conv_transpose_type)
def conv_transpose(
    x: Array, w: Array, b: Array | None = None, *, strides: tuple[int, ...], pads_begin: tuple[Dim, ...],
    pads_end: tuple[Dim, ...], dilations: tuple[int, ...], output_padding: tuple[int, ...], group: int = 1,
    layout: str = "nchw",
) -> Array:
    """The gradient of a convolution: x [N,C,spatial...], w [C,O/group,k...], b [O].

    x[n,c,p] * w[c,o,k] is added to out[n, o, p*stride + k*dilation - pad_begin]; what falls outside is dropped. Sizes:
    (in-1)*stride + dilation*(k-1) + 1 + output_padding - pads."""
    first = x if layout == "nchw" else np.moveaxis(x, -1, 1)
    batch, channels, *sizes = first.shape
    kernel, rank = w.shape[2:], len(sizes)
    weights = w.reshape(group, channels // group, prod(w.shape[1:])).swapaxes(1, 2)
    columns = np.matmul(weights, first.reshape(batch, group, channels // group, prod(sizes)))
    columns = columns.reshape(batch, group * w.shape[1], *kernel, *sizes)
    full = [(n - 1) * s + (k - 1) * d + 1 + p if n else (k - 1) * d + p
            for n, s, k, d, p in zip(sizes, strides, kernel, dilations, output_padding, strict=True)]
    out = np.zeros((batch, group * w.shape[1], *map(max, full, [0] * rank)), columns.dtype)
    for offset in product(*map(range, kernel)):
        place = tuple(slice(o * d, o * d + (n - 1) * s + 1, s) if n else slice(0, 0)
                      for o, d, n, s in zip(offset, dilations, sizes, strides, strict=True))
        out[(slice(None), slice(None), *place)] += columns[(slice(None), slice(None), *offset)]
    negated = [[-p for p in pads] for pads in (pads_begin, pads_end)]
    out = pad_spatial(out, *negated)
    if b is not None:
        out = out + b.reshape(1, -1, *[1] * rank)
    return out if layout == "nchw" else np.ascontiguousarray(np.moveaxis(out, 1, -1))


# --- integers -------------------------------------------------------------------------------------


def _conv_integer_type(x: Type, w: Type, zx: Type | None = None, zw: Type | None = None, **attrs: Any) -> TensorType:
    data, weight = tensor(x, eight_bits), tensor(w, eight_bits)
    if zx is not None:
        one_dtype(data, tensor(zx, rank=0))
    if zw is not None:
        one_dtype(weight, zero := tensor(zw))
        fits_into(zero.shape, (weight.shape[0],), "the weight's zero point", x, w, zx, zw)
    return TensorType(DType.I32, conv_shape(data, weight, **attrs))


@op(_conv_integer_type)
def conv_integer(
    x: Array, w: Array, zx: Array | None = None, zw: Array | None = None, *, strides: tuple[int, ...],
    pads_begin: tuple[Dim, ...], pads_end: tuple[Dim, ...], dilations: tuple[int, ...], group: int = 1,
    layout: str = "nchw",
) -> Array:
    """`conv` of the 8-bit integers x - zx and w - zw, summed in i32; padding counts as zx, hence as zero. zw is a
    scalar or one per output channel. Computed in f64, which is exact below 2**53; i32 wraps."""
    data = x.astype(np.float64) - (0 if zx is None else zx)
    offset = np.float64(0) if zw is None else zw.astype(np.float64).reshape(-1, *[1] * (w.ndim - 1))
    first = data if layout == "nchw" else np.moveaxis(data, -1, 1)
    out = convolve(first, w.astype(np.float64) - offset, strides=strides, pads_begin=pads_begin, pads_end=pads_end,
                   dilations=dilations, group=group).astype(np.int64).astype(np.int32)
    return out if layout == "nchw" else np.ascontiguousarray(np.moveaxis(out, 1, -1))
