"""ONNX Runtime's operators on quantised tensors."""
from __future__ import annotations

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.matmul import swapped
from lepton.frontends.onnx.ops.quant import scalar_if_one
from lepton.frontends.onnx.registry import Rule, imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType

_MS = "com.microsoft"


def real(c: Call, x: Value, scale: Value, zero: Value | None) -> Value:
    return c(ops.dequantize, x, scalar_if_one(c, scale), scalar_if_one(c, zero), axis=0)


def level(c: Call, x: Value, scale: Value, zero: Value | None, to: DType) -> Value:
    to = zero.tensor.dtype if zero is not None else to
    return c(ops.quantize, x, scalar_if_one(c, scale), scalar_if_one(c, zero), axis=0, to=to)


def _pair(op: Op) -> Rule:
    def rule(c: Call) -> Value:
        """A, its scale and zero point, B with its own, then the result's."""
        result = c(op, real(c, c.x(0), c.x(1), c.opt(2)), real(c, c.x(3), c.x(4), c.opt(5)))
        return level(c, result, c.x(6), c.opt(7), c.x(0).tensor.dtype)

    return rule


imports("QLinearAdd", domain=_MS)(_pair(ops.add))
imports("QLinearMul", domain=_MS)(_pair(ops.mul))


@imports("QLinearSigmoid", "QLinearLeakyRelu", domain=_MS)
def qlinear_unary(c: Call) -> Value:
    x = real(c, c.x(0), c.x(1), c.opt(2))
    if c.node.op_type == "QLinearSigmoid":
        result = c(ops.sigmoid, x)
    else:
        result = c(ops.leaky_relu, x, alpha=c.f("alpha", 0.01))
    return level(c, result, c.x(3), c.opt(4), c.x(0).tensor.dtype)


@imports("QLinearGlobalAveragePool", domain=_MS)
def qlinear_global_average_pool(c: Call) -> Value:
    x, rank = real(c, c.x(0), c.x(1), c.opt(2)), c.x().tensor.rank
    axes = tuple(range(1, rank - 1)) if c.flag("channels_last") else tuple(range(2, rank))
    return level(c, c(ops.reduce_mean, x, axes=axes, keepdims=True), c.x(3), c.opt(4), c.x(0).tensor.dtype)


@imports("QLinearConcat", domain=_MS)
def qlinear_concat(c: Call) -> Value:
    """The result's scale and zero point, then three operands for each part."""
    if len(c.inputs) < 5 or len(c.inputs) % 3 != 2:
        c.fail(f"{len(c.inputs)} inputs")
    values = [real(c, c.x(i), c.x(i + 1), c.opt(i + 2)) for i in range(2, len(c.inputs), 3)]
    joined = c(ops.concat, *values, axis=c.axis(rank=values[0].tensor.rank))
    return level(c, joined, c.x(0), c.opt(1), c.x(2).tensor.dtype)


@imports("MatMulIntegerToFloat", domain=_MS)
def matmul_integer_to_float(c: Call) -> Value:
    total = c(ops.matmul_integer, c.x(0), c.x(1), scalar_if_one(c, c.opt(4)), scalar_if_one(c, c.opt(5)))
    return _scaled(c, total, c.x(2), c.x(3), c.opt(6))


@imports("DynamicQuantizeMatMul", domain=_MS)
def dynamic_quantize_matmul(c: Call) -> Value:
    rows, scale, zero = c.multi(ops.dynamic_quantize, c.x(0))
    total = c(ops.matmul_integer, rows, c.x(1), zero, scalar_if_one(c, c.opt(3)))
    return _scaled(c, total, scale, c.x(2), c.opt(4))


def _scaled(c: Call, total: Value, left: Value, right: Value, bias: Value | None) -> Value:
    left, right = (scalar_if_one(c, v) or v for v in (left, right))
    left = c.reshape(left, (*left.tensor.shape, 1)) if left.tensor.rank == 1 else left
    result = c(ops.mul, c.cast(total, left.tensor.dtype), c(ops.mul, left, right))
    return result if bias is None else c(ops.add, result, bias)


@imports("MatMulNBits", domain=_MS)
def matmul_n_bits(c: Call) -> Value:
    """A [..., K] @ B^T with B [N, blocks, bytes] packed, low bits first; one scale and zero point per block."""
    k, n, size = c.positive("K", REQUIRED), c.positive("N", REQUIRED), c.positive("block_size", REQUIRED)
    bits = c.i("bits", 4)
    c.ignore("accuracy_level", "weight_prepacked")
    if bits not in (2, 4, 8) or c.opt(4) is not None:
        c.fail(f"{bits} bits, or reordered groups")
    blocks, dtype = -(-k // size), c.x().tensor.dtype
    rows = _unpacked(c, c.reshape(c.x(1), (n, blocks, size * bits // 8)), bits, dtype)
    zero = _zero_points(c, n, blocks, bits, dtype)
    scales = c.cast(c.reshape(c.x(2), (n, blocks, 1)), dtype)
    values = c.reshape(c(ops.mul, c(ops.sub, rows, zero), scales), (n, blocks * size))
    values = c(ops.slice_, values, starts=(0, 0), sizes=(n, k), steps=(1, 1)) if blocks * size != k else values
    result = c(ops.matmul, c.x(), swapped(c, values))
    return result if c.opt(5) is None else c(ops.add, result, c.x(5))


def _unpacked(c: Call, packed: Value, bits: int, dtype: DType) -> Value:
    """u8 [N, blocks, bytes] -> [N, blocks, bytes * 8/bits] as numbers."""
    if bits == 8:
        return c.cast(packed, dtype)
    shape = packed.tensor.shape
    shifts = c.const(range(0, 8, bits), DType.U8)
    apart = c(ops.shift_right, c.reshape(packed, (*shape, 1)), shifts)
    low = c(ops.bit_and, apart, c.const(2**bits - 1, DType.U8))
    return c.reshape(c.cast(low, dtype), (*shape[:-1], dims.product([shape[-1], 8 // bits])))


def _zero_points(c: Call, n: int, blocks: int, bits: int, dtype: DType) -> Value:
    """[N, blocks, 1], or half the range where there are none."""
    given = c.opt(3)
    if given is None:
        return c.const(2 ** (bits - 1), dtype)
    if given.tensor.dtype is not DType.U8:
        return c.cast(c.reshape(given, (n, blocks, 1)), dtype)
    count = -(-blocks * bits // 8)
    rows = _unpacked(c, c.reshape(given, (n, 1, count)), bits, dtype)
    rows = c.reshape(rows, (n, count * 8 // bits))
    return c.reshape(c(ops.slice_, rows, starts=(0, 0), sizes=(n, blocks), steps=(1, 1)), (n, blocks, 1))
