"""Move per-channel scales, shifts and paddings into the convolutions beside them."""
from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.rewrite import Rule, capture, const, opt, pat, rule, tensor_of, var
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, channel_vector, constant_like, elements, node_of
from lepton.passes.float8 import multiplies_float8

x, scale, bias, mean, variance = var("x scale bias mean variance")
c, w = const("c"), const("w")
either = pat(ops.conv, ops.conv_transpose)(x, w, opt("b")).once.named("y")


def _axis(node: Node) -> int:
    """The channel axis of a node with a layout."""
    return 1 if node.attrs["layout"] == "nchw" else node.result.tensor.rank - 1


def _per_channel(c: Value, conv: Node) -> Array | None:
    """`c` as one f64 number per output channel of a convolution, or None if it is anything else."""
    t, axis = conv.result.tensor, _axis(conv)
    vector = channel_vector(c, axis, t.rank, t.shape[axis])
    return None if vector is None else vector.astype(np.float64)


def _scaled_filters(weight: Array, factor: Array, conv: Node) -> Array:
    """The weight with output channel o scaled by factor[o]: [O,C/g,k…] for conv, [C,O/g,k…] for conv_transpose."""
    wide = weight.astype(np.float64)
    if conv.op is ops.conv:
        return wide * factor.reshape(-1, *[1] * (weight.ndim - 1))
    group = conv.attrs["group"]
    per_input = np.repeat(factor.reshape(group, -1), weight.shape[0] // group, axis=0)
    return wide * per_input.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))


@rule(pat(ops.batch_norm, epsilon=capture("epsilon"), layout=capture("layout"))
      (x, const("scale"), const("bias"), const("mean"), const("variance")), accuracy="reassociating")
def batch_norm_affine(x: Value, scale: Value, bias: Value, mean: Value, variance: Value, epsilon: float, layout: str
                      ) -> Value | None:
    """batch_norm(x, constants)  ->  x * f + g, where f = scale / sqrt(var + epsilon), g = bias - mean * f"""
    s, b, m, v = (elements(p).astype(np.float64) for p in (scale, bias, mean, variance))
    factor = s / np.sqrt(v + epsilon)
    shift = b - m * factor
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        return None
    view = (-1, *[1] * (x.tensor.rank - 2)) if layout == "nchw" else (-1,)
    product = ops.mul(x, constant_like(factor.reshape(view), x))
    return ops.add(product, constant_like(shift.reshape(view), x))


@rule(pat(ops.batch_norm, epsilon=capture("epsilon"), layout=capture("layout"))(x, scale, bias, mean, variance))
def batch_norm_parts(x: Value, scale: Value, bias: Value, mean: Value, variance: Value, epsilon: float, layout: str
                     ) -> Value | None:
    """batch_norm(x, scale, bias, mean, var)  ->  (x - mean) * (scale / sqrt(var + epsilon)) + bias"""
    wide = DType.F32 if x.tensor.dtype.bits < 32 else x.tensor.dtype  # narrow floats round once, at the end

    def widened(v: Value) -> Value:
        return v if v.tensor.dtype is wide else ops.cast(v, to=wide)

    def spread(v: Value) -> Value:
        tail = [1] * (x.tensor.rank - 2) if layout == "nchw" else []
        return ops.reshape(v, shape=(*v.tensor.shape, *tail)) if tail else v

    s, b, m, v = map(widened, (scale, bias, mean, variance))
    root = ops.sqrt(ops.add(v, constant_like(epsilon, v)))
    result = ops.add(ops.mul(ops.sub(widened(x), spread(m)), spread(ops.div(s, root))), spread(b))
    return result if wide is x.tensor.dtype else ops.cast(result, to=x.tensor.dtype)


@rule(pat(ops.mul)(either, c), accuracy="reassociating")
def scale_into_conv(x: Value, w: Value, b: Value | None, y: Value, c: Value) -> Value | None:
    """conv(x, w, b) * c  ->  conv(x, w * c, b * c), for c constant along the channels"""
    conv, weight = node_of(y), elements(w)
    factor, old = _per_channel(c, conv), array_of(b)
    if factor is None or (b is not None and old is None) or multiplies_float8(x, weight):
        return None
    shift = None if old is None else constant_like(old.astype(np.float64) * factor, y)
    return conv.op(x, constant_like(_scaled_filters(weight, factor, conv), y), shift, **conv.attrs)


@rule(pat(ops.add)(either, c), accuracy="reassociating")
def shift_into_conv(x: Value, w: Value, b: Value | None, y: Value, c: Value) -> Value | None:
    """conv(x, w, b) + c  ->  conv(x, w, b + c), for c constant along the channels"""
    conv = node_of(y)
    shift, old = _per_channel(c, conv), array_of(b)
    if shift is None or (b is not None and old is None):
        return None
    return conv.op(x, w, constant_like(shift if old is None else old.astype(np.float64) + shift, y), **conv.attrs)


