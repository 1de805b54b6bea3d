"""Ensembles of decision trees."""
from __future__ import annotations

import numpy as np

from lepton.ir.op import op
from lepton.ir.ops.rules import fail, size_is, tensor
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType, Type

NOTHING = {"sum": 0.0, "min": np.inf, "max": -np.inf}   # what an aggregate starts from
_WIDE = (DType.F32, DType.F64)


def _wide(dtype: DType) -> bool:
    """f32 or f64"""
    return dtype in _WIDE


def _tree_ensemble_type(
    x: Type, *, roots: Tensor, feature: Tensor, threshold: Tensor, yes: Tensor, no: Tensor, nan_yes: Tensor,
    weights: Tensor, target: Tensor | None, targets: int, aggregate: str,
) -> TensorType:
    t = tensor(x, _wide, rank=2)
    count, leaves = feature.type.size, weights.type.shape[0] if weights.type.rank == 2 else -1
    columns = (feature, threshold, yes, no, nan_yes)
    if any(c.type.shape != (count,) for c in columns) or roots.type.rank != 1 or leaves == -1:
        raise fail("the tables of nodes and leaves differ in length", x)
    if threshold.type.dtype is not t.dtype or not _wide(weights.type.dtype) or aggregate not in NOTHING:
        raise fail(f"thresholds {threshold.type}, weights {weights.type}, aggregate {aggregate!r}", x)
    width = weights.type.shape[1] if target is None else targets
    if width != targets or (target is not None and (target.type.shape, weights.type.shape) != ((leaves,), (leaves, 1))):
        raise fail(f"weights {weights.type} for {targets} targets", x)
    _check_places(t, roots.array, feature.array, yes.array, no.array, int(str(leaves)))
    if target is not None and np.any((target.array < 0) | (target.array >= targets)):
        raise fail("a leaf's target does not exist", x)
    return TensorType(weights.type.dtype, (t.shape[0], size_is(targets, "targets")))


def _check_places(x: TensorType, roots: Array, feature: Array, yes: Array, no: Array, leaves: int) -> None:
    """Every index leads somewhere, and below a node only come nodes behind it: nothing can walk for ever."""
    width, count = x.shape[1], len(feature)
    if not isinstance(width, int) or np.any((feature < 0) | (feature >= width)):
        raise fail(f"feature {int(feature.max(initial=0))} does not exist", x)
    own = np.arange(count)
    if any(np.any((side >= count) | (side < -leaves) | ((side >= 0) & (side <= own))) for side in (yes, no)):
        raise fail("a child does not exist, or stands in front of its parent", x)
    if np.any((roots >= count) | (roots < -leaves)):
        raise fail("a root does not exist", x)


@op(_tree_ensemble_type)
def tree_ensemble(
    x: Array, *, roots: Tensor, feature: Tensor, threshold: Tensor, yes: Tensor, no: Tensor, nan_yes: Tensor,
    weights: Tensor, target: Tensor | None, targets: int, aggregate: str = "sum",
) -> Array:
    """What the leaves of all trees say of each row of x [n,f], combined: [n,targets] of the weights' type.

    At inner node i a row goes to yes[i] where x[feature[i]] <= threshold[i] (so -0 is 0), a NaN where nan_yes[i], else
    to no[i]. Places >= 0 are inner nodes, -1 - j is leaf j; children stand behind their parents. Leaf j gives
    weights[j] [targets], or weights[j,0] to target[j] alone. `sum` adds in f64, from the first tree on; for `min` a
    weight of inf is none, for `max` one of -inf, and the result of none at all is 0."""
    leaves = _leaves(x, roots, feature, threshold, yes, no, nan_yes)
    found = weights.array[leaves]  # [n,trees,targets or 1]
    combine = {"sum": np.add, "min": np.minimum, "max": np.maximum}[aggregate]
    total = np.full((len(x), targets), NOTHING[aggregate], np.float64)
    if target is None:
        for tree in range(found.shape[1]):
            total = combine(total, found[:, tree])
    else:
        reached, rows = target.array[leaves], np.arange(len(x))
        for tree in range(found.shape[1]):
            total[rows, reached[:, tree]] = combine(total[rows, reached[:, tree]], found[:, tree, 0])
    return np.where(total == NOTHING[aggregate], 0, total).astype(weights.array.dtype)


def _leaves(x: Array, roots: Tensor, feature: Tensor, threshold: Tensor, yes: Tensor, no: Tensor,
            nan_yes: Tensor) -> Array:
    """The leaf of each row in each tree: [n,trees]."""
    at = np.broadcast_to(roots.array.astype(np.int64), (len(x), len(roots.array))).copy()
    rows = np.broadcast_to(np.arange(len(x))[:, None], at.shape)
    while (inner := at >= 0).any():
        node = at[inner]
        seen = x[rows[inner], feature.array[node]]
        goes = (seen <= threshold.array[node]) | (np.isnan(seen) & nan_yes.array[node])
        at[inner] = np.where(goes, yes.array[node], no.array[node])
    return -1 - at
