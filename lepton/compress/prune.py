"""`prune_model`: fewer channels, or zeros in patterns that compiled kernels skip; masks to keep and apply again."""
from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lepton.compress.data import read
from lepton.compress.observe import Tell, inputs_of, silent
from lepton.compress.prepare import prepare, warn_of_none
from lepton.driver import Source
from lepton.inputs import read_arrays
from lepton.ir.core import Graph
from lepton.ir.diagnostics import UsageError
from lepton.ir.files import check_destination, replacing
from lepton.ir.tensor import Array
from lepton.passes.compress.channels import DropDeadChannels, PruneChannels, prune_channels
from lepton.passes.compress.layers import Layer, chosen, layers
from lepton.passes.compress.prune import Criterion, Prune, apply_masks, masks_of, prunable, prune_weights

CHANNELS = "channels"


def prune_model(model: Source, rate: float = 0.5, pattern: str = "16x1", *, criterion: Criterion = "magnitude",
                data: Any = None, across: bool = False, multiple: int = 16, only: tuple[str, ...] = (),
                skip: tuple[str, ...] = (), tell: Tell = silent, **options: Any) -> Graph:
    """A graph of its own, pruned.

    `pattern`: channels (whole channels, neurons and heads; shapes shrink; at least `multiple` stay, a multiple of it)
    or zeros in `unstructured`, `2:4`, or blocks of outputs x inputs such as `16x1`. `criterion`: magnitude, or with
    calibration `data` (see lepton.compress.data): wanda; obs, by which the weights that stay make up for those that
    go. `across`: one threshold for all layers. `only`, `skip`: layers by name; `options` are those of lepton.compile
    that reading takes. Raises LeptonError."""
    if criterion not in get_args(Criterion):
        raise UsageError(f"unknown criterion {criterion!r}", help=f"one of {', '.join(get_args(Criterion))}")
    if criterion != "magnitude" and data is None:
        raise UsageError(f"criterion '{criterion}' needs calibration data")
    graph = warn_of_none(prepare(model, **options))
    grams = _grams(graph, data, only, skip, tell) if criterion != "magnitude" else {}
    tell("pruning")
    if pattern == CHANNELS:
        how = PruneChannels(rate, multiple, across, only, skip)
        by_name = {layer.name: layer for layer in layers(graph)}
        squares = {name: channel_squares(by_name[name], gram) for name, gram in grams.items()}
        prune_channels(graph, how, squares, grams if criterion == "obs" else None)
        DropDeadChannels().run(graph)
        return graph
    prune_weights(graph, Prune(rate, pattern, criterion, across, "", only, skip), grams)
    return graph


def _grams(graph: Graph, data: Any, only: tuple[str, ...], skip: tuple[str, ...], tell: Tell) -> dict[str, Array]:
    runs = read(data, graph)
    tell("observing layers")
    found = [layer for layer in chosen(layers(graph), only, skip) if prunable(layer)]
    return {name: inputs.gram for name, inputs in inputs_of(graph, runs, found).items()}


def channel_squares(layer: Layer, gram: Array) -> Array:
    """[C of one group] mean squares of what the layer reads, over groups and taps."""
    squares = np.diagonal(gram, axis1=1, axis2=2).mean(axis=0)
    channels = layer.weight.shape[1] if layer.is_conv else len(squares)
    return np.asarray(squares.reshape(channels, -1).mean(axis=1))


def masks(model: Source, **options: Any) -> dict[str, Array]:
    """By layer, of the shape of its weight: False where it is zero. For `remask`, once the model was trained on."""
    return masks_of(prepare(model, **options))


def remask(model: Source, kept: Mapping[str, Array] | str | os.PathLike[str], **options: Any) -> Graph:
    """A graph of its own whose weights are zero where the masks, or those in an .npz, are False. Raises LeptonError."""
    graph = prepare(model, **options)
    apply_masks(graph, kept if isinstance(kept, Mapping) else read_arrays(Path(kept)))
    return graph


def save_masks(kept: Mapping[str, Array], path: str | os.PathLike[str]) -> None:
    """Write masks as an .npz. Raises UsageError, ResourceError."""
    check_destination(Path(path))
    with replacing(Path(path)) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mask in kept.items():     # a layer may be called as one of np.savez' arguments is
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(mask), allow_pickle=False)
