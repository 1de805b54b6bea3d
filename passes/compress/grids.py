"""Grids: the numbers that levels stand for, (level - zero) * scale, and how arrays are put on them."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.ir.ops.quant import bounds
from lepton.ir.tensor import Array
from lepton.ir.types import DType

TINY = 1e-12  # what is all zero gets the scale of something this small


@dataclass(frozen=True)
class Grid:
    """One scale and zero point for a whole tensor."""

    scale: float
    zero: int
    dtype: DType

    @classmethod
    def covering(cls, low: float, high: float, dtype: DType, symmetric: bool = False) -> Grid:
        """The finest grid of `dtype` that holds 0 exactly and reaches from `low` to `high`. `symmetric`: zero point 0,
        for signed types, without the least level."""
        least, most = bounds(dtype)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if symmetric:
            return cls(_scale(max(-low, high) / most), 0, dtype)
        scale = _scale((high - low) / (most - least))
        return cls(scale, int(np.clip(np.rint(least - low / scale), least, most)), dtype)

    def levels(self, x: Array) -> Array:
        """As the op quantize has it."""
        least, most = bounds(self.dtype)
        found = np.clip(np.rint(x / np.float32(self.scale)) + self.zero, least, most)
        return np.asarray(found).astype(self.dtype.numpy)

    def rounded(self, x: Array) -> Array:
        """x as its levels have it, f32."""
        return np.asarray((self.levels(x).astype(np.float32) - self.zero) * np.float32(self.scale))


def _scale(step: float) -> float:
    return float(np.float32(max(step, TINY)))


def row_scales(matrix: Array, most: int) -> Array:
    """[rows] f32: the largest magnitude of each row falls on the level `most`."""
    largest = np.abs(matrix).reshape(matrix.shape[0], -1).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(largest, TINY * most) / most, np.float32)


def nearest(matrix: Array, scales: Array, most: int) -> Array:
    """[rows, columns] levels -most ... most: each element's nearest, f64. `scales` broadcasts to the matrix."""
    return np.asarray(np.clip(np.rint(matrix / scales.astype(np.float64)), -most, most))
