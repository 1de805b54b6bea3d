"""ONNX Runtime's operators on quantised tensors, compiled: every pair of bytes, ties, both signs, open dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton.frontends import load
from lepton.ir.diagnostics import UnsupportedError
from tests.frontends.build import floats, positive
from tests.frontends.contrib import Held, Operand, agrees, compiled, held, node_model, reference

Case = tuple[str, tuple[Operand, ...], dict[str, Any]]
BYTES = np.arange(256).astype(np.uint8)
FIRST, SECOND = np.repeat(BYTES, 256), np.tile(BYTES, 256)   # all pairs
SIGNS = (np.uint8, np.int8)


def case(op: str, *operands: Operand, **rest: Any) -> Case:
    return op, operands, rest


def f(value: float) -> Held:
    return held(value, np.float32)


def drawn(*shape: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8).view(kind)


def i32(n: int) -> Held:
    return held(np.random.default_rng(1).integers(-1000, 1000, n), np.int32)


def elementwise(kind: Any) -> list[Case]:
    def z(value: int) -> Held:
        return held(value, kind)

    a, b, x, image = FIRST.view(kind), SECOND.view(kind), drawn(2, 5, 7, kind=kind), drawn(2, 4, 7, 9, kind=kind)
    out = (f(0.05), z(3), f(0.03), z(10))
    low = z(np.iinfo(kind).min)
    return [
        case("QLinearAdd", a, f(0.5), z(3), b, f(0.25), z(7), f(1), z(9)),       # a quarter of all sums are ties
        case("QLinearMul", a, f(0.037), z(3), b, f(0.021), z(7), f(0.05), z(9)),
        case("QLinearMul", a, f(0.5), z(3), b, f(0.25), z(7), f(1), z(9)),
        case("QLinearAdd", x, f(0.04), z(3), x[:1, :, :1], f(0.021), z(7), f(0.053), z(9), sizes={"n": 5}),
        case("QLinearSigmoid", BYTES.view(kind), f(0.05), z(3), f(1 / 256), low),
        case("QLinearLeakyRelu", BYTES.view(kind), *out, alpha=0.1),
        case("QLinearWhere", FIRST > 77, a, f(0.05), z(3), b, f(0.03), z(10), f(0.04), z(1)),
        case("QLinearConcat", f(0.04), z(5), x, f(0.0517), z(3), x, f(0.04), z(5), axis=-2),  # no ties: see below
        *(case("QLinearGlobalAveragePool", image, *out, channels_last=last) for last in (0, 1)),
        case("QLinearAveragePool", image, *out, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
        case("QLinearAveragePool", image, *out, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        case("QLinearAveragePool", image, *out, kernel_shape=[3, 2], channels_last=1, ceil_mode=1, strides=[2, 2],
             sizes={"h": 4}),
        case("QLinearAveragePool", image, *out, kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
        case("NhwcMaxPool", image, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
        case("QuantizeLinear", floats(4, 5) * 3, f(0.02), z(5)), case("DequantizeLinear", x, f(0.02), z(5)),
        case("QuantizeLinear", floats(4, 5), held(positive(5) * 0.02), held(np.arange(5), kind), axis=1),
        case("DequantizeLinear", x, held(floats(5)), held(np.arange(5), kind), axis=-2, sizes={"n": 2}),
    ]


def products(kind: Any) -> list[Case]:
    """Activations u8, weights of the given kind; scales and zero points for all or for each column."""
    w, per, zeros = held(drawn(24, 10, kind=kind)), held(positive(10) * 0.02), held(np.arange(10) * 3, kind)
    x, one, out = (f(0.02), held(120, np.uint8)), held(5, kind), (f(0.9), held(100, np.uint8))
    rows, wide = drawn(7, 24, seed=2), drawn(2, 3, 24, seed=2)
    taps, grouped = held(drawn(6, 4, 3, 3, kind=kind)), held(drawn(8, 2, 3, 3, kind=kind))
    found = [
        case("MatMulIntegerToFloat", wide, w, f(0.02), per, x[1], zeros, held(floats(10)), sizes={"n": 3}),
        case("MatMulIntegerToFloat", wide, w, f(0.02), f(0.03)),
        case("DynamicQuantizeMatMul", floats(2, 3, 24), w, per, zeros, held(floats(10)), sizes={"n": 3}),
        case("DynamicQuantizeMatMul", floats(3, 24) * 0, w, held(positive(1)), held(np.zeros(1), kind)),
        case("QGemm", rows, *x, w, per, zeros, i32(10), alpha=0.7),
        case("QGemm", rows, *x, w, f(0.02), one, i32(10), *out, sizes={"n": 7}),
        case("QGemm", rows.T.copy(), *x, held(np.ascontiguousarray(w.array.T)), f(0.02), one, None, *out, transA=1,
             transB=1),
    ]
    packed, bias, heads = held(drawn(8, 24, kind=kind)), held(floats(24)), {"num_heads": 2, "sizes": {"s": 3, "p": 5}}
    found += [
        case("QAttention", drawn(2, 3, 8), packed, bias, f(0.02), f(0.02), None, x[1], one, **heads),
        case("QAttention", drawn(2, 3, 8), packed, bias, f(0.02), held(positive(24) * 0.02),
             np.array([2, 3], np.int32), x[1], held(np.zeros(24), kind), **heads),
        case("QAttention", drawn(2, 3, 8), packed, bias, f(0.02), f(0.02), None, x[1], one, floats(2, 2, 2, 5, 4),
             outputs=2, unidirectional=1, **heads),
    ]
    for last in (0, 1):
        image = drawn(2, 7, 9, 4) if last else drawn(2, 4, 7, 9)
        found += [
            case("QLinearConv", image, *x, taps, held(positive(6) * 0.02), held(np.full(6, 3), kind), *out, i32(6),
                 channels_last=last, pads=[1, 1, 1, 1], strides=[2, 1], sizes={"h": 7, "w": 9}),
            case("QLinearConv", image, *x, taps, f(0.02), one, *out, channels_last=last, auto_pad="SAME_LOWER",
                 strides=[2, 2], sizes={}),
            case("QLinearConv", image, *x, grouped, f(0.02), one, *out, channels_last=last, group=2, sizes={"h": 7}),
        ]
    return found


IDS = np.array([[1, 2, 3], [3, 0, 0]], np.int32)
TABLES = [held(drawn(n, 8, seed=n)) for n in (9, 6, 2)] + [held(drawn(8)), held(drawn(8, seed=1))]
SCALES, ZEROS = [f(s) for s in (0.01, 0.02, 0.03, 0.01, 0.02)], [held(z, np.uint8) for z in (120, 3, 7, 100, 99)]
SHORT = np.random.default_rng(0).integers(-2**15, 2**15, (2, 3, 40)).astype(np.int16)
OTHERS = [
    case("QEmbedLayerNormalization", IDS, IDS % 2, *TABLES, np.minimum(IDS, 1), *SCALES, *ZEROS, outputs=2,
         sizes={"b": 2, "s": 3}),
    case("QEmbedLayerNormalization", IDS, None, *TABLES[:2], None, *TABLES[3:], None, *SCALES[:2], None, *SCALES[3:],
         *ZEROS[:2], None, *ZEROS[3:], outputs=2, sizes={"s": 3}),
    case("MatMulInteger16", SHORT, SHORT[0].T.copy()),
    *(case("QuantizeLinear", floats(4, 5) * 100, f(0.002), held(7, kind)) for kind in (np.uint16, np.int16)),
]
QUICK = [*elementwise(np.uint8), *products(np.int8), *OTHERS]
CASES = [*QUICK, *elementwise(np.int8), *products(np.uint8)]


@pytest.mark.parametrize("k", [pytest.param(k, marks=[pytest.mark.slow] * (k >= len(QUICK)), id=f"{CASES[k][0]}-{k}")
                               for k in range(len(CASES))])
def test_equals_onnxruntime(k: int) -> None:
    """Bit for bit, where the result is of integers: but a tie of a mean, or of a change of scale, may go either way,
    as the quotient of the scales is rounded once here and twice there."""
    op, operands, rest = CASES[k]
    if op != "QLinearAveragePool":
        agrees(op, *operands, **rest)
        return
    model, feeds = node_model(op, *operands, **rest)
    apart = np.abs(compiled(model, feeds)[0].astype(int) - reference(model, feeds)[0].astype(int))
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 0.02


@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize(("axis", "opset", "scale"), [
    (0, 12, 1 / 256), (1, 12, 1 / 256), (1, 13, 0.3), (-1, 12, 0.00405), (-1, 13, 0.0039138), (-1, 13, 1.7)])
def test_softmax(kind: Any, axis: int, opset: int, scale: float) -> None:
    model, feeds = node_model("QLinearSoftmax", drawn(20, 5, 7, kind=kind), f(0.05), held(3, kind), f(scale),
                              held(np.iinfo(kind).min, kind), axis=axis, sizes={"n": 5})
    model.graph.node[0].attribute.add(name="opset", type=2, i=opset)
    np.testing.assert_array_equal(compiled(model, feeds)[0], reference(model, feeds)[0])


def test_mean_over_axes() -> None:
    """QLinearReduceMean has a schema, but no kernel on the CPU: against its meaning."""
    x = drawn(2, 5, 7)
    model, feeds = node_model("QLinearReduceMean", x, f(0.05), held(3, np.uint8), f(0.03), held(10, np.uint8),
                              axes=[-1, 1], keepdims=0)
    want = np.rint((x.astype(np.float64) - 3).mean(axis=(1, 2)) * 0.05 / 0.03) + 10
    np.testing.assert_array_equal(compiled(model, feeds)[0], np.clip(want, 0, 255).astype(np.uint8))


# --- a few bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("n", "k", "block"), [(5, 64, 16), (7, 100, 32), (3, 256, 128)])
def test_products_with_packed_weights(bits: int, n: int, k: int, block: int) -> None:
    blocks = -(-k // block)
    weights, scales = held(drawn(n, blocks, block * bits // 8)), held(positive(n, blocks) * np.float32(0.1))
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": bits, "block_size": block, "sizes": {"rows": 3}}
    zeros: list[Held | None] = [None, held(drawn(n, -(-blocks * bits // 8)))]
    zeros += [] if bits == 8 else [held(floats(n, blocks) + 7)]
    for zero in zeros:
        agrees("MatMulNBits", floats(2, 3, k), weights, scales, zero, None, held(floats(n)), **sizes)
    if bits == 4:
        groups = held(np.random.default_rng(3).integers(0, blocks, k), np.int32)
        agrees("MatMulNBits", floats(2, 3, k), weights, scales, None, groups, **sizes)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gathering_from_a_packed_table(bits: int) -> None:
    """An index outside the table gives zeros."""
    table, scales = held(drawn(9, 4 * bits)), held(positive(9, 2))
    at = np.array([[1, -1, 8], [0, 9, -10]])
    for zero in (None, held(drawn(9, -(-2 * bits // 8)))):
        agrees("GatherBlockQuantized", table, at, scales, zero, bits=bits, block_size=16, gather_axis=0,
               quantize_axis=-1, sizes={"n": 3})


@pytest.mark.parametrize("kind", [0, 1])
def test_bitsandbytes(kind: int) -> None:
    codes, blocks = drawn(6 * 32 // 2), positive(12)
    attributes: dict[str, Any] = {"K": 32, "N": 6, "block_size": 16, "quant_type": kind}
    agrees("MatMulBnb4", floats(2, 32), held(codes), held(blocks), transB=1, **attributes)
    # ONNX Runtime reads past the end of the weights for transB=0: against the matrix that the other form shows.
    matrix = reference(*node_model("MatMulBnb4", np.eye(32, dtype=np.float32), held(codes), held(blocks), **attributes))
    model, feeds = node_model("MatMulBnb4", floats(2, 6), held(codes), held(blocks), transB=0, **attributes)
    np.testing.assert_allclose(compiled(model, feeds)[0], feeds["x0"] @ matrix[0].T, rtol=1e-5, atol=1e-6)


def test_weights_packed_for_a_device_are_refused() -> None:
    model, _ = node_model("MatMulNBits", floats(2, 32), held(drawn(3, 2, 8)), held(positive(3, 2)), K=32, N=3, bits=4,
                          block_size=16, weight_prepacked=1)
    with pytest.raises(UnsupportedError, match="packed for a device"):
        load(model)
