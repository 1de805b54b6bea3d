"""Operators that read or write elements by index, and those that find indices."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType


def _indices(c: Call, value: Value) -> Value:
    return value if value.tensor.dtype is DType.I32 else c.cast(value, DType.I64)


@imports("Gather")
def gather(c: Call) -> Value:
    return c(ops.gather, c.x(), _indices(c, c.x(1)), axis=c.axis(0))


@imports("GatherElements", since=11)
def gather_elements(c: Call) -> Value:
    return c(ops.gather_elements, c.x(), _indices(c, c.x(1)), axis=c.axis(0))


@imports("GatherND", since=11)
def gather_nd(c: Call) -> Value:
    return c(ops.gather_nd, c.x(), _indices(c, c.x(1)), batch_dims=c.i("batch_dims", 0))


@imports("Scatter", "ScatterElements")
def scatter_elements(c: Call) -> Value:
    return c(ops.scatter_elements, c.x(), _indices(c, c.x(1)), c.x(2), axis=c.axis(0),
             reduction=c.s("reduction", "none"))


@imports("ScatterND", since=11)
def scatter_nd(c: Call) -> Value:
    return c(ops.scatter_nd, c.x(), _indices(c, c.x(1)), c.x(2), reduction=c.s("reduction", "none"))


@imports("OneHot", since=9)
def one_hot(c: Call) -> Value:
    depth = c.dim(1, "the depth")
    rank = c.x().tensor.rank + 1
    if dims.unify(c.ranked(2, 1).tensor.shape[0], 2) is None:
        raise LeptonError(f"values {c.x(2).tensor} are not a pair", where=c.where)
    return c(ops.one_hot, c.x(), c.x(2), depth=depth, axis=c.axis(-1, rank=rank))


@imports("TopK")
def top_k(c: Call) -> tuple[Value, ...]:
    axis = c.axis(-1)
    k: Dim = c.i("k", REQUIRED) if c.opset < 10 else c.dim(1, "k")
    return c.multi(ops.top_k, c.x(), k=k, axis=axis, largest=c.flag("largest", True), sorted=c.flag("sorted", True))


@imports("NonZero", since=9)
def non_zero(c: Call) -> Value:
    return c(ops.non_zero, c.x(), symbol=c.fresh("nonzero"))


@imports("Compress", since=9)
def compress(c: Call) -> Value:
    """The slices whose condition holds; a condition shorter than the axis ends it."""
    x, condition = c.x(), c.x(1)
    axis = c.axis() if c.has("axis") else 0
    if not c.has("axis"):
        x = c.reshape(x, (x.tensor.size,))
    places = c(ops.non_zero, condition, symbol=c.fresh("kept"))
    return c(ops.gather, x, c.reshape(places, (places.tensor.shape[1],)), axis=axis)
