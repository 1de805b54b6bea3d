"""Which layers a model can least do without: what quantising each one alone does to the answers."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from lepton.codegen.target import parse_targets
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
CAREFUL = Recipe(ranges="percentile", rounding="adaround")
FEW = 8              # runs that measure one layer
LEAST_WORK = 1e-3    # layers of less work than this share cost nothing to leave alone
LEAST_FINER = 1e-2
DOTS_LOSE = 0.35     # of int8's advantage in time, by 16-bit inputs, where there are dot products of bytes
SHORTEST = 64        # products of 16-bit inputs that are added up as integers
Care = Literal["wide", "f32"]


@dataclass(frozen=True)
class Damage:
    """What quantising this layer alone does. `noise`: the share of the layer's own answers' energy that 8-bit weights
    and inputs put in as error, estimated (0 where the layer could not be observed). `pruned`: the share of that energy
    in the half of the weights that matters least. `work`: the layer's share of what is to be made small.

    Measured, None where there was no time: `loss`, by how much the metric falls. Measured, else guessed by the noise:
    `error`, the square of the distance of the model's answers over that of their size; `weights`, that of the rounded
    weights alone. `finer`: how much of what int8 saves is lost where the layer reads 16 bits, from 1 on: all."""

    layer: str
    noise: float = 0.0
    loss: float | None = None
    pruned: float = 0.0
    work: float = 1.0
    error: float = 0.0
    weights: float = 0.0
    finer: float = 1.0

    @property
    def gain(self) -> float:
        """By how much the model's answers are better, for each share of the work, if this layer stays in f32."""
        return self.error / max(self.work, LEAST_WORK)

    @property
    def steps(self) -> list[tuple[float, str, Care]]:
        """(gain, layer, what is done): to f32 at once, or where that pays more first, to 16 bits before."""
        work = max(self.work, LEAST_WORK)
        first = (self.error - self.weights) / (work * max(self.finer, LEAST_FINER))
        if self.finer >= 1 or first <= self.gain:
            return [(self.gain, self.layer, "f32")]
        return [(first, self.layer, "wide"), (self.weights / (work * (1 - self.finer)), self.layer, "f32")]


def ladder(found: Sequence[Damage]) -> list[tuple[str, Care]]:
    """(layer, what is done to it), from int8 everywhere to f32 everywhere: what gains most for the work comes first."""
    steps = sorted((step for damage in found for step in damage.steps), key=lambda step: -step[0])
    return [(layer, care) for _, layer, care in steps]


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
    known = estimated(search.calibration)
    works, finer = work_of(search.calibration.graph, search.plan.objective), finer_of(search)
    found = [replace(d, work=works.get(d.layer, 1 / len(known)), finer=finer.get(d.layer, 1.0)) for d in known]
    alone = Alone(search)
    end = time.monotonic() + seconds
    for i, damage in enumerate(found):
        if time.monotonic() > end:
            break
        search.tell(f"sensitivity {i + 1}/{len(found)}")
        found[i] = alone.measured(damage)
    return sorted(guessed(found), key=lambda d: -d.gain)


def guessed(found: Sequence[Damage]) -> list[Damage]:
    """Where there was no time to measure, errors are in proportion to the noise, half of them the weights'."""
    measured = [d for d in found if d.loss is not None]
    ratio = sum(d.error for d in measured) / (sum(d.noise for d in measured) or 1.0) or 1.0
    return [d if d.loss is not None else replace(d, error=d.noise * ratio, weights=d.noise * ratio / 2) for d in found]


def work_of(graph: Graph, objective: str) -> dict[str, float]:
    """By layer, its share of all layers' products (latency), of their weights (size), or the mean of both."""
    found = layers(graph, with_activations=True)
    weights = {x.name: float(x.weight.size) if x.w is not None else 0.0 for x in found}
    products = {x.name: float(x.weight[0].size if x.is_conv else _size(x.x.tensor.shape[-1:]))
                * _size(x.node.result.tensor.shape) for x in found}
    wanted = [table for table, which in ((products, "size"), (weights, "latency")) if objective != which]
    return {x.name: sum(t[x.name] / max(sum(t.values()), 1.0) for t in wanted) / len(wanted) for x in found}


def finer_of(search: Search) -> dict[str, float]:
    """By layer, how much of what int8 saves 16-bit inputs lose: nothing in size, in time what the machine takes for two
    products in place of one. Short sums are computed in f32."""
    time_lost = DOTS_LOSE if parse_targets(search.plan.target)[0].dots != "pairs" else 1.0
    lost = {"latency": time_lost, "size": 0.0, "both": time_lost / 2}[search.plan.objective]
    return {name: lost if width >= SHORTEST else 1.0 for name, (_, width) in search.layer_facts().items()}


def _size(shape: Sequence[Dim]) -> float:
    """Of a tensor; dimensions that are not known count once."""
    return math.prod(float(d) for d in shape if isinstance(d, int))


class Alone:
    """Measures what rounding one layer does to the answers."""

    def __init__(self, search: Search) -> None:
        search.tell("compiling the model with switches")
        self.search, self.runs = search, search.seen[:FEW]
        self.switched = Switched(search.calibration, CAREFUL)
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
        loss = search.score(search.float_model, self.runs) - search.judged(got, self.runs)
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
