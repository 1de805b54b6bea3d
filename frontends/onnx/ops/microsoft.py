"""Operators of ONNX Runtime's own domain that exporters and its optimiser write."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.matmul import scaled, swapped
from lepton.frontends.onnx.ops.norm import layer_normalization
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value

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
