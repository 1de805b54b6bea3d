"""Weights as products of smaller ones: singular values, Tucker's form, depthwise and pointwise filters (`cp.py` has
one form more).

Each function takes a layer's weight and the share of it that may be lost, and gives the smallest factors that keep to
that. With a Gram matrix of the layer's inputs the share is of its results' mean square, else of the weights'.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from lepton.ir.tensor import Array

Form = Literal["svd", "tucker", "depthwise", "cp"]
DAMPING = 1e-6          # of the mean of a Gram matrix' diagonal, so that it can be inverted
SLOW = 4                # a depthwise product takes as long as so many of a matrix product


@dataclass(frozen=True, eq=False)
class Factors:
    """svd: [r,C,k...], [O,r,1...]; tucker: [r,C,1...], [s,r,k...], [O,s,1...]; depthwise: [C*m,1,k...], [O,C*m,1...];
    cp: [r,C,1...], [r,1,k...], [O,r,1...].

    A matrix product's weight is one of a convolution without taps: [O,C]. `work`: products per place of the result."""

    form: Form
    parts: tuple[Array, ...]
    work: float
    channels: int           # C


@dataclass(frozen=True)
class Limits:
    """What may be lost, and what ranks are rounded up to."""

    error: float
    multiple: int = 1

    def rank(self, squares: Array) -> int:
        """The fewest leading entries that leave no more than the error behind; at least one."""
        left = squares.sum() - np.cumsum(squares)
        enough = int(np.argmax(left <= self.error * squares.sum() + 1e-12 * squares.sum())) + 1
        return min(len(squares), -(-enough // self.multiple) * self.multiple)


def svd(weight: Array, limits: Limits, gram: Array | None = None) -> Factors:
    """Filters of all channels and taps, then a mix of them. `gram`: [K, K] of the layer's inputs, K = C * taps."""
    outputs, matrix = len(weight), weight.reshape(len(weight), -1).astype(np.float64)
    root = None if gram is None else _root(gram)
    u, s, v = np.linalg.svd(matrix if root is None else matrix @ root, full_matrices=False)
    r = limits.rank(np.square(s))
    first = v[:r] if root is None else np.linalg.solve(root.T, v[:r].T).T
    first, second = _signed(first, u[:, :r] * s[:r])
    ones = (1,) * (weight.ndim - 2)
    return Factors("svd", (first.reshape(r, *weight.shape[1:]), second.reshape(outputs, r, *ones)),
                   r * matrix.shape[1] + r * outputs, weight.shape[1])


def _root(gram: Array) -> Array:
    damped = gram.astype(np.float64).copy()
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(np.diag(damped).mean()), 1e-12)
    return np.asarray(np.linalg.cholesky(damped))


def _signed(first: Array, second: Array) -> tuple[Array, Array]:
    """The same product; the largest entry of each row of `first` is positive, so that the factors are unique."""
    signs = np.where(np.take_along_axis(first, np.abs(first).argmax(axis=1)[:, None], axis=1) < 0, -1.0, 1.0)
    return first * signs + 0.0, second * signs[:, 0] + 0.0


def tucker(weight: Array, limits: Limits, strides: tuple[int, ...] = ()) -> Factors:
    """Fewer channels, filters over them, a mix: Tucker's form of the two channel axes (HOSVD). The first factor runs at
    every place of the input, `strides` apart from those of the result."""
    outputs, channels, *kernel = weight.shape
    full = weight.astype(np.float64)
    down, up = channel_bases(full, Limits(limits.error / 2, limits.multiple))
    core = np.tensordot(up, np.tensordot(full, down, axes=(1, 1)), axes=(1, 0))      # [s, k..., r]
    core = np.ascontiguousarray(np.moveaxis(core, -1, 1))
    r, s, ones = len(down), len(up), (1,) * len(kernel)
    work = prod(strides) * r * channels + r * s * prod(kernel) + s * outputs
    return Factors("tucker", (down.reshape(r, channels, *ones), core, up.T.reshape(outputs, s, *ones)), work,
                   channels)


def channel_bases(weight: Array, limits: Limits) -> tuple[Array, Array]:
    """[r, C] and [s, O], orthonormal rows: what the filters span of each channel axis, within the error for either."""
    bases = []
    for axis in (1, 0):
        unfolded = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        values, vectors = np.linalg.eigh(unfolded @ unfolded.T)
        rank = limits.rank(np.maximum(values[::-1], 0))
        bases.append(_signed(vectors[:, ::-1][:, :rank].T, np.ones((1, rank)))[0])
    return bases[0], bases[1]


def depthwise(weight: Array, limits: Limits) -> Factors:
    """A few filters of its own for each channel, then a mix: what is lost is what a channel's filters differ in."""
    outputs, channels, *kernel = weight.shape
    taps, ones = prod(kernel), (1,) * len(kernel)
    by_channel = np.moveaxis(weight.astype(np.float64).reshape(outputs, channels, taps), 1, 0)
    u, s, v = np.linalg.svd(by_channel, full_matrices=False)                          # [C,O,q], [C,q], [C,q,taps]
    m = Limits(limits.error).rank(np.square(s).sum(axis=0))
    signed = [_signed(v[c, :m], u[c, :, :m] * s[c, :m]) for c in range(channels)]
    filters = np.concatenate([first for first, _ in signed])                          # [C*m, taps]
    mix = np.concatenate([second for _, second in signed], axis=1)                    # [O, C*m]
    return Factors("depthwise", (filters.reshape(channels * m, 1, *kernel), mix.reshape(outputs, channels * m, *ones)),
                   SLOW * m * channels * taps + m * channels * outputs, channels)


def product_of(factors: Factors) -> Array:
    """[O, C * taps] f64: the weight that the factors stand for, as a matrix."""
    *rest, last = factors.parts
    matrix = last.reshape(last.shape[:2])
    if factors.form == "depthwise":
        filters = rest[0].reshape(len(rest[0]), -1)
        each = matrix[:, :, None] * filters                                           # [O, C*m, taps]
        whole = each.reshape(len(matrix), factors.channels, -1, filters.shape[1]).sum(axis=2)
        return np.asarray(whole.reshape(len(matrix), -1))
    if factors.form == "cp":
        first, filters = (part.reshape(len(part), -1) for part in rest)               # [r, C], [r, taps]
        return np.asarray(np.einsum("or,rc,rk->ock", matrix, first, filters, optimize=True).reshape(len(matrix), -1))
    core = np.tensordot(matrix, rest[-1], axes=(1, 0))                                # [O, r or C, k...]
    for part in rest[:-1]:
        core = np.moveaxis(np.tensordot(core, part.reshape(part.shape[:2]), axes=(1, 0)), -1, 1)
    return np.asarray(core.reshape(len(matrix), -1))


def lost(weight: Array, factors: Factors, gram: Array | None = None) -> float:
    """The share of the mean square of the results (or of the weights) that is lost."""
    whole = weight.reshape(len(weight), -1).astype(np.float64)
    difference = whole - product_of(factors)
    if gram is None:
        return float(np.square(difference).sum() / max(np.square(whole).sum(), 1e-300))
    energy = max(float(np.einsum("ok,kl,ol->", whole, gram, whole, optimize=True)), 1e-300)
    return float(np.einsum("ok,kl,ol->", difference, gram, difference, optimize=True)) / energy
