"""ONNX Runtime's attention operators, compiled, with their caches; batch, length and past are open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton
from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError, UnsupportedError
from tests.frontends.build import floats, same
from tests.frontends.contrib import Operand, agrees, compiled, held, node_model, reference

OPEN = {"sequence": 3, "past": 5}
HEADS, SIZE, HIDDEN = 2, 4, 8
WEIGHTS, BIAS = held(floats(HIDDEN, 24, seed=1)), held(floats(24, seed=2))
X, K, V = floats(2, 3, HIDDEN), floats(2, 3, HIDDEN, seed=3), floats(2, 3, HIDDEN, seed=4)
PAST = floats(2, 2, HEADS, 5, SIZE, seed=5)
Case = tuple[str, tuple[Operand, ...], dict[str, Any]]


def case(op: str, *operands: Operand, **rest: Any) -> Case:
    return op, operands, {"num_heads": HEADS, "sizes": OPEN, **rest}


def mask(*shape: int) -> np.ndarray:
    return (floats(*shape, seed=6) > 0).astype(np.int32)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


ATTENTION = [
    case("Attention", X, WEIGHTS, BIAS, scale=0.7),
    case("Attention", X, WEIGHTS, BIAS, None, PAST, outputs=2, unidirectional=1),
    case("Attention", X, WEIGHTS, BIAS, None, PAST[:, :, :, :0], outputs=2, unidirectional=1),
    case("Attention", X, WEIGHTS, BIAS, i32(2, 3), PAST, outputs=2),
    case("Attention", X, WEIGHTS, BIAS, np.array([[0, 1, 0], [0, 0, 0]], np.int32), unidirectional=1),
    case("Attention", X, WEIGHTS, BIAS, i32(3, 2, 1, 0), unidirectional=1),
    case("Attention", X, WEIGHTS, BIAS, i32(3, 2, -1, 9)),
    case("Attention", X, WEIGHTS, BIAS, mask(2, 8), PAST, outputs=2, mask_filter_value=-5.0),
    case("Attention", X, WEIGHTS, BIAS, mask(2, 3, 8), PAST, outputs=2),
    case("Attention", X, WEIGHTS, BIAS, None, None, floats(1, HEADS, 3, 3)),
    case("Attention", X, held(floats(HIDDEN, 28)), held(floats(28)), qkv_hidden_sizes=[8, 8, 12]),
    case("MultiHeadAttention", X, K, V), case("MultiHeadAttention", X, K, V, BIAS, unidirectional=1),
    case("MultiHeadAttention", X, K, V, None, None, None, PAST[0], PAST[1], outputs=3, unidirectional=1),
    case("MultiHeadAttention", X, K, V, BIAS, None, floats(2, HEADS, 3, 3), PAST[0][:, :, :0], PAST[1][:, :, :0],
         outputs=3),
    case("MultiHeadAttention", X, K, V, None, mask(2, 8), None, PAST[0], PAST[1], outputs=3, unidirectional=1),
    case("MultiHeadAttention", X, PAST[0], PAST[1], BIAS),
    case("MultiHeadAttention", X, floats(2, 5, 8), floats(2, 5, 12), held(floats(28))),
    case("MultiHeadAttention", X, floats(2, 5, 8), floats(2, 5, 8), None, i32(3, 5)),
    case("MultiHeadAttention", X, floats(2, 5, 8), floats(2, 5, 8), None, mask(2, 3, 5)),
    case("DecoderMaskedMultiHeadAttention", X[:, :1], PAST[0], PAST[1], None, None, None, None, None, None, None, BIAS),
]

COS, SIN = held(np.cos(floats(16, 2))), held(np.sin(floats(16, 2)))
AT = np.array([[1, 2, 3], [7, 1, 15]])
ROTARY = [
    case("RotaryEmbedding", x, at, COS, SIN, interleaved=interleaved, **rest)
    for interleaved in (0, 1)
    for x, at, rest in (
        (X, AT, {"num_heads": 0}), (floats(2, HEADS, 3, SIZE), AT[0, :1], {"num_heads": 0}),
        (floats(2, 3, 16), AT[0, :1], {"rotary_embedding_dim": 4}),
        (floats(2, HEADS, 3, 8), AT, {"rotary_embedding_dim": 4}))
]


def grouped(length: int, past: int | None, total: int, lens: tuple[int, ...], *, packed: bool = False,
            rotary: bool = False, known: bool = False, at: np.ndarray | None = None, bias: np.ndarray | None = None,
            sink: np.ndarray | None = None, **rest: Any) -> Case:
    """4 heads in 2 groups. `lens` are the keys of each sequence less one; `known`: the longest is a constant."""
    batch, size = len(lens), 16 if rotary else 8
    qkv = [floats(batch, length, 8 * size)] if packed else [floats(batch, length, n * size, seed=n) for n in (4, 2, 2)]
    cache = [None if past is None else floats(batch, 2, past, size, seed=s) for s in (5, 6)]
    angles = [held(f(floats(64, size // 2))) if rotary else None for f in (np.cos, np.sin)]
    longest: Operand = held(np.int32(total)) if known else i32(total)
    operands = [*qkv, *(None,) * (3 - len(qkv)), *cache, i32(*lens), longest, *angles, at, bias, sink]
    sizes = {"past": past if past is not None else -1, "sequence": length if length > 2 else -1}
    return ("GroupQueryAttention", tuple(operands), {"num_heads": 4, "kv_num_heads": 2, "outputs": 3, "sizes": sizes,
                                                     "do_rotary": int(rotary), **rest})


GROUPED = [
    grouped(5, None, 5, (4, 4)), grouped(5, None, 5, (4, 2)), grouped(5, 0, 5, (4, 4)), grouped(5, 11, 5, (4, 3)),
    grouped(1, 7, 8, (7, 7)), grouped(1, 7, 8, (7, 4)), grouped(1, 7, 8, (7, 4), known=True),
    grouped(1, 11, 8, (7, 4)), grouped(3, 7, 10, (9,)), grouped(3, 12, 10, (9,), known=True),
    *(case_ for interleaved in (0, 1) for case_ in (
        grouped(5, None, 5, (4, 4), rotary=True, rotary_interleaved=interleaved),
        grouped(1, 7, 8, (7, 4), rotary=True, rotary_interleaved=interleaved, packed=True),
        grouped(3, 7, 10, (9,), rotary=True, rotary_interleaved=interleaved))),
    grouped(1, 7, 8, (7, 4), rotary=True, at=np.array([[3], [9]])),
    grouped(5, None, 5, (4, 4), local_window_size=2), grouped(1, 7, 8, (7, 4), local_window_size=3),
    grouped(5, None, 5, (4, 4), local_window_size=1), grouped(5, None, 5, (4, 4), softcap=1.5, scale=0.2),
    grouped(5, None, 5, (4, 4), bias=floats(2, 4, 5, 5)), grouped(1, 7, 8, (7, 4), bias=floats(1, 4, 1, 8)),
    grouped(1, 11, 8, (7, 4), bias=floats(1, 1, 1, 8)), grouped(1, 7, 8, (7, 7), bias=floats(1, 4, 1, 8), softcap=1.2),
    grouped(1, 7, 8, (7, 4), smooth_softmax=1), grouped(1, 7, 8, (7, 4), sink=floats(4)),
    grouped(5, None, 5, (4, 4), sink=floats(4), softcap=1.2, local_window_size=2),
    grouped(5, None, 5, (4, 4), causal=0), grouped(5, None, 5, (4, 2), causal=0),
]
CASES = [*ATTENTION, *ROTARY, *GROUPED]


# A compilation each: every second one is left to the long run.
@pytest.mark.parametrize("k", [pytest.param(k, marks=[pytest.mark.slow] * (k % 2), id=f"{CASES[k][0]}-{k}")
                               for k in range(len(CASES))])
def test_equals_onnxruntime(k: int) -> None:
    op, operands, rest = CASES[k]
    agrees(op, *operands, rtol=1e-4, **rest)


def test_scores_as_an_output() -> None:
    """ONNX Runtime must be told the output's type, which it cannot infer."""
    model, feeds = node_model("MultiHeadAttention", X, K, V, outputs=4, num_heads=HEADS, sizes=OPEN)
    got = compiled(model, feeds)[3]
    q, k = (x.reshape(2, 3, HEADS, SIZE).transpose(0, 2, 1, 3) for x in (X, K))
    np.testing.assert_allclose(got, q @ k.swapaxes(2, 3) / 2, rtol=1e-5, atol=1e-6)


