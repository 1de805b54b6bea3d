"""`quantize_model`: a float model in, a graph in QDQ form out; the compiler makes integer kernels of it."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from lepton.compress import rounding
from lepton.compress.data import Run, read
from lepton.compress.observe import Inputs, Tell, histograms, inputs_of, ranges_by, silent
from lepton.compress.prepare import name_values, prepare, warn_of_none
from lepton.compress.prune import CHANNELS
from lepton.compress.ranges import Histogram, Method
from lepton.compress.scaling import awq, smooth
from lepton.compress.structure import restructure
from lepton.driver import Source
from lepton.ir.core import Graph, clone
from lepton.ir.diagnostics import UsageError
from lepton.ir.printer import value_names
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from lepton.passes.compress.equalize import Equalize
from lepton.passes.compress.grids import nearest, row_scales
from lepton.passes.compress.layers import Layer, chosen, layers, names_of
from lepton.passes.compress.masks import Pattern
from lepton.passes.compress.palettize_weights import PalettizeWeights
from lepton.passes.compress.quantize_dynamic import QuantizeDynamic
from lepton.passes.compress.quantize_recurrent import QuantizeRecurrent, Recurrence, recurrences
from lepton.passes.compress.quantize_static import MOST, Activations, QuantizeStatic, sources_of, spell_ranges, widened
from lepton.passes.compress.quantize_weights import QuantizeWeights, quantize_tables

Kind = Literal["static", "dynamic", "weights", "palette", "float"]
Rounding = Literal["nearest", "gptq", "adaround"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is compressed."""

    kind: Kind = "static"                        # "float": nothing is quantised
    bits: int = 8                                # of weights; 8 or 4 for kind "weights", 2 to 8 for "palette"
    block: int = 0                               # inputs that share a scale, kind "weights"; 0: a scale per channel
    ranges: Method = "mse"                       # how calibration fixes activations' ranges, kind "static"
    activations: Activations = "u8"              # of kind "static"; those of 16 bits are multiplied as two bytes
    rounding: Rounding = "nearest"
    correct_bias: bool = True
    equalize: bool = False                       # balance the channels of neighbouring convolutions first
    smooth: float = 0.0                          # SmoothQuant's alpha; 0: off
    balance: bool = True                         # one size for the channels that depthwise layers read, kind "static"
    awq: bool = False                            # activation-aware scaling, kind "weights"
    embeddings: bool = False                     # tables whose rows are looked up, too: i8, kind "weights", "palette"
    only: tuple[str, ...] = ()                   # layers by name; (): all
    skip: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()                   # layers that read 16 bits whatever `activations` says, kind "static"
    prune: float = 0.0                           # share of channels, or of weights in a pattern, that goes first
    pattern: str = "channels"                    # see lepton.compress.prune
    factors: float = 0.0                         # error that factorising a layer may make; 0: none is
    share: float = 0.0                           # difference of weights that become one; 0: none do
    whole: tuple[str, ...] = ()                  # layers that are neither pruned nor factorised

    def checked(self) -> Recipe:
        """Itself. Raises UsageError for what does not exist or fit together."""
        for what, value, known in (("kind", self.kind, Kind), ("calibration", self.ranges, Method),
                                   ("rounding", self.rounding, Rounding),
                                   ("activations", self.activations, Activations)):
            if value not in get_args(known):
                raise UsageError(f"unknown {what} {value!r}", help=f"one of {', '.join(get_args(known))}")
        known_bits = {"weights": (4, 8), "palette": range(2, 9)}.get(self.kind, (8,))
        if type(self.bits) is not int or self.bits not in known_bits:
            raise UsageError(f"{self.bits} bits for kind '{self.kind}'",
                             help="8, or 4 for weights alone, or 2 to 8 for palettes")
        if type(self.block) is not int or self.block not in (0, 16, 32, 64, 128, 256) or (
                self.block and self.kind != "weights"):
            raise UsageError(f"blocks of {self.block} for kind '{self.kind}'",
                             help="16, 32, 64, 128 or 256 for weights alone; 0: a scale for each channel")
        self._check_shares()
        if self.pattern != CHANNELS:
            Pattern.parse(self.pattern)
        return self

    def _check_shares(self) -> None:
        """Raises UsageError for shares that are none, and for flags that are no bools: "no" would be yes."""
        for what in ("smooth", "prune", "factors", "share"):
            value = getattr(self, what)
            if not isinstance(value, Real) or not 0 <= float(value) < 1:
                raise UsageError(f"{what}={value!r}", help="a share: 0 (off) or more, less than 1")
        for what in ("correct_bias", "equalize", "balance", "awq", "embeddings"):
            if type(value := getattr(self, what)) is not bool:
                raise UsageError(f"{what}={value!r}", help="True or False")

    @property
    def form(self) -> Recipe:
        """What of it changes the graph before anything is quantised."""
        kept = ("equalize", "smooth", *(("prune", "pattern", "whole") if self.prune else ()), "share",
                *(("factors", "whole") if self.factors else ()))
        balance = self.balance and self.kind == "static"
        return Recipe(kind="float", balance=balance, **{name: getattr(self, name) for name in kept})

    @property
    def needs_inputs(self) -> bool:
        """Whether it asks what each layer reads, beyond ranges."""
        biased = self.kind == "static" and self.correct_bias
        return biased or self.rounding != "nearest" or self.awq or self.smooth > 0

    @property
    def needs_data(self) -> bool:
        looks = self.rounding != "nearest" or self.awq or self.smooth > 0
        return self.kind == "static" or looks or self.prune > 0 or self.factors > 0


