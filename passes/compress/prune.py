"""Pruning of single weights: zeros in patterns, chosen by size or by what the layer's inputs make of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy
from lepton.ir.tensor import Array
from lepton.passes.base import Pass, count
from lepton.passes.compress.layers import Layer, chosen, layers, set_weight
from lepton.passes.compress.masks import Pattern, block_means, by_taps, from_taps, lowest, mask_of, spread

Criterion = Literal["magnitude", "wanda", "obs"]
Grams = Mapping[str, Array]      # by layer: [groups, K, K], the mean of x xᵀ over what the layer reads
DAMPING = 0.01                   # of the mean of a Gram matrix' diagonal, added to it
CHUNK = 128                      # columns whose effect on those behind them is applied at once


@dataclass(frozen=True)
class Prune(Pass):
    """conv(x, w)  ->  conv(x, w with zeros)

    In each layer the `rate` of the blocks with the lowest scores become zero; `across`: of all layers together, scores
    relative to their layer's mean. `criterion`: magnitude, the squares of the weights; wanda, times the mean square of
    what each multiplies; obs, by the damage that remains once the other weights have made up for it, which they then
    do (SparseGPT). The latter two need `statistics`, an .npz with each layer's Gram matrix [groups, K, K] by its name.
    Depthwise convolutions stay. `only` and `skip` name layers."""

    name: ClassVar[str] = "prune"
    accuracy: ClassVar[Accuracy] = "approximate"
    rate: float = 0.5
    pattern: str = "16x1"
    criterion: Criterion = "magnitude"
    across: bool = False
    statistics: str = ""
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> bool:
        return prune_weights(graph, self, _read(self.statistics) if self.statistics else {})


def _read(path: str) -> Grams:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read statistics from {path}: {error}") from error


def prune_weights(graph: Graph, how: Prune, grams: Grams) -> bool:
    """Prune in place. Raises UsageError for rates, patterns and layers that do not exist, and layers without
    statistics."""
    pattern = Pattern.parse(how.pattern)
    if not 0 <= how.rate < 1:
        raise UsageError(f"rate {how.rate}", help="the share of the weights that goes: 0 <= rate < 1")
    known = layers(graph)
    found = [layer for layer in chosen(known, how.only, how.skip) if prunable(layer)]
    scores = {layer.name: by_taps(layer, _scores(layer, how.criterion, grams)) for layer in found}
    masks = _across(scores, pattern, how.rate) if how.across and not pattern.keep else {
        name: mask_of(s, pattern, how.rate) for name, s in scores.items()}
    for layer in found:
        mask = from_taps(masks[layer.name])
        matrix = layer.matrix
        pruned = compensated(matrix, mask, grams[layer.name]) if how.criterion == "obs" else matrix * mask
        set_weight(layer, layer.unmatrix((pruned * mask).astype(np.float32)))
        count("pruned weights", int(mask.size - np.count_nonzero(mask)))
        count("weights", mask.size)
    return any(not m.all() for m in masks.values())


def prunable(layer: Layer) -> bool:
    """Whether a weight is a matrix of more than one input."""
    return layer.w is not None and layer.channel_axis is not None and layer.matrix.shape[1] > 1 and (
        layer.groups == 1 or layer.weight.shape[1] > 1)


def _across(scores: Mapping[str, Array], pattern: Pattern, rate: float) -> dict[str, Array]:
    """One threshold for all layers; each keeps at least one block."""
    blocks = {name: block_means(s, pattern) / max(float(s.mean()), 1e-30) for name, s in scores.items()}
    if not blocks:
        return {}
    kept = lowest(np.concatenate([b.reshape(-1) for b in blocks.values()]), rate)
    masks, at = {}, 0
    for name, block in blocks.items():
        mine = kept[at:at + block.size].reshape(block.shape).copy()
        mine.flat[int(block.argmax())] = True
        masks[name] = spread(mine, pattern, scores[name].shape)
        at += block.size
    return masks


# --- criteria -------------------------------------------------------------------------------------


def _scores(layer: Layer, criterion: Criterion, grams: Grams) -> Array:
    """[outputs, K] how much each weight matters."""
    squares = np.square(layer.matrix)
    if criterion == "magnitude":
        return squares
    if layer.name not in grams:
        raise UsageError(f"no statistics of layer '{layer.name}'", where=layer.node.loc[0] if layer.node.loc else None,
                         help=f"criterion '{criterion}' needs calibration data; leave the layer out by skip")
    gram = _checked(layer, grams[layer.name])
    diagonals = [np.diag(g) if criterion == "wanda" else 1 / np.square(np.diag(inverse_root(g))) for g in gram]
    return np.asarray(squares * np.repeat(diagonals, len(squares) // len(gram), axis=0))


def _checked(layer: Layer, gram: Array) -> Array:
    wanted = (layer.groups, layer.matrix.shape[1], layer.matrix.shape[1])
    if gram.shape != wanted or not np.isfinite(gram).all():
        raise UsageError(f"statistics of layer '{layer.name}' are {list(gram.shape)}, expected {list(wanted)}, finite")
    return gram


def inverse_root(gram: Array) -> Array:
    """[K, K] upper triangular u: the inverse of the damped Gram matrix is uᵀ u. 1 / u[j, j]² is the damage done by
    losing input j when those behind it make up for it."""
    damped = gram.astype(np.float64).copy()
    mean = max(float(np.diag(damped).mean()), 1e-12)
    damped[np.diag_indices_from(damped)] += DAMPING * mean
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)


def compensated(matrix: Array, mask: Array, grams: Array) -> Array:
    """[outputs, K] whose masked weights are zero and whose others make up for them, so that the mean square of what
    changes in the layer's results is small: optimal brain surgery column by column, as SparseGPT does it."""
    parts = np.split(np.arange(len(matrix)), len(grams))
    done = [_compensated(matrix[rows], mask[rows], gram) for rows, gram in zip(parts, grams, strict=True)]
    return np.concatenate(done)