@rule(pat(ops.conv)(pat(ops.mul)(x, c).once, w, opt("b")).named("y"), accuracy="reassociating")
def input_scale_into_conv(x: Value, c: Value, w: Value, b: Value | None, y: Value) -> Value | None:
    """conv(x * c, w, b)  ->  conv(x, w * c, b), for c constant along the channels; padding is 0 either way"""
    conv, weight = node_of(y), elements(w)
    axis = _axis(conv)
    factor = channel_vector(c, axis, x.tensor.rank, x.tensor.shape[axis])
    if factor is None or conv.inputs[0] is None or conv.inputs[0].type != x.type:
        return None
    groups = factor.astype(np.float64).reshape(conv.attrs["group"], 1, weight.shape[1])
    per_filter = np.repeat(groups, weight.shape[0] // conv.attrs["group"], axis=1).reshape(*weight.shape[:2])
    scaled = weight.astype(np.float64) * per_filter.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return ops.conv(x, constant_like(scaled, y), b, **conv.attrs)


padded = pat(ops.pad, mode="constant", before=capture("before"), after=capture("after"))(x, opt("fill")).once


def _pads(before: tuple[Any, ...], after: tuple[Any, ...], node: Node) -> dict[str, Any] | None:
    """The node's attributes with a padding of its input moved in, if that pads known sizes of spatial axes only."""
    axis = _axis(node)
    rank = len(before)
    inside = [a for a in range(rank) if a not in (0, axis)]
    if any(not isinstance(p, int) or p < 0 for p in (*before, *after)):
        return None
    if any(before[a] or after[a] for a in (0, axis)):
        return None
    begin = tuple(p + before[a] for p, a in zip(node.attrs["pads_begin"], inside, strict=True))
    end = tuple(p + after[a] for p, a in zip(node.attrs["pads_end"], inside, strict=True))
    return {**node.attrs, "pads_begin": begin, "pads_end": end}


@rule(pat(ops.conv)(padded, var("w")[0], opt("b")).named("y"))
def pad_into_conv(x: Value, fill: Value | None, before: Any, after: Any, w: Value, b: Value | None, y: Value
                  ) -> Value | None:
    """conv(pad(x, 0), w, b)  ->  conv(x, w, b) with more padding"""
    attrs = _pads(before, after, node_of(y))
    return ops.conv(x, w, b, **attrs) if attrs is not None and _is_fill(fill, 0.0) else None


@rule(pat(ops.max_pool, ceil_mode=False)(padded).named("y"))
def pad_into_max_pool(x: Value, fill: Value | None, before: Any, after: Any, y: Value) -> Value | None:
    """max_pool(pad(x, -inf))  ->  max_pool(x) with more padding"""
    attrs = _pads(before, after, node_of(y))
    return ops.max_pool(x, **attrs) if attrs is not None and _is_fill(fill, -np.inf) else None


@rule(pat(ops.avg_pool, ceil_mode=False)(padded).named("y"))
def pad_into_avg_pool(x: Value, fill: Value | None, before: Any, after: Any, y: Value) -> Value | None:
    """avg_pool(pad(x, 0))  ->  avg_pool(x) with more padding, all of it counted"""
    pool = node_of(y)
    attrs = _pads(before, after, pool)
    uncounted = not pool.attrs["count_include_pad"] and any((*pool.attrs["pads_begin"], *pool.attrs["pads_end"]))
    if attrs is None or uncounted or not _is_fill(fill, 0.0):
        return None
    return ops.avg_pool(x, **{**attrs, "count_include_pad": True})


def _is_fill(fill: Value | None, number: float) -> bool:
    """Whether a pad fills with `number`; without an operand it fills with 0."""
    tensor = tensor_of(fill)
    if fill is None or tensor is None:
        return fill is None and number == 0.0
    return bool(tensor.array.reshape(-1)[0] == number)


class FoldBatchnorm(RewritePass):
    """batch_norm(conv(x, w, b), …)  ->  conv(x, w', b')

    Batch norms with constant parameters become a scale and a shift; those, and any others that are constant along the
    channels, move into the weights and biases of convolutions beside them, as do zero paddings."""

    name: ClassVar[str] = "fold-batchnorm"
    rules: ClassVar[tuple[Rule, ...]] = (
        batch_norm_affine, batch_norm_parts, scale_into_conv, shift_into_conv, input_scale_into_conv, pad_into_conv,
        pad_into_max_pool, pad_into_avg_pool,
    )
