"""Reading and writing elements by index.

A negative index counts from the end. An index outside [-size, size) is an error here (IndexError); compiled code clamps
it for reads and skips it for writes."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.op import op
from lepton.ir.ops.elementwise import convert
from lepton.ir.ops.rules import (
    anything,
    check_axis,
    fail,
    index_type,
    no_longer,
    not_empty,
    number,
    one_dtype,
    same_dim,
    same_shape,
    tensor,
)
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

REDUCTIONS = ("none", "add", "mul", "max", "min")


def _gather_type(x: Type, indices: Type, *, axis: int) -> TensorType:
    t, i = tensor(x), tensor(indices, index_type)
    check_axis(axis, t)
    not_empty(t.shape[axis], dims.product(i.shape), "gather", x, indices)
    return t.with_shape((*t.shape[:axis], *i.shape, *t.shape[axis + 1:]))


@op(_gather_type)
def gather(x: Array, indices: Array, *, axis: int) -> Array:
    """x's slices along the axis, chosen by `indices` (i32 or i64, any shape, which takes the axis' place)."""
    return np.take(x, in_range(indices, x.shape[axis]), axis=axis)


def in_range(indices: Array, size: int) -> Array:
    """The indices as i64 >= 0. Raises IndexError for one outside [-size, size)."""
    i = indices.astype(np.int64)
    if i.size and (i.min() < -size or i.max() >= size):
        bad = i[(i < -size) | (i >= size)].flat[0]
        raise IndexError(f"index {bad} is outside an axis of size {size}")
    return np.where(i < 0, i + size, i)


def _gather_elements_type(x: Type, indices: Type, *, axis: int) -> TensorType:
    t, i = tensor(x), tensor(indices, index_type)
    check_axis(axis, t)
    if i.rank != t.rank:
        raise fail("ranks of data and indices differ", x, indices)
    _within(t, i, axis)
    return t.with_shape(i.shape)


def _within(t: TensorType, i: TensorType, axis: int) -> None:
    """Indices along the axis need something to choose from, and are no longer than the data on the others."""
    not_empty(t.shape[axis], dims.product(i.shape), "choose", t, i)
    for a, (many, size) in enumerate(zip(i.shape, t.shape, strict=True)):
        if a != axis:
            no_longer(many, size, f"more indices than elements along axis {a}", t, i)


@op(_gather_elements_type)
def gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    """out[i,j,k] = x[i, indices[i,j,k], k] for axis 1. On the other axes `indices` may be shorter than x."""
    return x[mesh(indices, axis, x.shape)]


def mesh(indices: Array, axis: int, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Index arrays that pick, at each place of `indices`, that place with its axis replaced by the index."""
    own = list(np.ogrid[tuple(slice(0, n) for n in indices.shape)])
    own[axis] = in_range(indices, shape[axis])
    return tuple(own)


def _gather_nd_type(x: Type, indices: Type, *, batch_dims: int) -> TensorType:
    t, i = tensor(x, least=1), tensor(indices, index_type, least=1)
    depth = i.shape[-1]
    if not isinstance(depth, int) or batch_dims < 0 or batch_dims + depth > t.rank or batch_dims >= i.rank:
        raise fail("the last axis of the indices must have a known size that fits the data's rank", x, indices)
    batch = same_shape(t.shape[:batch_dims], i.shape[:batch_dims], "batches", x, indices)
    for size in t.shape[batch_dims:batch_dims + depth]:
        not_empty(size, dims.product(i.shape[:-1]), "gather", x, indices)
    return t.with_shape((*batch, *i.shape[batch_dims:-1], *t.shape[batch_dims + depth:]))


