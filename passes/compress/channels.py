"""Pruning of whole channels, neurons and heads: tensors get smaller, and nothing else has to know."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.op import Op
from lepton.ir.rewrite import Accuracy, sweep
from lepton.ir.tensor import Array, Tensor
from lepton.passes.base import Pass, count
from lepton.passes.common import elements
from lepton.passes.compress.axes import Axes, Units, channel_axis
from lepton.passes.compress.layers import Layer, chosen, layers
from lepton.passes.compress.reconstruct import make_up

Places: TypeAlias = "frozenset[tuple[Value, int]]"   # constants and their axes
Squares: TypeAlias = "Mapping[str, Array]"           # of a layer's name: E[x²] of each channel that it reads


@dataclass(frozen=True)
class PruneChannels(Pass):
    """conv(relu(conv(x, w[64,…])), v[…,64])  ->  conv(relu(conv(x, w[32,…])), v[…,32])

    Takes out the `rate` of the channels of each family that matter least: channels that have to go together (through
    residuals, concats, depthwise filters, a head's rows) count as one. `across`: the rate of all units, wherever
    they are. What stays of a family is a multiple of `multiple`, at least one. `only` and `skip` name layers."""

    name: ClassVar[str] = "prune-channels"
    accuracy: ClassVar[Accuracy] = "approximate"
    rate: float = 0.5
    multiple: int = 1
    across: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> bool:
        return prune_channels(graph, self)


@dataclass(frozen=True)
class DropDeadChannels(Pass):
    """conv(x, w), some of whose channels all readers multiply by zero  ->  without them

    Exact: what goes is never seen. Magnitude pruning leaves such channels behind."""

    name: ClassVar[str] = "drop-dead-channels"

    def run(self, graph: Graph) -> bool:
        units, known = Units(graph), layers(graph)
        found = families(graph, units, known)
        weighed = {layer.node for layer in known}
        others = [labels for node, labels in units.reads.items() if node not in weighed and labels is not None]
        dead = {u for family in found for u in family.unread()} - {r for labels in others for r in units.roots(labels)}
        return remove(graph, units, _spared(found, dead))


@dataclass(frozen=True)
class Family:
    """Units that lie along the same axes of the same weights, and how they are produced and read there."""

    units: tuple[int, ...]
    produced: tuple[Array, ...]     # [units] mean square of the weights that make each unit, one entry for each layer
    read: tuple[Array, ...]         # and of those that read it
    layers: frozenset[str]

    @property
    def scores(self) -> Array:
        """[units] how much each matters, 1 on average: squares of all its weights, layer by layer."""
        every = [s / max(float(s.mean()), 1e-30) for s in (*self.produced, *self.read)]
        return np.asarray(np.mean(every, axis=0)) if every else np.ones(len(self.units))

    def unread(self) -> list[int]:
        """Units that every reader multiplies by zero."""
        if not self.read:
            return []
        silent = np.all([r == 0 for r in self.read], axis=0)
        return [u for u, gone in zip(self.units, silent, strict=True) if gone]


def prune_channels(graph: Graph, how: PruneChannels, squares: Squares | None = None,
                   grams: Mapping[str, Array] | None = None) -> bool:
    """Take channels out in place; `squares` makes it count how large what a weight multiplies is; with `grams`, the
    weights that stay make up for those that go (`reconstruct`). Raises UsageError."""
    if not 0 <= how.rate < 1 or how.multiple < 1:
        raise UsageError(f"rate {how.rate} and multiple {how.multiple}", help="0 <= rate < 1, multiple >= 1")
    known = layers(graph)
    wanted = {layer.name for layer in chosen(known, how.only, how.skip)}
    units = Units(graph)
    found = [f for f in families(graph, units, known, squares) if f.layers and f.layers <= wanted]
    doomed = _across(found, how) if how.across else {u for f in found for u in _least(f, how)}
    count("units", sum(len(f.units) for f in found))
    count("pruned units", len(doomed))
    make_up(units, doomed, known, grams or {})
    return remove(graph, units, doomed)


def _least(family: Family, how: PruneChannels) -> list[int]:
    many = len(family.units)
    return _lowest(family, min(many - _kept(many, round(many * (1 - how.rate)), how.multiple), many))


def _kept(many: int, kept: int, multiple: int) -> int:
    """How many stay: rounded to a multiple, none lost that rounding does not ask for."""
    return min(many, max(1, -(-kept // multiple) * multiple))


def _lowest(family: Family, gone: int) -> list[int]:
    order = np.argsort(family.scores, kind="stable")
    return [family.units[i] for i in order[:gone].tolist()]


def _across(found: list[Family], how: PruneChannels) -> set[int]:
    """The rate of all units: those below one threshold, nine tenths of a family at most."""
    if not found:
        return set()
    limit = np.quantile(np.concatenate([f.scores for f in found]), how.rate)
    doomed: set[int] = set()
    for family in found:
        many = len(family.units)
        kept = max(int((family.scores >= limit).sum()), -(-many // 10))
        doomed.update(_lowest(family, many - _kept(many, kept, how.multiple)))
    return doomed


def _spared(found: list[Family], doomed: set[int]) -> set[int]:
    """Without one unit of each family that would vanish."""
    for family in found:
        if doomed.issuperset(family.units):
            doomed = doomed - {family.units[0]}
    return doomed


def families(graph: Graph, units: Units, known: list[Layer], squares: Squares | None = None) -> list[Family]:
    """The units that may go, by the weights they lie in."""
    places: dict[int, set[tuple[Value, int]]] = defaultdict(set)
    for node in graph.nodes:
        if node.op is ops.constant:
            for axis, labels in enumerate(units.axes[node.result]):
                for root in set(units.roots(labels)) if labels is not None else ():
                    places[root].add((node.result, axis))
    groups: dict[Places, list[int]] = defaultdict(list)
    for root, where in places.items():
        if root not in units.pinned:
            groups[frozenset(where)].append(root)
    readers: dict[Value, list[Layer]] = defaultdict(list)
    for layer in known:
        if layer.w is not None:
            readers[layer.w].append(layer)
    return [_family(units, tuple(roots), where, readers, squares or {}) for where, roots in groups.items()]


def _family(units: Units, roots: tuple[int, ...], where: Places, readers: Mapping[Value, list[Layer]],
            squares: Squares) -> Family:
    produced: list[Array] = []
    read: list[Array] = []
    names: set[str] = set()
    rank = {root: i for i, root in enumerate(roots)}
    for value, axis in where:
        labels = units.axes[value][axis]
        assert labels is not None
        index = np.array([rank.get(root, -1) for root in units.roots(labels)])
        for layer in readers.get(value, ()):
            names.add(layer.name)
            makes = axis == (0 if layer.is_conv and layer.node.op is ops.conv else value.tensor.rank - 1)
            side = _squares(layer, axis, None if makes else squares.get(layer.name))
            totals = np.zeros(len(roots))
            np.add.at(totals, index[index >= 0], side[index >= 0])
            (produced if makes else read).append(totals)
    return Family(roots, tuple(produced), tuple(read), frozenset(names))


def _squares(layer: Layer, axis: int, scale: Array | None) -> Array:
    """[size of the axis] sums of the weight's squares along the others."""
    weight = np.square(layer.weight.astype(np.float64))
    sums = weight.sum(axis=tuple(a for a in range(weight.ndim) if a != axis))
    return sums if scale is None else np.asarray(sums * scale)


# --- the edit -------------------------------------------------------------------------------------


def remove(graph: Graph, units: Units, doomed: set[int]) -> bool:
    """Take units out of every tensor they lie in, in place. None of them may be pinned."""
    assert not doomed & units.pinned
    if not doomed:
        return False
    editor = _Editor(units, doomed)
    for node in graph.nodes:
        editor.edit(node)
    for slot, value in enumerate(graph.ret.inputs):
        if value is not None:
            graph.ret.set_input(slot, editor.now.get(value, value))
    sweep(graph)
    return True


class _Editor:
    """Nodes whose results shrink are made anew, others read what was."""

    def __init__(self, units: Units, doomed: set[int]) -> None:
        self.units, self.doomed = units, doomed
        self.now: dict[Value, Value] = {}

    def kept(self, value: Value) -> list[Array | None]:
        """For each axis the indices that stay; None: all."""
        found: list[Array | None] = []
        axes: Axes = self.units.axes[value]
        for labels in axes:
            stays = None if labels is None else np.array([r not in self.doomed for r in self.units.roots(labels)])
            found.append(None if stays is None or stays.all() else np.flatnonzero(stays))
        return found

    def edit(self, node: Node) -> None:
        kept = [self.kept(result) for result in node.results]
        if not any(k is not None for axes in kept for k in axes) and not self.recounts(node):
            for slot, value in enumerate(node.inputs):
                node.set_input(slot, None if value is None else self.now.get(value, value))
            return
        inputs = [None if v is None else self.now.get(v, v) for v in node.inputs]
        attrs: dict[str, Any] = dict(node.attrs)
        if node.op is ops.constant:
            attrs["value"] = Tensor.of(_sliced(elements(node.result), kept[0]))
        elif node.op in RECOUNT:
            attrs |= RECOUNT[node.op](self, node, [n if k is None else len(k) for n, k in
                                                   zip(node.result.tensor.shape, kept[0], strict=True)])
        made = node.op(*inputs, loc=node.loc, **attrs)
        made.name = node.result.name
        self.now[node.result] = made

    def recounts(self, node: Node) -> bool:
        """Whether what the node reads shrinks in a way that its attributes tell of."""
        x = node.inputs[0] if node.inputs else None
        return node.op in RECOUNT and x is not None and any(k is not None for k in self.kept(x))


def _sliced(array: Array, kept: list[Array | None]) -> Array:
    for axis, indices in enumerate(kept):
        if indices is not None:
            array = np.take(array, indices, axis=axis)
    return np.ascontiguousarray(array)


def _slice(editor: _Editor, node: Node, shape: list[Any]) -> dict[str, Any]:
    x = node.inputs[0]
    assert x is not None
    starts = list(node.attrs["starts"])
    for axis, indices in enumerate(editor.kept(x)):
        if indices is not None:
            starts[axis] = int((indices < starts[axis]).sum())
    return {"starts": tuple(starts), "sizes": tuple(shape)}


def _groups(editor: _Editor, node: Node, shape: list[Any]) -> dict[str, Any]:
    """Whole groups go."""
    x = node.inputs[0]
    group = node.attrs["group"]
    if group == 1 or x is None:
        return {}
    axis = channel_axis(node)
    labels, left = editor.units.axes[x][axis], editor.kept(x)[axis]
    return {} if left is None or labels is None else {"group": len(left) * group // len(labels)}


RECOUNT: dict[Op, Callable[[_Editor, Node, list[Any]], dict[str, Any]]] = {
    ops.reshape: lambda _, node, shape: {"shape": tuple(shape)},
    ops.broadcast_to: lambda _, node, shape: {"shape": tuple(shape)},
    ops.resize: lambda _, node, shape: {"sizes": tuple(shape)},
    ops.slice_: _slice, ops.conv: _groups, ops.conv_transpose: _groups,
}
