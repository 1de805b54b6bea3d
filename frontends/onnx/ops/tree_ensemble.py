"""TreeEnsemble (ai.onnx.ml 5): inner nodes and leaves in lists of their own, brought into the form of trees.py."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.trees import Forest, comparisons, depth_of, scores
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = (ops.reduce_mean, ops.reduce_sum, ops.reduce_min, ops.reduce_max)
_MOST = 1 << 27


@imports("TreeEnsemble", domain="ai.onnx.ml", since=5)
def tree_ensemble(c: Call) -> Value:
    """x [N,F] -> [N, targets] of x's type."""
    targets, how, after = c.positive("n_targets", 1), c.i("aggregate_function", 1), c.i("post_transform", 0)
    if not 0 <= how < len(_AGGREGATES) or not 0 <= after <= 4:
        raise LeptonError(f"aggregate_function {how}, post_transform {after}", where=c.where)
    f = _forest(c, targets)
    total = scores(c, f, lambda v: c(_AGGREGATES[how], v, axes=(1,), keepdims=False), (), c.x().tensor.dtype)
    match after:
        case 0:
            return total
        case 1:
            return c(ops.softmax, total, axis=1)
        case 2:
            return c(ops.sigmoid, total)
    c.fail(f"post_transform {after}")


class _Nodes:
    """Inner nodes while sets are unrolled: one list per column."""

    def __init__(self) -> None:
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.yes: list[int] = []
        self.no: list[int] = []
        self.missing: list[bool] = []
        self.modes: list[str] = []

    def add(self, feature: int, threshold: float, yes: int, no: int, missing: bool, mode: str) -> int:
        for column, value in ((self.feature, feature), (self.yes, yes), (self.no, no)):
            column.append(value)
        self.threshold.append(threshold)
        self.missing.append(missing)
        self.modes.append(mode)
        return len(self.modes) - 1


def _forest(c: Call, targets: int) -> Forest:
    modes = [_MODES[m] if m < len(_MODES) else "" for m in _column(c, "nodes_modes").astype(np.int64).tolist()]
    splits = _column(c, "nodes_splits").astype(np.float64).tolist()
    feature, tracks = c.ints("nodes_featureids", REQUIRED), c.ints("nodes_missing_value_tracks_true", ())
    c.ignore("nodes_hitrates")
    weights, ids = _column(c, "leaf_weights"), np.array(c.ints("leaf_targetids", REQUIRED), np.int64)
    count, leaves = len(modes), len(weights)
    sides = [_side(c, side, count, leaves) for side in ("true", "false")]
    roots = np.array(c.ints("tree_roots", REQUIRED), np.int64)
    tracks = tracks or (0,) * count
    if "" in modes or not count == len(splits) == len(feature) == len(tracks) or len(ids) != leaves:
        raise LeptonError("the lists of nodes or leaves differ in length, or a mode is unknown", where=c.where)
    if not len(roots) or np.any((roots < 0) | (roots >= count)) or np.any((ids < 0) | (ids >= targets)):
        raise LeptonError("a root or a target does not exist", where=c.where)
    nodes = _unrolled(c, list(zip(feature, splits, *sides, tracks, modes, strict=True)))
    inner = len(nodes.modes)
    if (inner + leaves) * targets > _MOST:
        c.fail(f"{targets} targets of {inner + leaves} nodes")
    own = list(range(inner, inner + leaves))
    # A leaf was named -1 - its number: it stands behind the inner nodes, and points to itself.
    children = np.array([[inner - 1 - n if n < 0 else n for n in side] + own for side in (nodes.yes, nodes.no)])
    compare, mode = comparisons(c, [*nodes.modes, *["LEAF"] * leaves])
    none = np.zeros(leaves)
    table = np.zeros((inner + leaves, targets))
    table[np.arange(inner, inner + leaves), ids] = weights
    return Forest(roots, np.array([*nodes.feature, *none], np.int64), np.array([*nodes.threshold, *none]), children[0],
                  children[1], np.array([*nodes.missing, *none], np.bool_), table, depth_of(c, roots, children),
                  compare, mode)


def _column(c: Call, name: str) -> Array:
    tensor = c.t(name, REQUIRED)
    assert tensor is not None
    return tensor.array.reshape(-1)


def _side(c: Call, side: str, count: int, leaves: int) -> list[int]:
    """Where each node goes: to an inner node, or as -1 - n to leaf n."""
    ids, ends = c.ints(f"nodes_{side}nodeids", REQUIRED), c.ints(f"nodes_{side}leafs", REQUIRED)
    if len(ids) != count or len(ends) != count:
        raise LeptonError("the lists of nodes differ in length", where=c.where)
    if any(not 0 <= n < (leaves if end else count) for n, end in zip(ids, ends, strict=True)):
        raise LeptonError(f"a {side} branch leads nowhere", where=c.where)
    return [-1 - n if end else n for n, end in zip(ids, ends, strict=True)]


def _unrolled(c: Call, rows: list[tuple[int, float, int, int, int, str]]) -> _Nodes:
    """Branches on membership of a set as chains of equalities, those on a difference as equalities with their sides
    changed. Nodes keep their places; what is added stands behind."""
    sets = _sets(c)
    if sum(mode == "BRANCH_MEMBER" for *_, mode in rows) != len(sets):
        raise LeptonError(f"{len(sets)} sets of membership_values do not fit the nodes", where=c.where)
    nodes = _Nodes()
    chains: list[tuple[int, list[float]]] = []
    for feature, threshold, yes, no, tracks, mode in rows:
        if mode == "BRANCH_NEQ":  # NaN differs from all, whether or not it is said to track
            nodes.add(feature, threshold, no, yes, False, "BRANCH_EQ")
        elif mode == "BRANCH_MEMBER":
            members = sets[len(chains)]
            chains.append((nodes.add(feature, members[0], yes, no, bool(tracks), "BRANCH_EQ"), members[1:]))
        else:
            nodes.add(feature, threshold, yes, no, bool(tracks), mode)
    for place, members in chains:
        last = nodes.no[place]
        for member in members:
            place_of_next = nodes.add(nodes.feature[place], member, nodes.yes[place], last, False, "BRANCH_EQ")
            nodes.no[place], place = place_of_next, place_of_next
    return nodes


def _sets(c: Call) -> list[list[float]]:
    """membership_values, cut at the NaNs; an empty set holds a NaN, which equals nothing."""
    tensor = c.t("membership_values")
    found: list[list[float]] = [[]]
    for value in [] if tensor is None else tensor.array.reshape(-1).astype(np.float64).tolist():
        if value == value:
            found[-1].append(value)
        else:
            found.append([])
    return [s or [float("nan")] for s in (found if found[-1] else found[:-1])]
