"""Categories of ai.onnx.ml: LabelEncoder, CategoryMapper, OneHotEncoder. Keys are looked up exactly; NaN equals NaN."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml_scores import texts
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array
from lepton.ir.types import DType

_ML = "ai.onnx.ml"
_COMPARED = 64          # keys: up to here every element is compared with all
_MOST = 1 << 16


@imports("LabelEncoder", domain=_ML)
def class_names_or_numbers(c: Call) -> Value:
    """Strings to their places among the classes, or places to strings."""
    names = texts(c.strings("classes_strings", REQUIRED))
    return _names_and_numbers(c, names, np.arange(len(names)))


@imports("CategoryMapper", domain=_ML)
def category_mapper(c: Call) -> Value:
    """Strings to the numbers that stand at the same place, or numbers to strings."""
    return _names_and_numbers(c, texts(c.strings("cats_strings", REQUIRED)), np.array(c.ints("cats_int64s", REQUIRED)))


def _names_and_numbers(c: Call, names: Array, numbers: Array) -> Value:
    x, unknown_number, unknown_name = c.x(), c.i("default_int64", -1), c.s("default_string", "_Unused")
    if x.tensor.dtype is DType.STRING:
        return mapped(c, x, names, numbers.astype(np.int64), unknown_number)
    return mapped(c, c.cast(x, DType.I64), numbers.astype(np.int64), names, unknown_name)


@imports("LabelEncoder", domain=_ML, since=2)
def label_encoder(c: Call) -> Value:
    """The value at each element's key, or the default."""
    keys, values = _table(c, "keys"), _table(c, "values")
    return mapped(c, c.x(), keys, values, _default(c, values))


def mapped(c: Call, x: Value, keys: Array, values: Array, default: Any) -> Value:
    """values[i] where an element of x equals keys[i], the first such i; `default` where it equals none."""
    if len(keys) != len(values) or not len(keys):
        raise LeptonError(f"{len(keys)} keys for {len(values)} values", where=c.where)
    if len(keys) > _MOST:
        c.fail(f"{len(keys)} keys")
    dtype = x.tensor.dtype
    if (dtype is DType.STRING) != (keys.dtype == object):
        raise LeptonError(f"keys of type {DType.of(keys).value} for {x.tensor}", where=c.where)
    keys = keys if dtype is DType.STRING else keys.astype(dtype.numpy)
    at, found = _place(c, x, keys) if _orders(keys) else _compared(c, x, keys)
    if _orders(keys):
        order = _sorted(keys)
        values = values[order]
    chosen = c(ops.gather, c.const(values), at, axis=0)
    other = c.const(texts([default])[0:1].reshape(())) if values.dtype == object else c.like(default, chosen)
    return c(ops.where, found, chosen, other)


def _orders(keys: Array) -> bool:
    """Whether keys are searched by halving: many, and ordered."""
    return len(keys) > _COMPARED and keys.dtype != object and not (keys.dtype.kind == "f" and np.isnan(keys).any())


def _sorted(keys: Array) -> Array:
    """The places of the distinct keys in ascending order, the first of equal ones."""
    return np.unique(keys, return_index=True)[1]


def _compared(c: Call, x: Value, keys: Array) -> tuple[Value, Value]:
    """(place, whether there is one) by comparing every element with all keys."""
    apart, table = c.reshape(x, (*x.tensor.shape, 1)), c.const(keys)
    same = c(ops.equal, apart, table)
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        same = c(ops.logical_or, same, c(ops.logical_and, c(ops.is_nan, apart), c(ops.is_nan, table)))
    axis, one = x.tensor.rank, c.cast(same, DType.I32)
    found = c(ops.reduce_max, one, axes=(axis,), keepdims=False)
    return c(ops.arg_max, one, axis=axis), c(ops.equal, found, c.const(1, DType.I32))


def _place(c: Call, x: Value, keys: Array) -> tuple[Value, Value]:
    """(place among the sorted distinct keys, whether it is equal) by halving; the table is padded to a power of two."""
    distinct = np.unique(keys)
    half = 1 << (len(distinct) - 1).bit_length() - 1
    table = c.const(np.concatenate([distinct, np.repeat(distinct[-1:], 2 * half - len(distinct))]))
    at = c(ops.broadcast_to, c.const(0, DType.I64), shape=x.tensor.shape)
    step = half
    while step:
        further = c(ops.add, at, c.const(step, DType.I64))
        reached = c(ops.less_equal, c(ops.gather, table, further, axis=0), x)
        at, step = c(ops.where, reached, further, at), step // 2
    found = c(ops.equal, c(ops.gather, table, at, axis=0), x)
    return c(ops.minimum, at, c.const(len(distinct) - 1, DType.I64)), found


def _table(c: Call, name: str) -> Array:
    if c.has(f"{name}_tensor"):
        tensor = c.t(f"{name}_tensor")
        assert tensor is not None
        return tensor.array.reshape(-1)
    if c.has(f"{name}_strings"):
        return texts(c.strings(f"{name}_strings"))
    if c.has(f"{name}_int64s"):
        return np.array(c.ints(f"{name}_int64s"), np.int64)
    return np.array(c.floats(f"{name}_floats", REQUIRED), np.float32)


def _default(c: Call, values: Array) -> Any:
    """What an unknown key gives: by the type of the values."""
    c.ignore("default_string", "default_int64", "default_float")
    if c.has("default_tensor"):
        tensor = c.t("default_tensor")
        assert tensor is not None
        if DType.of(tensor.array) is not DType.of(values) or tensor.array.size != 1:
            raise LeptonError(f"default_tensor {tensor.type} for values of {DType.of(values).value}", where=c.where)
        return tensor.array.reshape(-1).tolist()[0]
    if values.dtype == object:
        return c.s("default_string", "_Unused")
    return c.i("default_int64", -1) if values.dtype.kind == "i" else c.f("default_float", -0.0)


@imports("OneHotEncoder", domain=_ML)
def one_hot_encoder(c: Call) -> Value:
    """x [...] -> f32[..., categories]: 1 at its category. A value that is none gives zeros; with zeros=0 a model says
    that there is no such value (ONNX Runtime stops the run; compiled code cannot)."""
    names, numbers = c.strings("cats_strings", ()), c.ints("cats_int64s", ())
    c.ignore("zeros")
    if bool(names) == bool(numbers):
        raise LeptonError(f"{len(names)} cats_strings and {len(numbers)} cats_int64s", where=c.where)
    x = c.x()
    if bool(names) != (x.tensor.dtype is DType.STRING):
        raise LeptonError(f"categories of {'strings' if names else 'numbers'} for {x.tensor}", where=c.where)
    return _one_hot(c, x, names or numbers)


def _one_hot(c: Call, x: Value, categories: Sequence[Any]) -> Value:
    if isinstance(categories[0], str):
        table, apart = c.const(texts(categories)), x
    else:   # as ONNX Runtime: floats are cut to whole numbers
        table, apart = c.const(categories, DType.I64), c.cast(x, DType.I64)
    return c.cast(c(ops.equal, c.reshape(apart, (*x.tensor.shape, 1)), table), DType.F32)
