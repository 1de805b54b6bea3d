"""Filters as few separable terms: the canonical polyadic form, as Lebedev et al. 2015 use it for convolutions."""
from __future__ import annotations

from math import prod

import numpy as np

from lepton.ir.tensor import Array
from lepton.passes.compress.factors import SLOW, Factors, Limits, channel_bases

SWEEPS = 40             # of alternating least squares
DAMPING = 1e-7          # of a Gram matrix' mean diagonal: terms may cancel each other, but not without bound


def cp(weight: Array, limits: Limits, strides: tuple[int, ...] = ()) -> Factors:
    """Pointwise to R channels, a filter for each of them, a mix: the least R that keeps to the error. The first factor
    runs at every place of the input, `strides` apart from those of the result.

    Fitting is not convex: a little more than the least R may come out, and where no R below the layer's own work keeps
    to the error, the largest of these does."""
    outputs, channels, *kernel = weight.shape
    taps, full = prod(kernel), weight.astype(np.float64)
    each = prod(strides) * channels + SLOW * taps + outputs
    down, up = channel_bases(full, Limits(limits.error / 8))
    core = np.tensordot(up, np.tensordot(full, down, axes=(1, 1)), axes=(1, 0))      # [s, k..., r]
    core = np.moveaxis(core, -1, 1).reshape(len(up), len(down), taps)
    squares = float(np.square(full).sum())
    left = limits.error * squares - (squares - float(np.square(core).sum()))
    low, high = 0, max(1, prod(weight.shape) // each)
    found = _terms(core, high)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        tried = _terms(core, middle)
        if np.square(core - _whole(tried)).sum() <= left + 1e-12 * squares:
            high, found = middle, tried
        else:
            low = middle
    if high % limits.multiple:
        high += limits.multiple - high % limits.multiple
        found = _terms(core, high)
    mix, first, filters = _balanced([up.T @ found[0], down.T @ found[1], found[2]])
    ones = (1,) * len(kernel)
    parts = (first.T.reshape(high, channels, *ones), filters.T.reshape(high, 1, *kernel),
             mix.reshape(outputs, high, *ones))
    return Factors("cp", parts, high * each, channels)


def _terms(tensor: Array, count: int) -> list[Array]:
    """[s, R], [r, R], [taps, R]: by alternating least squares, the same ones every time."""
    rng = np.random.default_rng(0)
    factors: list[Array] = [rng.standard_normal((n, count)) for n in tensor.shape]
    for _ in range(SWEEPS):
        for axis in range(3):
            a, b = (factors[i] for i in range(3) if i != axis)
            both = (a[:, None] * b[None]).reshape(-1, count)
            gram = (a.T @ a) * (b.T @ b)
            gram[np.diag_indices(count)] += DAMPING * max(float(np.trace(gram)) / count, 1e-30)
            unfolded = np.moveaxis(tensor, axis, 0).reshape(len(factors[axis]), -1)
            factors[axis] = np.linalg.solve(gram, (unfolded @ both).T).T
    return factors


def _whole(factors: list[Array]) -> Array:
    return np.asarray(np.einsum("or,cr,kr->ock", *factors, optimize=True))


def _balanced(factors: list[Array]) -> list[Array]:
    """The same terms, every one as large in each factor; the largest entry of the first two is positive."""
    sizes = np.array([np.linalg.norm(f, axis=0) for f in factors])
    alike = np.prod(sizes, axis=0) ** (1 / 3) / np.maximum(sizes, 1e-30)
    made = [f * a for f, a in zip(factors, alike, strict=True)]
    for i in range(2):
        signs = np.where(np.take_along_axis(made[i], np.abs(made[i]).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
        made[i], made[2] = made[i] * signs, made[2] * signs
    return made
