"""Random ensembles of trees, as the attributes of ops.tree_ensemble."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton.ir.tensor import Tensor
from lepton.ir.types import DType


def ensemble(trees: int, features: int, targets: int, dtype: DType = DType.F32, weights: DType | None = None, *,
             single: bool = False, nothing: float = 0.0, hard: bool = False, depth: int = 5,
             seed: int = 1) -> dict[str, Any]:
    """`single`: a leaf speaks of one target; `nothing`: half of the weights; `hard`: thresholds of any kind."""
    rng = np.random.default_rng(seed)
    nodes: list[list[Any]] = []
    leaves = 0

    def grow(left: int) -> int:
        nonlocal leaves
        if left == 0 or (left < depth and rng.random() < 0.25):
            leaves += 1
            return -leaves
        place = len(nodes)
        nodes.append([])
        limit = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, -1e-40]) if hard else rng.integers(-3, 4) / 2
        nodes[place] = [rng.integers(features), limit, grow(left - 1), grow(left - 1), rng.random() < 0.5]
        return place

    roots = [grow(depth) for _ in range(trees)]
    feature, threshold, yes, no, nan_yes = np.array(nodes, np.float64).reshape(-1, 5).T
    given = rng.standard_normal((leaves, 1 if single else targets)).astype((weights or dtype).numpy)
    given[rng.random(given.shape) < 0.5] = nothing
    columns = {"roots": np.array(roots), "feature": feature, "yes": yes, "no": no}
    return {name: Tensor.of(c.astype(np.int32)) for name, c in columns.items()} | {
        "threshold": Tensor.of(threshold.astype(dtype.numpy)), "nan_yes": Tensor.of(nan_yes.astype(bool)),
        "weights": Tensor.of(given), "targets": targets,
        "target": Tensor.of(rng.integers(0, targets, leaves).astype(np.int32)) if single else None}
