"""Counting n-grams: lengths, skips, modes and pools in any order, against ONNX Runtime."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import agrees, imported, single

X = np.random.default_rng(3).integers(0, 4, (3, 9))
POOL: dict[str, Any] = {"ngram_counts": [0, 3], "pool_int64s": [0, 2, 3, 1, 2, 0, 0, 3, 1],
                        "ngram_indexes": [5, 0, 2, 1, 4, 3]}


@pytest.mark.parametrize("open_dims", [False, True])
@pytest.mark.parametrize("skips", [0, 2, 20])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_modes(mode: str, skips: int, open_dims: bool) -> None:
    weights: dict[str, Any] = {} if mode == "TF" else {"weights": [0.5, 1.0, 2.0, 3.0, 0.25, 4.0]}
    for x in (X, X[0], X.astype(np.int32)):
        model = single("TfIdfVectorizer", {"x": x}, mode=mode, min_gram_length=1, max_gram_length=2,
                       open_dims=open_dims, max_skip_count=skips, **POOL, **weights)
        agrees(model, {"x": x})


@pytest.mark.parametrize("lengths", [(1, 1), (2, 2), (3, 3), (1, 3)])
def test_lengths(lengths: tuple[int, int]) -> None:
    pool: dict[str, Any] = {"ngram_counts": [0, 2, 6], "pool_int64s": [1, 3, 0, 1, 2, 2, 3, 3, 1, 0, 0, 2],
                            "ngram_indexes": [0, 7, 2, 2, 9, 3]}
    model = single("TfIdfVectorizer", {"x": X}, mode="TF", min_gram_length=lengths[0], max_gram_length=lengths[1],
                   max_skip_count=3, **pool)
    agrees(model, {"x": X})


@pytest.mark.parametrize("wrong", [{"ngram_counts": [0, 4]}, {"ngram_indexes": [0, 1]}, {"mode": "TD"},
                                   {"ngram_counts": [3, 0]}, {"max_skip_count": -1}])
def test_refuses(wrong: dict[str, Any]) -> None:
    given = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, **POOL}
    with pytest.raises(LeptonError):
        imported(single("TfIdfVectorizer", {"x": X}, **{**given, **wrong}))
