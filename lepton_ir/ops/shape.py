"""Constants, counting, and what changes a tensor's shape but no element."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.dims import Dim
from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import fail, not_empty, number, one_dtype, same_dim, size_is, tensor
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType, Type

V = Trait.VIEW


def _constant_type(*, value: Tensor) -> TensorType:
    return value.type


@op(_constant_type, Trait.CONSTANT)
def constant(*, value: Tensor) -> Array:
    """The elements of `value`."""
    return value.array


def _shape_values_type(*, dims: tuple[Dim, ...], scalar: bool) -> TensorType:
    if scalar and len(dims) != 1:
        raise fail(f"a scalar holds one dimension, not {len(dims)}")
    return TensorType(DType.I64, () if scalar else (len(dims),))


@op(_shape_values_type)
def shape_values(*, dims: tuple[Dim, ...], scalar: bool = False) -> Array:
    """The dimensions as data: i64[len(dims)], or i64[] for a `scalar`."""
    return np.asarray(dims[0] if scalar else dims, np.int64).reshape(() if scalar else (len(dims),))


def _read_sizes_type(x: Type, *, symbols: tuple[str, ...]) -> TensorType:
    t = tensor(x, rank=1)
    if t.dtype is not DType.I64 or t.shape != (len(symbols),):
        raise fail(f"sizes are read from i64[{len(symbols)}], one for each symbol", x)
    return t


@op(_read_sizes_type, Trait.SIZES)
def read_sizes(x: Array, *, symbols: tuple[str, ...]) -> Array:
    """x, whose elements become the sizes that `symbols` name: sizes that come from data. None may be negative."""
    if (x < 0).any():
        raise ValueError(f"{x.tolist()} are no sizes")
    return x


def _iota_type(*, size: Dim, dtype: DType) -> TensorType:
    if not number(dtype):
        raise fail(f"cannot count in {dtype.value}")
    return TensorType(dtype, (size_is(size, "the result"),))


@op(_iota_type)
def iota(*, size: Dim, dtype: DType) -> Array:
    """0, 1, 2, … as dtype[size]."""
    assert isinstance(size, int)
    return np.arange(size).astype(dtype.numpy)


def _range_type(start: Type, limit: Type, delta: Type, *, symbol: str) -> TensorType:
    dtype = one_dtype(*(tensor(t, number, rank=0) for t in (start, limit, delta)))
    return TensorType(dtype, (dims.sym(symbol),))


@op(_range_type)
def range_(start: Array, limit: Array, delta: Array, *, symbol: str) -> Array:
    """start + i*delta for i = 0, 1, … below `limit` (above it where delta < 0): max(0, ceil((limit-start)/delta))
    elements, a size known only when the model runs, named `symbol`. A delta of 0 gives none. Floats count in f64."""
    if delta == 0:
        return np.empty(0, start.dtype)
    if start.dtype.kind in "iu":
        count = max(0, -((int(start) - int(limit)) // int(delta)))
        return np.asarray(start + np.arange(count).astype(start.dtype) * delta)
    first, last, step = (np.float64(v) for v in (start, limit, delta))
    count = max(0, int(np.ceil((last - first) / step)))
    return (first + np.arange(count) * step).astype(start.dtype)


# --- views ----------------------------------------------------------------------------------------


def _reshape_type(x: Type, *, shape: tuple[Dim, ...]) -> TensorType:
    t = tensor(x)
    for d in shape:
        size_is(d, "the result")
    if dims.unify(t.size, dims.product(shape)) is None:
        raise fail(f"{t.size} elements do not make the shape {_text(shape)}", x)
    return t.with_shape(shape)


@op(_reshape_type, V)
def reshape(x: Array, *, shape: tuple[Dim, ...]) -> Array:
    """The same elements in row-major order under another shape."""
    return x.reshape(shape)


def _transpose_type(x: Type, *, perm: tuple[int, ...]) -> TensorType:
    t = tensor(x)
    if sorted(perm) != list(range(t.rank)):
        raise fail(f"{_text(perm)} does not permute the axes", x)
    return t.with_shape([t.shape[p] for p in perm])


@op(_transpose_type, V)
def transpose(x: Array, *, perm: tuple[int, ...]) -> Array:
    """Axis i of the result is axis perm[i] of x."""
    return x.transpose(perm)


def _broadcast_to_type(x: Type, *, shape: tuple[Dim, ...]) -> TensorType:
    t = tensor(x)
    if t.rank > len(shape):
        raise fail("the operand has too high a rank", x)
    for a, b in zip(t.shape, shape[len(shape) - t.rank:], strict=True):
        same_dim(dims.stretch(a, b), b, "sizes of the operand and of the result", x)
    return t.with_shape(shape)


@op(_broadcast_to_type, V)
def broadcast_to(x: Array, *, shape: tuple[Dim, ...]) -> Array:
    """Repeat along axes of size 1 and new leading axes, as numpy does. The shape is the result's exactly; where a size
    is open, whether it is 1 is seen when the model runs."""
    sizes: Any = shape  # numbers by now
    return np.broadcast_to(x, sizes)


def _slice_type(x: Type, *, starts: Sequence[Dim], sizes: Sequence[Dim], steps: Sequence[int]) -> TensorType:
    t = tensor(x)
    if not len(starts) == len(sizes) == len(steps) == t.rank or 0 in steps:
        raise fail("slice needs a start, a size and a step other than 0 for each axis", x)
    for axis, (start, size, step, n) in enumerate(zip(starts, sizes, steps, t.shape, strict=True)):
        size_is(size, f"axis {axis}")
        if size == 0:
            continue
        if any(_outside(place, n) for place in (start, start + (size - 1) * step)):
            raise fail(f"slice of {size} from {start} by {step} leaves axis {axis}", x)
        if isinstance(size, int) or dims.symbols(size) & dims.symbols(n):
            not_empty(n, size, "slice", x)  # importers take inputs for non-empty: the last of none is one element
    return t.with_shape(sizes)


def _outside(place: Dim, size: Dim) -> bool:
    """Whether an index is certainly outside [0, size)."""
    room = size - place
    return (isinstance(place, int) and place < 0) or (isinstance(room, int) and room <= 0)


@op(_slice_type, V)
def slice_(x: Array, *, starts: tuple[Dim, ...], sizes: tuple[Dim, ...], steps: tuple[int, ...]) -> Array:
    """Element i along axis a of the result is x's element starts[a] + i*steps[a]; steps may be negative."""
    index = []
    for start, size, step in zip(starts, sizes, steps, strict=True):
        assert isinstance(start, int)
        assert isinstance(size, int)
        stop = start + size * step
        index.append(slice(start, stop if stop >= 0 else None, step) if size else slice(0, 0))
    return x[tuple(index)]


def _text(entries: Sequence[Dim]) -> str:
    return f"({', '.join(map(str, entries))})"
