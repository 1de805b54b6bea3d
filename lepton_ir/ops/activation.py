"""Activation functions: the same float type in and out. NaN gives NaN except where it says otherwise."""
from __future__ import annotations

import math

import numpy as np

from lepton.ir.op import Trait
from lepton.ir.ops.math import erf as erf_op
from lepton.ir.ops.rules import fail, floating, number, same, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type

E = Trait.ELEMENTWISE


@wide_op(same(number), E, Trait.IDEMPOTENT)
def relu(x: Array) -> Array:
    """maximum(x, 0)."""
    return np.maximum(x, 0)


@wide_op(same(floating), E)
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); of -inf: 0, of inf: 1."""
    return np.asarray(1 / (1 + np.exp(-x)))


@wide_op(same(floating), E)
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow: maximum(x, 0) + log1p(exp(-|x|))."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@wide_op(same(floating), E)
def softsign(x: Array) -> Array:
    """x / (1 + |x|); of infinities: NaN."""
    return np.asarray(np.divide(x, 1 + np.abs(x)))


@wide_op(same(floating), E)
def mish(x: Array) -> Array:
    """x * tanh(softplus(x)); of -inf: NaN."""
    return np.asarray(np.multiply(x, np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))))


@wide_op(same(floating), E)
def leaky_relu(x: Array, *, alpha: float) -> Array:
    """x where x >= 0, else alpha * x."""
    return np.where(x >= 0, x, x * alpha)


@wide_op(same(floating), E)
def elu(x: Array, *, alpha: float) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@wide_op(same(floating), E)
def selu(x: Array, *, alpha: float, gamma: float) -> Array:
    """gamma * (x where x > 0, else alpha * (exp(x) - 1))."""
    return np.multiply(np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), gamma)


@wide_op(same(floating), E)
def celu(x: Array, *, alpha: float) -> Array:
    """x where x > 0, else alpha * (exp(x / alpha) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


@wide_op(same(floating), E)
def hard_sigmoid(x: Array, *, alpha: float, beta: float) -> Array:
    """alpha * x + beta kept within 0 and 1."""
    return np.minimum(np.maximum(alpha * x + beta, 0), 1)


@wide_op(same(floating), E)
def hard_swish(x: Array) -> Array:
    """x * (x / 6 + 0.5 kept within 0 and 1); of -inf: NaN."""
    return np.multiply(x, np.minimum(np.maximum(x / 6 + 0.5, 0), 1))


def _gelu_type(x: Type, *, approximate: str) -> TensorType:
    if approximate not in ("none", "tanh"):
        raise fail(f"approximate is {approximate!r}, not 'none' or 'tanh'", x)
    return tensor(x, floating)


@wide_op(_gelu_type, E)
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """x/2 * (1 + erf(x / sqrt(2))), or with "tanh" x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))); of -inf:
    NaN."""
    if approximate == "tanh":
        return np.asarray(np.multiply(0.5 * x, 1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))
    spread = np.asarray(erf_op.reference(np.asarray(x * math.sqrt(0.5))))
    return np.asarray(np.multiply(0.5 * x, 1 + spread))


@wide_op(same(floating), E)
def swish(x: Array, *, alpha: float = 1.0) -> Array:
    """x * sigmoid(alpha * x); of -inf: NaN."""
    return np.asarray(np.divide(x, 1 + np.exp(-alpha * x)))


@wide_op(same(floating), E)
def thresholded_relu(x: Array, *, alpha: float) -> Array:
    """x where x > alpha, else 0 (of NaN: 0)."""
    return np.where(x > alpha, x, np.zeros_like(x))


@wide_op(same(number), E)
def shrink(x: Array, *, lambd: float, bias: float) -> Array:
    """x + bias where x < -lambd, x - bias where x > lambd, else 0 (of NaN: 0). Integers compute in f64 and truncate."""
    wide = x if x.dtype.kind == "f" else x.astype(np.float64)
    above = np.where(wide > lambd, wide - bias, np.zeros_like(wide))
    return np.where(wide < -lambd, wide + bias, above).astype(x.dtype)
