"""Operators of ONNX Runtime's own domain that exporters and its optimiser write."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.conv import conv
from lepton.frontends.onnx.ops.matmul import gemm, scaled, swapped
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.ops.norm import layer_normalization
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.types import DType

_MS = "com.microsoft"

imports("LayerNormalization", domain=_MS)(layer_normalization)


@imports("Gelu", domain=_MS)
def gelu(c: Call) -> Value:
    return c(ops.gelu, c.x())


@imports("BiasGelu", domain=_MS)
def bias_gelu(c: Call) -> Value:
    return c(ops.gelu, c(ops.add, c.x(0), c.x(1)))


@imports("FastGelu", domain=_MS)
def fast_gelu(c: Call) -> Value:
    x = c.x() if c.opt(1) is None else c(ops.add, c.x(), c.x(1))
    return c(ops.gelu, x, approximate="tanh")


@imports("QuickGelu", domain=_MS)
def quick_gelu(c: Call) -> Value:
    """x * sigmoid(alpha * x)"""
    return c(ops.swish, c.x(), alpha=c.f("alpha", 1.702))


@imports("BiasAdd", domain=_MS)
def bias_add(c: Call) -> Value:
    """x + bias + skip"""
    return c(ops.add, c(ops.add, c.x(0), c.x(1)), c.x(2))


@imports("BiasSplitGelu", domain=_MS)
def bias_split_gelu(c: Call) -> Value:
    """left * gelu(right) of the halves of x + bias."""
    total = c(ops.add, c.x(0), c.x(1))
    axis, half = total.tensor.rank - 1, dims.floordiv(total.tensor.shape[-1], 2)
    left, right = parts(c, total, axis, [half, half])
    return c(ops.mul, left, c(ops.gelu, right))


@imports("FusedMatMul", "TransposeMatMul", domain=_MS)
def fused_matmul(c: Call) -> Value:
    a, b = (_turned(c, c.x(i), c.flag(f"transBatch{name}"), c.flag(f"trans{name}")) for i, name in ((0, "A"), (1, "B")))
    return scaled(c, c(ops.matmul, a, b), c.f("alpha", 1.0))


def _turned(c: Call, x: Value, batch: bool, last: bool) -> Value:
    """x with its first axis behind the batch's ([M,B…,K] -> [B…,M,K]), then its last two exchanged, if so wanted."""
    rank = x.tensor.rank
    if batch and rank > 2:
        x = c(ops.transpose, x, perm=(*range(1, rank - 1), 0, rank - 1))
    return swapped(c, x) if last and rank > 1 else x


@imports("FusedGemm", domain=_MS)
def fused_gemm(c: Call) -> Value:
    given = [c.f(f"activation_{name}") for name in ("alpha", "beta") if c.has(f"activation_{name}")]
    c.ignore("activation_gamma")
    return _activated(c, gemm(c), c.s("activation", ""), given)


@imports("FusedConv", domain=_MS)
def fused_conv(c: Call) -> Value:
    """Conv, then plus input 3, then an activation."""
    result = conv(c)
    result = result if c.opt(3) is None else c(ops.add, result, c.x(3))
    return _activated(c, result, c.s("activation", ""), c.floats("activation_params", ()))


def _activated(c: Call, x: Value, name: str, given: Sequence[float]) -> Value:
    """An activation by its name in ONNX; its parameters, or none for the usual ones."""
    plain = {"": None, "Relu": ops.relu, "Tanh": ops.tanh, "Sigmoid": ops.sigmoid, "Softplus": ops.softplus,
             "Softsign": ops.softsign}
    if name in plain:
        op = plain[name]
        return x if op is None else c(op, x)
    match name, tuple(given):
        case "LeakyRelu", (alpha, *_):
            return c(ops.leaky_relu, x, alpha=alpha)
        case "LeakyRelu", ():
            return c(ops.leaky_relu, x, alpha=0.01)
        case "Elu", (alpha, *_):
            return c(ops.elu, x, alpha=alpha)
        case "Clip", (low, high):
            return c(ops.clip, x, c.like(low, x), c.like(high, x))
        case "HardSigmoid", (alpha, beta):
            return c(ops.hard_sigmoid, x, alpha=alpha, beta=beta)
    c.fail(f"activation {name!r} with parameters {list(given)}")


