"""ai.onnx.ml: scaling, filling, linear models, labels. Sequences of maps have no place in the graph."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType

_ML = "ai.onnx.ml"


def floats_of(c: Call, name: str) -> tuple[float, ...]:
    """Floats from an attribute, or from its newer form as a tensor; none where it is absent."""
    if c.has(f"{name}_as_tensor"):
        tensor = c.t(f"{name}_as_tensor")
        assert tensor is not None
        return tuple(tensor.array.reshape(-1).tolist())
    found: tuple[float, ...] = c.floats(name, ())
    return found


def transformed(c: Call, x: Value) -> Value:
    """The attribute post_transform applied to scores [N, classes]."""
    kind = c.s("post_transform", "NONE")
    match kind:
        case "NONE":
            return x
        case "LOGISTIC":
            return c(ops.sigmoid, x)
        case "SOFTMAX":
            return c(ops.softmax, x, axis=1)
    c.fail(f"post_transform {kind!r}")


def labelled(c: Call, total: Value, labels: Sequence[int]) -> list[Value]:
    """The label of the largest score, and the scores."""
    best = c(ops.arg_max, total, axis=1)
    return [c(ops.gather, c.const(labels, DType.I64), best, axis=0), transformed(c, total)]


def _real(c: Call) -> Value:
    return c.x() if c.x().tensor.dtype.is_float else c.cast(c.x(), DType.F32)


@imports("Scaler", domain=_ML)
def scaler(c: Call) -> Value:
    """(x - offset) * scale, in f32."""
    x = c.cast(c.x(), DType.F32)
    offset, scale = c.floats("offset", (0.0,)), c.floats("scale", (1.0,))
    return c(ops.mul, c(ops.sub, x, c.const(offset, DType.F32)), c.const(scale, DType.F32))


@imports("Normalizer", domain=_ML)
def normalizer(c: Call) -> Value:
    """Each row over its largest element, its sum of sizes, or its length; zero rows stay."""
    x, norm = c.cast(c.x(), DType.F32), c.s("norm", "MAX")
    axis = (x.tensor.rank - 1,)
    match norm:
        case "MAX":
            size = c(ops.reduce_max, x, axes=axis, keepdims=True)
        case "L1":
            size = c(ops.reduce_sum, c(ops.abs_, x), axes=axis, keepdims=True)
        case "L2":
            size = c(ops.sqrt, c(ops.reduce_sum, c(ops.mul, x, x), axes=axis, keepdims=True))
        case _:
            raise LeptonError(f"norm {norm!r}", where=c.where)
    return c(ops.div, x, c(ops.where, c(ops.equal, size, c.like(0, size)), c.like(1, size), size))


@imports("Binarizer", domain=_ML)
def binarizer(c: Call) -> Value:
    return c.cast(c(ops.greater, c.x(), c.like(c.f("threshold", 0.0), c.x())), c.x().tensor.dtype)


@imports("Imputer", domain=_ML)
def imputer(c: Call) -> Value:
    """The value that stands for "missing" replaced, column by column or all by one."""
    x = c.x()
    floating = x.tensor.dtype.is_float
    kind, default = ("float", 0.0) if floating else ("int64", 0)
    new = c.floats("imputed_value_floats", ()) if floating else c.ints("imputed_value_int64s", ())
    old = c.f(f"replaced_value_{kind}", default) if floating else c.i(f"replaced_value_{kind}", default)
    if not new:
        raise LeptonError(f"no values to put into {x.tensor}", where=c.where)
    missing = c(ops.is_nan, x) if floating and np.isnan(old) else c(ops.equal, x, c.like(old, x))
    return c(ops.where, missing, c.const(new, x.tensor.dtype), x)


@imports("ArrayFeatureExtractor", domain=_ML)
def array_feature_extractor(c: Call) -> Value:
    """The chosen elements of the last axis."""
    x, places = c.x(0), c.x(1)
    x = c.reshape(x, (1, *x.tensor.shape)) if x.tensor.rank == 1 else x
    return c(ops.gather, x, c.reshape(places, (places.tensor.size,)), axis=x.tensor.rank - 1)


@imports("FeatureVectorizer", domain=_ML)
def feature_vectorizer(c: Call) -> Value:
    c.ignore("inputdimensions")
    values = [c.cast(v, DType.F32) for v in c.all()]
    rows = [c.reshape(v, (*v.tensor.shape, 1)) if v.tensor.rank == 1 else v for v in values]
    return c(ops.concat, *rows, axis=1) if len(rows) > 1 else rows[0]


@imports("LinearRegressor", domain=_ML)
def linear_regressor(c: Call) -> Value:
    return transformed(c, _linear(c, c.positive("targets", 1)))


@imports("LinearClassifier", domain=_ML)
def linear_classifier(c: Call) -> list[Value]:
    labels = c.ints("classlabels_ints", ())
    c.ignore("multi_class")
    if not labels or c.has("classlabels_strings"):
        c.fail("labels that are not integers")
    rows = len(c.floats("coefficients", REQUIRED)) // max(1, _width(c))
    if rows == 1 and len(labels) == 2:
        c.fail("one row of coefficients for two classes")
    return labelled(c, _linear(c, len(labels)), labels)


def _width(c: Call) -> int:
    width = c.ranked(0, 2).tensor.shape[1]
    if not isinstance(width, int):
        c.fail(f"an open number of features: {c.x().tensor}")
    return width


def _linear(c: Call, rows: int) -> Value:
    """x @ coefficients^T + intercepts, in f32."""
    coefficients, intercepts = c.floats("coefficients", REQUIRED), c.floats("intercepts", ())
    if len(coefficients) != rows * _width(c) or len(intercepts) not in (0, rows):
        raise LeptonError(f"{len(coefficients)} coefficients, {len(intercepts)} intercepts for {rows} rows of "
                          f"{c.x().tensor}", where=c.where)
    matrix = np.array(coefficients, np.float32).reshape(rows, -1).T
    total = c(ops.matmul, c.cast(_real(c), DType.F32), c.const(np.ascontiguousarray(matrix)))
    return total if not intercepts else c(ops.add, total, c.const(intercepts, DType.F32))


@imports("LabelEncoder", domain=_ML, since=2)
def label_encoder(c: Call) -> Value:
    """The value at each element's key, or the default: numbers to numbers, by comparing with all keys."""
    x = c.x()
    keys, values, default = _table(c, "keys"), _table(c, "values"), _default(c)
    if len(keys) != len(values) or not len(keys):
        raise LeptonError(f"{len(keys)} keys for {len(values)} values", where=c.where)
    if len(keys) > 4096:
        c.fail(f"{len(keys)} keys")
    apart = c.reshape(x, (*x.tensor.shape, 1))
    table = c.const(keys, x.tensor.dtype)
    same = c(ops.equal, apart, table)
    if x.tensor.dtype.is_float and np.isnan(keys).any():
        same = c(ops.logical_or, same, c(ops.logical_and, c(ops.is_nan, apart), c(ops.is_nan, table)))
    axis = x.tensor.rank
    first = c(ops.arg_max, c.cast(same, DType.I32), axis=axis)
    found = c(ops.reduce_max, c.cast(same, DType.I32), axes=(axis,), keepdims=False)
    picked = c(ops.gather, c.const(values), first, axis=0)
    return c(ops.where, c(ops.equal, found, c.const(1, DType.I32)), picked, c.const(default, picked.tensor.dtype))


def _table(c: Call, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if c.has(f"{name}_tensor"):
        tensor = c.t(f"{name}_tensor")
        assert tensor is not None
        if tensor.type.dtype is DType.STRING:
            c.fail("strings")
        return tensor.array.reshape(-1)
    if c.has(f"{name}_int64s"):
        return np.array(c.ints(f"{name}_int64s"), np.int64)
    if c.has(f"{name}_floats"):
        return np.array(c.floats(f"{name}_floats"), np.float32)
    c.fail("strings")


def _default(c: Call) -> float | int:
    """What an unknown key gives: by the type of the values."""
    c.ignore("default_string")
    if c.has("default_tensor"):
        tensor = c.t("default_tensor")
        assert tensor is not None
        number: float | int = tensor.array.reshape(-1)[0].item()
        return number
    if c.has("values_int64s"):
        return c.i("default_int64", -1)
    return c.f("default_float", -0.0)