def test_packed_heads_are_the_same_as_apart() -> None:
    """ONNX Runtime's CPU kernels refuse them; their meaning is that of the parts."""
    apart = [x.reshape(2, 3, HEADS, 1, SIZE) for x in (X, K, V)]
    want = compiled(*node_model("MultiHeadAttention", X, K, V, num_heads=HEADS, sizes={"batch": 7}))
    for operands in ([np.concatenate(apart, axis=3)], [X, np.concatenate(apart[1:], axis=3)]):
        got = compiled(*node_model("MultiHeadAttention", *operands, num_heads=HEADS, sizes={"batch": 7}))
        np.testing.assert_array_equal(got[0], want[0])


def test_one_query_with_a_growing_cache_is_attention() -> None:
    """DecoderMaskedMultiHeadAttention without a shared buffer, which ONNX Runtime's CPU kernel refuses."""
    x, k, v = (floats(2, 1, HIDDEN, seed=s) for s in (1, 2, 3))
    added, keep = floats(1, HEADS, 1, 6), mask(2, 6)
    sizes = {"past": 5}
    want = compiled(*node_model("MultiHeadAttention", x, k, v, BIAS, keep, added, PAST[0], PAST[1], outputs=3,
                                num_heads=HEADS, sizes=sizes))
    rest = (keep, added, PAST[0], PAST[1], None, None, None, BIAS)
    packed = np.concatenate([x, k, v], axis=2)
    for qkv in ((x, k, v), (packed, None, None)):
        got = compiled(*node_model("DecoderMaskedMultiHeadAttention", *qkv, *rest, outputs=3, num_heads=HEADS,
                                   sizes=sizes))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-6)


