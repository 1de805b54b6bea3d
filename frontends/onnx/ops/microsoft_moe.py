"""ONNX Runtime's mixtures of experts: each token goes through the few experts that its router scores highest.

Every expert's tokens are gathered, go through its layers as rows of a product with constant weights, and are added to
where they came from: no more work is done than the chosen experts ask for, whatever their number. How many tokens an
expert gets is a size that only the running model knows."""
from __future__ import annotations

from collections.abc import Callable

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.ops.matmul import swapped
from lepton.frontends.onnx.ops.microsoft_bits import Bits, matrix
from lepton.frontends.onnx.ops.movement import parts
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_MS = "com.microsoft"
Layer = Callable[[int, Value], Value]       # of an expert, on its rows: [n,k] -> [n,m]
Layers = tuple[Layer, Layer, Layer | None]


@imports("MoE", domain=_MS)
def mixture(c: Call) -> Value:
    layers = _layer(c, 2), _layer(c, 4), None if c.opt(6) is None else _layer(c, 6)
    shares = c(ops.softmax, c.cast(c.ranked(1, 2), DType.F32), axis=1)
    top, expert = _largest(c, shares)
    return _mixed(c, layers, _normalised(c, top) if c.flag("normalize_routing_weights") else top, expert)


@imports("QMoE", domain=_MS)
def quantised_mixture(c: Call) -> Value:
    """Weights of 2, 4 or 8 bits, scaled by rows or by blocks along k. As in ONNX Runtime's kernel the chosen experts'
    shares are their scores' softmax among each other, unless others are given."""
    c.ignore("accuracy_level")
    if (kind := c.s("quant_type", "int")) != "int" or c.i("weights_prepacked", -1) > 0:
        c.fail(f"weights of quant_type '{kind}', or packed for a device")
    if given := [i for i in range(15, 21) if c.opt(i) is not None]:
        c.fail(f"scales of 8-bit floats (input {given[0]})")
    bits = c.i("expert_weight_bits", 4)
    wide = [c.i(f"fc{i}_expert_weight_bits", bits) for i in (1, 2, 3)]
    gate = None if c.opt(8) is None else _packed_layer(c, 8, 13, wide[2])
    layers = _packed_layer(c, 2, 11, wide[0]), _packed_layer(c, 5, 12, wide[1]), gate
    top, expert = _largest(c, c.cast(c.ranked(1, 2), DType.F32))
    if c.opt(14) is None:
        c.flag("normalize_routing_weights")
        return _mixed(c, layers, c(ops.softmax, top, axis=1), expert)
    shares = c(ops.gather_elements, c.cast(c.ranked(14, 2), DType.F32), expert, axis=1)
    return _mixed(c, layers, _normalised(c, shares) if c.flag("normalize_routing_weights") else shares, expert)


# --- layers ----------------------------------------------------------------------------------------


def _layer(c: Call, at: int) -> Layer:
    """Weights [experts,m,k] at input `at`, their bias [experts,m] behind them."""
    weights, bias = c.ranked(at, 3), c.opt(at + 1)
    return lambda e, rows: _product(c, rows, _one(c, weights, e), None if bias is None else _one(c, bias, e))


def _packed_layer(c: Call, at: int, zero: int, bits: int) -> Layer:
    """Weights [experts,m,bytes] at input `at`, their scales and bias behind them, their zero points at `zero`."""
    weights, scales = c.ranked(at, 3), c.x(at + 1)
    experts, m, width = weights.tensor.shape
    if bits not in (2, 4, 8) or not isinstance(m, int) or not isinstance(width, int):
        c.fail(f"weights {weights.tensor} of {bits} bits")
    k = width * 8 // bits
    form = Bits(m, k, c.positive("block_size", k) if scales.tensor.rank == 3 else k, bits)
    if k % form.size or scales.tensor.shape[:2] != (experts, m):
        raise LeptonError(f"scales {scales.tensor} for weights {weights.tensor}, block_size {form.size}", where=c.where)
    zeros, bias, dtype = c.opt(zero), c.opt(at + 2), c.x().tensor.dtype

    def apply(e: int, rows: Value) -> Value:
        points = None if zeros is None else _points(c, _one(c, zeros, e), form)
        decoded = matrix(c, form, _one(c, weights, e), _one(c, scales, e), points, dtype)
        return _product(c, rows, decoded, None if bias is None else _one(c, bias, e))

    return apply


def _points(c: Call, packed: Value, form: Bits) -> Value:
    """Zero points as blocks have them; where rows are blocks they lie packed one behind the other."""
    if packed.tensor.rank == 2 or form.bits == 8:
        return packed
    each = c(ops.shift_right, c.reshape(packed, (packed.tensor.size, 1)), c.const(range(0, 8, form.bits), DType.U8))
    each = c(ops.bit_and, each, c.const(2**form.bits - 1, DType.U8))
    flat = c.reshape(each, (each.tensor.size,))
    return c(ops.slice_, flat, starts=(0,), sizes=(form.n,), steps=(1,))


def _one(c: Call, x: Value, e: int) -> Value:
    """x[e]"""
    shape = x.tensor.shape
    part = c(ops.slice_, x, starts=(e,) + (0,) * (len(shape) - 1), sizes=(1, *shape[1:]), steps=(1,) * len(shape))
    return c.reshape(part, shape[1:])


