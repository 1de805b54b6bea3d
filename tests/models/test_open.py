"""Trained models whose control flow and sizes are decided while they run: one open artifact against ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lepton
from lepton.ir.diagnostics import LeptonError
from tests.models import voice
from tests.models.fetch_models import BY_NAME, models_folder, provide

Feeds = dict[str, np.ndarray]


def fetched(name: str) -> Path:
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    provide(BY_NAME[name], folder)
    return folder / name


def reference(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def close(got: Feeds, want: list[np.ndarray]) -> None:
    for a, b in zip(got.values(), want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(1, np.abs(b).max()))


# --- a detector made of nested branches -----------------------------------------------------------


def frames(rate: int) -> np.ndarray:
    """Speech and pauses as the detector takes them: frames of 32 ms behind the end of the one before."""
    samples = voice.speech()[0].reshape(-1)[:: voice.RATE // rate]
    size, context = 512 * rate // voice.RATE, 64 * rate // voice.RATE
    cut = samples[: len(samples) // size * size].reshape(-1, size)
    before = np.concatenate([np.zeros((1, context), np.float32), cut[:-1, -context:]])
    return np.concatenate([before, cut], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rates"), [
    ("silero_vad.onnx", (16000, 8000)), ("silero_vad_op18_ifless.onnx", (16000, 8000)),
    ("silero_vad_16k_op15.onnx", (16000,))])
def test_voice_is_detected_at_every_rate_and_batch(name: str, rates: tuple[int, ...]) -> None:
    """The rate is an input: it decides which branches run. The state goes from frame to frame."""
    path = fetched(name)
    run, engine = lepton.compile(path).session(2).run, reference(path)
    curves = {}
    for rate in (*rates, *rates[:1]):
        for batch in (1, 3):
            sound = frames(rate)[20:60]
            state = np.zeros((2, batch, 128), np.float32)
            curve = []
            for k in range(batch - 1, len(sound)):
                rows = np.stack([sound[k - b] for b in range(batch)])
                feeds = {"input": rows, "state": state, "sr": np.array(rate, np.int64)}
                feeds = {i.name: feeds[i.name] for i in engine.get_inputs()}
                got = run(feeds)
                close(got, engine.run(None, feeds))
                state = got["stateN"]
                curve.append(float(got["output"][0, 0]))
            curves[rate, batch] = max(curve)
    assert all(most > 0.5 for most in curves.values()), curves


@pytest.mark.slow
def test_what_a_branch_takes_for_granted_counts_only_there() -> None:
    """Frames of no length that any branch knows are refused, and the session goes on."""
    run = lepton.compile(fetched("silero_vad.onnx")).session(1).run
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    good = {"input": np.zeros((1, 576), np.float32), "state": state, "sr": rate}
    with pytest.raises(LeptonError):
        run(good | {"input": np.zeros((1, 7), np.float32)})
    assert run(good)["output"].shape == (1, 1)


# --- a voice whose length depends on what it says ---------------------------------------------------


SENTENCES = ("həlˈoʊ wˈɜːld", "ðɪs ɪz ɐ lˈɔŋɡɚ sˈɛntəns, tə tˈɛst ðə mˈɑːdəl.", "a")


@pytest.mark.big
def test_a_voice_speaks_sentences_of_any_length() -> None:
    """VITS without noise: the durations it computes decide how many samples come out."""
    path, words = fetched("en_US-joe-medium.onnx"), fetched("en_US-joe-medium.json")
    phonemes = json.loads(words.read_text(encoding="utf-8"))["phoneme_id_map"]
    run, engine = lepton.compile(path).session(1).run, reference(path)
    lengths = set()
    for text, pace in [(s, 1.0) for s in SENTENCES] + [(SENTENCES[0], 1.6), (SENTENCES[0], 1.0)]:
        ids = [1, *(i for letter in text if letter in phonemes for i in (*phonemes[letter], 0)), 2]
        feeds = {"input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64),
                 "scales": np.array([0, pace, 0], np.float32)}
        got = run(feeds)
        close(got, engine.run(None, feeds))
        lengths.add(got["output"].shape[-1])
    assert len(lengths) == 4
