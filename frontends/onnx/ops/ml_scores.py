"""What the classifiers and regressors of ai.onnx.ml share: labels, and what becomes of scores."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.frontends.onnx.call import Call
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Array
from lepton.ir.types import DType

POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
Labels = tuple[int, ...] | tuple[str, ...]


def floats_of(c: Call, name: str) -> tuple[float, ...]:
    """Floats from an attribute, or from its newer form as a tensor; none where it is absent."""
    if c.has(f"{name}_as_tensor"):
        tensor = c.t(f"{name}_as_tensor")
        assert tensor is not None
        return tuple(tensor.array.reshape(-1).tolist())
    found: tuple[float, ...] = c.floats(name, ())
    return found


# --- scores -----------------------------------------------------------------------------------------


def transformed(c: Call, scores: Value) -> Value:
    """The attribute post_transform, a name, applied to scores [N, classes]."""
    return post_transform(c, c.s("post_transform", "NONE"), scores)


def post_transform(c: Call, kind: str, x: Value) -> Value:
    """One of POST_TRANSFORMS applied to the rows of x."""
    match kind:
        case "NONE":
            return x
        case "SOFTMAX":
            return c(ops.softmax, x, axis=1)
        case "LOGISTIC":
            return c(ops.sigmoid, x)
        case "SOFTMAX_ZERO":
            return _softmax_zero(c, x)
        case "PROBIT":
            return _probit(c, x)
    c.fail(f"post_transform {kind!r}")


def _softmax_zero(c: Call, x: Value) -> Value:
    """A softmax in which scores of zero (up to 1e-7) have no part; rows of zeros give one half, as ONNX's reference."""
    most = c(ops.reduce_max, x, axes=(1,), keepdims=True)
    present = c(ops.greater, c(ops.abs_, x), c.like(1e-7, x))
    part = c(ops.where, present, c(ops.exp, c(ops.sub, x, most)), c(ops.mul, x, c(ops.exp, c(ops.neg, most))))
    total = c(ops.reduce_sum, part, axes=(1,), keepdims=True)
    none = c(ops.equal, total, c.like(0, total))
    return c(ops.where, none, c.like(0.5, x), c(ops.div, part, total))


def _probit(c: Call, x: Value) -> Value:
    """sqrt(2) * erfinv(2x - 1) by Winitzki's formula (a relative error of up to 2e-3): what ONNX means by PROBIT."""
    y = c(ops.sub, c(ops.mul, x, c.like(2, x)), c.like(1, x))
    inside = c(ops.mul, c(ops.sub, c.like(1, x), y), c(ops.add, c.like(1, x), y))
    log = c(ops.log, inside)
    v = c(ops.add, c.like(2 / (np.pi * 0.147), x), c(ops.mul, log, c.like(0.5, x)))
    root = c(ops.sqrt, c(ops.sub, c(ops.mul, v, v), c(ops.mul, log, c.like(1 / 0.147, x))))
    size = c(ops.mul, c(ops.sqrt, c(ops.sub, root, v)), c.like(1.41421356, x))
    return c(ops.where, c(ops.less, y, c.like(0, x)), c(ops.neg, size), size)


# --- labels -----------------------------------------------------------------------------------------


def class_labels(c: Call, ints: str = "classlabels_int64s", strings: str = "classlabels_strings") -> Labels:
    """The classes by name or number, from one of two attributes."""
    names, numbers = c.strings(strings, ()), c.ints(ints, ())
    if names and numbers:
        c.fail(f"both {ints} and {strings}")
    if not names and not numbers:
        c.fail("classes without labels")
    return names or tuple(numbers)


def texts(values: Sequence[str]) -> Array:
    """Strings as numpy holds them in a tensor."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def label_table(c: Call, labels: Labels) -> Value:
    """The labels as a constant: i64[classes] or str[classes]."""
    return c.const(texts([str(v) for v in labels])) if isinstance(labels[0], str) else c.const(labels, DType.I64)


def picked(c: Call, labels: Labels, index: Value) -> Value:
    """The labels at `index`."""
    return c(ops.gather, label_table(c, labels), index, axis=0)


def labelled(c: Call, total: Value, labels: Labels) -> list[Value]:
    """The label of the largest score, and the scores."""
    return [picked(c, labels, c(ops.arg_max, total, axis=1)), transformed(c, total)]
