"""Find normalisations and softmax among the reductions exporters write them as."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.rewrite import Rule, capture, const, pat, rule, splat, var
from lepton.passes.base import RewritePass
from lepton.passes.common import constant_like, elements, scalar_of

x, e = var("x e")
g, eps = const("g"), const("eps")
axes = capture("axes")
Axes = tuple[int, ...]


def mean_of(operand: object) -> object:
    return pat(ops.reduce_mean, axes=axes, keepdims=True)(operand)


def _first_axis(axes: Axes, rank: int) -> int | None:
    """The first of the axes, if they are all from there on."""
    return axes[0] if axes and axes == tuple(range(axes[0], rank)) else None


def _ones(x: Value, axis: int) -> Value:
    """A scale that does nothing, of the normalised axes' shape where that is known."""
    sizes = [n if isinstance(n, int) else 1 for n in x.tensor.shape[axis:]]
    while len(sizes) > 1 and sizes[0] == 1:
        del sizes[0]
    return constant_like(np.ones(sizes), x)


centred = pat(ops.sub)(x, mean_of(x)).named("c")
c = var("c")[0]
deviation = pat(ops.add)(mean_of(pat(ops.mul)(c, c)), eps)


@rule(pat(ops.mul)(centred, pat(ops.rsqrt)(deviation)), pat(ops.div)(centred, pat(ops.sqrt)(deviation)),
      accuracy="reassociating")
def layer_norm_from_moments(x: Value, axes: Axes, c: Value, eps: Value) -> Value | None:
    """c / sqrt(mean(c * c) + eps), where c = x - mean(x)  ->  layer_norm(x, 1)"""
    axis, epsilon = _first_axis(axes, x.tensor.rank), scalar_of(eps)
    return None if axis is None or epsilon is None else ops.layer_norm(x, _ones(x, axis), axis=axis, epsilon=epsilon)


@rule(pat(ops.mul)(x, pat(ops.rsqrt)(pat(ops.add)(mean_of(pat(ops.mul)(x, x)), eps))),
      pat(ops.div)(x, pat(ops.sqrt)(pat(ops.add)(mean_of(pat(ops.mul)(x, x)), eps))), accuracy="reassociating")
def rms_norm_from_moments(x: Value, axes: Axes, eps: Value) -> Value | None:
    """x / sqrt(mean(x * x) + eps)  ->  rms_norm(x, 1)"""
    axis, epsilon = _first_axis(axes, x.tensor.rank), scalar_of(eps)
    return None if axis is None or epsilon is None else ops.rms_norm(x, _ones(x, axis), axis=axis, epsilon=epsilon)


plain = const("one", splat(1.0))


def _per_element(g: Value, x: Value, axis: int) -> bool:
    """Whether a constant varies along the normalised axes only."""
    return g.tensor.rank <= x.tensor.rank and all(n == 1 for n in _aligned(g, x)[:axis])


def _aligned(g: Value, x: Value) -> tuple[object, ...]:
    return (1,) * (x.tensor.rank - g.tensor.rank) + g.tensor.shape


def _trimmed(g: Value, x: Value, axis: int) -> Value:
    """The constant with the shape of the normalised axes."""
    shape = [n for n in _aligned(g, x)[axis:] if isinstance(n, int)]
    full = [n if isinstance(n, int) else 1 for n in x.tensor.shape[axis:]]
    wanted = np.broadcast_to(elements(g).reshape(shape), np.broadcast_shapes(tuple(shape), tuple(full)))
    return constant_like(wanted, g)


@rule(pat(ops.mul)(pat(ops.layer_norm, axis=capture("axis"), epsilon=capture("epsilon"))(x, plain).once, g)
      .named("r"), accuracy="reassociating")
def scale_into_layer_norm(x: Value, one: Value, axis: int, epsilon: float, g: Value, r: Value) -> Value | None:
    """layer_norm(x, 1) * g  ->  layer_norm(x, g)"""
    if x.type != r.type or not _per_element(g, x, axis):
        return None
    return ops.layer_norm(x, _trimmed(g, x, axis), axis=axis, epsilon=epsilon)


@rule(pat(ops.mul)(pat(ops.rms_norm, axis=capture("axis"), epsilon=capture("epsilon"))(x, plain).once, g)
      .named("r"), accuracy="reassociating")
def scale_into_rms_norm(x: Value, one: Value, axis: int, epsilon: float, g: Value, r: Value) -> Value | None:
    """rms_norm(x, 1) * g  ->  rms_norm(x, g)"""
    if x.type != r.type or not _per_element(g, x, axis):
        return None
    return ops.rms_norm(x, _trimmed(g, x, axis), axis=axis, epsilon=epsilon)


@rule(pat(ops.add)(pat(ops.layer_norm, axis=capture("axis"), epsilon=capture("epsilon"))(x, const("s")).once, g)
      .named("r"))
def shift_into_layer_norm(x: Value, s: Value, axis: int, epsilon: float, g: Value, r: Value) -> Value | None:
    """layer_norm(x, s) + g  ->  layer_norm(x, s, g)"""
    if x.type != r.type or not _per_element(g, x, axis):
        return None
    return ops.layer_norm(x, s, _trimmed(g, x, axis), axis=axis, epsilon=epsilon)


total = pat(ops.reduce_sum, axes=axes, keepdims=True)(e)
largest = pat(ops.reduce_max, axes=axes, keepdims=True)(x)
raised = pat(ops.exp)(pat(ops.sub)(x, largest)).named("e")


@rule(pat(ops.mul)(raised, pat(ops.reciprocal)(total)), pat(ops.div)(raised, total), accuracy="reassociating")
def softmax_from_exp(x: Value, axes: Axes, e: Value) -> Value | None:
    """e / sum(e), where e = exp(x - max(x))  ->  softmax(x)"""
    return ops.softmax(x, axis=axes[0]) if len(axes) == 1 else None


@dataclass(frozen=True)
class Norms(RewritePass):
    """(x - mean(x)) / sqrt(variance(x) + eps) * g + b  ->  layer_norm(x, g, b);   and rms_norm, softmax

    Wants canonical form: squares as products, division by fewer elements as multiplication."""

    name: ClassVar[str] = "norms"
    rules: ClassVar[tuple[Rule, ...]] = (
        layer_norm_from_moments, rms_norm_from_moments, scale_into_layer_norm, scale_into_rms_norm,
        shift_into_layer_norm, softmax_from_exp,
    )
