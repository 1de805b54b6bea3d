"""ONNX Runtime's operators on plain tensors, compiled: activations, fused products, normalisations, data, images."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton.frontends.onnx.ops  # noqa: F401  (fills the table)
from lepton.frontends import load
from lepton.frontends.onnx.registry import IMPORTERS
from lepton.ir.diagnostics import UnsupportedError
from tests.frontends.build import floats
from tests.frontends.contrib import DOMAIN, Operand, agrees, compiled, held, node_model

Case = tuple[str, tuple[Operand, ...], dict[str, Any]]
BATCH = {"batch": 2, "sequence": 3}
X, ROW, PLAIN = floats(2, 3, 8), held(floats(8, seed=1)), {"domain": ""}
EXTREMES = np.array([[0.0, -0.0, 1e-30, -1e-30, 40.0], [-40.0, 3.0, -3.0, 0.5, -88.0]], np.float32)


def case(op: str, *operands: Operand, **rest: Any) -> Case:
    return op, operands, rest


ACTIVATIONS = [
    case("Gelu", EXTREMES), case("BiasGelu", EXTREMES, floats(5)), case("FastGelu", EXTREMES, floats(5)),
    case("FastGelu", EXTREMES), case("QuickGelu", EXTREMES, alpha=1.3),
]
FUNCTIONS: list[tuple[str, dict[str, float]]] = [
    ("Relu", {}), ("Tanh", {}), ("Sigmoid", {}), ("Softplus", {}), ("Softsign", {}),
    ("LeakyRelu", {"activation_alpha": 0.2}), ("Elu", {"activation_alpha": 0.5}),
    ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
]
PRODUCTS = [
    *(case("FusedGemm", floats(4, 5), held(floats(3, 5)), held(floats(3)), activation=name, transB=1, alpha=0.7,
           beta=0.3, sizes={"m": 4}, **given) for name, given in FUNCTIONS),
    case("FusedConv", floats(2, 3, 6, 7), held(floats(4, 3, 3, 3)), held(floats(4)), floats(2, 4, 4, 5),
         activation="Relu", sizes={}),
    *(case("FusedConv", floats(2, 3, 6, 7), held(floats(4, 3, 3, 3)), None, activation=name, activation_params=given,
           sizes={"h": 6}) for name, given in (("HardSigmoid", [0.2, 0.5]), ("Clip", [-1.0, 0.5]))),
    case("FusedMatMul", floats(5), floats(5, 3), transA=1), case("TransposeMatMul", floats(2, 5, 4), floats(5, 3),
                                                                 transA=1, alpha=2.0, sizes={"k": 5}),
]
NORMS = [
    case("SkipLayerNormalization", X, X[::-1].copy(), ROW, ROW, ROW, outputs=(0, 3), sizes=BATCH),
    case("SkipLayerNormalization", X, X[0], ROW, outputs=(0, 3), epsilon=0.1, sizes=BATCH),
    case("SkipLayerNormalization", X, X[:1], ROW, sizes=BATCH), case("SkipLayerNormalization", X[0], X[1], ROW),
    case("SkipSimplifiedLayerNormalization", X, X, ROW, ROW, outputs=(0, 3), sizes=BATCH),
    case("SkipSimplifiedLayerNormalization", X[0], X[1], ROW, outputs=(0, 3), sizes=BATCH),
    case("SimplifiedLayerNormalization", X, ROW, **PLAIN), case("SimplifiedLayerNormalization", X, ROW, outputs=2,
                                                                sizes=BATCH, **PLAIN),
    case("LayerNormalization", X, ROW, ROW, opset=16, outputs=3, sizes=BATCH, **PLAIN),
    case("EmbedLayerNormalization", np.array([[1, 2, 3], [3, 0, 0]], np.int32), None, held(floats(5, 8)),
         held(floats(6, 8)), None, ROW, ROW, np.array([[1, 1, 1], [1, 1, 0]], np.int32),
         np.array([[2, 1, 0]], np.int32), outputs=3, sizes=BATCH),
]
BOXES = np.array([[0.03, 0, 0.98, 1], [0.1, 0.21, 0.71, 0.9], [0.93, 0.8, 0.2, 0.1], [-0.2, 0, 1.3, 1.1]], np.float32)
TOKENS = np.array([[1, 2, 3, 1, 2], [0, 0, 0, 0, 0]])
DATA = [
    case("ExpandDims", X, held(-1, np.int32)), case("ExpandDims", X, held(1, np.int32)),
    case("Unique", np.array([2, 1, 1, 3, 4, 3, -0.0, 0.0], np.float32), outputs=3),
    case("Trilu", floats(2, 4, 5), held(1, np.int64), upper=0), case("Trilu", floats(4, 5)),
    case("Pad", floats(2, 3), held([1, 0, 2, 1], np.int64), held(3, np.float32)),
    case("Pad", floats(3, 3), held([[1, 0, 2, 1]], np.int64), mode="reflect"),
    case("Range", held(1, np.float32), held(5, np.float32)), case("Range", np.array(1), np.array(9)),
    case("Range", held(9, np.int64), held(1, np.int64), held(-3, np.int64)),
    case("GatherND", floats(2, 3, 4), held([[0, 1], [1, 2]], np.int64)),
    case("GridSample", floats(2, 3, 4, 5), floats(2, 6, 7, 2), mode="bilinear", padding_mode="zeros", sizes={"h": 4}),
    case("UnfoldTensor", floats(2, 9, 3), dim=1, size=4, step=2), case("UnfoldTensor", floats(2, 9), size=3),
    *(case("NGramRepeatBlock", TOKENS, floats(2, 6), ngram_size=n) for n in (1, 2, 3)),
    case("NGramRepeatBlock", TOKENS[:, :2], floats(2, 6), ngram_size=3, sizes={}),
    *(case("CDist", floats(4, 5), floats(3, 5, seed=1), metric=metric) for metric in ("euclidean", "sqeuclidean")),
    *(case("CropAndResize", floats(2, 3, 6, 8), BOXES, np.array([0, 1, 1, 0], np.int32), held(size, np.int32),
           mode=mode, extrapolation_value=0.5) for mode in ("bilinear", "nearest") for size in ((3, 4), (1, 1))),
    case("Inverse", floats(2, 3, 5, 5), sizes=BATCH), case("Inverse", np.array([[0, 1], [1, 0]], np.float32)),
    case("Inverse", floats(7, 7).astype(np.float64)),
]
CASES = [*ACTIVATIONS, *PRODUCTS, *NORMS, *DATA]


@pytest.mark.parametrize("k", range(len(CASES)), ids=lambda k: f"{CASES[k][0]}-{k}")
def test_equals_onnxruntime(k: int) -> None:
    op, operands, rest = CASES[k]
    agrees(op, *operands, **{"rtol": 1e-4, "atol": 2e-5, **rest})


@pytest.mark.parametrize("flags", [pytest.param(flags, marks=[pytest.mark.slow] * (sum(flags) in (1, 3)))
                                   for flags in product((0, 1), repeat=4)])
def test_products_of_turned_batches(flags: tuple[int, ...]) -> None:
    """[B…, M, K] stored as [M, B…, K], with the last two axes exchanged before that, or both, for either operand."""
    given = {"transA": flags[0], "transBatchA": flags[1], "transB": flags[2], "transBatchB": flags[3]}
    operands = []
    for plain, (swapped, turned) in ((floats(2, 3, 4, 5), flags[:2]), (floats(2, 3, 5, 6), flags[2:])):
        x = plain.swapaxes(2, 3) if swapped else plain
        operands.append(np.ascontiguousarray(np.moveaxis(x, 2, 0) if turned else x))
    agrees("FusedMatMul", *operands, alpha=0.5, sizes={"b": 2, "c": 3, "m": 4, "n": 6}, **given)


def normalised(x: np.ndarray, groups: int) -> np.ndarray:
    """Group normalisation of [N,…,C] without scale and bias."""
    n, channels = x.shape[0], x.shape[-1]
    apart = x.astype(np.float64).reshape(n, -1, groups, channels // groups)
    apart = (apart - apart.mean(axis=(1, 3), keepdims=True)) / np.sqrt(apart.var(axis=(1, 3), keepdims=True) + 1e-5)
    return np.asarray(apart.reshape(x.shape), np.float32)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_group_normalisation(last: int, activation: int) -> None:
    """GroupNorm and SkipGroupNorm have no kernel on ONNX Runtime's CPU: against their meaning."""
    x, skip, row = floats(2, 3, 5, 8), floats(2, 8, seed=1), floats(8, seed=2)
    for bare in (True, False):
        total = x if bare else x + skip[:, None, None] + row
        want = normalised(total, 4) * row + row
        want = want / (1 + np.exp(-want)) if activation else want
        image = x if last else np.moveaxis(x, 3, 1).copy()
        rest: tuple[Operand, ...] = () if bare else (skip, held(row))
        if not bare and not last:
            continue  # the skipped tensor has its channels last
        model, feeds = node_model("GroupNorm" if bare else "SkipGroupNorm", image, held(row), held(row), *rest,
                                  channels_last=last, groups=4, activation=activation, sizes={"h": 3})
        got = compiled(model, feeds)[0]
        np.testing.assert_allclose(got if last else np.moveaxis(got, 1, 3), want, rtol=1e-4, atol=1e-5)


