"""ai.onnx.ml: models as scikit-learn's converter writes them, against ONNX Runtime."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton.frontends import load
from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import agrees, floats, ints

Lists = dict[str, Any]
LEAF = ("treeids", "nodeids", "ids", "weights")


def ml_model(op: str, x: np.ndarray, outputs: int = 1, version: int = 3, extra: np.ndarray | None = None,
             **attributes: Any) -> onnx.ModelProto:
    """A model of one ai.onnx.ml node with an open batch."""
    names = ["x"] if extra is None else ["x", "k"]
    node = helper.make_node(op, names, [f"out{i}" for i in range(outputs)], domain="ai.onnx.ml", **attributes)
    info = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), ["N", *x.shape[1:]])
    constants = [] if extra is None else [onnx.numpy_helper.from_array(extra, "k")]
    results = [onnx.ValueInfoProto(name=o) for o in node.output]
    graph = helper.make_graph([node], "g", [info], results, constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def grown(trees: int, features: int, leaves_of: str, targets: list[int], seed: int, positive: bool) -> Lists:
    """Random trees of different depths, as the attributes of an ensemble."""
    rng, lists = random.Random(seed), {}
    names = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    nodes: Lists = {f"nodes_{n}": [] for n in names}
    leaf: Lists = {f"{leaves_of}_{n}": [] for n in LEAF}
    for tree in range(trees):
        todo, count = [(0, rng.randint(1, 4))], 1
        while todo:
            node, depth = todo.pop(0)
            branch = depth > 0 and (node == 0 or rng.random() < 0.8)
            below = (count, count + 1) if branch else (0, 0)
            if branch:
                todo += [(count, depth - 1), (count + 1, depth - 1)]
                count += 2
            row = (tree, node, "BRANCH_LEQ" if branch else "LEAF", rng.randrange(features), rng.uniform(-1, 1), *below)
            for name, value in zip(names, row, strict=True):
                nodes[f"nodes_{name}"].append(value)
            for target in targets if not branch else ():
                weight = rng.random() / trees if positive else rng.uniform(-1, 1)
                for name, value in zip(LEAF, (tree, node, target, weight), strict=True):
                    leaf[f"{leaves_of}_{name}"].append(value)
    lists.update(nodes | leaf)
    return lists


X = floats(40, 5)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_tree_regressor(targets: int, aggregate: str) -> None:
    trees = grown(7, 5, "target", list(range(targets)), 1, False)
    agrees(ml_model("TreeEnsembleRegressor", X, n_targets=targets, aggregate_function=aggregate,
                    base_values=[0.25] * targets, **trees), {"x": X})


@pytest.mark.parametrize(("classes", "targets", "positive", "post"), [
    (3, [0, 1, 2], True, "NONE"), (3, [0, 1, 2], False, "SOFTMAX"), (2, [0], True, "NONE"),
    (2, [0], False, "LOGISTIC"), (2, [0], False, "NONE"),
])
def test_tree_classifier(classes: int, targets: list[int], positive: bool, post: str) -> None:
    trees = grown(9, 5, "class", targets, 2, positive)
    model = ml_model("TreeEnsembleClassifier", X, 2, classlabels_int64s=list(range(10, 10 + classes)),
                     post_transform=post, **trees)
    agrees(model, {"x": X})


def test_missing_values_take_their_side() -> None:
    x = X.copy()
    x[::3, ::2] = np.nan
    trees = grown(5, 5, "target", [0], 3, False)
    tracks = [k % 2 if mode != "LEAF" else 0 for k, mode in enumerate(trees["nodes_modes"])]
    agrees(ml_model("TreeEnsembleRegressor", x, n_targets=1, nodes_missing_value_tracks_true=tracks, **trees), {"x": x})


def test_trees_that_are_none() -> None:
    trees = grown(2, 5, "target", [0], 4, False)
    loop = {**trees, "nodes_truenodeids": [0] * len(trees["nodes_modes"])}
    gone = {**trees, "nodes_truenodeids": [99] * len(trees["nodes_modes"])}
    for broken, message in ((loop, "cycle|leaves|does not"), (gone, "does not exist")):
        with pytest.raises(LeptonError, match=message):
            load(ml_model("TreeEnsembleRegressor", X, n_targets=1, **broken))
    with pytest.raises(LeptonError, match="feature"):
        load(ml_model("TreeEnsembleRegressor", X[:, :1], n_targets=1, **trees))


@pytest.mark.parametrize(("op", "x", "attributes"), [
    ("Scaler", X, {"offset": [1.0, 2, 3, 4, 5], "scale": [0.5, 2, 1, 3, 0.1]}),
    ("Normalizer", np.abs(X), {"norm": "MAX"}), ("Normalizer", X, {"norm": "L1"}), ("Normalizer", X, {"norm": "L2"}),
    ("Binarizer", X, {"threshold": 0.3}),
    ("Imputer", np.where(X > 1, np.float32(np.nan), X), {"imputed_value_floats": [1.0, 2, 3, 4, 5],
                                                         "replaced_value_float": float("nan")}),
    ("LinearRegressor", X, {"coefficients": list(map(float, range(10))), "intercepts": [0.5, -0.5], "targets": 2}),
    ("LabelEncoder", ints(1, 2, 9, 3), {"keys_int64s": [1, 2, 3], "values_floats": [0.5, 1.5, 2.5],
                                        "default_float": -7.0}),
    ("LabelEncoder", ints(1, 2, 9, 3), {"keys_int64s": [1, 2, 3], "values_int64s": [5, 6, 7]}),
])
def test_others(op: str, x: np.ndarray, attributes: dict[str, Any]) -> None:
    agrees(ml_model(op, x, **attributes), {"x": x})


def test_linear_classifier() -> None:
    model = ml_model("LinearClassifier", X, 2, coefficients=floats(15).tolist(), intercepts=[0.1, 0.2, 0.3],
                     classlabels_ints=[3, 4, 5], post_transform="SOFTMAX", multi_class=1)
    agrees(model, {"x": X})


def test_array_feature_extractor() -> None:
    agrees(ml_model("ArrayFeatureExtractor", X, extra=ints(3, 0, 0)), {"x": X})
