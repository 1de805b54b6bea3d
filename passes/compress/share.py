"""Sharing: constants that are nearly equal become one."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.rewrite import Accuracy
from lepton.ir.tensor import Array
from lepton.passes.base import Pass, count
from lepton.passes.common import constant, elements, graphs


@dataclass(frozen=True)
class ShareWeights(Pass):
    """matmul(matmul(x, w), v) with w near v  ->  matmul(matmul(x, m), m), m their mean

    Float constants of one shape, type and at least `least` elements whose difference has no more than the share
    `tolerance` of the squares of either. 0: equal ones only."""

    name: ClassVar[str] = "share-weights"
    accuracy: ClassVar[Accuracy] = "approximate"
    tolerance: float = 0.0
    least: int = 64

    def run(self, graph: Graph) -> bool:
        return share([graph], self)


@dataclass(eq=False)
class _Cluster:
    """Constants that became one: the first decides who else belongs."""

    first: Array
    values: list[Value]

    def takes(self, array: Array, tolerance: float) -> bool:
        difference = float(np.square(self.first - array).sum())
        return difference <= tolerance * min(float(np.square(a).sum()) for a in (self.first, array))


def share(of: Sequence[Graph], how: ShareWeights) -> bool:
    """Share within and across graphs, in place: equal contents then, each graph with a constant of its own. Raises
    UsageError."""
    if not 0 <= how.tolerance < 1 or how.least < 1:
        raise UsageError(f"tolerance {how.tolerance}, least {how.least}", help="0 <= tolerance < 1, least >= 1")
    clusters: dict[tuple[object, ...], list[_Cluster]] = defaultdict(list)
    homes: dict[Value, int] = {}
    for i, part in enumerate(p for graph in of for p in graphs(graph)):
        for node in part.nodes:
            if _eligible(node, how.least) and node.result not in part.outputs:
                homes[node.result] = i
                _place(clusters[node.result.type, node.result.tensor.shape], node.result, how.tolerance)
    return any([_merge(c, homes) for several in clusters.values() for c in several if len(c.values) > 1])


def _eligible(node: Node, least: int) -> bool:
    return node.op is ops.constant and node.result.tensor.dtype.is_float and elements(node.result).size >= least


def _place(known: list[_Cluster], value: Value, tolerance: float) -> None:
    array = elements(value).astype(np.float64)
    if not np.isfinite(array).all():
        return
    home = next((c for c in known if c.takes(array, tolerance)), None)
    if home is None:
        known.append(_Cluster(array, [value]))
    else:
        home.values.append(value)


def _merge(cluster: _Cluster, homes: dict[Value, int]) -> bool:
    """One constant for all of a cluster in each graph."""
    arrays = [elements(v) for v in cluster.values]
    equal = all(np.array_equal(arrays[0], a) for a in arrays)
    whole = arrays[0] if equal else np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)
    made: dict[int, Value] = {}
    changed = False
    for value in cluster.values:
        home = homes[value]
        if equal and home not in made:
            made[home] = value
            continue
        new = made.setdefault(home, constant(whole))
        value.replace_with(new)
        changed = True
    count("shared constants", len(cluster.values) - len(made))
    return changed
