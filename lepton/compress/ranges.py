"""From what calibration saw of a value to the range its levels shall cover.

Wide ranges clip nothing and round coarsely, narrow ones the reverse; each method draws that line elsewhere."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lepton.ir.diagnostics import UsageError
from lepton.ir.tensor import Array

Method = Literal["minmax", "percentile", "entropy", "mse"]
Range = tuple[float, float]
BINS = 2048
PERCENTILE = 99.99


@dataclass
class Histogram:
    """How often elements fell into BINS equal bins from `low` to `high`, the least and largest element seen."""

    low: float
    high: float
    counts: Array

    @classmethod
    def empty(cls, low: float, high: float) -> Histogram:
        return cls(low, high, np.zeros(BINS, np.int64))

    def add(self, x: Array) -> None:
        """Count the elements of an array that lie within the ends; in f64, as bins may be finer than f32 is."""
        if self.high > self.low and x.size:
            self.counts += np.histogram(x.astype(np.float64), BINS, (self.low, self.high))[0]

    @property
    def centres(self) -> Array:
        step = (self.high - self.low) / BINS
        return self.low + step * (np.arange(BINS) + 0.5)


def choose(histogram: Histogram, method: Method, levels: int = 256) -> Range:
    """The range that `levels` levels shall cover, for a value with this histogram. Raises UsageError for an unknown
    method."""
    if method not in get_args(Method):
        raise UsageError(f"unknown calibration {method!r}", help=f"one of {', '.join(get_args(Method))}")
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or not histogram.counts.any() or low == high:
        return low, high
    return _METHODS[method](histogram, low, high, levels)


def _percentile(histogram: Histogram, low: float, high: float, levels: int) -> Range:
    """Cut off the outermost (100 - PERCENTILE) % of the elements, half at each end."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    out = (1 - PERCENTILE / 100) / 2
    centres = histogram.centres
    first = centres[min(int(np.searchsorted(share, out)), BINS - 1)]
    last = centres[min(int(np.searchsorted(share, 1 - out)), BINS - 1)]
    return max(low, min(float(first), 0.0)), min(high, max(float(last), 0.0))


def _mse(histogram: Histogram, low: float, high: float, levels: int) -> Range:
    """The shrunken range whose rounding and clipping have the least mean square together."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    best, found = np.inf, (low, high)
    for a in np.linspace(1.0, 0.2, 33) if low < 0 else [1.0]:
        for b in np.linspace(1.0, 0.2, 33) if high > 0 else [1.0]:
            step = (high * b - low * a) / (levels - 1)
            clipped = np.clip(centres, low * a, high * b)
            error = float(np.dot(counts, (clipped - centres) ** 2)) + counts.sum() * step * step / 12
            if error < best:
                best, found = error, (float(low * a), float(high * b))
    return found


def _entropy(histogram: Histogram, low: float, high: float, levels: int) -> Range:
    """The symmetrically shrunken range whose levels tell most about the elements: least Kullback-Leibler divergence of
    the quantised histogram from the clipped one (as TensorRT does it)."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    best, found = np.inf, (low, high)
    for share in np.linspace(1.0, 0.2, 41):
        ends = low * share, high * share
        inside = (centres >= ends[0]) & (centres <= ends[1])
        if inside.sum() < levels // 2:
            break
        divergence = _divergence(counts, centres, inside, ends, levels)
        if divergence < best:
            best, found = divergence, (float(ends[0]), float(ends[1]))
    return found


def _divergence(counts: Array, centres: Array, inside: Array, ends: Range, levels: int) -> float:
    p = np.where(inside, counts, 0.0)
    first, last = np.flatnonzero(inside)[[0, -1]]
    clipped = p.copy()
    clipped[first] += counts[:first].sum()
    clipped[last] += counts[last + 1:].sum()
    level = np.rint((centres - ends[0]) / (ends[1] - ends[0]) * (levels - 1)).astype(np.int64).clip(0, levels - 1)
    filled = inside & (counts > 0)
    total = np.bincount(level[inside], p[inside], levels)
    places = np.bincount(level[filled], minlength=levels)
    q = np.where(filled, (total / np.maximum(places, 1))[level], 0.0)
    if not clipped.any() or not q.any():
        return np.inf
    p, q = clipped / clipped.sum(), q / q.sum()
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))))


_METHODS: dict[str, Callable[[Histogram, float, float, int], Range]] = {
    "percentile": _percentile, "entropy": _entropy, "mse": _mse}
