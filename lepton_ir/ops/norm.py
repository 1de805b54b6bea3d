"""Normalisations. Statistics are computed in f64, in units in which no square overflows, and results rounded once."""
from __future__ import annotations

import numpy as np

from lepton.ir.ops.conv import channel_axis
from lepton.ir.ops.rules import check_axis, fail, fits_into, floating, one_dtype, same_dim, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type


def _tail_norm(x: Type, scale: Type, bias: Type | None = None, *, axis: int, epsilon: float) -> TensorType:
    t = tensor(x, floating)
    check_axis(axis, t)
    for parameter in (scale, bias):
        if parameter is not None:
            one_dtype(t, p := tensor(parameter))
            fits_into(p.shape, t.shape, "scale and bias", x, scale, bias)
    return t


def _units(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """x as f64 with large rows divided by a power of two, and what epsilon is divided by there: its square."""
    wide = x.astype(np.float64)
    largest = np.max(np.abs(wide), axis=axes, keepdims=True, initial=1.0)
    unit = np.exp2(np.where(np.isfinite(largest), np.frexp(largest)[1] - 1, 0))
    return wide / unit, np.square(unit)


def _standardised(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon), as f64."""
    wide, squared = _units(x, axes)
    centred = wide - wide.mean(axis=axes, keepdims=True)
    centred -= centred.mean(axis=axes, keepdims=True)  # the mean was rounded
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + np.maximum(epsilon / squared, np.finfo(np.float64).tiny)))


@wide_op(_tail_norm)
def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, axis: int, epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the axes from `axis` on; scale and bias broadcast."""
    out = _standardised(x, tuple(range(axis, x.ndim)), epsilon) * scale
    return np.asarray(out if bias is None else out + bias).astype(x.dtype)


def _rms_norm_type(x: Type, scale: Type, *, axis: int, epsilon: float) -> TensorType:
    return _tail_norm(x, scale, axis=axis, epsilon=epsilon)


@wide_op(_rms_norm_type)
def rms_norm(x: Array, scale: Array, *, axis: int, epsilon: float) -> Array:
    """x / sqrt(mean of x**2 + epsilon) * scale, over the axes from `axis` on; scale broadcasts."""
    axes = tuple(range(axis, x.ndim))
    wide, squared = _units(x, axes)
    mean = np.square(wide).mean(axis=axes, keepdims=True)
    return np.asarray(wide / np.sqrt(mean + epsilon / squared) * scale).astype(x.dtype)


def _channel_vectors(x: TensorType, axis: int, vectors: tuple[Type, ...]) -> None:
    for vector in vectors:
        v = tensor(vector, floating, rank=1)
        same_dim(v.shape[0], x.shape[axis], "sizes of a parameter and the channels", x, *vectors)


def _batch_norm_type(x: Type, scale: Type, bias: Type, mean: Type, var: Type, *, epsilon: float,
                     layout: str) -> TensorType:
    t = tensor(x, floating)
    one_dtype(t, *(tensor(p) for p in (scale, bias, mean, var)))
    _channel_vectors(t, channel_axis(layout, t), (scale, bias, mean, var))
    return t


@wide_op(_batch_norm_type)
def batch_norm(x: Array, scale: Array, bias: Array, mean: Array, var: Array, *, epsilon: float,
               layout: str = "nchw") -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias with one parameter per channel: batch norm at inference."""
    view = (1, -1, *[1] * (x.ndim - 2)) if layout == "nchw" else (-1,)
    factor = (scale / np.sqrt(var + epsilon)).reshape(view)
    return np.asarray((x - mean.reshape(view)) * factor + bias.reshape(view))


def _instance_norm_type(x: Type, scale: Type, bias: Type, *, epsilon: float) -> TensorType:
    t = tensor(x, floating, least=2)
    one_dtype(t, tensor(scale), tensor(bias))
    _channel_vectors(t, 1, (scale, bias))
    return t


@wide_op(_instance_norm_type)
def instance_norm(x: Array, scale: Array, bias: Array, *, epsilon: float) -> Array:
    """x [N,C,spatial...] normalised over each image's spatial axes, then one scale and bias per channel."""
    axes, view = tuple(range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
    out = _standardised(x, axes, epsilon)
    return np.asarray(out * scale.reshape(view) + bias.reshape(view)).astype(x.dtype)


def _group_norm_type(x: Type, scale: Type, bias: Type, *, groups: int, epsilon: float) -> TensorType:
    t = _instance_norm_type(x, scale, bias, epsilon=epsilon)
    channels = t.shape[1]
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        raise fail(f"{groups} groups do not divide the channels", x)
    return t


@wide_op(_group_norm_type)
def group_norm(x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float) -> Array:
    """x [N,C,spatial...] normalised over each group of C/groups channels and space, then scale and bias per channel."""
    view = (1, -1, *[1] * (x.ndim - 2))
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    out = _standardised(grouped, tuple(range(2, grouped.ndim)), epsilon)
    return np.asarray(out.reshape(x.shape) * scale.reshape(view) + bias.reshape(view)).astype(x.dtype)


def _lrn_type(x: Type, *, size: int, alpha: float, beta: float, bias: float, layout: str) -> TensorType:
    if size < 1:
        raise fail(f"size {size} is not positive", x)
    data = tensor(x, floating, least=2)
    channel_axis(layout, data)
    return data


@wide_op(_lrn_type)
def lrn(x: Array, *, size: int, alpha: float, beta: float, bias: float, layout: str = "nchw") -> Array:
    """x / (bias + alpha/size * s)**beta, where s sums x**2 over the `size` channels around, (size-1)//2 of them before;
    channels that do not exist count as 0."""
    before, axis = (size - 1) // 2, 1 if layout == "nchw" else x.ndim - 1
    pads = [(before, size - 1 - before) if a == axis else (0, 0) for a in range(x.ndim)]
    squares = np.lib.stride_tricks.sliding_window_view(np.pad(np.square(x), pads), size, axis=axis).sum(axis=-1)
    return np.asarray(x / (bias + alpha / size * squares) ** beta)
