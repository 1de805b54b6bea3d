"""What the trained models are for, as answers a person can judge: text read, speech found, file types named.

Each takes an engine, `open(path) -> run(feeds) -> outputs by name`, so that the same question goes to Lepton and to
ONNX Runtime. Everything that is asked is made here: no sound, font or picture files are needed.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.file_types import read_config
from tests.models import lettering, voice
from tests.models.fetch_models import models_folder
from tests.models.networks import BY_NAME

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
Open = Callable[[Path], Run]

# Without O, S, V and N: in letters of 5x7 dots even people take them for 0, 5, U and H.
WORDS = "BUFFER TILE GRAPH LAYER TEMPLE MATRIX CHAIR BRICK MARBLE TURTLE BRIDGE MAGIC PAPER TABLE".split()
LABELS = {
    "py": "python", "c": "c", "json": "json", "xml": "xml", "html": "html", "sh": "shell", "md": "markdown",
    "so": "elf", "toml": "toml", "png": "png", "gif": "gif", "js": "javascript",
}  # fmt: skip


def read_text(open_model: Open, count: int = 20) -> list[tuple[str, str]]:
    """Pairs of what was drawn and what PP-OCR's recogniser read, greedy CTC, every line at a width of its own."""
    path = BY_NAME["ppocr_rec"].path()
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    characters = ["", *metadata["character"].splitlines(), " "]
    run, rng = open_model(path), random.Random(0)
    pairs = []
    for _ in range(count):
        text = f"{rng.choice(WORDS)} {rng.randrange(1000)}"
        (scores,) = run({"x": lettering.recogniser_input(text)}).values()
        best = scores[0].argmax(-1)
        kept = [k for i, k in enumerate(best) if k and (i == 0 or k != best[i - 1])]
        pairs.append((text, "".join(characters[k] for k in kept)))
    return pairs


def find_text(open_model: Open) -> dict[str, float]:
    """Share of pixels that PP-OCR's detector takes for text: a page with words, and one with grain only."""
    run = open_model(BY_NAME["ppocr_det"].path())
    pages = {"words": ("MATRIX 42", "KERNEL 7", "GRAPH"), "grain": ()}
    shares = {}
    for name, lines in pages.items():
        (scores,) = run({"x": lettering.detector_input(160, 256, lines)}).values()
        shares[name] = float((scores > 0.3).mean())
    return shares


def upside_down(open_model: Open, count: int = 8) -> list[tuple[bool, bool]]:
    """Pairs of how a line was drawn and what PP-OCR's classifier says: whether it stands on its head."""
    run, rng = open_model(BY_NAME["ppocr_cls"].path()), random.Random(1)
    pairs = []
    for index in range(count):
        line = lettering.recogniser_input(f"{rng.choice(WORDS)} {rng.randrange(100)}", 192)
        turned = bool(index % 2)
        (scores,) = run({"x": np.ascontiguousarray(line[..., ::-1, ::-1]) if turned else line}).values()
        pairs.append((turned, bool(scores[0, 1] > scores[0, 0])))
    return pairs


def hear_speech(open_model: Open) -> tuple[np.ndarray, np.ndarray]:
    """Speech probability per 32 ms frame from silero's detector, its state carried along, and the truth."""
    frames, inside = voice.speech()
    run = open_model(BY_NAME["silero_ifless"].path())
    state, curve = np.zeros((2, 1, 128), np.float32), []
    rate = np.array(voice.RATE, np.int64)
    for frame in voice.with_context(frames):
        outputs = run({"input": frame[None], "state": state, "sr": rate})
        curve.append(float(outputs["output"][0, 0]))
        state = outputs["stateN"]
    return np.array(curve), inside


def hear_sequence(open_model: Open) -> tuple[np.ndarray, np.ndarray]:
    """The same from the variant that takes the whole sequence in one call."""
    frames, inside = voice.speech()
    zero = np.zeros((1, 1, 128), np.float32)
    outputs = open_model(BY_NAME["silero_sequence"].path())({"input": voice.with_context(frames), "h": zero, "c": zero})
    return outputs["speech_probs"], inside


def name_files(open_model: Open, per_kind: int = 6) -> list[tuple[Path, str, str]]:
    """(file, what its suffix means, what Magika's model says) for files of Python's library and of this checkout."""
    config = read_config(models_folder() / "magika_config.json")
    run = open_model(BY_NAME["magika"].path())
    files = list(_some_files(per_kind))
    (scores,) = run({"bytes": config.batch(files)}).values()
    found = [config.labels[winner] for winner in scores.argmax(-1)]
    return [(file, LABELS[file.suffix[1:]], label) for file, label in zip(files, found, strict=True)]


def _some_files(per_kind: int) -> Iterable[Path]:
    library, headers = sysconfig.get_path("stdlib"), sysconfig.get_path("include")
    roots = [Path(library), Path(headers), Path(__file__).parents[2] / "docs"]
    by_kind: dict[str, list[Path]] = {kind: [] for kind in LABELS}
    for root in roots:
        for file in sorted(root.rglob("*.*")):
            files = by_kind.get(file.suffix[1:])
            if files is not None and len(files) < 40 * per_kind and file.is_file() and file.stat().st_size > 512:
                files.append(file)
    for files in by_kind.values():
        yield from random.Random(2).sample(files, min(per_kind, len(files)))
