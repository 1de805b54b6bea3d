"""Which layers a model can least do without: what quantising each one alone does to the answers."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lepton.compress.metrics import answers, distance
from lepton.compress.observe import Inputs
from lepton.compress.quantize import Calibration, Recipe
from lepton.compress.switches import Switched
from lepton.ir.core import Graph
from lepton.ir.dims import Dim
from lepton.ir.tensor import Array
from lepton.passes.compress.grids import nearest, row_scales
from lepton.passes.compress.layers import Layer, layers
from lepton.passes.compress.quantize_recurrent import recurrences
from lepton.passes.compress.quantize_static import MOST

if TYPE_CHECKING:
    from lepton.compress.searching import Search

PLAIN = Recipe()
FEW = 8              # runs that measure one layer
LEAST_WORK = 1e-3    # layers of less work than this share cost nothing to leave alone


@dataclass(frozen=True)
class Damage:
    """What quantising this layer alone does. `noise`: the share of the layer's own answers' energy that 8-bit weights
    and inputs put in as error, estimated (0 where the layer could not be observed). `pruned`: the share of that energy
    in the half of the weights that matters least. `work`: the layer's share of what is to be made small.

    Measured, None where there was no time: `loss`, by how much the metric falls; `error`, the square of the distance of
    the model's answers over that of their size; `weights`, that of the rounded weights alone."""

    layer: str
    noise: float = 0.0
    loss: float | None = None
    pruned: float = 0.0
    work: float = 1.0
    error: float | None = None
    weights: float = 0.0

    def gain(self, wide: bool = False) -> tuple[float, float]:
        """To sort by: by how much the model's answers are better, for each share of the work, if this layer stays in
        f32, or (`wide`) reads 16 bits; measured ones first, then the noise."""
        left = self.weights if wide else 0.0
        return max((self.error or 0.0) - left, 0.0) / max(self.work, LEAST_WORK), self.noise


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
    """Every layer, the worst for its work first. Those with most noise are measured, as far as the time reaches."""
    works = work_of(search.calibration.graph, search.plan.objective)
    known = estimated(search.calibration)
    found = [replace(d, work=works.get(d.layer, 1 / len(known))) for d in known]
    alone = Alone(search)
    end = time.monotonic() + seconds
    for i, damage in enumerate(found):
        if time.monotonic() > end:
            break
        search.tell(f"sensitivity {i + 1}/{len(found)}")
        found[i] = alone.measured(damage)
    return sorted(found, key=Damage.gain, reverse=True)


def work_of(graph: Graph, objective: str) -> dict[str, float]:
    """By layer, its share of all layers' products (latency), of their weights (size), or the mean of both."""
    found = layers(graph, with_activations=True)
    weights = {x.name: float(x.weight.size) if x.w is not None else 0.0 for x in found}
    products = {x.name: float(x.weight[0].size if x.is_conv else _size(x.x.tensor.shape[-1:]))
                * _size(x.node.result.tensor.shape) for x in found}
    wanted = [table for table, which in ((products, "size"), (weights, "latency")) if objective != which]
    return {x.name: sum(t[x.name] / max(sum(t.values()), 1.0) for t in wanted) / len(wanted) for x in found}


def _size(shape: Sequence[Dim]) -> float:
    """Of a tensor; dimensions that are not known count once."""
    return math.prod(float(d) for d in shape if isinstance(d, int))


class Alone:
    """Measures what rounding one layer does to the answers."""

    def __init__(self, search: Search) -> None:
        search.tell("compiling the model with switches")
        self.search, self.runs = search, search.seen[:FEW]
        self.switched = Switched(search.calibration, PLAIN)
        self.exact = self.switched.answers(self.runs)

    def measured(self, damage: Damage) -> Damage:
        """The damage with what is measured."""
        search, name = self.search, (damage.layer,)
        if damage.layer in self.switched.names:
            got = self.switched.answers(self.runs, name, name)
            weights = distance(self.switched.answers(self.runs, (), name), self.exact)
        else:
            model, _ = search.compiled(search.calibration.quantize(replace(PLAIN, only=name)))
            got = answers(model, self.runs)
            weights = distance(got, self.exact)
        labels, want = [r.labels for r in self.runs], search.reference_of(self.runs)
        loss = search.metric(want, want, labels) - search.metric(got, want, labels)
        return replace(damage, loss=loss, error=distance(got, self.exact), weights=weights)


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