PLAIN_FORM = Recipe(kind="float", balance=False)


@dataclass(eq=False)
class Calibration:
    """A prepared graph and what was seen of it, so that many recipes need one look at the data."""

    graph: Graph
    runs: Sequence[Run]
    tell: Tell = silent
    _variants: dict[Recipe, Graph] = field(default_factory=dict)
    _histograms: dict[Recipe, dict[str, Histogram]] = field(default_factory=dict)
    _inputs: dict[Recipe, dict[str, Inputs]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Source, data: Any, tell: Tell = silent, **options: Any) -> Calibration:
        """Read, prepare, check the data. Raises LeptonError."""
        graph = prepare(model, **options)
        return cls(graph, read(data, graph) if data is not None else [], tell)

    def form(self, recipe: Recipe) -> Recipe:
        """The recipe's form, without what changes nothing in this graph."""
        form = recipe.form
        idle = form.balance and not form.factors and not any(layer.is_depthwise for layer in layers(self.graph))
        return replace(form, balance=False) if idle else form

    def variant(self, form: Recipe) -> Graph:
        """The graph before quantisation, in a recipe's `form`. What belongs to forms but the plain one and this one is
        forgotten: Gram matrices are large. Raises LeptonError."""
        if form not in self._variants:
            for known in (self._variants, self._histograms, self._inputs):
                for other in [k for k in known if k != PLAIN_FORM]:
                    del known[other]
            graph = clone(self.graph)
            if form.prune or form.factors or form.share:
                restructure(graph, form, lambda: self.inputs(PLAIN_FORM), self._observe)
                name_values(graph)
            if form.equalize:
                Equalize().run(graph)
            if form.smooth or form.balance:
                plain = form == replace(PLAIN_FORM, smooth=form.smooth, balance=form.balance)
                stats = self.inputs(PLAIN_FORM) if plain else self._observe(graph)
                self._inputs[form] = smooth(graph, stats, form.smooth, form.balance)
            self._variants[form] = graph
        return self._variants[form]

    def histograms(self, form: Recipe) -> dict[str, Histogram]:
        if form not in self._histograms:
            graph = self.variant(form)
            self.tell("calibrating")
            self._histograms[form] = histograms(graph, self.runs)
        return self._histograms[form]

    def inputs(self, form: Recipe) -> dict[str, Inputs]:
        graph = self.variant(form)      # which may say what its layers read, too
        if form not in self._inputs:
            self._inputs[form] = dict(self._observe(graph))
        return self._inputs[form]

    def _observe(self, graph: Graph) -> Mapping[str, Inputs]:
        """What the layers of a graph in the making read."""
        self.tell("observing layers")
        return inputs_of(graph, self.runs, layers(graph))

    def quantize(self, recipe: Recipe, static: type[Static] | None = None) -> Graph:
        """A graph of its own, quantised; by the pass `static` where the recipe is of that kind. Raises LeptonError."""
        recipe = recipe.checked()
        if recipe.needs_data and not self.runs:
            raise UsageError(f"quantising like this needs calibration data ({recipe.kind})",
                             help="calibration=: arrays, or the path of a data set")
        self._check_names(recipe)
        form = self.form(recipe)
        graph = clone(self.variant(form))
        stats = self.inputs(form) if recipe.needs_inputs else {}
        if (names := _among(recipe, layers(graph, with_activations=True))) is not None:
            self._products(graph, recipe, stats, names, static or Static)
        names = _among(recipe, recurrences(graph))
        if names is not None and recipe.kind in ("static", "dynamic", "weights"):
            QuantizeRecurrent(**names).run(graph)
        if recipe.embeddings:
            quantize_tables(graph)
        return graph

    def _products(self, graph: Graph, recipe: Recipe, stats: Mapping[str, Inputs], names: Mapping[str, Any],
                  static: type[Static]) -> None:
        """Quantise products and convolutions in place."""
        match recipe.kind:
            case "static":
                here = {layer.name for layer in layers(graph, with_activations=True)}
                wide = tuple(n for n in recipe.wide if n in here and n not in recipe.skip)
                static(self._ranges(graph, recipe, wide), recipe.activations, **names, wide=wide).using(
                    recipe, stats).run(graph)
            case "dynamic":
                QuantizeDynamic(**names).run(graph)
            case "weights":
                if recipe.awq:
                    stats = awq(graph, stats, recipe.bits, recipe.block, recipe.only, recipe.skip)
                _Weights(recipe.bits, recipe.block, **names).using(recipe, stats).run(graph)
            case "palette":
                PalettizeWeights(recipe.bits, **names).run(graph)

    def _ranges(self, graph: Graph, recipe: Recipe, wide: Collection[str]) -> tuple[str, ...]:
        """Of what layers read, for as many levels as that has."""
        known = value_names(graph)
        found = layers(graph, with_activations=True)
        finer = {known[v] for v in sources_of(layer for layer in found if layer.name in wide)}
        levels = {n: 1 << DType(widened(recipe.activations) if n in finer else recipe.activations).bits
                  for n in self.histograms(self.form(recipe))}
        return spell_ranges(ranges_by(self.histograms(self.form(recipe)), recipe.ranges, levels))

    def _check_names(self, recipe: Recipe) -> None:
        """Raises UsageError for layers that the graph has not."""
        known: list[Layer | Recurrence] = [*layers(self.graph, with_activations=True), *recurrences(self.graph)]
        for names in (recipe.only, recipe.skip, recipe.wide, recipe.whole):
            chosen(known, names, ())


