"""Trained models with something to do, and how well they do it: text to read, files to name, speech to hear.

Nothing is downloaded but the models (`tests.models.fetch_models`) and scikit-image's package for its faces."""
from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from benchmarks.compression import letters
from benchmarks.file_types import read_config
from benchmarks.peers.zoo.download import wheel
from benchmarks.peers.zoo.wheels import fix_shapes
from lepton.compress.data import Run
from lepton.compress.metrics import Outputs, correlation, top1
from lepton.ir.tensor import Array
from tests.compress import digits
from tests.models import voice
from tests.models.fetch_models import models_folder
from tests.models.networks import BY_NAME

WORDS = ("Matrix buffer Kernel graph Layer channel weight Tensor bridge marble Window paper Garden river Summer chair "
         "Turtle magic Number table Price total Street report").split()
FACES = "scikit-image==0.26.0"


@dataclass(frozen=True)
class Part:
    """One network of a task with its data: what calibrates, what chooses among recipes, what judges."""

    model: Any
    calibration: list[Run]
    choice: list[Run]
    test: list[Run]


@dataclass(frozen=True)
class Task:
    """`score(answers, the uncompressed model's, runs)` may fall by `drop`, or must reach `floor`; the parts' scores are
    taken together, weighed by their runs. `lepton compress --metric` may be told `searched`."""

    name: str
    metric: str
    parts: Callable[[], Iterator[Part]]
    score: Callable[[Outputs, Outputs, Sequence[Run]], float]
    drop: float = 0.005
    floor: float | None = None
    searched: str = "top1"

    def least(self, before: float) -> float:
        return self.floor if self.floor is not None else before - self.drop


def labelled(outputs: Outputs, _: Outputs, runs: Sequence[Run]) -> float:
    return top1(outputs, outputs, [r.labels for r in runs])


def runs(name: str, images: Array, labels: Array, batch: int = 1) -> list[Run]:
    return [Run(f"{name} {i}", {name: images[i:i + batch]}, labels[i:i + batch])
            for i in range(0, len(images) - batch + 1, batch)]


# --- small networks, trained here -----------------------------------------------------------------


def digit_parts() -> Iterator[Part]:
    images, labels = digits.data()
    yield Part(digits.model(1), runs("x", images[:200], labels[:200]), runs("x", images[200:1200], labels[200:1200]),
               runs("x", images[1200:], labels[1200:]))


def face_parts() -> Iterator[Part]:
    """Five networks, each judged by the fifth of the 200 pictures that it did not learn from."""
    with zipfile.ZipFile(wheel(FACES, models_folder() / "wheels")) as archive:
        with archive.open("skimage/data/lfw_subset.npy") as file:
            pictures = np.load(file, allow_pickle=False)
    order = np.random.default_rng(0).permutation(len(pictures))
    images = pictures[order, None, :24, :24].astype(np.float32)
    labels = (order < 100).astype(np.int64)                         # the first hundred are faces, the others are not
    for fold in range(5):
        out = np.arange(len(images)) % 5 == fold
        known = images[~out], labels[~out]
        model = digits.network(digits.train(*known, epochs=40, kinds=2, batch=20), 24, 1)
        yield Part(model, runs("x", *known)[:80], runs("x", *known)[80:], runs("x", images[out], labels[out]))


# --- text -----------------------------------------------------------------------------------------


def line(text: str, width: int, rng: np.random.Generator, turned: bool = False) -> Array:
    """[1,3,48,width] in -1 ... 1: dark letters on light paper, with a camera's noise and uneven light."""
    font = ImageFont.load_default(size=int(rng.integers(26, 34)))
    image = Image.new("L", (width, 48), int(rng.integers(190, 255)))
    ImageDraw.Draw(image).text((6 + int(rng.integers(0, 6)), int(rng.integers(2, 8))), text, font=font,
                               fill=int(rng.integers(0, 90)))
    grey = np.asarray(image.rotate(180) if turned else image, np.float32) / 255
    light = 1 + 0.15 * rng.standard_normal() * np.linspace(-1, 1, width)
    grey = np.clip(grey * light + rng.standard_normal(grey.shape) * 0.04, 0, 1)
    return np.repeat((grey[None, None] - 0.5) / 0.5, 3, axis=1).astype(np.float32)


