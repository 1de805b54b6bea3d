"""Normalisations."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.types import DType


@imports("BatchNormalization")
def batch_normalization(c: Call) -> list[Value]:
    x = c.x()
    epsilon = c.f("epsilon", 1e-5)
    momentum = c.f("momentum", 0.9)
    c.ignore("is_test", "consumed_inputs")
    if not c.flag("spatial", True):
        c.fail("spatial=0 (statistics per element)")
    scale, bias, mean, var = (c.cast(c.x(i), x.tensor.dtype) for i in range(1, 5))
    if c.flag("training_mode"):
        return _training(c, scale, bias, mean, var, epsilon, momentum)
    return [c(ops.batch_norm, x, scale, bias, mean, var, epsilon=epsilon)]


def _training(c: Call, scale: Value, bias: Value, mean: Value, var: Value, epsilon: float,
              momentum: float) -> list[Value]:
    """With the statistics of this batch; the running ones are moved toward them."""
    x = c.x()
    axes = (0, *range(2, x.tensor.rank))
    now = c(ops.reduce_mean, x, axes=axes, keepdims=True)
    apart = c(ops.sub, x, now)
    spread = c(ops.reduce_mean, c(ops.mul, apart, apart), axes=axes, keepdims=False)
    flat = c.reshape(now, (x.tensor.shape[1],))

    def moved(old: Value, new: Value) -> Value:
        return c(ops.add, c(ops.mul, old, c.like(momentum, old)), c(ops.mul, new, c.like(1 - momentum, new)))

    return [c(ops.batch_norm, x, scale, bias, flat, spread, epsilon=epsilon), moved(mean, flat), moved(var, spread)]


@imports("InstanceNormalization")
def instance_normalization(c: Call) -> Value:
    c.ignore("consumed_inputs")
    return c(ops.instance_norm, c.x(), c.x(1), c.x(2), epsilon=c.f("epsilon", 1e-5))


@imports("GroupNormalization", since=18)
def group_normalization_18(c: Call) -> Value:
    """Scale and bias have one entry per group."""
    groups, channels = c.positive("num_groups", REQUIRED), c.x().tensor.shape[1]
    each = dims.floordiv(channels, groups)

    def spread(v: Value) -> Value:
        wide = c(ops.broadcast_to, c.reshape(v, (groups, 1)), shape=(groups, each))
        return c.reshape(wide, (channels,))

    return c(ops.group_norm, c.x(), spread(c.x(1)), spread(c.x(2)), groups=groups, epsilon=c.f("epsilon", 1e-5))


@imports("GroupNormalization", since=21)
def group_normalization(c: Call) -> Value:
    c.ignore("stash_type")
    groups = c.positive("num_groups", REQUIRED)
    return c(ops.group_norm, c.x(), c.x(1), c.x(2), groups=groups, epsilon=c.f("epsilon", 1e-5))


@imports("LayerNormalization")
def layer_normalization(c: Call) -> list[Value]:
    """Since opset 17; ONNX Runtime accepts it in any."""
    axis, epsilon = c.axis(-1), c.f("epsilon", 1e-5)
    c.ignore("stash_type")
    result = c(ops.layer_norm, c.x(), c.x(1), c.opt(2), axis=axis, epsilon=epsilon)
    return [result, *(statistics(c, c.x(), axis, epsilon) if c.wants(1) or c.wants(2) else ())]


def statistics(c: Call, x: Value, axis: int, epsilon: float) -> list[Value]:
    """The mean and 1/deviation that a layer normalisation used, in f32."""
    x = x if x.tensor.dtype is DType.F64 else c.cast(x, DType.F32)
    axes = tuple(range(axis, x.tensor.rank))
    mean = c(ops.reduce_mean, x, axes=axes, keepdims=True)
    apart = c(ops.sub, x, mean)
    var = c(ops.reduce_mean, c(ops.mul, apart, apart), axes=axes, keepdims=True)
    return [mean, c(ops.reciprocal, c(ops.sqrt, c(ops.add, var, c.like(epsilon, var))))]


@imports("RMSNormalization", since=23)
def rms_normalization(c: Call) -> Value:
    c.ignore("stash_type")
    return c(ops.rms_norm, c.x(), c.x(1), axis=c.axis(-1), epsilon=c.f("epsilon", 1e-5))


@imports("LRN")
def lrn(c: Call) -> Value:
    return c(ops.lrn, c.x(), size=c.i("size", REQUIRED), alpha=c.f("alpha", 1e-4), beta=c.f("beta", 0.75),
             bias=c.f("bias", 1.0))


@imports("LpNormalization")
def lp_normalization(c: Call) -> Value:
    """x / (its p-norm along the axis); 0 where that is 0."""
    axis, p, x = c.axis(-1), c.i("p", 2), c.x()
    if p not in (1, 2):
        c.fail(f"p={p}")
    powers = c(ops.abs_, x) if p == 1 else c(ops.mul, x, x)
    total = c(ops.reduce_sum, powers, axes=(axis,), keepdims=True)
    length = total if p == 1 else c(ops.sqrt, total)
    zero = c(ops.equal, length, c.like(0, length))
    return c(ops.div, x, c(ops.where, zero, c.like(1, length), length))


@imports("MeanVarianceNormalization")
def mean_variance_normalization(c: Call) -> Value:
    x = c.x()
    axes = tuple(sorted(c.axes_of(c.ints("axes", (0, 2, 3)), x.tensor.rank)))
    if c.opset < 9:
        axes = (0, 2, 3) if c.flag("across_channels") is False else (0, 1, 2, 3)
        c.ignore("normalize_variance")
    mean = c(ops.reduce_mean, x, axes=axes, keepdims=True)
    squares = c(ops.reduce_mean, c(ops.mul, x, x), axes=axes, keepdims=True)
    var = c(ops.sub, squares, c(ops.mul, mean, mean))
    return c(ops.div, c(ops.sub, x, mean), c(ops.add, c(ops.sqrt, var), c.like(1e-9, var)))
