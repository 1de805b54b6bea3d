"""Masks: which of a layer's weights stay, by a score for each and a pattern that kernels can make use of."""
from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from lepton.ir.diagnostics import UsageError
from lepton.ir.tensor import Array
from lepton.passes.compress.layers import Layer

_SPELLING = re.compile(r"(?:(\d+)x)?(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Pattern:
    """Blocks of `rows` outputs by `columns` inputs go or stay together; of every `of` blocks along the inputs `keep`
    stay (0: any, up to the rate). Inputs are a tap's channels: a block never holds two taps."""

    rows: int = 1
    columns: int = 1
    keep: int = 0
    of: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """unstructured, 16x1, block16 (the same), 1x16, 4x4, 2:4, 16x2:4 (16 outputs share which two of four).
        Raises UsageError."""
        known = {"unstructured": "1x1", "block16": "16x1", "block32": "32x1"}.get(text, text)
        found = _SPELLING.fullmatch(known)
        rows, second, third = (int(g) if g else 0 for g in found.groups()) if found else (0, 0, 0)
        if third and 0 < second < third:
            return cls(rows or 1, 1, second, third)
        if found is None or third or not rows or not second:
            raise UsageError(f"unknown pattern {text!r}",
                             help="unstructured, 2:4, or outputs x inputs such as 16x1, 1x16, 4x4, 16x2:4")
        return cls(rows, second)

    @property
    def rate(self) -> float | None:
        """The share that goes, where the pattern itself says."""
        return 1 - self.keep / self.of if self.keep else None


def block_means(scores: Array, pattern: Pattern) -> Array:
    """[outputs, taps, channels] -> [blocks down, taps, blocks across] means over each block's own elements."""
    sizes = np.ones_like(scores)
    for axis, size in ((0, pattern.rows), (2, pattern.columns)):
        starts = np.arange(0, scores.shape[axis], size)
        scores = np.add.reduceat(scores, starts, axis=axis)
        sizes = np.add.reduceat(sizes, starts, axis=axis)
    return np.asarray(scores / sizes)


def spread(blocks: Array, pattern: Pattern, shape: tuple[int, ...]) -> Array:
    """The inverse: a value for each block to one for each of its elements."""
    whole = blocks.repeat(pattern.rows, axis=0).repeat(pattern.columns, axis=2)
    return np.ascontiguousarray(whole[:shape[0], :, :shape[2]])


def lowest(scores: Array, rate: float) -> Array:
    """True for all but the `rate` of the entries with the lowest scores; among equals the first go."""
    gone = round(scores.size * rate)
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores, axis=None, kind="stable")[:gone]] = False
    return kept.reshape(scores.shape)


def best_of_each(scores: Array, keep: int, of: int) -> Array:
    """[rows, taps, channels]: of every `of` adjacent channels the `keep` best; the last few may be fewer."""
    rows, taps, channels = scores.shape
    padded = np.full((rows, taps, -(-channels // of) * of), -np.inf)
    padded[:, :, :channels] = scores
    groups = padded.reshape(rows, taps, -1, of)
    rank = np.argsort(np.argsort(-groups, axis=3, kind="stable"), axis=3, kind="stable")
    return np.asarray((rank < keep).reshape(padded.shape)[:, :, :channels])


def mask_of(scores: Array, pattern: Pattern, rate: float) -> Array:
    """[outputs, taps, channels] bool: what stays of a layer."""
    blocks = block_means(scores, pattern)
    kept = best_of_each(blocks, pattern.keep, pattern.of) if pattern.keep else lowest(blocks, rate)
    return spread(kept, pattern, scores.shape)


# --- a layer's matrix by taps ---------------------------------------------------------------------


def by_taps(layer: Layer, matrix: Array) -> Array:
    """[outputs, C * taps], as `Layer.matrix` has it -> [outputs, taps, C]."""
    channels = layer.weight.shape[1] if layer.is_conv else matrix.shape[1]
    return np.ascontiguousarray(matrix.reshape(matrix.shape[0], channels, -1).swapaxes(1, 2))


def from_taps(array: Array) -> Array:
    """The inverse of `by_taps`."""
    return np.ascontiguousarray(array.swapaxes(1, 2).reshape(array.shape[0], -1))