def test_additions_of_diffusion_models() -> None:
    """BiasAdd and BiasSplitGelu, likewise."""
    x, row = floats(2, 3, 8), floats(8, seed=1)
    model, feeds = node_model("BiasAdd", x, held(row), x, sizes=BATCH)
    np.testing.assert_allclose(compiled(model, feeds)[0], x + row + x, rtol=1e-6)
    model, feeds = node_model("BiasSplitGelu", x, held(row), sizes=BATCH)
    gelu = compiled(*node_model("Gelu", (x + row)[..., 4:].copy()))[0]
    np.testing.assert_allclose(compiled(model, feeds)[0], (x + row)[..., :4] * gelu, rtol=1e-5, atol=1e-6)


def test_the_table_of_the_manual_is_complete() -> None:
    """frontends/README.md names every operator of the domain that has an importer, and no other."""
    readme = (Path(__file__).parents[2] / "frontends" / "README.md").read_text()
    section = readme.partition("(`com.microsoft`)")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([A-Z]\w+)`", row)}
    assert named == {name for domain, name in IMPORTERS if domain == DOMAIN}


@pytest.mark.parametrize(("op", "operands", "rest", "message"), [
    ("CDist", (floats(4, 5), floats(3, 5)), {"metric": "cosine"}, "metric"),
    ("FusedConv", (floats(2, 3, 6, 7), held(floats(4, 3, 3, 3))), {"activation": "Gelu"}, "activation"),
    ("SkipLayerNormalization", (X, X, ROW), {"outputs": 2}, "statistics"),
    ("BeamSearch", (TOKENS.astype(np.int32),), {}, "compile the decoder"),
    ("GreedySearch", (TOKENS.astype(np.int32),), {}, "compile the decoder"),
    ("Sampling", (TOKENS.astype(np.int32),), {}, "compile the decoder"),
    ("SparseAttention", (X,), {}, "not supported"),
])
def test_refused_in_words(op: str, operands: tuple[Operand, ...], rest: dict[str, Any], message: str) -> None:
    model, _ = node_model(op, *operands, **rest)
    with pytest.raises(UnsupportedError, match=message):
        load(model)
