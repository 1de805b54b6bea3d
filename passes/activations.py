"""Rules that find activation functions among the arithmetic exporters write them as."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.pattern import Const
from lepton.ir.rewrite import Pat, Rule, capture, const, opt, pat, rule, splat, var
from lepton.ir.tensor import Tensor
from lepton.passes.common import constant_like, elements, scalar_of

(x,) = var("x")
zero, one = const(None, splat(0.0)), const(None, splat(1.0))


def near(number: float) -> Callable[[Tensor], bool]:
    """Whether a constant has one element, about equal to `number`: exporters round to few digits or to f16."""

    def holds(tensor: Tensor) -> bool:
        if tensor.type.size != 1 or not tensor.type.dtype.is_float:
            return False
        return math.isclose(float(tensor.array.reshape(-1)[0]), number, rel_tol=1e-3)

    return holds


def number(n: float) -> Const:
    """A constant operand about equal to `n`."""
    return const(None, near(n))


def _bound(value: float, x: Value) -> Value:
    """A scalar of x's type, as clip wants its bounds."""
    return constant_like(np.asarray(value), x)


# --- piecewise linear -----------------------------------------------------------------------------


@rule(pat(ops.maximum)(x, zero).named("r"))
def relu_from_maximum(x: Value, r: Value) -> Value | None:
    """maximum(x, 0)  ->  relu(x)"""
    return ops.relu(x) if x.type == r.type else None


@rule(pat(ops.minimum)(pat(ops.maximum)(x, const("lo")).once, const("hi")).named("r"),
      pat(ops.maximum)(pat(ops.minimum)(x, const("hi")).once, const("lo")).named("r"))
def clip_from_extremes(x: Value, lo: Value, hi: Value, r: Value) -> Value | None:
    """minimum(maximum(x, lo), hi)  ->  clip(x, lo, hi), for scalars lo <= hi"""
    a, b = scalar_of(lo), scalar_of(hi)
    if a is None or b is None or not a <= b or x.type != r.type:
        return None
    return ops.clip(x, ops.constant(value=_scalar(lo)), ops.constant(value=_scalar(hi)))


def _scalar(value: Value) -> Tensor:
    return Tensor.of(elements(value).reshape(()))


@rule(pat(ops.minimum)(pat(ops.relu)(x).once, const("hi")).named("r"))
def clip_from_relu(x: Value, hi: Value, r: Value) -> Value | None:
    """minimum(relu(x), hi)  ->  clip(x, 0, hi), for a scalar hi >= 0"""
    b = scalar_of(hi)
    if b is None or not b >= 0 or x.type != r.type:
        return None
    return ops.clip(x, _bound(0.0, x), ops.constant(value=_scalar(hi)))


@rule(pat(ops.clip)(x, opt("lo"), opt("hi")))
def open_clip(x: Value, lo: Value | None, hi: Value | None) -> Value | None:
    """clip(x, 0, inf), clip(x, -inf, inf)  ->  relu(x), x"""
    if (lo is not None and scalar_of(lo) is None) or (hi is not None and scalar_of(hi) is None):
        return None
    low = -math.inf if lo is None else scalar_of(lo)
    high = math.inf if hi is None else scalar_of(hi)
    if not x.tensor.dtype.is_float or high != math.inf:
        return None
    return x if low == -math.inf else ops.relu(x) if low == 0 else None


relu6 = pat(ops.clip)(pat(ops.add)(x, number(3.0)), zero, number(6.0))


@rule(pat(ops.mul)(relu6, number(1 / 6)).named("r"), pat(ops.div)(relu6, number(6.0)).named("r"),
      accuracy="reassociating")
def hard_sigmoid_from_clip(x: Value, r: Value) -> Value | None:
    """clip(x + 3, 0, 6) / 6  ->  hard_sigmoid(x, alpha=1/6, beta=0.5)"""
    return ops.hard_sigmoid(x, alpha=1 / 6, beta=0.5) if x.type == r.type else None


@rule(pat(ops.mul)(pat(ops.mul)(x, relu6).once, number(1 / 6)).named("r"),
      pat(ops.div)(pat(ops.mul)(x, relu6).once, number(6.0)).named("r"), accuracy="reassociating")
def hard_swish_from_clip(x: Value, r: Value) -> Value | None:
    """x * clip(x + 3, 0, 6) / 6  ->  hard_swish(x)"""
    return ops.hard_swish(x) if x.type == r.type else None