@op(_gather_nd_type)
def gather_nd(x: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    """Each last-axis vector of `indices` names a slice of x, after the leading `batch_dims` axes they share."""
    batch = np.ogrid[tuple(slice(0, n) for n in indices.shape[:batch_dims])] if batch_dims else ()
    free = indices.ndim - 1 - batch_dims
    own = [np.asarray(b).reshape(*np.asarray(b).shape, *[1] * free) for b in batch]
    return np.asarray(x[(*own, *_columns(indices, x.shape[batch_dims:]))])


def _columns(indices: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(in_range(indices[..., k], sizes[k]) for k in range(indices.shape[-1]))


def _check_reduction(x: TensorType, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise fail(f"reduction {reduction!r} is none of {', '.join(REDUCTIONS)}", x)
    if reduction != "none" and not number(x.dtype):
        raise fail(f"cannot {reduction} elements", x)


def _scatter_elements_type(x: Type, indices: Type, updates: Type, *, axis: int, reduction: str) -> TensorType:
    t, i, u = tensor(x), tensor(indices, index_type), tensor(updates)
    one_dtype(t, u)
    check_axis(axis, t)
    _check_reduction(t, reduction)
    same_shape(i.shape, u.shape, "shapes of indices and updates", x, indices, updates)
    if i.rank != t.rank:
        raise fail("ranks of data and indices differ", x, indices, updates)
    _within(t, i, axis)
    return t


@op(_scatter_elements_type)
def scatter_elements(x: Array, indices: Array, updates: Array, *, axis: int, reduction: str = "none") -> Array:
    """A copy of x where place [i, indices[i,j,k], k] (axis 1) is replaced by updates[i,j,k], or combined with it.

    With "none" the last of several updates to one place, in row-major order, wins. max and min pass NaN on."""
    return scatter(x, mesh(indices, axis, x.shape), updates, reduction)


def _scatter_nd_type(x: Type, indices: Type, updates: Type, *, reduction: str) -> TensorType:
    t, i, u = tensor(x, least=1), tensor(indices, index_type, least=1), tensor(updates)
    one_dtype(t, u)
    _check_reduction(t, reduction)
    depth = i.shape[-1]
    if not isinstance(depth, int) or depth > t.rank:
        raise fail("the last axis of the indices must have a known size that fits the data's rank", x, indices, updates)
    same_shape(u.shape, (*i.shape[:-1], *t.shape[depth:]), "shape of updates and places", x, indices, updates)
    for size in t.shape[:depth]:
        not_empty(size, dims.product(i.shape[:-1]), "scatter", x, indices)
    return t


@op(_scatter_nd_type)
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    """A copy of x where the slice that each last-axis vector of `indices` names is replaced by, or combined with, its
    slice of `updates`. With "none" the last of several updates to one place wins. max and min pass NaN on."""
    return scatter(x, _columns(indices, x.shape), updates, reduction)


def scatter(x: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    """x with `updates` combined into the places `where`; narrow floats combine in their own type."""
    out = np.array(x)
    if reduction == "none":
        if where:
            out[where] = updates
            return out
        return np.array(updates.reshape(-1, *x.shape)[-1]) if updates.size else out
    combine: Any = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    combine.at(out, where, updates)
    return out


def _one_hot_type(indices: Type, on_off_values: Type, *, depth: Dim, axis: int) -> TensorType:
    i, values = tensor(indices, number), tensor(on_off_values, anything, rank=1)
    same_dim(values.shape[0], 2, "sizes of the values and a pair", indices, on_off_values)
    if not 0 <= axis <= i.rank:
        raise fail(f"axis {axis} does not exist in the result", indices)
    return TensorType(values.dtype, (*i.shape[:axis], depth, *i.shape[axis:]))


@op(_one_hot_type)
def one_hot(indices: Array, on_off_values: Array, *, depth: Dim, axis: int) -> Array:
    """A new axis of size `depth` holding on_off_values[1] ("on") at the index and on_off_values[0] ("off") elsewhere
    (ONNX's order: off, on). Negative indices count from `depth`; one outside [-depth, depth) is off throughout."""
    assert isinstance(depth, int)
    i = convert(indices, DType.I64)
    i = np.expand_dims(np.where(i < 0, i + depth, i), axis)
    places = np.arange(depth).reshape([-1 if a == axis else 1 for a in range(i.ndim)])
    return np.asarray(np.where(places == i, on_off_values[1], on_off_values[0]))


def _top_k_type(x: Type, *, k: Dim, axis: int, largest: bool, sorted: bool) -> tuple[TensorType, TensorType]:
    t = tensor(x, number)
    n = t.shape[check_axis(axis, t)]
    if isinstance(left := n - k, int) and left < 0:
        raise fail(f"top {k} of {n} elements", x)
    same_dim(dims.dim_min(k, n), k, "what is asked for and what there is", x)
    values = t.with_shape([k if a == axis else d for a, d in enumerate(t.shape)])
    return values, values.with_dtype(DType.I64)


@op(_top_k_type)
def top_k(x: Array, *, k: Dim, axis: int, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:
    """The k largest (or least) elements along the axis, in that order, and where they stand.

    Of equals the one with the lower index comes first. NaN counts as larger than all. Not `sorted`: any order."""
    assert isinstance(k, int)
    keys = x if x.dtype.isbuiltin == 1 else x.astype(np.float32)  # others do not sort NaN
    if largest:
        flipped = np.argsort(np.flip(keys, axis), axis=axis, kind="stable")
        order = x.shape[axis] - 1 - np.flip(flipped, axis)
    else:
        order = np.argsort(keys, axis=axis, kind="stable")
    chosen = np.take(order, np.arange(k), axis=axis).astype(np.int64)
    return np.take_along_axis(x, chosen, axis), chosen


def _non_zero_type(x: Type, *, symbol: str) -> TensorType:
    return TensorType(DType.I64, (tensor(x).rank, dims.sym(symbol)))


@op(_non_zero_type)
def non_zero(x: Array, *, symbol: str) -> Array:
    """The indices of the elements other than zero (NaN is other), in row-major order: i64[rank, n], where n is known
    only when the model runs and named `symbol`."""
    return np.argwhere(x).astype(np.int64).T.reshape(x.ndim, -1) if x.ndim else np.zeros((0, int(x != 0)), np.int64)