def _among(recipe: Recipe, found: Sequence[Layer | Recurrence]) -> dict[str, tuple[str, ...]] | None:
    """What the recipe says of these layers, of which factorising may have replaced some; None: it names others only."""
    here = {layer.name for layer in found}
    only = tuple(n for n in recipe.only if n in here)
    return None if recipe.only and not only else {"only": only, "skip": tuple(n for n in recipe.skip if n in here)}


def quantize_model(model: Source, bits: int = 8, calibration: Any = None, *, weights_only: bool = False,
                   progress: Tell = silent, dims: Mapping[str, int] | None = None, **recipe: Any) -> Graph:
    """The model with its layers quantised, as a graph for `lepton.compile`, `to_onnx` or another rewrite.

    `model`: a path, bytes, an onnx.ModelProto or a Graph. `calibration`: data, see `lepton.compress.data`. `recipe`:
    the fields of `Recipe` (kind, ranges, rounding, skip, ...); `weights_only` is kind "weights". Raises LeptonError."""
    made = recipe_of({"bits": bits, **({"kind": "weights"} if weights_only else {}), **recipe})
    seen = Calibration.of(model, calibration, progress, dims=dict(dims or {}))
    warn_of_none(seen.graph)
    return seen.quantize(made)


def recipe_of(fields: Mapping[str, Any]) -> Recipe:
    """A recipe from keywords. Raises UsageError for unknown ones."""
    if unknown := sorted(fields.keys() - Recipe.__dataclass_fields__.keys()):
        raise UsageError(f"unknown option {unknown[0]!r}", help=f"known: {', '.join(Recipe.__dataclass_fields__)}")
    words: dict[str, Any] = {k: names_of(v) if k in ("only", "skip", "wide", "whole") else v for k, v in fields.items()}
    return Recipe(**words).checked()


class _Rounds:
    """Passes that round by what the layers read. Not a dataclass: its fields are no options of the pass."""

    recipe: Recipe
    stats: Mapping[str, Inputs]

    def using(self, recipe: Recipe, stats: Mapping[str, Inputs]) -> Any:
        object.__setattr__(self, "recipe", recipe)
        object.__setattr__(self, "stats", stats)
        return self

    def rounded(self, layer: Layer, matrix: Array, steps: Array, most: int) -> Array:
        """Levels of the matrix, group by group."""
        seen = self.stats.get(layer.name)
        if self.recipe.rounding == "nearest" or seen is None:
            return nearest(matrix, steps, most)
        method = rounding.gptq if self.recipe.rounding == "gptq" else rounding.up_or_down
        parts = np.split(np.arange(len(matrix)), layer.groups)
        wide = np.broadcast_to(steps.astype(np.float64), matrix.shape)
        return np.concatenate([method(matrix[rows], wide[rows], self.spread(seen, g), most)
                               for g, rows in enumerate(parts)])

    def spread(self, seen: Inputs, group: int) -> Array:
        """H: around the mean where the bias takes care of the mean."""
        if not self.recipe.correct_bias:
            return np.asarray(seen.gram[group])
        return np.asarray(seen.gram[group] - np.outer(seen.mean[group], seen.mean[group]))

    def shift(self, layer: Layer, error: Array) -> Array | None:
        """The mean of what rounding took from each output."""
        seen = self.stats.get(layer.name)
        if not self.recipe.correct_bias or seen is None:
            return None
        parts = np.split(error, layer.groups)
        return np.concatenate([part @ seen.mean[g] for g, part in enumerate(parts)])


class Static(_Rounds, QuantizeStatic):
    def levels(self, layer: Layer) -> tuple[Array, Array]:
        matrix = layer.matrix
        scales = row_scales(matrix, MOST)
        return self.rounded(layer, matrix, scales[:, None], MOST), scales


class _Weights(_Rounds, QuantizeWeights):
    def levels(self, layer: Layer, steps: Array) -> Array:
        return self.rounded(layer, layer.matrix, steps, self.most)

    def spread(self, seen: Inputs, group: int) -> Array:
        """H: around 0, because no bias makes up for the mean."""
        return np.asarray(seen.gram[group])