def _compensated(matrix: Array, mask: Array, gram: Array) -> Array:
    upper = inverse_root(gram)
    weights, k = matrix.astype(np.float64).copy(), matrix.shape[1]
    for start in range(0, k, CHUNK):
        end = min(start + CHUNK, k)
        errors = np.zeros((len(weights), end - start))
        for j in range(start, end):
            errors[:, j - start] = np.where(mask[:, j], 0.0, weights[:, j]) / upper[j, j]
            weights[:, j:end] -= errors[:, j - start, None] * upper[j, j:end]
        weights[:, end:] -= errors @ upper[start:end, end:]
    return weights


# --- masks to keep ---------------------------------------------------------------------------------


def masks_of(graph: Graph) -> dict[str, Array]:
    """By layer, of the shape of its weight: False where it is zero. Layers without zeros have none."""
    found = {layer.name: layer.weight != 0 for layer in layers(graph) if layer.w is not None}
    return {name: mask for name, mask in found.items() if not mask.all()}


def apply_masks(graph: Graph, masks: Mapping[str, Array]) -> bool:
    """w -> w ⊙ mask, in place, for layers by name. Raises UsageError for layers and shapes that are not there."""
    changed = False
    for layer in chosen(layers(graph), tuple(masks), ()) if masks else ():
        mask = np.asarray(masks[layer.name])
        if layer.w is None or mask.shape != layer.weight.shape:
            shape = None if layer.w is None else list(layer.weight.shape)
            raise UsageError(f"the mask of layer '{layer.name}' is {list(mask.shape)}, its weight {shape}")
        mask = mask.astype(bool)
        changed |= bool((layer.weight[~mask] != 0).any())
        set_weight(layer, np.where(mask, layer.weight, np.float32(0)))
    return changed
