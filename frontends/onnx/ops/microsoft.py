"""Operators of ONNX Runtime's own domain that exporters and its optimiser write."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.conv import conv
from lepton.frontends.onnx.ops.matmul import scaled, swapped
from lepton.frontends.onnx.ops.norm import layer_normalization
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
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


@imports("FusedMatMul", domain=_MS)
def fused_matmul(c: Call) -> Value:
    if c.flag("transBatchA") or c.flag("transBatchB"):
        c.fail("a transposed batch")
    a, b = c.x(0), c.x(1)
    a = swapped(c, a) if c.flag("transA") and a.tensor.rank > 1 else a
    b = swapped(c, b) if c.flag("transB") and b.tensor.rank > 1 else b
    return scaled(c, c(ops.matmul, a, b), c.f("alpha", 1.0))


@imports("FusedConv", domain=_MS)
def fused_conv(c: Call) -> Value:
    """Conv, then plus input 3, then an activation."""
    result = conv(c)
    result = result if c.opt(3) is None else c(ops.add, result, c.x(3))
    name, given = c.s("activation", ""), c.floats("activation_params", ())
    plain = {"Relu": ops.relu, "Tanh": ops.tanh, "Sigmoid": ops.sigmoid}
    if name in plain:
        return c(plain[name], result)
    match name, given:
        case "", _:
            return result
        case "LeakyRelu", (alpha,):
            return c(ops.leaky_relu, result, alpha=alpha)
        case "Clip", (low, high):
            return c(ops.clip, result, c.like(low, result), c.like(high, result))
        case "HardSigmoid", (alpha, beta):
            return c(ops.hard_sigmoid, result, alpha=alpha, beta=beta)
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


@imports("SkipLayerNormalization", domain=_MS)
def skip_layer_normalization(c: Call) -> list[Value | None]:
    """layer_norm(input + skip + bias); output 3 is the sum."""
    return _skip(c, c.opt(3), c.opt(4))


@imports("SkipSimplifiedLayerNormalization", domain=_MS)
def skip_simplified(c: Call) -> list[Value | None]:
    total = c(ops.add, c.x(0), c.x(1))
    total = total if c.opt(3) is None else c(ops.add, total, c.x(3))
    return [c(ops.rms_norm, total, c.x(2), axis=total.tensor.rank - 1, epsilon=c.f("epsilon", 1e-12)),
            None, None, total]


def _skip(c: Call, beta: Value | None, bias: Value | None) -> list[Value | None]:
    if c.wants(1) or c.wants(2):
        c.fail("the statistics as outputs")
    total = c(ops.add, c.x(0), c.x(1))
    total = total if bias is None else c(ops.add, total, bias)
    result = c(ops.layer_norm, total, c.x(2), beta, axis=total.tensor.rank - 1, epsilon=c.f("epsilon", 1e-12))
    return [result, None, None, total]


@imports("SimplifiedLayerNormalization")
@imports("SimplifiedLayerNormalization", domain=_MS)
def simplified_layer_normalization(c: Call) -> Value:
    c.ignore("stash_type")
    return c(ops.rms_norm, c.x(), c.x(1), axis=c.axis(-1), epsilon=c.f("epsilon", 1e-5))
