"""What stays makes up for what goes: least squares for the readers of pruned channels."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lepton.ir.tensor import Array
from lepton.passes.common import constant
from lepton.passes.compress.axes import Units
from lepton.passes.compress.layers import Layer

DAMPING = 0.01   # of the mean of a Gram matrix' diagonal, added to it


def make_up(units: Units, doomed: set[int], known: Iterable[Layer], grams: Mapping[str, Array]) -> None:
    """Give every layer that reads doomed units, in place, the weights that make the mean square of what changes in its
    results small once they are gone (as He et al. 2017 do). `grams`: by layer [groups, K, K], the mean of x xᵀ over
    what it reads; layers without, and those of several groups, keep their weights."""
    for layer in known:
        labels = units.reads.get(layer.node)
        if layer.w is None or labels is None or layer.groups != 1 or layer.name not in grams:
            continue
        gone = np.array([root in doomed for root in units.roots(labels)])
        matrix = layer.matrix
        gone = gone.repeat(matrix.shape[1] // len(gone))             # a convolution's taps go with their channel
        if not gone.any() or gone.all():
            continue
        new = constant(layer.unmatrix(_least_squares(matrix, gone, grams[layer.name][0]).astype(np.float32)))
        units.axes[new] = units.axes[layer.w]
        layer.node.set_input(1, new)


def _least_squares(matrix: Array, gone: Array, gram: Array) -> Array:
    """[outputs, K] with the columns that go as they were: W' = W G[:, kept] G[kept, kept]⁻¹ in the others."""
    kept = ~gone
    inner = gram[np.ix_(kept, kept)].astype(np.float64)
    inner[np.diag_indices_from(inner)] += max(DAMPING * float(np.diag(gram).mean()), 1e-12)
    moved = np.linalg.solve(inner, gram[np.ix_(kept, gone)] @ matrix[:, gone].T).T
    made = matrix.copy()
    made[:, kept] += moved
    return np.asarray(made)
