"""Random draws."""
from __future__ import annotations

import struct

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim
from lepton.ir.types import DType


def _seed(c: Call) -> int:
    """ONNX's seed is a float; its bits make the integer."""
    seed = c.f("seed", None)
    return -1 if seed is None else int(struct.unpack("<I", struct.pack("<f", seed))[0])


def _normal(c: Call, shape: tuple[Dim, ...], dtype: DType) -> Value:
    return c(ops.random_normal, shape=shape, dtype=dtype, mean=c.f("mean", 0.0), scale=c.f("scale", 1.0), seed=_seed(c))


def _uniform(c: Call, shape: tuple[Dim, ...], dtype: DType) -> Value:
    return c(ops.random_uniform, shape=shape, dtype=dtype, low=c.f("low", 0.0), high=c.f("high", 1.0), seed=_seed(c))


@imports("RandomNormal")
def random_normal(c: Call) -> Value:
    return _normal(c, c.ints("shape", REQUIRED), c.dtype("dtype", DType.F32))


@imports("RandomUniform")
def random_uniform(c: Call) -> Value:
    return _uniform(c, c.ints("shape", REQUIRED), c.dtype("dtype", DType.F32))


@imports("RandomNormalLike")
def random_normal_like(c: Call) -> Value:
    return _normal(c, c.x().tensor.shape, c.dtype("dtype", c.x().tensor.dtype))


@imports("RandomUniformLike")
def random_uniform_like(c: Call) -> Value:
    return _uniform(c, c.x().tensor.shape, c.dtype("dtype", c.x().tensor.dtype))


@imports("Bernoulli", since=15)
def bernoulli(c: Call) -> Value:
    """1 where a uniform draw falls below the probability."""
    x = c.x()
    draws = c(ops.random_uniform, shape=x.tensor.shape, dtype=x.tensor.dtype, seed=_seed(c))
    return c(ops.cast, c(ops.less, draws, x), to=c.dtype("dtype", x.tensor.dtype))
