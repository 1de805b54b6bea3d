"""Random draws, and what drops by them.

A node without a `seed` draws from a stream of its own under the session's seed; one with a `seed` draws the same in
every session, though not in every run. All draws are functions of (seed, node, run, place): see lepton.ir.draws.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.rewrite import tensor_of
from lepton.ir.types import DType


def _state(c: Call, seed: int | None) -> Value:
    """The state of the node's next draw."""
    c.importer.streams += 1
    return c(ops.draw_state, stream=c.importer.streams, seed=-1 if seed is None else seed)


def _seed(c: Call) -> int | None:
    """ONNX's seed is a float: whole numbers stand for themselves, others for their bits."""
    if not c.has("seed"):
        return None
    seed = c.f("seed")
    whole = 0 <= seed < 2**63 and seed == int(seed)
    return int(seed) if whole else int(struct.unpack("<I", struct.pack("<f", seed))[0])


def _normal(c: Call, shape: Sequence[Dim], dtype: DType) -> Value:
    return c(ops.random_normal, _state(c, _seed(c)), shape=tuple(shape), dtype=dtype,
             mean=c.f("mean", 0.0), scale=c.f("scale", 1.0))


def _uniform(c: Call, shape: Sequence[Dim], dtype: DType, low: float = 0.0, high: float = 1.0) -> Value:
    return c(ops.random_uniform, _state(c, _seed(c)), shape=tuple(shape), dtype=dtype, low=low, high=high)


def _interval(c: Call) -> tuple[float, float]:
    return c.f("low", 0.0), c.f("high", 1.0)


@imports("RandomNormal")
def random_normal(c: Call) -> Value:
    return _normal(c, c.ints("shape", REQUIRED), c.dtype("dtype", DType.F32))


@imports("RandomUniform")
def random_uniform(c: Call) -> Value:
    return _uniform(c, c.ints("shape", REQUIRED), c.dtype("dtype", DType.F32), *_interval(c))


@imports("RandomNormalLike")
def random_normal_like(c: Call) -> Value:
    return _normal(c, c.x().tensor.shape, c.dtype("dtype", c.x().tensor.dtype))


@imports("RandomUniformLike")
def random_uniform_like(c: Call) -> Value:
    return _uniform(c, c.x().tensor.shape, c.dtype("dtype", c.x().tensor.dtype), *_interval(c))


@imports("Bernoulli", since=15)
def bernoulli(c: Call) -> Value:
    """1 where a uniform draw falls below the probability."""
    x, to = c.x(), c.dtype("dtype", c.x().tensor.dtype)
    fine = DType.F64 if x.tensor.dtype is DType.F64 else DType.F32
    return c.cast(c(ops.less, _uniform(c, x.tensor.shape, fine), c.cast(x, fine)), to)


@imports("Multinomial")
def multinomial(c: Call) -> Value:
    """Classes drawn by their unnormalised log-probabilities [batch, classes]: the first whose cumulative probability
    exceeds a uniform draw's share of the whole."""
    x, count, to = c.ranked(0, 2), c.positive("sample_size", 1), c.dtype("dtype", DType.I32)
    if to not in (DType.I32, DType.I64):
        raise LeptonError(f"Multinomial gives i32 or i64, not {to.value}", where=c.where)
    fine = DType.F64 if x.tensor.dtype is DType.F64 else DType.F32
    batch, classes = x.tensor.shape
    cumulative = c(ops.cumsum, c(ops.softmax, c.cast(x, fine), axis=1), axis=1)
    # A draw is at most 1 - 2**-24, so the product stays below the whole, whatever the rounding.
    whole = c(ops.slice_, cumulative, starts=(0, classes - 1), sizes=(batch, 1), steps=(1, 1))
    share = c(ops.mul, _uniform(c, (batch, count), fine), whole)
    below = c(ops.less_equal, c.reshape(cumulative, (batch, 1, classes)), c.reshape(share, (batch, count, 1)))
    return c(ops.reduce_sum, c.cast(below, to), axes=(2,), keepdims=False)


@imports("Dropout")
def dropout_by_attribute(c: Call) -> list[Value]:
    """Before opset 12 the ratio was an attribute, and so was, before opset 7, whether it is training."""
    ratio, training = c.f("ratio", 0.5), c.opset < 7 and not c.flag("is_test")
    c.ignore("is_test", "consumed_inputs")
    return _drop(c, c.const(ratio, DType.F32), None, None) if training and ratio else _kept(c)


@imports("Dropout", since=12)
def dropout(c: Call) -> list[Value]:
    """The seed is an integer here. The ratio and whether it is training may be known only when the model runs."""
    seed = c.i("seed", None)
    training = c.opt(2)
    if training is None or c.known(2) == (0,) or c.numbers(1) == (0,):
        return _kept(c)
    ratio = c.const(0.5, DType.F32) if c.opt(1) is None else _scalar(c, c.x(1))
    if (known := tensor_of(ratio)) is not None and not 0 <= known.array < 1:
        raise LeptonError(f"a ratio of {known.array}; it must lie in [0, 1)", where=c.where)
    return _drop(c, ratio, None if c.known(2) == (1,) else _scalar(c, training), None if seed is None else seed % 2**63)


def _scalar(c: Call, x: Value) -> Value:
    return c.reshape(x, ())


def _kept(c: Call) -> list[Value]:
    """Nothing is dropped at inference, or with a ratio of 0; the mask says that all is kept."""
    mask = c(ops.broadcast_to, c.const(True), shape=c.x().tensor.shape) if c.wants(1) else None
    return [c.x()] if mask is None else [c.x(), mask]


def _drop(c: Call, ratio: Value, training: Value | None, seed: int | None) -> list[Value]:
    """y = x * mask / (1 - ratio), where a uniform draw reaching the ratio is the mask. All is kept unless `training`
    (None: it is)."""
    x = c.x()
    fine = DType.F64 if x.tensor.dtype is DType.F64 else DType.F32
    ratio = c.cast(ratio, fine)
    if training is not None:
        ratio = c(ops.where, training, ratio, c.like(0.0, ratio))
    draw = c(ops.random_uniform, _state(c, seed), shape=x.tensor.shape, dtype=fine)
    mask = c(ops.greater_equal, draw, ratio)
    scale = c(ops.reciprocal, c(ops.sub, c.like(1.0, ratio), ratio))
    scaled = c(ops.mul, c.cast(x, fine), c(ops.where, mask, scale, c.like(0.0, scale)))
    return [c.cast(scaled, x.tensor.dtype), mask]
