"""Which elements along which axes of a graph's values belong together: what has to go if one channel goes.

Every axis of known size carries labels, one for each index. Ops join the labels of operands and results (union-find):
a convolution its filters' labels with its result's channels, an addition those of both operands, a concat puts them
behind each other, a reshape of 768 to (12, 64) joins those of each head. What an op does not carry on is pinned: it
can never be taken out. Labels that are joined are one unit, such as a channel of a whole residual stage.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import Dim, product
from lepton.ir.op import Op, Trait
from lepton.ir.tensor import Array

Labels: TypeAlias = "Array | None"     # [size of the axis] i64; None: no index of it may go
Axes: TypeAlias = "list[Labels]"
Rule: TypeAlias = "Callable[[Units, Node, list[Axes]], Axes]"
RULES: dict[Op, Rule] = {}


class Units:
    """The labels of a graph's values and which are joined."""

    def __init__(self, graph: Graph) -> None:
        self.parents: list[int] = []
        self.pinned: set[int] = set()
        self.reads: dict[Node, Labels] = {}    # what a product sums over
        self.axes: dict[Value, Axes] = {v: [None] * v.tensor.rank for v in graph.inputs}
        for node in graph.nodes:
            self.visit(node)
        for value in graph.outputs:
            self.pin(self.axes[value])
        self.pinned = {self.root(p) for p in self.pinned}

    def visit(self, node: Node) -> None:
        inputs = [[] if v is None else self.axes[v] for v in node.inputs]
        rule = RULES.get(node.op, _elementwise if node.op.has(Trait.ELEMENTWISE) else None)
        if rule is None or len(node.results) != 1:
            for axes in inputs:
                self.pin(axes)
            self.axes.update({r: [None] * r.tensor.rank for r in node.results})
            return
        self.axes[node.result] = rule(self, node, inputs)

    def fresh(self, size: Dim) -> Labels:
        """New labels for an axis; None where there is nothing to choose from."""
        if not isinstance(size, int) or size < 2:
            return None
        first = len(self.parents)
        self.parents.extend(range(first, first + size))
        return np.arange(first, first + size)

    def root(self, label: int) -> int:
        parents = self.parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def roots(self, labels: Array) -> list[int]:
        return [self.root(label) for label in labels.tolist()]

    def pin(self, axes: Iterable[Labels]) -> None:
        for labels in axes:
            if labels is not None:
                self.pinned.update(labels.tolist())

    def join(self, *axes: Labels) -> Labels:
        """One axis of all of them; None, and all pinned, if one is None."""
        first = axes[0]
        if first is None or any(a is None for a in axes):
            self.pin(axes)
            return None
        for other in axes[1:]:
            assert other is not None
            for a, b in zip(first.tolist(), other.tolist(), strict=True):
                self.parents[self.root(b)] = self.root(a)
        return first

    def join_rows(self, table: Array) -> Array:
        """Make one of each row's labels; the first column."""
        for row in table.tolist():
            for other in row[1:]:
                self.parents[self.root(other)] = self.root(row[0])
        return np.ascontiguousarray(table[:, 0])


