"""TreeEnsemble of ai.onnx.ml 5 with all kinds of branches, against ONNX Runtime; mixed branches of the older form."""
from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import agrees, imported
from tests.frontends.test_ml import grown, ml_model

X = np.random.default_rng(5).integers(-2, 3, (60, 4)).astype(np.float32)
LEQ, EQ, NEQ, MEMBER = 0, 4, 5, 6


def tensor(values: list[float], dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), "t")


def grown_5(trees: int, targets: int, modes: list[int], seed: int, tracks: bool = False) -> dict[str, Any]:
    """Random trees as TreeEnsemble's attributes."""
    rng = random.Random(seed)
    columns: dict[str, list[Any]] = {name: [] for name in (
        "modes", "featureids", "splits", "truenodeids", "trueleafs", "falsenodeids", "falseleafs", "tracks")}
    weights: list[float] = []
    ids: list[int] = []
    members: list[float] = []

    def leaf() -> tuple[int, int]:
        weights.append(rng.uniform(-1, 1))
        ids.append(rng.randrange(targets))
        return len(weights) - 1, 1

    def node(depth: int) -> tuple[int, int]:
        if depth == 0:
            return leaf()
        place = len(columns["modes"])
        for column in columns.values():
            column.append(0)
        mode = rng.choice(modes)
        if mode == MEMBER:
            members.extend([*rng.sample([-2, -1, 0, 1, 2], rng.randint(1, 3)), float("nan")])
        yes, no = (node(rng.randint(0, depth - 1)) for _ in range(2))
        row = (mode, rng.randrange(4), rng.randint(-2, 2), *yes, *no, rng.randrange(2) if tracks else 0)
        for column, value in zip(columns.values(), row, strict=True):
            column[place] = value
        return place, 0

    roots = [node(4)[0] for _ in range(trees)]
    splits, kinds, follow = columns.pop("splits"), columns.pop("modes"), columns.pop("tracks")
    made: dict[str, Any] = {f"nodes_{name}": column for name, column in columns.items()}
    made |= {"nodes_splits": tensor(splits), "nodes_modes": tensor(kinds, np.uint8), "tree_roots": roots,
             "leaf_weights": tensor(weights), "leaf_targetids": ids, "n_targets": targets}
    if members:
        # In the order of the nodes: a node's set is drawn when its place is.
        made["membership_values"] = tensor(members)
    if tracks:
        made["nodes_missing_value_tracks_true"] = follow
    return made


@pytest.mark.parametrize("modes", [[LEQ], [1], [2], [3], [EQ], [NEQ], [MEMBER], [LEQ, 3, EQ, MEMBER], list(range(6))])
@pytest.mark.parametrize("aggregate", [0, 1])
def test_branches(modes: list[int], aggregate: int) -> None:
    trees = grown_5(5, 3, modes, 1)
    agrees(ml_model("TreeEnsemble", X, version=5, aggregate_function=aggregate, **trees), {"x": X})


@pytest.mark.parametrize("modes", [[LEQ], [LEQ, 3, EQ]])
def test_missing_values_follow(modes: list[int]) -> None:
    holes = X.copy()
    holes[::3, 1], holes[1::4, 2] = np.nan, np.nan
    trees = grown_5(5, 2, modes, 2, tracks=True)
    agrees(ml_model("TreeEnsemble", holes, version=5, **trees), {"x": holes})


def test_mixed_branches_of_the_older_form() -> None:
    trees = grown(7, 4, "target", [0], 1, False)
    rng = random.Random(1)
    trees["nodes_modes"] = [m if m == "LEAF" else rng.choice(["BRANCH_LEQ", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"])
                            for m in trees["nodes_modes"]]
    trees["nodes_values"] = [float(round(v)) for v in trees["nodes_values"]]
    agrees(ml_model("TreeEnsembleRegressor", X, n_targets=1, **trees), {"x": X})


@pytest.mark.parametrize("wrong", [{"tree_roots": [99]}, {"leaf_targetids": [7] * 99}, {"nodes_featureids": [0]},
                                   {"membership_values": tensor([1, 2])}, {"aggregate_function": 9}])
def test_refuses_what_makes_no_trees(wrong: dict[str, Any]) -> None:
    with pytest.raises(LeptonError):
        imported(ml_model("TreeEnsemble", X, version=5, **{**grown_5(2, 2, [LEQ], 3), **wrong}))


def test_refuses_a_cycle() -> None:
    trees = grown_5(1, 2, [LEQ], 3)
    trees["nodes_truenodeids"], trees["nodes_trueleafs"] = ([0] * len(trees["nodes_trueleafs"]) for _ in range(2))
    with pytest.raises(LeptonError, match="cycle"):
        imported(ml_model("TreeEnsemble", X, version=5, **trees))
