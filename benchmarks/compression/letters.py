"""A metric of one's own for `lepton compress --metric`: the share of the letters that PP-OCR's recogniser reads right.

A run's labels are the text's code points."""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx

from lepton.compress.metrics import Outputs
from lepton.ir.tensor import Array
from tests.models.networks import BY_NAME


def metric(outputs: Outputs, reference: Outputs, labels: Sequence[Any]) -> float:
    """1 - edits / letters."""
    read = [text(next(iter(o.values()))) for o in outputs]
    true = ["".join(map(chr, some)) for some in labels]
    return 1 - sum(map(edits, read, true)) / sum(map(len, true))


def codes(line: str) -> Array:
    """[letters]"""
    return np.array([ord(letter) for letter in line])


def text(scores: Array) -> str:
    """The text in scores [1,T,characters], greedy: repeated ones are one, the first stands for none."""
    best = scores[0].argmax(-1)
    return "".join(characters()[k] for i, k in enumerate(best) if k and (i == 0 or k != best[i - 1]))


@cache
def characters() -> list[str]:
    metadata = {entry.key: entry.value for entry in onnx.load(BY_NAME["ppocr_rec"].path()).metadata_props}
    return ["", *metadata["character"].splitlines(), " "]


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
