"""Tree ensembles (ai.onnx.ml): all trees walked at once, one level per step, by gathering.

A leaf points to itself, so walking as many steps as the deepest tree has levels ends at the leaves of all.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml import floats_of, labelled, transformed
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.op import Op
from lepton.ir.tensor import Array
from lepton.ir.types import DType

_ML = "ai.onnx.ml"
_MODES: dict[str, Op] = {"BRANCH_LEQ": ops.less_equal, "BRANCH_LT": ops.less, "BRANCH_GT": ops.greater,
                         "BRANCH_GTE": ops.greater_equal, "BRANCH_EQ": ops.equal}


@dataclass(frozen=True, slots=True)
class Forest:
    """Arrays over all nodes of all trees; `weights` [nodes, targets] is zero but at leaves."""

    roots: Array
    feature: Array
    threshold: Array
    yes: Array
    no: Array
    missing: Array
    weights: Array
    depth: int
    compare: tuple[Op, ...]   # all comparisons that occur
    mode: Array               # which of them a node makes


def forest(c: Call, targets: int, kind: str) -> Forest:
    """The attributes nodes_* and class_* or target_*. Raises LeptonError where they do not make trees."""
    trees, ids = c.ints("nodes_treeids", REQUIRED), c.ints("nodes_nodeids", REQUIRED)
    modes, feature = c.strings("nodes_modes", REQUIRED), c.ints("nodes_featureids", REQUIRED)
    yes, no = c.ints("nodes_truenodeids", REQUIRED), c.ints("nodes_falsenodeids", REQUIRED)
    threshold = floats_of(c, "nodes_values")
    missing = c.ints("nodes_missing_value_tracks_true", ()) or (0,) * len(ids)
    c.ignore("nodes_hitrates", "nodes_hitrates_as_tensor")
    count = len(ids)
    if not count == len(trees) == len(modes) == len(feature) == len(yes) == len(no) == len(threshold) == len(missing):
        raise LeptonError("the lists of nodes differ in length", where=c.where)
    place = {key: k for k, key in enumerate(zip(trees, ids, strict=True))}
    yes, no, missing, modes = _without_unequal(yes, no, missing, modes)
    compare, mode = comparisons(c, modes)
    try:
        there = [[k if m == "LEAF" else place[t, n] for k, (t, n, m) in enumerate(zip(trees, side, modes, strict=True))]
                 for side in (yes, no)]
        weights = _weights(c, place, targets, kind)
    except KeyError as error:
        raise LeptonError(f"node {error.args[0]} (tree, node) does not exist", where=c.where) from error
    leaf = np.array([m == "LEAF" for m in modes])
    children = {k for side in there for k, n in zip(side, range(count), strict=True) if k != n}
    roots = np.array([k for k in range(count) if k not in children], np.int64)
    fixed = np.array(there, np.int64)
    return Forest(roots, np.where(leaf, 0, np.array(feature, np.int64)), np.where(leaf, 0, threshold), fixed[0],
                  fixed[1], np.array(missing, np.bool_), weights, depth_of(c, roots, fixed), compare, mode)


def comparisons(c: Call, modes: Sequence[str]) -> tuple[tuple[Op, ...], Array]:
    """The comparisons that branches make, and which of them each node makes; leaves make any."""
    found = sorted({m for m in modes if m != "LEAF"}) or ["BRANCH_LEQ"]
    if not set(found) <= _MODES.keys():
        c.fail(f"trees with the branches {', '.join(found)}")
    place = {name: k for k, name in enumerate(found)}
    return tuple(_MODES[name] for name in found), np.array([place.get(m, 0) for m in modes], np.int32)


Column = tuple[int, ...]


def _without_unequal(yes: Column, no: Column, missing: Column, modes: tuple[str, ...]) -> tuple[
        Column, Column, Column, tuple[str, ...]]:
    """Branches on a difference made those on equality, their sides changed. NaN differs from all, so it goes the
    same way whether or not it is said to track."""
    rows = [(n, y, 0, "BRANCH_EQ") if m == "BRANCH_NEQ" else (y, n, k, m)
            for y, n, k, m in zip(yes, no, missing, modes, strict=True)]
    a, b, k, m = zip(*rows, strict=True) if rows else ((), (), (), ())
    return a, b, k, m


def _weights(c: Call, place: dict[tuple[int, int], int], targets: int, kind: str) -> Array:
    trees, nodes, ids = (c.ints(f"{kind}_{name}", REQUIRED) for name in ("treeids", "nodeids", "ids"))
    values = floats_of(c, f"{kind}_weights")
    if not len(trees) == len(nodes) == len(ids) == len(values) or any(not 0 <= i < targets for i in ids):
        raise LeptonError("the lists of leaves do not fit", where=c.where)
    if targets * len(place) > 1 << 27:
        c.fail(f"{targets} targets of {len(place)} nodes")
    weights = np.zeros((len(place), targets), np.float32)
    for tree, node, target, value in zip(trees, nodes, ids, values, strict=True):
        weights[place[tree, node], target] += value
    return weights


def depth_of(c: Call, roots: Array, children: Array) -> int:
    """Levels below the roots. Raises LeptonError for a cycle."""
    at, depth = roots, 0
    while True:
        below = np.unique(children[:, at])
        below = below[(children[0, below] != below) | ~np.isin(below, at)]
        if not len(below):
            return depth
        at, depth = below, depth + 1
        if depth > children.shape[1]:
            raise LeptonError("the nodes of a tree form a cycle", where=c.where)


def leaves(c: Call, x: Value, f: Forest) -> Value:
    """The leaf of each row in each tree: i64[N,T]."""
    rows = x.tensor.shape[0]
    at = c(ops.broadcast_to, c.const(f.roots), shape=(rows, len(f.roots)))
    feature, yes, no = (c.const(a) for a in (f.feature, f.yes, f.no))
    threshold = c.const(f.threshold, x.tensor.dtype)
    for _ in range(f.depth):
        seen = c(ops.gather_elements, x, c(ops.gather, feature, at, axis=0), axis=1)
        limit = c(ops.gather, threshold, at, axis=0)
        answer = c(f.compare[0], seen, limit)
        for k, op in enumerate(f.compare[1:], 1):
            chosen = c(ops.equal, c(ops.gather, c.const(f.mode), at, axis=0), c.const(k, DType.I32))
            answer = c(ops.where, chosen, c(op, seen, limit), answer)
        if f.missing.any():
            tracks = c(ops.gather, c.const(f.missing), at, axis=0)
            answer = c(ops.logical_or, answer, c(ops.logical_and, tracks, c(ops.is_nan, seen)))
        at = c(ops.where, answer, c(ops.gather, yes, at, axis=0), c(ops.gather, no, at, axis=0))
    return at


def _features(c: Call, f: Forest) -> Value:
    x = c.ranked(0, 2)
    x = x if x.tensor.dtype.is_float else c.cast(x, DType.F32)
    width = x.tensor.shape[1]
    if not isinstance(width, int) or np.any(f.feature >= width) or np.any(f.feature < 0):
        raise LeptonError(f"feature {int(f.feature.max(initial=0))} of {x.tensor}", where=c.where)
    return x


def scores(c: Call, f: Forest, combine: Callable[[Value], Value], base: Sequence[float],
           dtype: DType = DType.F32) -> Value:
    """[N, targets]: what the leaves give, combined over the trees, plus the base values."""
    found = c(ops.gather, c.const(f.weights, dtype), leaves(c, _features(c, f), f), axis=0)
    total = combine(found)
    return total if not len(base) else c(ops.add, total, c.const(base, DType.F32))


@imports("TreeEnsembleRegressor", domain=_ML)
def tree_ensemble_regressor(c: Call) -> Value:
    f = forest(c, c.positive("n_targets", 1), "target")
    name = c.s("aggregate_function", "SUM")
    by_name: dict[str, Op] = {"SUM": ops.reduce_sum, "AVERAGE": ops.reduce_mean, "MIN": ops.reduce_min,
                              "MAX": ops.reduce_max}
    if name not in by_name:
        raise LeptonError(f"aggregate_function {name!r}", where=c.where)
    total = scores(c, f, lambda v: c(by_name[name], v, axes=(1,), keepdims=False), floats_of(c, "base_values"))
    return transformed(c, total)


@imports("TreeEnsembleClassifier", domain=_ML)
def tree_ensemble_classifier(c: Call) -> list[Value]:
    """(labels [N], scores [N, classes]). Two classes of which the trees name one: the other's score follows."""
    labels = c.ints("classlabels_int64s", ())
    if not labels or c.has("classlabels_strings"):
        c.fail("labels that are not integers")
    classes = set(c.ints("class_ids", REQUIRED))
    f = forest(c, len(labels), "class")
    base = floats_of(c, "base_values")
    single = len(labels) == 2 and len(classes) == 1
    total = scores(c, f, lambda v: c(ops.reduce_sum, v, axes=(1,), keepdims=False), () if single else base)
    if not single:
        return labelled(c, total, labels)
    return _binary(c, total, classes.pop(), labels, base, bool((f.weights >= 0).all()))


def _binary(c: Call, total: Value, named: int, labels: Sequence[int], base: Sequence[float],
            probability: bool) -> list[Value]:
    """As ONNX Runtime: weights that are all positive are probabilities of the second class, others its score."""
    score = c(ops.gather, total, c.const([named], DType.I64), axis=1)
    if len(base):
        score = c(ops.add, score, c.const(base[-1], DType.F32))
    second = c(ops.greater, score, c.const(0.5 if probability else 0.0, DType.F32))
    picked = c(ops.where, c.reshape(second, (second.tensor.shape[0],)), c.const(labels[1], DType.I64),
               c.const(labels[0], DType.I64))
    if probability:
        first = c(ops.sub, c.const(1.0, DType.F32), score)
    else:
        first = c(ops.neg, score)
    return [picked, transformed(c, c(ops.concat, first, score, axis=1))]
