"""How gradients pass through elementwise ops: entries of `lepton.ir.gradient.RULES`."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lepton.ir import ops
from lepton.ir.gradient import RULES, F, Rule, Step
from lepton.ir.op import Op

Slope = Callable[[F, F, Mapping[str, Any]], F | float]  # dy/dx from x, y and the attributes


def rule(*names: Op) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# --- one operand, element by element --------------------------------------------------------------


def step(condition: F, like: F) -> F:
    """1 where it holds, else 0."""
    return condition.where(1.0, 0.0, like.v.tensor.dtype)


def pick(condition: F, then: F | float, otherwise: F | float, like: F) -> F:
    return condition.where(then, otherwise, like.v.tensor.dtype)


def gelu(x: F, y: F, a: Mapping[str, Any]) -> F:
    if a["approximate"] == "tanh":
        scale = math.sqrt(2 / math.pi)
        square = x * x
        t = ((x + x * square * 0.044715) * scale).of(ops.tanh)
        return 0.5 * (t + 1.0) + 0.5 * x * (1.0 - t * t) * ((1.0 + square * (3 * 0.044715)) * scale)
    spread = (x * math.sqrt(0.5)).of(ops.erf)
    return 0.5 * (spread + 1.0) + x * (x * x * -0.5).of(ops.exp) * (1 / math.sqrt(2 * math.pi))


def mish(x: F, y: F, a: Mapping[str, Any]) -> F:
    t = x.of(ops.softplus).of(ops.tanh)
    return t + x * (1.0 - t * t) * x.of(ops.sigmoid)


def swish(x: F, y: F, a: Mapping[str, Any]) -> F:
    alpha: float = a["alpha"]
    s = (x * alpha).of(ops.sigmoid)
    return s + x * s * (1.0 - s) * alpha


def hard_swish(x: F, y: F, a: Mapping[str, Any]) -> F:
    return pick(x > -3.0, pick(x < 3.0, x / 3.0 + 0.5, 1.0, x), 0.0, x)


SLOPES: dict[Op, Slope] = {
    ops.neg: lambda x, y, a: -1.0,
    ops.abs_: lambda x, y, a: x.of(ops.sign),
    ops.sqrt: lambda x, y, a: 0.5 / y,
    ops.rsqrt: lambda x, y, a: y * y * y * -0.5,
    ops.reciprocal: lambda x, y, a: -(y * y),
    ops.exp: lambda x, y, a: y,
    ops.log: lambda x, y, a: 1.0 / x,
    ops.log1p: lambda x, y, a: 1.0 / (x + 1.0),
    ops.expm1: lambda x, y, a: y + 1.0,
    ops.sin: lambda x, y, a: x.of(ops.cos),
    ops.cos: lambda x, y, a: -x.of(ops.sin),
    ops.tan: lambda x, y, a: y * y + 1.0,
    ops.asin: lambda x, y, a: (1.0 - x * x).of(ops.rsqrt),
    ops.acos: lambda x, y, a: -(1.0 - x * x).of(ops.rsqrt),
    ops.atan: lambda x, y, a: 1.0 / (x * x + 1.0),
    ops.sinh: lambda x, y, a: x.of(ops.cosh),
    ops.cosh: lambda x, y, a: x.of(ops.sinh),
    ops.tanh: lambda x, y, a: 1.0 - y * y,
    ops.asinh: lambda x, y, a: (x * x + 1.0).of(ops.rsqrt),
    ops.acosh: lambda x, y, a: (x * x - 1.0).of(ops.rsqrt),
    ops.atanh: lambda x, y, a: 1.0 / (1.0 - x * x),
    ops.erf: lambda x, y, a: (-(x * x)).of(ops.exp) * (2 / math.sqrt(math.pi)),
    ops.sigmoid: lambda x, y, a: y * (1.0 - y),
    ops.softplus: lambda x, y, a: x.of(ops.sigmoid),
    ops.softsign: lambda x, y, a: (d := 1.0 / (x.of(ops.abs_) + 1.0)) * d,
    ops.relu: lambda x, y, a: step(x > 0.0, x),
    ops.leaky_relu: lambda x, y, a: pick(x < 0.0, a["alpha"], 1.0, x),
    ops.elu: lambda x, y, a: pick(x > 0.0, 1.0, x.of(ops.exp) * a["alpha"], x),
    ops.selu: lambda x, y, a: pick(x > 0.0, a["gamma"], x.of(ops.exp) * (a["alpha"] * a["gamma"]), x),
    ops.celu: lambda x, y, a: pick(x > 0.0, 1.0, (x / a["alpha"]).of(ops.exp), x),
    ops.hard_sigmoid: lambda x, y, a: pick(y > 0.0, pick(y < 1.0, a["alpha"], 0.0, x), 0.0, x),
    ops.hard_swish: hard_swish, ops.gelu: gelu, ops.mish: mish, ops.swish: swish,
    ops.thresholded_relu: lambda x, y, a: step(x > a["alpha"], x),
    ops.shrink: lambda x, y, a: step(x.of(ops.abs_) > a["lambd"], x),
}


@rule(*SLOPES)
def by_slope(s: Step, operand: int) -> F:
    return s.g * SLOPES[s.node.op](s.x(), s.y, s.node.attrs)


# --- several operands, broadcast ------------------------------------------------------------------


def power(s: Step, i: int) -> F:
    """Of the base b*a**(b-1), of the exponent y*log(a); 0 where b is 0, or a is not positive."""
    a, b = s.x(0), s.x(1).of(ops.cast, to=s.dtype)
    if i == 0:
        return pick(b.of(ops.equal, 0.0), 0.0, b * a.of(ops.pow_, b - 1.0), a) * s.g
    inside = a > 0.0
    slope = s.y * pick(inside, a, 1.0, a).of(ops.log)
    return (s.g * pick(inside, slope, 0.0, a)).of(ops.cast, to=s.x(1).v.tensor.dtype)


def extreme(s: Step, i: int) -> F:
    """Equal operands share."""
    mine, other = s.x(i), s.x(1 - i)
    wins = mine > other if s.node.op is ops.maximum else mine < other
    return s.g * pick(wins, 1.0, pick(mine.of(ops.equal, other), 0.5, 0.0, mine), mine)


def clip(s: Step, i: int) -> F:
    """What lies outside passes to the bound that it is cut to."""
    x, g = s.x(), s.g
    for k in range(1, len(s.node.inputs)):
        if s.node.inputs[k] is None:
            continue
        outside = x < s.x(k) if k == 1 else x > s.x(k)
        if i == k:
            return pick(outside, g, 0.0, x)
        g = pick(outside, 0.0, g, x)
    return g


BINARY: dict[Op, Rule] = {
    ops.add: lambda s, i: s.g,
    ops.sub: lambda s, i: -s.g if i else s.g,
    ops.mul: lambda s, i: s.g * s.x(1 - i),
    ops.div: lambda s, i: -(s.g * s.y) / s.x(1) if i else s.g / s.x(1),
    ops.mod: lambda s, i: s.g * ((s.y - s.x()) / s.x(1)) if i else s.g,
    ops.pow_: power, ops.maximum: extreme, ops.minimum: extreme, ops.clip: clip,
    ops.prelu: lambda s, i: s.g * pick(s.x() < 0.0, s.x(1 - i), 0.0 if i else 1.0, s.x()),
    ops.where: lambda s, i: pick(s.x(0), s.g, 0.0, s.g) if i == 1 else pick(s.x(0), 0.0, s.g, s.g),
}


@rule(*BINARY)
def broadcasting(s: Step, operand: int) -> F:
    return BINARY[s.node.op](s, operand).summed_to(s.x(operand).shape)


@rule(ops.cast)
def cast(s: Step, operand: int) -> F:
    return s.g.of(ops.cast, to=s.x().v.tensor.dtype)
