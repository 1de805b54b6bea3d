"""Something a voice detector takes for speech, made from numbers: vowels as sums of harmonics under formants."""

from __future__ import annotations

import numpy as np

RATE = 16_000
FRAME = 512  # samples, 32 ms
CONTEXT = 64  # samples of the frame before that the detector sees again

# Centre and width in Hz of the first three resonances of the mouth.
VOWELS = {
    "a": ((730, 120), (1090, 150), (2440, 200)),
    "e": ((530, 100), (1840, 170), (2480, 200)),
    "i": ((270, 80), (2290, 200), (3010, 250)),
    "u": ((300, 80), (870, 120), (2240, 200)),
}


def vowel(name: str, pitch: float, seconds: float) -> np.ndarray:
    """float32 samples of one vowel at about `pitch` Hz, with a little vibrato and soft ends."""
    time = np.arange(int(RATE * seconds)) / RATE
    phase = np.cumsum(pitch * (1 + 0.03 * np.sin(10 * np.pi * time))) / RATE * 2 * np.pi
    sound = np.zeros_like(time)
    for harmonic in range(1, int(5000 / pitch)):
        loudness = sum(np.exp(-(((harmonic * pitch - centre) / width) ** 2)) for centre, width in VOWELS[name])
        sound += loudness * np.sin(harmonic * phase)
    soft = np.hanning(len(time)) ** 0.3
    return np.asarray(sound * 0.12 / np.abs(sound).max() * soft, np.float32)


def speech(words: tuple[str, ...] = ("aieua", "ieuai", "euaie", "uaieu")) -> tuple[np.ndarray, np.ndarray]:
    """Words with half a second of faint noise before each: frames[n, 512], and which of them lie in a word."""
    rng = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for number, word in enumerate(words):
        pause = (rng.standard_normal(RATE // 2) * 0.003).astype(np.float32)
        breath = (rng.standard_normal(RATE // 40) * 0.02).astype(np.float32)
        sound = np.concatenate([np.concatenate([vowel(letter, 120 + 10 * number, 0.12), breath]) for letter in word])
        parts += [pause, sound]
        labels += [np.zeros(len(pause)), np.ones(len(sound))]
    samples, label = np.concatenate(parts), np.concatenate(labels)
    count = len(samples) // FRAME
    inside = label[: count * FRAME].reshape(count, FRAME).mean(1) > 0.5
    return samples[: count * FRAME].reshape(count, FRAME), inside


def with_context(frames: np.ndarray) -> np.ndarray:
    """Every frame behind the last samples of the one before it: [n, 576]."""
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    return np.concatenate([before, frames], axis=1)