def test_one_compilation_serves_every_length() -> None:
    """Prompts and steps, the cache full or not, by the same code."""
    op, operands, rest = grouped(3, 7, 10, (9,), rotary=True)
    rest["sizes"] = {"sequence": 3, "past": 7}
    model, _ = node_model(op, *operands, **rest)
    session = lepton.compile(model).session(1)
    for length, past, total in ((3, 7, 10), (1, 0, 1), (6, 0, 6), (1, 6, 7), (1, 30, 31), (1, 30, 12), (4, 30, 4)):
        op, operands, rest = grouped(length, past, total, (total - 1,), rotary=True)
        small, feeds = node_model(op, *operands, **rest)
        same(list(session.run(feeds).values()), reference(small, feeds), rtol=1e-5, atol=1e-5)


def test_lengths_beyond_the_cache_are_those_of_the_cache() -> None:
    """`seqlens_k` comes of the caller's data: whatever it says, no other sequence's keys are seen."""
    op, operands, rest = grouped(1, 7, 20, (7, 7))
    want = compiled(*node_model(op, *operands, **rest))
    for far in (8, 19, 2**31 - 1):
        op, operands, rest = grouped(1, 7, 20, (far, 7))
        for got, expected in zip(compiled(*node_model(op, *operands, **rest)), want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("op", "operands", "rest", "message"), [
    ("Attention", (X, WEIGHTS), {"do_rotary": 1}, "rotary"),
    ("Attention", (X, WEIGHTS), {"past_present_share_buffer": 1}, "fixed size"),
    ("Attention", (X, WEIGHTS, BIAS, mask(2, 1, 3, 3)), {}, "mask"),
    ("MultiHeadAttention", (X,), {}, "without keys"),
    (*grouped(5, None, 5, (4, 4), kv_num_heads=3), "in 3 groups"),
    (*grouped(5, None, 5, (4, 4), k_quant_type="PER_TENSOR"), "quantised"),
])
def test_refused_in_words(op: str, operands: tuple[Operand, ...], rest: dict[str, Any], message: str) -> None:
    model, _ = node_model(op, *operands, **{"num_heads": HEADS, **rest})
    with pytest.raises((UnsupportedError, LeptonError), match=message):
        load(model)