@rule(pat(ops.mul)(x, pat(ops.hard_sigmoid, alpha=capture("alpha"), beta=capture("beta"))(x)),
      accuracy="reassociating")
def hard_swish_from_sigmoid(x: Value, alpha: float, beta: float) -> Value | None:
    """x * hard_sigmoid(x, alpha=1/6, beta=0.5)  ->  hard_swish(x)"""
    return ops.hard_swish(x) if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5 else None


# --- smooth ---------------------------------------------------------------------------------------


@rule(pat(ops.reciprocal)(pat(ops.add)(pat(ops.exp)(pat(ops.neg)(x)), one)).named("r"), accuracy="reassociating")
def sigmoid_from_exp(x: Value, r: Value) -> Value | None:
    """1 / (1 + exp(-x))  ->  sigmoid(x)"""
    return ops.sigmoid(x) if x.type == r.type else None


@rule(pat(ops.mul)(x, pat(ops.sigmoid)(x)), accuracy="reassociating")
def swish_from_sigmoid(x: Value) -> Value:
    """x * sigmoid(x)  ->  swish(x)"""
    return ops.swish(x)


@rule(pat(ops.mul)(x, pat(ops.sigmoid)(pat(ops.mul)(x, const("alpha")))).named("r"), accuracy="reassociating")
def swish_with_factor(x: Value, alpha: Value, r: Value) -> Value | None:
    """x * sigmoid(alpha * x)  ->  swish(x, alpha)"""
    factor = scalar_of(alpha)
    return ops.swish(x, alpha=factor) if factor is not None and x.type == r.type else None


@rule(pat(ops.mul)(x, pat(ops.tanh)(pat(ops.softplus)(x))), accuracy="reassociating")
def mish_from_softplus(x: Value) -> Value:
    """x * tanh(softplus(x))  ->  mish(x)"""
    return ops.mish(x)


half = number(0.5)


def _halves(gate: Pat) -> tuple[Pat, ...]:
    """x * gate / 2, in all orders of multiplication."""
    return (pat(ops.mul)(pat(ops.mul)(x, gate).once, half).named("r"),
            pat(ops.mul)(pat(ops.mul)(x, half).once, gate).named("r"),
            pat(ops.mul)(x, pat(ops.mul)(gate, half).once).named("r"))


root_half = pat(ops.mul)(x, number(math.sqrt(0.5)))
root_two = pat(ops.div)(x, number(math.sqrt(2.0)))


@rule(*_halves(pat(ops.add)(pat(ops.erf)(root_half), one)), *_halves(pat(ops.add)(pat(ops.erf)(root_two), one)),
      accuracy="reassociating")
def gelu_from_erf(x: Value, r: Value) -> Value | None:
    """x * (1 + erf(x / sqrt(2))) / 2  ->  gelu(x)"""
    return ops.gelu(x) if x.type == r.type else None


cube = pat(ops.mul)(pat(ops.mul)(x, x), x)
flat_cube = pat(ops.pow_)(x, number(3.0))
bent = [pat(ops.add)(x, pat(ops.mul)(c, number(0.044715))) for c in (cube, flat_cube)]
tanhs = [pat(ops.add)(pat(ops.tanh)(pat(ops.mul)(b, number(math.sqrt(2 / math.pi)))), one) for b in bent]
# x * sqrt(2/pi) * (1 + 0.044715 * x * x), as some write it.
factored = pat(ops.mul)(pat(ops.mul)(x, number(math.sqrt(2 / math.pi))),
                        pat(ops.add)(pat(ops.mul)(pat(ops.mul)(x, number(0.044715)), x), one))


@rule(*_halves(tanhs[0]), *_halves(tanhs[1]), *_halves(pat(ops.add)(pat(ops.tanh)(factored), one)),
      accuracy="reassociating")
def gelu_from_tanh(x: Value, r: Value) -> Value | None:
    """x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))) / 2  ->  gelu(x, approximate="tanh")"""
    return ops.gelu(x, approximate="tanh") if x.type == r.type else None


ACTIVATIONS: tuple[Rule, ...] = (
    relu_from_maximum, clip_from_extremes, clip_from_relu, open_clip, hard_swish_from_clip, hard_sigmoid_from_clip,
    hard_swish_from_sigmoid, sigmoid_from_exp, swish_from_sigmoid, swish_with_factor, mish_from_softplus,
    gelu_from_erf, gelu_from_tanh,
)
