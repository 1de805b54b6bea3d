"""Decoders with a cache of keys and values, token by token: one compilation, every length, ONNX Runtime's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lepton
from tests.models.decoder import TINY, Decoder, gpt2, grouped

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], Feeds]
DECODERS: dict[str, Callable[[], onnx.ModelProto]] = {"gpt2": gpt2, "grouped": grouped}


def peer(model: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


class Generation:
    """One engine's cache, fed token by token."""

    def __init__(self, run: Run, model: onnx.ModelProto, batch: int, d: Decoder = TINY) -> None:
        self.run, self.masked = run, any(i.name == "attention_mask" for i in model.graph.input)
        heads = d.groups if self.masked else d.heads
        empty = np.zeros((batch, heads, 0, d.each), np.float32)
        self.cache = {f"past.{i}.{part}": empty for i in range(d.layers) for part in ("key", "value")}

    def step(self, tokens: np.ndarray) -> Feeds:
        """Feed tokens [batch, n]; what comes out, the cache included."""
        feeds: Feeds = {"input_ids": tokens, **self.cache}
        if self.masked:
            total = self.cache["past.0.key"].shape[2] + tokens.shape[1]
            feeds["attention_mask"] = np.ones((len(tokens), total), np.int64)
        results = self.run(feeds)
        self.cache = {name.replace("present", "past"): x for name, x in results.items() if name != "logits"}
        return results


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_are_onnxruntimes(name: str, batch: int) -> None:
    """A prompt on an empty cache, then single tokens; every logit and every cache on the way."""
    model = DECODERS[name]()
    session = lepton.compile(model).session(1)
    ours, theirs = Generation(session.run, model, batch), Generation(peer(model), model, batch)
    tokens = np.random.default_rng(5).integers(0, TINY.vocabulary, (batch, 6))
    said = []
    for _ in range(16):
        got, want = ours.step(tokens), theirs.step(tokens)
        assert list(got) == list(want)
        for key, w in want.items():
            np.testing.assert_allclose(got[key], w, rtol=1e-3, atol=2e-4, err_msg=key)
        tokens = got["logits"][:, -1:].argmax(axis=2)
        np.testing.assert_array_equal(tokens, want["logits"][:, -1:].argmax(axis=2))
        said.append(tokens)
    assert len({tuple(t.reshape(-1)) for t in said}) > 3  # it does not repeat one token


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_any_cut_of_the_text_gives_the_same(name: str) -> None:
    """All at once, or in pieces of any length: the caches and the last logits agree."""
    model: Any = DECODERS[name]()
    session = lepton.compile(model).session(1)
    text = np.random.default_rng(6).integers(0, TINY.vocabulary, (1, 12))
    whole = Generation(session.run, model, 1).step(text)
    for pieces in ((1,) * 12, (5, 1, 6), (11, 1)):
        generation = Generation(session.run, model, 1)
        for piece in np.split(text, np.cumsum(pieces)[:-1], axis=1):
            last = generation.step(piece)
        np.testing.assert_allclose(last["logits"][:, -1], whole["logits"][:, -1], rtol=1e-3, atol=2e-4)
        for key in whole.keys() - {"logits"}:
            np.testing.assert_allclose(last[key], whole[key], rtol=1e-3, atol=2e-4, err_msg=key)
