"""Mixtures of experts, compiled, against ONNX Runtime's kernels and, where these refuse, against their formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton
from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError, UnsupportedError
from tests.frontends.build import floats, same
from tests.frontends.contrib import Held, Operand, agrees, compiled, held, node_model, reference

TOKENS, HIDDEN, INNER, EXPERTS = 7, 16, 32, 4
SWIGLU: dict[str, Any] = {"activation_type": "swiglu", "swiglu_fusion": 1}


def scores(tokens: int = TOKENS, experts: int = EXPERTS) -> np.ndarray:
    return floats(tokens, experts, seed=1) * 2


def layers(wide: int = 1, biases: bool = True, experts: int = EXPERTS) -> list[Operand]:
    """fc1 and fc2 with their biases."""
    shapes = ((experts, wide * INNER, HIDDEN), (experts, wide * INNER), (experts, HIDDEN, INNER), (experts, HIDDEN))
    made = [held(floats(*shape, seed=i) * 0.3) for i, shape in enumerate(shapes)]
    return [made[0], made[1] if biases else None, made[2], made[3] if biases else None]


@pytest.mark.parametrize("attributes", [
    {"k": 2}, {"k": 2, "normalize_routing_weights": 1, "activation_type": "silu"}, {"k": 1, "activation_type": "gelu"},
    {"k": EXPERTS, "activation_type": "identity"}, {"k": 2, **SWIGLU},
    {"k": 3, **SWIGLU, "swiglu_limit": 0.7, "activation_alpha": 1.702, "activation_beta": 1.0},
], ids=str)
def test_mixtures(attributes: dict[str, Any]) -> None:
    wide = 2 if "swiglu_fusion" in attributes else 1
    agrees("MoE", floats(TOKENS, HIDDEN), scores(), *layers(wide), **attributes)


def test_mixtures_without_biases() -> None:
    agrees("MoE", floats(TOKENS, HIDDEN), scores(), *layers(biases=False), k=2)


@pytest.mark.parametrize("batch", [(2, 3), (1, 1), (4, 0)])
def test_batches(batch: tuple[int, int]) -> None:
    tokens = batch[0] * batch[1]
    agrees("MoE", floats(*batch, HIDDEN), scores(tokens), *layers(), k=2)


def test_weights_that_are_inputs() -> None:
    given = [x.array if isinstance(x, Held) else x for x in layers()]
    agrees("MoE", floats(TOKENS, HIDDEN), scores(), *given, k=2, sizes={"n": TOKENS})


def test_ties_and_shares_of_nothing() -> None:
    """Of equal experts the last are taken; one whose share is 0, or NaN, is not asked, whatever it would answer."""
    router = np.array([[0, 0, 0, 0], [1, 1, 0, 1], [200, 0, 0, 0], [np.inf, 0, 1, 2], [np.nan, 0, 1, 2],
                       [-np.inf] * 4, [0, -np.inf, -np.inf, 0]], np.float32)
    first, bias, second, last = layers()
    assert isinstance(bias, Held)
    bias.array[3] = 1e38        # overflows in the layer behind it
    agrees("MoE", floats(TOKENS, HIDDEN), router, first, bias, second, last, k=2, rtol=1e-4)


def test_all_tokens_go_to_one_expert() -> None:
    router = np.tile(np.array([0, 0, 9, 0], np.float32), (TOKENS, 1))
    agrees("MoE", floats(TOKENS, HIDDEN), router, *layers(), k=1)


def test_sessions_of_changing_lengths() -> None:
    model, feeds = node_model("MoE", floats(TOKENS, HIDDEN), scores(), *layers(), k=2)
    session = lepton.compile(model).session(2)
    for tokens in (7, 1, 0, 40, 3):
        given = {"x0": floats(tokens, HIDDEN, seed=tokens), "x1": scores(tokens)}
        same(list(session.run(given).values()), reference(model, given), rtol=1e-5, atol=1e-5)
    assert feeds.keys() == {"x0", "x1"}


def test_halves() -> None:
    operands = [held(x.array.astype(np.float16)) if isinstance(x, Held) else x for x in layers()]
    model, feeds = node_model("MoE", floats(TOKENS, HIDDEN).astype(np.float16), scores().astype(np.float16), *operands,
                              k=2)
    wide = [held(x.array.astype(np.float32)) if isinstance(x, Held) else x for x in operands]
    plain, feeds32 = node_model("MoE", *(f.astype(np.float32) for f in feeds.values()), *wide, k=2)
    got, want = compiled(model, feeds)[0], reference(plain, feeds32)[0]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float32), want, rtol=1e-2, atol=1e-2)


# --- forms that ONNX Runtime has for GPUs alone ---


def by_formula(x: np.ndarray, router: np.ndarray, k: int, expert: Any) -> np.ndarray:
    shares = np.exp(router - router.max(1, keepdims=True))
    shares = shares / shares.sum(1, keepdims=True)
    out = np.zeros(x.shape)
    for t, row in enumerate(shares):
        for e in np.argsort(-row)[:k]:
            out[t] += row[e] * expert(x[t].astype(np.float64), e)
    return out


@pytest.mark.parametrize(("fusion", "activation"), [(0, "swiglu"), (2, "swiglu"), (0, "silu")])
def test_gates_of_their_own(fusion: int, activation: str) -> None:
    """Third layers, and gates beside each other: silu(x W1) * (x W3)."""
    first, _, second, _ = layers(2, biases=False)
    assert isinstance(first, Held)
    assert isinstance(second, Held)
    halves = first.array[:, :INNER], first.array[:, INNER:]
    given: list[Operand] = [held(halves[0]), None, second, None, held(halves[1]), None] if fusion == 0 else [
        first, None, second, None]
    x, router = floats(TOKENS, HIDDEN), scores()
    model, feeds = node_model("MoE", x, router, *given, k=2, activation_type=activation, swiglu_fusion=fusion)

    def expert(row: np.ndarray, e: int) -> np.ndarray:
        gate, linear = (half[e].astype(np.float64) @ row for half in halves)
        return np.asarray(second.array[e].astype(np.float64) @ (gate / (1 + np.exp(-gate)) * linear))

    np.testing.assert_allclose(compiled(model, feeds)[0], by_formula(x, router, 2, expert), rtol=1e-5, atol=1e-5)


# --- packed weights ---


def packed(m: int, k: int, bits: int, block: int, zeros: bool, seed: int) -> tuple[Held, Held, Held | None]:
    """Weights, scales and zero points of all experts; block 0: rows have one scale each."""
    rng = np.random.default_rng(seed)
    blocks = k // block if block else 1
    weights = rng.integers(0, 256, (EXPERTS, m, k * bits // 8), dtype=np.uint8)
    scales = (rng.random((EXPERTS, m, blocks), np.float32) + 0.5) * 2.0**-bits
    width = -(-blocks * bits // 8) if block else -(-m * bits // 8)
    points = rng.integers(0, 256, (EXPERTS, m, width) if block else (EXPERTS, width), dtype=np.uint8)
    return held(weights), held(scales if block else scales[..., 0]), held(points) if zeros else None


def quantised(bits: int, block: int, zeros: bool, wide: int = 1) -> list[Operand]:
    first, one, low = packed(wide * INNER, HIDDEN, bits, block, zeros, 1)
    second, two, bottom = packed(HIDDEN, INNER, bits, block, zeros, 2)
    biases = held(floats(EXPERTS, wide * INNER)), held(floats(EXPERTS, HIDDEN))
    return [first, one, biases[0], second, two, biases[1], None, None, None, low, bottom]


@pytest.mark.parametrize(("bits", "block", "zeros"), [
    (2, 0, True), (2, 16, True), (4, 0, False), (4, 0, True), (4, 16, True), (8, 0, True), (8, 16, False)])
def test_packed_weights(bits: int, block: int, zeros: bool) -> None:
    """ONNX Runtime rounds activations to bytes where blocks have 8 bits."""
    sizes = {"block_size": block} if block else {}
    loose = {"rtol": 3e-2, "atol": 3e-2 * 8} if (bits, block) == (8, 16) else {"rtol": 1e-4, "atol": 1e-4}
    agrees("QMoE", floats(TOKENS, HIDDEN), scores(), *quantised(bits, block, zeros), k=2, expert_weight_bits=bits,
           **sizes, **loose)


@pytest.mark.parametrize("normalised", [0, 1])
def test_packed_weights_with_shares_of_their_own(normalised: int) -> None:
    others = np.abs(floats(TOKENS, EXPERTS, seed=5))
    operands = quantised(4, 0, zeros=False)
    agrees("QMoE", floats(TOKENS, HIDDEN), scores(), *operands, None, others, k=2, normalize_routing_weights=normalised,
           rtol=1e-4, atol=1e-4)
    agrees("QMoE", floats(TOKENS, HIDDEN), scores(), *operands, k=2, normalize_routing_weights=normalised, rtol=1e-4,
           atol=1e-4)


def test_packed_weights_of_two_widths() -> None:
    """As what they stand for; ONNX Runtime has it for GPUs alone."""
    operands = quantised(4, 0, zeros=False, wide=2)
    operands[3:5] = packed(HIDDEN, INNER, 8, 0, False, 2)[:2]
    arrays = [x.array for x in operands[:6] if isinstance(x, Held)]
    apart = np.stack([arrays[0] & 15, arrays[0] >> 4], -1).reshape(EXPERTS, 2 * INNER, HIDDEN)
    first, second = ((levels.astype(np.float32) - zero) * scales[..., None]
                     for levels, zero, scales in ((apart, 8, arrays[1]), (arrays[3], 128, arrays[4])))
    model, feeds = node_model("QMoE", floats(TOKENS, HIDDEN), scores(), *operands, k=2, fc2_expert_weight_bits=8,
                              **SWIGLU)
    plain, _ = node_model("MoE", *feeds.values(), held(first), operands[2], held(second), operands[5], k=2,
                          normalize_routing_weights=1, **SWIGLU)
    same(compiled(model, feeds), reference(plain, feeds), rtol=1e-4, atol=1e-4)


# --- refused ---


@pytest.mark.parametrize(("attributes", "words"), [
    ({"use_sparse_mixer": 1}, "the sparse mixer"), ({"activation_type": "tanh"}, "activation_type 'tanh'"),
    ({"k": 9}, "9 of 4 experts"), ({"k": 0}, "expected 1 or more"),
    ({"activation_type": "swiglu"}, "without a third layer"),
], ids=str)
def test_refused_mixtures(attributes: dict[str, Any], words: str) -> None:
    model, _ = node_model("MoE", floats(TOKENS, HIDDEN), scores(), *layers(), **attributes)
    with pytest.raises(LeptonError, match=words):
        load(model)


@pytest.mark.parametrize(("attributes", "words"), [
    ({"quant_type": "fp8"}, "'fp8'"), ({"expert_weight_bits": 3}, "3 bits"),
    ({"weights_prepacked": 1}, "for a device")])
def test_refused_packed_weights(attributes: dict[str, Any], words: str) -> None:
    model, _ = node_model("QMoE", floats(TOKENS, HIDDEN), scores(), *quantised(4, 0, zeros=False), k=2, **attributes)
    with pytest.raises(UnsupportedError, match=words):
        load(model)


def test_scores_of_other_experts_are_refused() -> None:
    model, _ = node_model("MoE", floats(TOKENS, HIDDEN), held(scores(experts=3)), *layers(), k=2)
    with pytest.raises(LeptonError, match="weights of 4 experts"):
        load(model)
