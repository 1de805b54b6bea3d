"""TreeEnsembleRegressor and TreeEnsembleClassifier (ai.onnx.ml): nodes in one list, leaves among them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml_scores import class_labels, floats_of, labelled, picked, transformed
from lepton.frontends.onnx.ops.trees import MODES, Branch, Leaves, features, grown
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.types import DType

_ML = "ai.onnx.ml"
_AGGREGATES = {"SUM": "sum", "AVERAGE": "average", "MIN": "min", "MAX": "max"}
Place = tuple[int, int]   # tree, node


def scores(c: Call, targets: int, kind: str, aggregate: str) -> tuple[Value, Leaves]:
    """([N, targets] in x's type without base values, what the leaves say); from nodes_* and class_* or target_*."""
    columns = _columns(c)
    inner = {(row[0], row[1]): k for k, row in enumerate(r for r in columns if r[2] != "LEAF")}
    ends = {(row[0], row[1]): k for k, row in enumerate(r for r in columns if r[2] == "LEAF")}
    if len(inner) + len(ends) != len(columns):
        raise LeptonError("two nodes of a tree have the same number", where=c.where)

    def child(tree: int, node: int) -> int:
        if (tree, node) not in inner and (tree, node) not in ends:
            raise LeptonError(f"node {node} of tree {tree} does not exist", where=c.where)
        return inner[tree, node] if (tree, node) in inner else -1 - ends[tree, node]

    branches = [Branch(mode, feature, limit, child(tree, yes), child(tree, no), bool(tracks))
                for tree, _, mode, feature, limit, yes, no, tracks in columns if mode != "LEAF"]
    roots = _roots(c, inner, ends, branches)
    x, leaves = features(c), _leaves(c, inner, ends, targets, kind)
    total = grown(c, x, branches, roots, leaves, targets, "sum" if aggregate == "average" else aggregate,
                  x.tensor.dtype)
    return c(ops.div, total, c.like(len(roots), total)) if aggregate == "average" else total, leaves


def _columns(c: Call) -> list[tuple[int, int, str, int, float, int, int, int]]:
    """The nodes: tree, number, mode, feature, limit, the numbers of both children, whether NaN tracks."""
    numbers = [c.ints(f"nodes_{n}", REQUIRED) for n in ("treeids", "nodeids", "featureids", "truenodeids",
                                                        "falsenodeids")]
    trees, ids, feature, yes, no = numbers
    modes, limits = c.strings("nodes_modes", REQUIRED), floats_of(c, "nodes_values")
    tracks = c.ints("nodes_missing_value_tracks_true", ()) or (0,) * len(ids)
    c.ignore("nodes_hitrates", "nodes_hitrates_as_tensor")
    lists = (trees, ids, modes, feature, limits, yes, no, tracks)
    if len({len(column) for column in lists}) > 1:
        raise LeptonError("the lists of nodes differ in length", where=c.where)
    if unknown := set(modes) - set(MODES[:6]) - {"LEAF"}:
        c.fail(f"trees with the branch {', '.join(sorted(unknown))}")
    return list(zip(*lists, strict=True))


def _roots(c: Call, inner: dict[Place, int], ends: dict[Place, int], branches: Sequence[Branch]) -> list[int]:
    """The node of each tree that is nobody's child, trees in the order of their first nodes."""
    below = {n for b in branches for n in (b.yes, b.no)}
    found: dict[int, int] = {}
    trees = dict.fromkeys(tree for tree, _ in (*inner, *ends))
    for (tree, _), place in (*inner.items(), *((key, -1 - k) for key, k in ends.items())):
        if place not in below:
            if tree in found:
                raise LeptonError(f"tree {tree} has two roots: a node of it does not hang on another", where=c.where)
            found[tree] = place
    if missing := [t for t in trees if t not in found]:
        raise LeptonError(f"tree {missing[0]} has no root: its nodes form a cycle", where=c.where)
    return [found[t] for t in sorted(trees)]


def _leaves(c: Call, inner: dict[Place, int], ends: dict[Place, int], targets: int, kind: str) -> Leaves:
    trees, nodes, ids = (c.ints(f"{kind}_{name}", REQUIRED) for name in ("treeids", "nodeids", "ids"))
    weights = floats_of(c, f"{kind}_weights")
    if not len(trees) == len(nodes) == len(ids) == len(weights) or any(not 0 <= i < targets for i in ids):
        raise LeptonError("the lists of leaves do not fit", where=c.where)
    rows = [(ends.get((t, n)), i, w) for t, n, i, w in zip(trees, nodes, ids, weights, strict=True)
            if (t, n) not in inner]
    if any(leaf is None for leaf, _, _ in rows):
        raise LeptonError("a leaf that is given a weight does not exist", where=c.where)
    leaf, target, weight = (np.array([row[k] for row in rows], dtype)
                            for k, dtype in enumerate((np.int64, np.int64, np.float64)))
    return Leaves(len(ends), leaf, target, weight)


def _plus(c: Call, total: Value, base: Sequence[float]) -> Value:
    """The scores and the base values."""
    if len(base) not in (0, 1, total.tensor.shape[1]):
        raise LeptonError(f"{len(base)} base_values for {total.tensor}", where=c.where)
    return c(ops.add, total, c.const(base, total.tensor.dtype)) if len(base) else total


@imports("TreeEnsembleRegressor", domain=_ML)
def tree_ensemble_regressor(c: Call) -> Value:
    """x [N,F] -> f32[N, n_targets]."""
    name = c.s("aggregate_function", "SUM")
    if name not in _AGGREGATES:
        raise LeptonError(f"aggregate_function {name!r}", where=c.where)
    total, _ = scores(c, c.positive("n_targets", 1), "target", _AGGREGATES[name])
    return transformed(c, c.cast(_plus(c, total, floats_of(c, "base_values")), DType.F32))


@imports("TreeEnsembleClassifier", domain=_ML)
def tree_ensemble_classifier(c: Call) -> list[Value]:
    """(labels [N], scores f32[N, classes]). Two classes of which the trees name one: the other's score follows."""
    labels, base, named = class_labels(c), floats_of(c, "base_values"), set(c.ints("class_ids", REQUIRED))
    total, leaves = scores(c, len(labels), "class", "sum")
    if len(labels) != 2 or len(named) != 1:
        return labelled(c, c.cast(_plus(c, total, base), DType.F32), labels)
    (one,) = named
    score = c(ops.gather, total, c.const([one], DType.I64), axis=1)
    score = c.cast(_plus(c, score, base[-1:]), DType.F32)
    # As ONNX Runtime: weights that are all positive are probabilities, others scores with a border at 0.
    probability = bool((leaves.weight >= 0).all())
    second = c(ops.greater, score, c.like(0.5 if probability else 0.0, score))
    label = picked(c, labels, c.cast(c.reshape(second, score.tensor.shape[:1]), DType.I64))
    return [label, transformed(c, c(ops.concat, _other(c, score, one, probability), score, axis=1))]


def _other(c: Call, score: Value, named: int, probability: bool) -> Value:
    """The first class's score from the second's. Models call that class 0, as the only one; where it is called 1, the
    first has no score."""
    if named == 1:
        return c(ops.mul, score, c.like(0.0, score))
    if probability and c.s("post_transform", "NONE") != "LOGISTIC":
        return c(ops.sub, c.like(1.0, score), score)
    return c(ops.neg, score)