@imports("EmbedLayerNormalization", domain=_MS)
def embed_layer_normalization(c: Call) -> list[Value | None]:
    """layer_norm(words[ids] + positions[0…S-1] + segments[ids])."""
    ids, words, places = (c.ranked(i, 2) for i in (0, 2, 3))
    length = ids.tensor.shape[1]
    if c.opt(8) is not None:
        row = c(ops.gather, places, c.x(8), axis=0)
    else:
        row = c(ops.slice_, places, starts=(0, 0), sizes=(length, places.tensor.shape[1]), steps=(1, 1))
    total = c(ops.add, c(ops.gather, words, ids, axis=0), row)
    if c.opt(1) is not None:
        total = c(ops.add, total, c(ops.gather, c.ranked(4, 2), c.ranked(1, 2), axis=0))
    result = c(ops.layer_norm, total, c.x(5), c.x(6), axis=2, epsilon=c.f("epsilon", 1e-12))
    c.ignore("mask_index_type")
    if not c.wants(1):
        return [result, None, total]
    mask = c.opt(7)
    if mask is None:
        return [result, c(ops.broadcast_to, c.const(0, DType.I32), shape=(ids.tensor.shape[0],)), total]
    return [result, c(ops.reduce_sum, c.cast(c.ranked(7, 2), DType.I32), axes=(1,), keepdims=False), total]


@imports("SkipSimplifiedLayerNormalization", domain=_MS)
def skip_simplified(c: Call) -> list[Value | None]:
    """rms_norm(input + skip + bias); output 3 is the sum."""
    total = _sum(c, c.opt(3))
    return [c(ops.rms_norm, total, c.x(2), axis=total.tensor.rank - 1, epsilon=c.f("epsilon", 1e-12)),
            None, None, total]


@imports("SkipLayerNormalization", domain=_MS)
def skip_layer_normalization(c: Call) -> list[Value | None]:
    """layer_norm(input + skip + bias); output 3 is the sum."""
    total = _sum(c, c.opt(4))
    result = c(ops.layer_norm, total, c.x(2), c.opt(3), axis=total.tensor.rank - 1, epsilon=c.f("epsilon", 1e-12))
    return [result, None, None, total]


def _sum(c: Call, bias: Value | None) -> Value:
    """What is normalised. ONNX Runtime leaves the statistics, which training wants, unwritten."""
    if c.wants(1) or c.wants(2):
        c.fail("the statistics as outputs")
    total = c(ops.add, c.x(0), c.x(1))
    return total if bias is None else c(ops.add, total, bias)


@imports("SimplifiedLayerNormalization")
@imports("SimplifiedLayerNormalization", domain=_MS)
def simplified_layer_normalization(c: Call) -> list[Value | None]:
    """rms_norm; output 1 is 1/root of the mean square."""
    c.ignore("stash_type")
    x, axis, epsilon = c.x(), c.axis(-1), c.f("epsilon", 1e-5)
    result = c(ops.rms_norm, x, c.x(1), axis=axis, epsilon=epsilon)
    if not c.wants(1):
        return [result]
    mean = c(ops.reduce_mean, c(ops.mul, x, x), axes=tuple(range(axis, x.tensor.rank)), keepdims=True)
    return [result, c(ops.reciprocal, c(ops.sqrt, c(ops.add, mean, c.like(epsilon, mean))))]


@imports("GroupNorm", domain=_MS)
def group_norm(c: Call) -> Value:
    return _grouped(c, c.x())


@imports("SkipGroupNorm", domain=_MS)
def skip_group_norm(c: Call) -> list[Value]:
    """Of x + skip + bias, where skip may be one row for all places; output 1 is the sum."""
    x, skip = c.x(0), c.x(3)
    if skip.tensor.rank == 2:
        batch, channels = skip.tensor.shape
        skip = c.reshape(skip, (batch, *[1] * (x.tensor.rank - 2), channels))
    total = c(ops.add, x, skip)
    total = total if c.opt(4) is None else c(ops.add, total, c.x(4))
    return [_grouped(c, total), total]


def _grouped(c: Call, x: Value) -> Value:
    """Group normalisation with channels last, if nothing else is said; then x * sigmoid(x), if so wanted."""
    last, rank = c.flag("channels_last", True), x.tensor.rank
    x = c(ops.transpose, x, perm=(0, rank - 1, *range(1, rank - 1))) if last else x
    scale, bias = (c.cast(c.x(i), x.tensor.dtype) for i in (1, 2))
    x = c(ops.group_norm, x, scale, bias, groups=c.positive("groups", REQUIRED), epsilon=c.f("epsilon", 1e-5))
    x = c(ops.swish, x, alpha=1.0) if c.flag("activation") else x
    return c(ops.transpose, x, perm=(0, *range(2, rank), 1)) if last else x


@imports("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", domain=_MS)
def search(c: Call) -> Value:
    c.fail("generation as one node, around a decoder that is an attribute",
           help="compile the decoder alone, with its past and present, and choose the tokens outside")
