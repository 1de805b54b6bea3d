"""What changes a graph's structure before it is quantised: fewer channels, zeros, factors, shared weights."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lepton.compress.observe import Inputs
from lepton.compress.prune import CHANNELS, channel_squares
from lepton.ir.core import Graph
from lepton.ir.tensor import Array
from lepton.passes.compress.channels import DropDeadChannels, PruneChannels, prune_channels
from lepton.passes.compress.factorize import Factorize, factorize_layers
from lepton.passes.compress.layers import Layer, layers
from lepton.passes.compress.prune import Prune, prunable, prune_weights
from lepton.passes.compress.share import ShareWeights, share

if TYPE_CHECKING:
    from lepton.compress.quantize import Recipe

MULTIPLE = 16    # channels that are left of a family, and ranks of factors: widths that fill vectors
GAIN = 0.75      # of a layer's work that its factors may take

Observe = Callable[[Graph], Mapping[str, Inputs]]


def restructure(graph: Graph, recipe: Recipe, known: Callable[[], Mapping[str, Inputs]], observe: Observe) -> None:
    """Prune, factorise and share in place, as the recipe says; what stays makes up for what goes, by what the layers
    read: `known` for the graph as it comes, `observe` for one that was changed. Layers that they do not tell of stay
    whole. Raises UsageError."""
    if recipe.prune:
        grams = _grams(known())
        (_channels if recipe.pattern == CHANNELS else _zeros)(graph, recipe, grams)
    if recipe.factors:
        grams = _grams(observe(graph) if recipe.prune else known())
        how = Factorize(recipe.factors, GAIN, "best", MULTIPLE, (), _whole(graph, recipe, grams))
        factorize_layers(graph, how, grams)
    if recipe.share:
        share([graph], ShareWeights(recipe.share))


def _grams(stats: Mapping[str, Inputs]) -> dict[str, Array]:
    return {name: seen.gram for name, seen in stats.items()}


def _whole(graph: Graph, recipe: Recipe, grams: Mapping[str, Array]) -> tuple[str, ...]:
    """Layers that are left as they are, of those that the graph still has."""
    return tuple(x.name for x in layers(graph) if x.name in recipe.whole or x.name not in grams)


def _channels(graph: Graph, recipe: Recipe, grams: Mapping[str, Array]) -> None:
    known: dict[str, Layer] = {layer.name: layer for layer in layers(graph)}
    squares = {name: channel_squares(known[name], gram) for name, gram in grams.items()}
    how = PruneChannels(recipe.prune, MULTIPLE, True, (), tuple(n for n in known if n in recipe.whole))
    prune_channels(graph, how, squares, grams)
    DropDeadChannels().run(graph)


def _zeros(graph: Graph, recipe: Recipe, grams: Mapping[str, Array]) -> None:
    """Every layer loses the same share: one threshold for all empties whole layers, which nothing can make up for."""
    whole = {*_whole(graph, recipe, grams), *(x.name for x in layers(graph) if not prunable(x))}
    names = tuple(x.name for x in layers(graph) if x.name in whole)
    prune_weights(graph, Prune(recipe.prune, recipe.pattern, "obs", False, "", (), names), grams)