def words(rng: np.random.Generator) -> str:
    return f"{rng.choice(WORDS)} {rng.choice(WORDS)} {rng.integers(1000)}"


def cls_parts() -> Iterator[Part]:
    rng = np.random.default_rng(1)

    def some(count: int) -> list[Run]:
        turned = rng.integers(0, 2, count)
        return [Run(f"line {i}", {"x": line(words(rng), 192, rng, bool(t))}, np.array([t]))
                for i, t in enumerate(turned)]

    yield Part(onnx.load(BY_NAME["ppocr_cls"].pinned_path()), some(64), some(200), some(400))


def rec_parts() -> Iterator[Part]:
    rng = np.random.default_rng(2)

    def some(count: int) -> list[Run]:
        texts = [words(rng)[:18] for _ in range(count)]
        return [Run(text, {"x": line(text, 320, rng)}, letters.codes(text)) for text in texts]

    model = fix_shapes(onnx.load(BY_NAME["ppocr_rec"].path()), {"x": [1, 3, 48, 320]})
    yield Part(model, some(64), some(128), some(256))


def letters_right(outputs: Outputs, reference: Outputs, runs: Sequence[Run]) -> float:
    return letters.metric(outputs, reference, [r.labels for r in runs])


# --- files, speech --------------------------------------------------------------------------------

SUFFIXES = {"py": "python", "h": "c", "c": "c", "json": "json", "html": "html", "sh": "shell", "md": "markdown",
            "so": "elf", "toml": "toml", "png": "png", "xml": "xml", "js": "javascript", "rst": "rst", "css": "css"}


def magika_parts() -> Iterator[Part]:
    config = read_config(models_folder() / "magika_config.json")
    known = {label: i for i, label in enumerate(config.labels)}
    found = [(f, known[SUFFIXES[f.suffix[1:]]]) for f in files(60) if SUFFIXES[f.suffix[1:]] in known]
    made = [Run(f.name, {"bytes": config.batch([f])}, np.array([kind])) for f, kind in found]
    order = np.random.default_rng(4).permutation(len(made))
    third = len(made) // 4
    mixed = [made[i] for i in order]
    yield Part(onnx.load(BY_NAME["magika"].pinned_path()), mixed[:third], mixed[third:2 * third], mixed[2 * third:])


def files(most: int) -> Iterator[Path]:
    """Of every kind some, from Python's library and what is installed beside it."""
    counts = dict.fromkeys(SUFFIXES, 0)
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[2] / "docs")):
        for file in sorted(Path(root).rglob("*.*")):
            kind = file.suffix[1:]
            if counts.get(kind, most) < most and file.is_file() and 512 < file.stat().st_size < 1 << 22:
                counts[kind] += 1
                yield file


def vad_parts() -> Iterator[Part]:
    rng = np.random.default_rng(3)

    def some(count: int) -> list[Run]:
        made = []
        for i in range(count):
            text = tuple("".join(rng.choice(list("aieu"), 5)) for _ in range(3))
            frames = voice.with_context(voice.speech(text)[0])
            loud = np.float32(rng.uniform(0.3, 1.0))
            zero = np.zeros((1, 1, 128), np.float32)
            made.append(Run(f"speech {i}", {"input": frames * loud, "h": zero, "c": zero}))
        return made

    yield Part(onnx.load(BY_NAME["silero_sequence"].path()), some(6), some(6), some(12))


def curve(outputs: Outputs, reference: Outputs, _: Sequence[Run]) -> float:
    """Correlation of the probabilities of speech; the state that comes out beside them does not count."""
    got, want = ([{"speech_probs": o["speech_probs"]} for o in some] for some in (outputs, reference))
    return correlation(got, want, [None] * len(outputs))


TASKS = (
    Task("digits, a small CNN", "top-1", digit_parts, labelled),
    Task("faces, a small CNN, five-fold", "top-1", face_parts, labelled),
    Task("PP-OCR classifier", "top-1", cls_parts, labelled),
    Task("PP-OCR recogniser", "letters right", rec_parts, letters_right, searched=letters.__file__),
    Task("Magika", "top-1", magika_parts, labelled),
    Task("silero VAD, sequence", "correlation", vad_parts, curve, floor=0.999, searched="correlation"),
)
