"""ai.onnx.ml: columns made ready. Scaling, filling, normalising, choosing and joining."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_ML = "ai.onnx.ml"


@imports("Scaler", domain=_ML)
def scaler(c: Call) -> Value:
    """(x - offset) * scale, in f32."""
    x = c.cast(c.x(), DType.F32)
    offset, scale = _per_column(c, c.floats("offset", (0.0,))), _per_column(c, c.floats("scale", (1.0,)))
    return c(ops.mul, c(ops.sub, x, c.const(offset, DType.F32)), c.const(scale, DType.F32))


def _per_column(c: Call, values: tuple[float, ...]) -> tuple[float, ...]:
    """One value for all columns, or one for each."""
    width = c.x().tensor.shape[-1] if c.x().tensor.rank else 1
    if len(values) not in (1, width):
        raise LeptonError(f"{len(values)} values for the columns of {c.x().tensor}", where=c.where)
    return values


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
    c.ignore(*(f"replaced_value_{k}" for k in ("float", "int64")))
    if not new:
        raise LeptonError(f"no values to put into {x.tensor}", where=c.where)
    missing = c(ops.is_nan, x) if floating and np.isnan(old) else c(ops.equal, x, c.like(old, x))
    return c(ops.where, missing, c.const(_per_column(c, new), x.tensor.dtype), x)


@imports("ArrayFeatureExtractor", domain=_ML)
def array_feature_extractor(c: Call) -> Value:
    """The chosen elements of the last axis."""
    x, places = c.x(0), c.x(1)
    x = c.reshape(x, (1, *x.tensor.shape)) if x.tensor.rank == 1 else x
    return c(ops.gather, x, c.reshape(places, (places.tensor.size,)), axis=x.tensor.rank - 1)


@imports("FeatureVectorizer", domain=_ML)
def feature_vectorizer(c: Call) -> Value:
    """The operands [N] or [N,C] side by side in f32, each as wide as inputdimensions says: cut, or zeros behind."""
    values = [c.cast(v, DType.F32) for v in c.all()]
    widths = c.ints("inputdimensions", ())
    if len(widths) not in (0, len(values)) or any(not 1 <= v.tensor.rank <= 2 for v in values):
        raise LeptonError(f"{len(widths)} inputdimensions for {', '.join(str(v.tensor) for v in values)}",
                          where=c.where)
    rows = [c.reshape(v, (v.tensor.shape[0], 1)) if v.tensor.rank == 1 else v for v in values]
    fitted = [_as_wide(c, v, w) for v, w in zip(rows, widths, strict=True)] if widths else rows
    return c(ops.concat, *fitted, axis=1) if len(fitted) > 1 else fitted[0]


def _as_wide(c: Call, x: Value, width: int) -> Value:
    own: Dim = x.tensor.shape[1]
    if own == width:
        return x
    if not isinstance(own, int):
        c.fail(f"an open number of columns made {width}: {x.tensor}")
    if own < width:
        return c(ops.pad, x, c.like(0, x), before=(0, 0), after=(0, width - own), mode="constant")
    return c(ops.slice_, x, starts=(0, 0), steps=(1, 1), sizes=(x.tensor.shape[0], width))
