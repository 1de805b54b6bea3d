"""TreeEnsemble (ai.onnx.ml 5): inner nodes and leaves in lists of their own."""
from __future__ import annotations

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.ml_scores import POST_TRANSFORMS, post_transform
from lepton.frontends.onnx.ops.trees import MODES, Branch, Leaves, features, grown
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.tensor import Array

_AGGREGATES = ("average", "sum", "min", "max")


@imports("TreeEnsemble", domain="ai.onnx.ml", since=5)
def tree_ensemble(c: Call) -> Value:
    """x [N,F] -> [N, targets] of x's type."""
    targets, how, after = c.positive("n_targets", 1), c.i("aggregate_function", 1), c.i("post_transform", 0)
    if not 0 <= how < len(_AGGREGATES) or not 0 <= after < len(POST_TRANSFORMS):
        raise LeptonError(f"aggregate_function {how}, post_transform {after}", where=c.where)
    x, own = features(c), c.x().tensor.dtype
    weights, ids = _column(c, "leaf_weights"), np.array(c.ints("leaf_targetids", REQUIRED), np.int64)
    roots = np.array(c.ints("tree_roots", REQUIRED), np.int64)
    branches = _branches(c, len(weights))
    if len(ids) != len(weights):
        raise LeptonError(f"{len(ids)} targets of {len(weights)} leaves", where=c.where)
    if not len(roots) or np.any((roots < 0) | (roots >= len(branches))) or np.any((ids < 0) | (ids >= targets)):
        raise LeptonError("a root or a target does not exist", where=c.where)
    leaves = Leaves(len(weights), np.arange(len(weights)), ids, weights.astype(np.float64))
    name = _AGGREGATES[how]
    total = grown(c, x, branches, roots.tolist(), leaves, targets, "sum" if name == "average" else name,
                  x.tensor.dtype)
    if name == "average":
        total = c(ops.div, total, c.like(len(roots), total))
    return c.cast(post_transform(c, POST_TRANSFORMS[after], total), own)


def _branches(c: Call, leaves: int) -> list[Branch]:
    modes = [MODES[m] if m < len(MODES) else "" for m in _column(c, "nodes_modes").astype(np.int64).tolist()]
    splits = _column(c, "nodes_splits").astype(np.float64).tolist()
    feature, tracks = c.ints("nodes_featureids", REQUIRED), c.ints("nodes_missing_value_tracks_true", ())
    c.ignore("nodes_hitrates")
    sides = [_side(c, side, len(modes), leaves) for side in ("true", "false")]
    tracks = tracks or (0,) * len(modes)
    if "" in modes or not len(modes) == len(splits) == len(feature) == len(tracks):
        raise LeptonError("the lists of nodes differ in length, or a mode is unknown", where=c.where)
    sets = _sets(c)
    if modes.count("BRANCH_MEMBER") != len(sets):
        raise LeptonError(f"{len(sets)} sets of membership_values do not fit the nodes", where=c.where)
    members = iter(sets)
    return [Branch(mode, f, limit, yes, no, bool(track), next(members) if mode == "BRANCH_MEMBER" else ())
            for mode, f, limit, yes, no, track in zip(modes, feature, splits, *sides, tracks, strict=True)]


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


def _sets(c: Call) -> list[tuple[float, ...]]:
    """membership_values, cut at the NaNs."""
    tensor = c.t("membership_values")
    found: list[list[float]] = [[]]
    for value in [] if tensor is None else tensor.array.reshape(-1).astype(np.float64).tolist():
        if value == value:
            found[-1].append(value)
        else:
            found.append([])
    return [tuple(s) for s in (found if found[-1] else found[:-1])]