def rule(*names: Op) -> Callable[[Rule], Rule]:
    def declare(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return declare


def channel_axis(node: Node) -> int:
    """Which axis of an image op's operand and result counts the channels."""
    return 1 if node.attrs.get("layout", "nchw") == "nchw" else node.result.tensor.rank - 1


@rule(ops.constant)
def _constant(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    return [units.fresh(n) for n in node.result.tensor.shape]


def _elementwise(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    """Operands broadcast: along an axis of the result, those join that have its size."""
    shape = node.result.tensor.shape
    shapes = [() if v is None else v.tensor.shape for v in node.inputs]
    found: Axes = []
    for back in range(-len(shape), 0):
        sides = [axes[back] for axes, own in zip(inputs, shapes, strict=True)
                 if len(own) >= -back and own[back] == shape[back]]
        units.pin(axes[back] for axes, own in zip(inputs, shapes, strict=True)
                  if len(own) >= -back and own[back] != shape[back])
        found.append(units.join(*sides) if sides else None)
    return found


@rule(ops.conv)
def _conv(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    x, w, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else []
    axis, group = channel_axis(node), node.attrs["group"]
    units.pin(w[2:])
    units.pin(a for i, a in enumerate(x) if i not in (0, axis))
    units.reads[node] = x[axis] if group == 1 else None
    out: Axes = [x[0], *[None] * (len(x) - 1)]
    filters = units.join(w[0], bias[0]) if bias else w[0]
    if group == 1:
        units.join(x[axis], w[1])
        out[axis] = filters
    else:
        units.pin(w[1:2])
        out[axis] = _groups(units, x[axis], filters, group)
    return out


def _groups(units: Units, x: Labels, filters: Labels, group: int) -> Labels:
    """Channels and filters of a group stay or go together."""
    if x is None or filters is None:
        units.pin((x, filters))
        return None
    units.join_rows(np.concatenate([x.reshape(group, -1), filters.reshape(group, -1)], axis=1))
    return filters


@rule(ops.conv_transpose)
def _conv_transpose(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    x, w, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else []
    axis, group = channel_axis(node), node.attrs["group"]
    units.pin(w[2:])
    units.pin(a for i, a in enumerate(x) if i not in (0, axis))
    units.reads[node] = units.join(x[axis], w[0])
    out: Axes = [x[0], *[None] * (len(x) - 1)]
    if group == 1:
        out[axis] = units.join(w[1], bias[0]) if bias else w[1]
    else:
        units.pin(w[1:2])
        filters = bias[0] if bias else units.fresh(node.result.tensor.shape[axis])
        out[axis] = _groups(units, x[axis], filters, group)
    return out


@rule(ops.matmul)
def _matmul(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    a, b = inputs
    if min(len(a), len(b)) < 2:
        units.pin((*a, *b))
        return [None] * node.result.tensor.rank
    units.reads[node] = units.join(a[-1], b[-2])
    shape, found = node.result.tensor.shape, []
    for back in range(-len(shape), -2):
        sides = [axes[back] for v, axes in zip(node.inputs, inputs, strict=True)
                 if v is not None and len(axes) >= -back and v.tensor.shape[back] == shape[back]]
        found.append(units.join(*sides) if sides else None)
    return [*found, a[-2], b[-1]]


@rule(ops.batch_norm, ops.instance_norm)
def _channel_norm(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    x, axis = inputs[0], channel_axis(node)
    out = list(x)
    out[axis] = units.join(x[axis], *(p[0] for p in inputs[1:] if p))
    return out


@rule(ops.max_pool, ops.avg_pool, ops.lp_pool)
def _pool(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    kept = (0, channel_axis(node))
    units.pin(a for i, a in enumerate(inputs[0]) if i not in kept)
    return [a if i in kept else None for i, a in enumerate(inputs[0])]


@rule(ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min)
def _reduce(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    rank = len(inputs[0])
    axes = {a % rank for a in node.attrs["axes"]}
    units.pin(a for i, a in enumerate(inputs[0]) if i in axes)
    return [None if i in axes else a for i, a in enumerate(inputs[0]) if i not in axes or node.attrs["keepdims"]]


@rule(ops.softmax, ops.log_softmax)
def _softmax(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    out = list(inputs[0])
    units.pin([out[node.attrs["axis"]]])
    out[node.attrs["axis"]] = None
    return out


@rule(ops.layer_norm, ops.rms_norm)
def _tail_norm(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    """What is averaged over stays whole: another width is another statistic."""
    x, axis = inputs[0], node.attrs["axis"] % len(inputs[0])
    units.pin(a for axes in (x[axis:], *inputs[1:]) for a in axes)
    return [*x[:axis], *[None] * (len(x) - axis)]


@rule(ops.concat)
def _concat(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    rank, axis = node.result.tensor.rank, node.attrs["axis"] % node.result.tensor.rank
    out = [units.join(*(axes[i] for axes in inputs)) if i != axis else None for i in range(rank)]
    sizes = [v.tensor.shape[axis] for v in node.inputs if v is not None]
    parts = [_whole(units, axes[axis], n) for axes, n in zip(inputs, sizes, strict=True)]
    if all(p is not None for p in parts):
        out[axis] = np.concatenate([p for p in parts if p is not None])
    else:
        units.pin(parts)
    return out


def _whole(units: Units, labels: Labels, size: Dim) -> Labels:
    """Labels for an axis, pinned ones if it has none; None if its size is open."""
    if labels is not None or not isinstance(size, int):
        return labels
    first = len(units.parents)
    units.parents.extend(range(first, first + size))
    made = np.arange(first, first + size)
    units.pin([made])
    return made


@rule(ops.transpose)
def _transpose(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    return [inputs[0][p] for p in node.attrs["perm"]]


@rule(ops.slice_)
def _slice(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    found: Axes = []
    columns = zip(inputs[0], *(node.attrs[a] for a in ("starts", "sizes", "steps")), strict=True)
    for labels, start, size, step in columns:
        if labels is None or step != 1 or not isinstance(start, int) or not isinstance(size, int):
            units.pin([labels])
            found.append(None)
        else:
            found.append(labels[start:start + size])
    return found


@rule(ops.gather)
def _gather(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    x, index = inputs
    axis = node.attrs["axis"] % len(x)
    units.pin([x[axis], *index])
    return [*x[:axis], *[None] * len(index), *x[axis + 1:]]


@rule(ops.pad, ops.resize, ops.broadcast_to)
def _same_axes(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    """Axes that keep their size carry on."""
    x = node.inputs[0]
    assert x is not None
    old, new = x.tensor.shape, node.result.tensor.shape
    missing = len(new) - len(old)
    same = [a == b and not _moved(node, i) for i, (a, b) in enumerate(zip(old, new[missing:], strict=True))]
    units.pin(a for a, keep in zip(inputs[0], same, strict=True) if not keep)
    units.pin(a for axes in inputs[1:] for a in axes)
    return [*[None] * missing, *(a if keep else None for a, keep in zip(inputs[0], same, strict=True))]


def _moved(node: Node, axis: int) -> bool:
    return node.op is ops.pad and (node.attrs["before"][axis], node.attrs["after"][axis]) != (0, 0)


@rule(ops.reshape)
def _reshape(units: Units, node: Node, inputs: list[Axes]) -> Axes:
    x, result = node.inputs[0], node.result
    assert x is not None
    out: Axes = [None] * result.tensor.rank
    for ins, outs in reshape_groups(x.tensor.shape, result.tensor.shape):
        sides = [inputs[0][i] for i in ins]
        if len(ins) == len(outs) == 1:
            out[outs[0]] = sides[0]
        elif len(ins) == 1 and sides[0] is not None:
            _split(units, sides[0], result.tensor.shape, outs, out)
        elif len(outs) == 1:
            out[outs[0]] = _merge(units, sides, [x.tensor.shape[i] for i in ins])
        else:
            units.pin(sides)
    return out


def reshape_groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Which axes become which, in pieces as small as can be; axes of size 1 are left out."""
    left = [i for i, n in enumerate(old) if n != 1]
    right = [i for i, n in enumerate(new) if n != 1]
    found: list[tuple[list[int], list[int]]] = []
    ins: list[int] = []
    outs: list[int] = []
    while left or right:
        a, b = product([old[i] for i in ins]), product([new[i] for i in outs])
        behind = isinstance(a - b, int) and a - b < 0  # type: ignore[operator]
        if left and (behind or not right or (not ins and not outs) or (len(ins) <= len(outs) and a != b)):
            ins.append(left.pop(0))
        else:
            outs.append(right.pop(0))
        if ins and outs and product([old[i] for i in ins]) == product([new[i] for i in outs]):
            found.append((ins, outs))
            ins, outs = [], []
    return [*found, (ins, outs)] if ins or outs else found


def _split(units: Units, labels: Array, shape: Sequence[Dim], outs: list[int], out: Axes) -> None:
    """768 -> (12, 64) and 2304 -> (3, 12, 64): the axis before the last carries on, as heads do."""
    sizes = [shape[i] for i in outs]
    if not all(isinstance(n, int) for n in sizes):
        units.pin([labels])
        return
    at = len(outs) - 2
    table = np.moveaxis(labels.reshape([n for n in sizes if isinstance(n, int)]), at, 0)
    out[outs[at]] = units.join_rows(table.reshape(table.shape[0], -1))


def _merge(units: Units, sides: Axes, sizes: list[Dim]) -> Labels:
    """(12, 64) -> 768 and (C, H, W) -> C*H*W: the one axis that has labels is repeated."""
    candidates = [i for i, labels in enumerate(sides) if labels is not None]
    if not candidates or not all(isinstance(n, int) for n in sizes):
        units.pin(sides)
        return None
    at = len(sides) - 2 if len(sides) - 2 in candidates else candidates[0]
    units.pin(labels for i, labels in enumerate(sides) if i != at)
    view = [1] * len(sides)
    view[at] = -1
    labels = sides[at]
    assert labels is not None
    return np.ascontiguousarray(np.broadcast_to(labels.reshape(view), [n for n in sizes if isinstance(n, int)])
                                ).reshape(-1)