def _product(c: Call, rows: Value, weights: Value, bias: Value | None) -> Value:
    result = c(ops.matmul, rows, swapped(c, weights))
    return result if bias is None else c(ops.add, result, bias)


# --- routing ---------------------------------------------------------------------------------------


def _experts(c: Call) -> int:
    """How many there are: weights say so, and the scores must have as many columns."""
    experts = c.x(2).tensor.shape[0]
    if not isinstance(experts, int) or dims.unify(experts, c.ranked(1, 2).tensor.shape[1]) is None:
        raise LeptonError(f"weights of {experts} experts, scores {c.x(1).tensor}", where=c.where)
    return experts


def _largest(c: Call, scores: Value) -> tuple[Value, Value]:
    """The k largest of each row and where they are; of equal ones the last, as in ONNX Runtime."""
    if c.flag("use_sparse_mixer"):
        c.fail("the sparse mixer")
    tokens, experts, k = scores.tensor.shape[0], _experts(c), c.positive("k", 1)
    if k > experts:
        raise LeptonError(f"{k} of {experts} experts", where=c.where)
    backwards = c(ops.slice_, scores, starts=(0, experts - 1), sizes=(tokens, experts), steps=(1, -1))
    top, places = c.multi(ops.top_k, backwards, k=k, axis=1, largest=True, sorted=True)
    return top, c(ops.sub, c.size(experts - 1), places)


def _normalised(c: Call, shares: Value) -> Value:
    return c(ops.div, shares, c(ops.reduce_sum, shares, axes=(1,), keepdims=True))


def _mixed(c: Call, layers: Layers, top: Value, expert: Value) -> Value:
    """The sum of each token's experts, times their shares `top` [tokens,k]; `expert` [tokens,k] says which. An expert
    whose share is 0 (or NaN) is not asked."""
    x, (first, second, gate), experts = c.x(), layers, _experts(c)
    tokens, width = c.x(1).tensor.shape[0], x.tensor.shape[-1]
    rows, shape = c.reshape(x, (tokens, width)), (tokens, experts)
    shares = c(ops.scatter_elements, _zeros(c, shape), expert, top, axis=1)
    total = _zeros(c, (tokens, width))
    for e in range(experts):
        share = c.reshape(c(ops.slice_, shares, starts=(0, e), sizes=(tokens, 1), steps=(1, 1)), (tokens,))
        found = c(ops.non_zero, c(ops.greater, share, c.like(0.0, share)), symbol=c.fresh("tokens"))
        n = found.tensor.shape[1]
        at = c.reshape(found, (n,))
        own = c(ops.gather, rows, at, axis=0)
        inner = _activated(c, first(e, own), None if gate is None else gate(e, own))
        weight = c.reshape(c(ops.gather, share, at, axis=0), (n, 1))
        result = c(ops.mul, c.cast(second(e, inner), DType.F32), weight)
        total = c(ops.scatter_nd, total, c.reshape(at, (n, 1)), result, reduction="add")
    return c.reshape(c.cast(total, x.tensor.dtype), x.tensor.shape)


def _zeros(c: Call, shape: tuple[Dim, ...]) -> Value:
    return c(ops.broadcast_to, c.const(0.0, DType.F32), shape=shape)


def _activated(c: Call, x: Value, gate: Value | None) -> Value:
    """What lies between an expert's layers; `gate`: what its third layer gave."""
    match kind := c.s("activation_type", "relu"):
        case "relu":
            found = c(ops.relu, x)
        case "gelu":
            found = c(ops.gelu, x, approximate="tanh")
        case "silu":
            found = c(ops.swish, x, alpha=1.0)
        case "identity":
            found = x
        case "swiglu":
            return _swiglu(c, x, gate)
        case _:
            c.fail(f"activation_type '{kind}'")
    c.ignore("activation_alpha", "activation_beta", "swiglu_fusion", "swiglu_limit")
    return found if gate is None else c(ops.mul, found, gate)


def _swiglu(c: Call, x: Value, linear: Value | None) -> Value:
    """swish(gate) * (linear + beta), of two layers or of one that gives both."""
    alpha, beta = c.f("activation_alpha", 1.0), c.f("activation_beta", 0.0)
    fusion, rows, half = c.i("swiglu_fusion", 0), x.tensor.shape[0], dims.floordiv(x.tensor.shape[1], 2)
    if (fusion == 0) != (linear is not None):
        raise LeptonError(f"swiglu_fusion {fusion} {'without' if linear is None else 'with'} a third layer",
                          where=c.where)
    if linear is None and fusion == 1:
        pairs = c.reshape(x, (rows, half, 2))
        x, linear = (c.reshape(part, (rows, half)) for part in parts(c, pairs, 2, [1, 1]))
    elif linear is None:
        x, linear = parts(c, x, 1, [half, half])
    if c.has("swiglu_limit"):
        limit = c.f("swiglu_limit")
        x = c(ops.minimum, x, c.like(limit, x))
        linear = c(ops.clip, linear, c.like(-limit, linear), c.like(limit, linear))
    shifted = c(ops.add, linear, c.like(beta, linear)) if beta else linear
    return c(ops.mul, c(ops.swish, x, alpha=alpha), shifted)
