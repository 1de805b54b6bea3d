"""Which layers a model can least do without: what quantising each one alone does to the answers."""
from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lepton.compress.observe import Inputs
from lepton.compress.quantize import Calibration, Recipe
from lepton.ir.tensor import Array
from lepton.passes.compress.grids import nearest, row_scales
from lepton.passes.compress.layers import Layer, layers
from lepton.passes.compress.quantize_recurrent import recurrences
from lepton.passes.compress.quantize_static import MOST

if TYPE_CHECKING:
    from lepton.compress.searching import Search

PLAIN = Recipe()


@dataclass(frozen=True)
class Damage:
    """`noise`: the share of the layer's own answers' energy that 8-bit weights and inputs put in as error, estimated (0
    where the layer could not be observed). `loss`: by how much the metric falls if this layer alone is quantised; None
    where it was not measured. `pruned`: the share of that energy in the half of the weights that matters least."""

    layer: str
    noise: float = 0.0
    loss: float | None = None
    pruned: float = 0.0


def estimated(calibration: Calibration) -> list[Damage]:
    """Every layer, the noisiest first, by one look at the data."""
    form = calibration.form(PLAIN)
    stats, found = calibration.inputs(form), []
    for layer in layers(calibration.variant(form), with_activations=True):
        seen = stats.get(layer.name)
        found.append(Damage(layer.name) if seen is None else
                     Damage(layer.name, _noise(layer, seen), None, _lost_half(layer, seen)))
    found += [Damage(layer.name) for layer in recurrences(calibration.graph)]
    return sorted(found, key=lambda d: -d.noise)


def damages(search: Search, seconds: float) -> list[Damage]:
    """Every layer, the worst first. Losses are measured for the layers with most noise, as far as the time reaches."""
    calibration, found = search.calibration, estimated(search.calibration)
    end = time.monotonic() + seconds
    for i, damage in enumerate(found):
        if time.monotonic() > end:
            break
        search.tell(f"sensitivity {i + 1}/{len(found)}")
        graph = calibration.quantize(replace(PLAIN, only=(damage.layer,)))
        found[i] = replace(damage, loss=search.baseline - search.score(search.compiled(graph)[0], search.seen))
    return sorted(found, key=lambda d: (-(d.loss or 0.0), -d.noise))


def _noise(layer: Layer, seen: Inputs) -> float:
    """By the layer's matrix and H: error of its weights, and of inputs whose step is that of the largest one."""
    matrix = layer.matrix
    scales = row_scales(matrix, MOST)
    error = matrix - nearest(matrix, scales[:, None], MOST) * scales[:, None].astype(np.float64)
    step = float(seen.largest.max(initial=0.0)) * 2 / 255
    signal = off = 0.0
    for g, rows in enumerate(np.split(np.arange(len(matrix)), layer.groups)):
        w, e, h = matrix[rows], error[rows], seen.gram[g]
        signal += _energy(w, h)
        off += _energy(e, h) + step * step / 12 * float((w * w).sum())
    return off / signal if signal > 0 else 0.0


def _lost_half(layer: Layer, seen: Inputs) -> float:
    """As if the inputs were independent."""
    squares = np.repeat([np.diag(h) for h in seen.gram], len(layer.matrix) // layer.groups, axis=0)
    energy = np.sort((np.square(layer.matrix) * squares).reshape(-1))
    return float(energy[:energy.size // 2].sum() / max(float(energy.sum()), 1e-30))


def _energy(w: Array, h: Array) -> float:
    return float(((w @ h) * w).sum())
