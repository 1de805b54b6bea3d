"""Reductions, running sums, softmax and its kin."""
from __future__ import annotations

from collections.abc import Callable

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import Rule, imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType

_PLAIN = {"ReduceSum": ops.reduce_sum, "ReduceMean": ops.reduce_mean, "ReduceMax": ops.reduce_max,
          "ReduceMin": ops.reduce_min, "ReduceProd": ops.reduce_prod}

Reduce = Callable[[Op, Value], Value]


def _axes(c: Call) -> tuple[int, ...]:
    """The axes to reduce: an attribute until opset 17 (ReduceSum: 12), then input 1. Without any: all, or none."""
    rank = c.x().tensor.rank
    given: tuple[int, ...] | None
    if c.opset < (13 if c.node.op_type == "ReduceSum" else 18):
        given = c.ints("axes", None)
    else:
        given = c.ints_in(1, "the axes") if c.opt(1) is not None else None
    if given:
        return tuple(sorted(c.axes_of(given, rank)))
    return () if c.flag("noop_with_empty_axes") else tuple(range(rank))


def _reducer(c: Call) -> Reduce:
    axes, keepdims = _axes(c), c.flag("keepdims", True)
    c.ignore("noop_with_empty_axes")

    def reduce(op: Op, x: Value) -> Value:
        return c(op, x, axes=axes, keepdims=keepdims) if axes else x

    return reduce


def _plain(op: Op) -> Rule:
    def rule(c: Call) -> Value:
        return _reducer(c)(op, c.x())

    return rule


for _name, _op in _PLAIN.items():
    imports(_name)(_plain(_op))


@imports("ReduceL1")
def reduce_l1(c: Call) -> Value:
    return _reducer(c)(ops.reduce_sum, c(ops.abs_, c.x()))


@imports("ReduceSumSquare")
def reduce_sum_square(c: Call) -> Value:
    return _reducer(c)(ops.reduce_sum, c(ops.mul, c.x(), c.x()))


@imports("ReduceL2")
def reduce_l2(c: Call) -> Value:
    return _through_floats(c, ops.sqrt, _reducer(c)(ops.reduce_sum, c(ops.mul, c.x(), c.x())))


@imports("ReduceLogSum")
def reduce_log_sum(c: Call) -> Value:
    return _through_floats(c, ops.log, _reducer(c)(ops.reduce_sum, c.x()))


def _through_floats(c: Call, op: Op, x: Value) -> Value:
    """A function of floats for integers too: computed in f64, then cut."""
    if x.tensor.dtype.is_float:
        return c(op, x)
    return c.cast(c(op, c.cast(x, DType.F64)), x.tensor.dtype)


@imports("ReduceLogSumExp")
def reduce_log_sum_exp(c: Call) -> Value:
    """log(sum(exp(x - m))) + m with m the maximum where that is finite, so that exp does not overflow."""
    x, dtype, axes = c.x(), c.x().tensor.dtype, _axes(c)
    keepdims = c.flag("keepdims", True)
    c.ignore("noop_with_empty_axes")
    if not axes:
        return x
    wide = x if dtype.is_float else c.cast(x, DType.F64)
    most = c(ops.reduce_max, wide, axes=axes, keepdims=True)
    most = c(ops.where, c(ops.is_inf, most), c.like(0, most), most)
    total = c(ops.reduce_sum, c(ops.exp, c(ops.sub, wide, most)), axes=axes, keepdims=True)
    result = c(ops.add, c(ops.log, total), most)
    shape = [d for i, d in enumerate(x.tensor.shape) if i not in axes]
    return c.cast(result if keepdims else c.reshape(result, shape), dtype)


@imports("ArgMax", "ArgMin")
def arg(c: Call) -> Value:
    op = ops.arg_max if c.node.op_type == "ArgMax" else ops.arg_min
    return c(op, c.x(), axis=c.axis(0), keepdims=c.flag("keepdims", True), select_last=c.flag("select_last_index"))


@imports("CumSum", since=11)
def cum_sum(c: Call) -> Value:
    return _running(c, ops.cumsum)


@imports("CumProd", since=26)
def cum_prod(c: Call) -> Value:
    return _running(c, ops.cumprod)


def _running(c: Call, op: Op) -> Value:
    (axis,) = c.axes_of((c.int_in(1, "the axis"),), c.x().tensor.rank)
    return c(op, c.x(), axis=axis, exclusive=c.flag("exclusive"), reverse=c.flag("reverse"))


_SOFT = {"Softmax": ops.softmax, "LogSoftmax": ops.log_softmax, "Hardmax": ops.hardmax}


@imports("Softmax", "LogSoftmax", "Hardmax")
def softmax_1(c: Call) -> Value:
    """Until opset 12: over all axes from `axis` on, as one."""
    op, x = _SOFT[c.node.op_type], c.x()
    rank, axis = x.tensor.rank, c.axis(1, rank=max(1, x.tensor.rank))
    if axis == rank - 1:
        return c(op, x, axis=axis)
    flat = c.reshape(x, (dims.product(x.tensor.shape[:axis]), dims.product(x.tensor.shape[axis:])))
    return c.reshape(c(op, flat, axis=1), x.tensor.shape)


@imports("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(c: Call) -> Value:
    return c(_SOFT[c.node.op_type], c.x(), axis=c.axis(-1))
