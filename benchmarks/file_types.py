"""What Magika's model wants: bytes of a file's beginning and end as numbers, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FileTypes:
    """The settings that travel with the model, `magika_config.json`."""

    labels: tuple[str, ...]
    begin: int
    end: int
    block: int
    padding: int

    def features(self, content: bytes) -> list[int]:
        """The first `begin` and last `end` bytes without white space around them, padded: `begin + end` numbers."""
        first = list(content[: self.block].lstrip()[: self.begin])
        last = list(content[-self.block :].rstrip()[-self.end :])
        gap = [self.padding] * (self.begin - len(first) + self.end - len(last))
        return first + gap + last

    def batch(self, files: Sequence[Path]) -> np.ndarray:
        """int32[files, begin + end], the model's input `bytes`."""
        return np.array([self.features(file.read_bytes()) for file in files], np.int32)


def read_config(path: Path) -> FileTypes:
    """The settings in Magika's own JSON file."""
    config = json.loads(path.read_text())
    numbers = (config[key] for key in ("beg_size", "end_size", "block_size", "padding_token"))
    return FileTypes(tuple(config["target_labels_space"]), *numbers)
