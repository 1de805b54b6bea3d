"""Rounding weights so that the layer's answers, not the weights, lose least.

All work on a matrix W [outputs, inputs] with a step for each element, and on H [inputs, inputs], the mean of x xᵀ over
what the layer read: the mean square error of the answers is the trace of (W - Q) H (W - Q)ᵀ. Levels are within
-most ... most and come back as f64."""
from __future__ import annotations

import numpy as np

from lepton.ir.tensor import Array

DAMPING = 0.01   # of H's mean diagonal, added to it
BLOCK = 128      # columns after which GPTQ brings the others up to date
SWEEPS = 3


def gptq(w: Array, steps: Array, h: Array, most: int, least: int | None = None) -> Array:
    """Column after column is rounded; what that costs is made up for by the columns still to come (Frantar et al.
    2022). `steps` broadcasts to [outputs, inputs]. What is zero stays zero: it was pruned."""
    least, zeros = -most if least is None else least, w == 0
    w, steps = w.astype(np.float64).copy(), np.broadcast_to(steps.astype(np.float64), w.shape)
    u = _inverse_factor(h)
    levels = np.empty_like(w)
    for begin in range(0, w.shape[1], BLOCK):
        end = min(begin + BLOCK, w.shape[1])
        errors = np.empty((w.shape[0], end - begin))
        for j in range(begin, end):
            levels[:, j] = np.where(zeros[:, j], 0, np.clip(np.rint(w[:, j] / steps[:, j]), least, most))
            error = (w[:, j] - levels[:, j] * steps[:, j]) / u[j, j]
            w[:, j:end] -= np.outer(error, u[j, j:end])
            errors[:, j - begin] = error
        w[:, end:] -= errors @ u[begin:end, end:]
    return levels


def _inverse_factor(h: Array) -> Array:
    """Upper U with U^T U = H^-1, of the damped H."""
    size = len(h)
    damped = h.astype(np.float64) + np.eye(size) * max(DAMPING * float(np.trace(h)) / size, 1e-10)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)


def up_or_down(w: Array, steps: Array, h: Array, most: int, least: int | None = None) -> Array:
    """Each element goes to one of its two neighbours, whichever makes the answers better given all others: AdaRound's
    problem (Nagel et al. 2020), by coordinate descent from the nearest levels."""
    least = -most if least is None else least
    w, steps = w.astype(np.float64), np.broadcast_to(steps.astype(np.float64), w.shape)
    exact = w / steps
    levels = np.clip(np.rint(exact), least, most)
    other = np.clip(np.where(levels > exact, np.floor(exact), np.ceil(exact)), least, most)
    pull = (w - levels * steps) @ h                                        # [outputs, inputs]
    for _ in range(SWEEPS):
        flips = 0
        for j in range(w.shape[1]):
            move = (other[:, j] - levels[:, j]) * steps[:, j]
            better = (move * move * h[j, j] - 2 * move * pull[:, j] < 0) & (move != 0)
            if better.any():
                flips += int(better.sum())
                pull[better] -= np.outer(move[better], h[j])
                levels[better, j], other[better, j] = other[better, j], levels[better, j]
        if not flips:
            break
    return np.asarray(levels)


def activation_aware(w: Array, h: Array, most: int, block: int) -> tuple[Array, float]:
    """([inputs] factors, exponent): by how much to enlarge each input's weights before they are rounded, and shrink the
    input, so that what large inputs meet is rounded finer (AWQ, Lin et al. 2023). The best of 11 exponents by the error
    of the answers; factors are 1 where none is better."""
    size = np.sqrt(np.maximum(np.diag(h), 1e-12))
    best, found, used = np.inf, np.ones(len(h)), 0.0
    for exponent in np.linspace(0, 1, 11):
        factors = np.maximum((size / np.exp(np.log(size).mean())) ** exponent, 1e-4)
        scaled = w * factors
        steps = block_steps(scaled, block, most)
        error = (np.clip(np.rint(scaled / steps), -most, most) * steps - scaled) / factors
        loss = float(np.einsum("ok,kl,ol->", error, h, error, optimize=True))
        if loss < best:
            best, found, used = loss, factors, float(exponent)
    return found, used


def block_steps(w: Array, block: int, most: int) -> Array:
    """[outputs, inputs]: the step of each element where `block` neighbours (0: all) in a row share one, f64."""
    rows, width = w.shape
    size = block or width
    blocks = -(-width // size)
    padded = np.zeros((rows, blocks * size))
    padded[:, :width] = np.abs(w)
    steps = np.maximum(padded.reshape(rows, blocks, size).max(axis=2), 1e-12 * most) / most
    return np.asarray(np.repeat(steps.astype(np.float32).astype(np.float64), size, axis=1)[:, :width])
