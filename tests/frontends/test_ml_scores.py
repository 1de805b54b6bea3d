"""Linear models, support vector machines and labels of ai.onnx.ml, compiled, against ONNX Runtime."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import lepton
from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import floats, ints, runtime
from tests.frontends.test_ml import X, grown, ml_model

RNG = np.random.default_rng(4)
INTS: dict[str, Any] = {"classlabels_ints": [5, -6, 7]}
NAMES: dict[str, Any] = {"classlabels_strings": ["a", "bé", ""]}


def some(count: int) -> list[float]:
    found: list[float] = RNG.standard_normal(count).astype(np.float32).tolist()
    return found


def compiled(model: onnx.ModelProto, x: np.ndarray) -> list[Any]:
    got = lepton.compile(model)(x)
    return list(got) if isinstance(got, tuple) else [got]


def check(model: onnx.ModelProto, x: np.ndarray = X, *, want: list[Any] | None = None, rtol: float = 1e-5) -> None:
    """What compiled code gives is what ONNX Runtime gives: labels exactly."""
    for got, wanted in zip(compiled(model, x), runtime(model, {"x": x}) if want is None else want, strict=True):
        assert np.shape(got) == np.shape(wanted)
        if np.asarray(wanted).dtype.kind in "OUSi":
            assert np.asarray(got).tolist() == np.asarray(wanted).tolist()
        else:
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"])
def test_post_transforms(post: str) -> None:
    if post == "PROBIT":  # of what it is defined for
        w, b = [0.05] * 10, [0.5, 0.25]
    else:
        w, b = some(10), some(2)
    x = X / np.abs(X).max()
    check(ml_model("LinearRegressor", x, coefficients=w, intercepts=b, targets=2, post_transform=post), x)
    zeros = ml_model("LinearRegressor", x, coefficients=[0.0] * 10, targets=2, post_transform=post)
    check(zeros, x, want=[np.full((len(x), 2), 0.5)] if post == "SOFTMAX_ZERO" else None)


@pytest.mark.parametrize("labels", [INTS, NAMES])
def test_linear_classifier(labels: dict[str, Any]) -> None:
    check(ml_model("LinearClassifier", X, 2, coefficients=some(15), intercepts=some(3), post_transform="SOFTMAX",
                   **labels))
    two = {name: values[:2] for name, values in labels.items()}
    one_row = ml_model("LinearClassifier", X, 2, coefficients=some(5), intercepts=some(1), post_transform="LOGISTIC",
                       **two)
    check(one_row)


@pytest.mark.parametrize("kernel", [("LINEAR", [0.0, 0.0, 0.0]), ("POLY", [0.5, 0.1, 3.0]), ("RBF", [0.3, 0.0, 0.0]),
                                    ("SIGMOID", [0.2, 0.1, 0.0])], ids=lambda k: k[0])
@pytest.mark.parametrize(("counts", "prob", "labels"), [([3, 4], False, INTS), ([3, 4, 2], True, NAMES)])
def test_svm_classifier(
    kernel: tuple[str, list[float]], counts: list[int], prob: bool, labels: dict[str, Any]
) -> None:
    classes, vectors = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    platt = {"prob_a": (-RNG.random(pairs)).tolist(), "prob_b": some(pairs)} if prob else {}
    model = ml_model("SVMClassifier", X, 2, kernel_type=kernel[0], kernel_params=kernel[1], rho=some(pairs),
                     support_vectors=some(vectors * 5), coefficients=some(vectors * (classes - 1)),
                     vectors_per_class=counts, **platt, **{n: v[:classes] for n, v in labels.items()})
    check(model, rtol=1e-4)


@pytest.mark.parametrize("kernel", [("LINEAR", [0.0, 0.0, 0.0]), ("POLY", [0.5, 0.1, 2.0]), ("RBF", [0.3, 0.0, 0.0])])
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(kernel: tuple[str, list[float]], one_class: int) -> None:
    check(ml_model("SVMRegressor", X, kernel_type=kernel[0], kernel_params=kernel[1], support_vectors=some(30),
                   coefficients=some(6), n_supports=6, rho=some(1), one_class=one_class), rtol=1e-4)


@pytest.mark.parametrize("degree", [2.5, -1.0, 0.0, 70.0, np.inf])
def test_a_polynomial_of_any_degree(degree: float) -> None:
    """Sums of squares, so that the base is positive: a broken power of what is not is NaN, which the next test sees."""
    x = np.abs(X)
    vectors = np.abs(floats(6, 5)) + np.float32(0.1)
    check(ml_model("SVMRegressor", x, kernel_type="POLY", kernel_params=[0.5, 0.1, degree], n_supports=6, rho=[0.25],
                   support_vectors=vectors.reshape(-1).tolist(), coefficients=[0.5] * 6), x, rtol=1e-4)


def test_a_broken_power_of_what_is_negative_is_nan() -> None:
    x = np.array([[-1.0], [2.0]], np.float32)
    model = ml_model("SVMRegressor", x, kernel_type="POLY", kernel_params=[1.0, 0.0, 2.5], n_supports=1, rho=[0.0],
                     support_vectors=[1.0], coefficients=[1.0])
    np.testing.assert_allclose(compiled(model, x)[0], [[np.nan], [2**2.5]], rtol=1e-5)


def test_far_from_zero_the_rbf_kernel_keeps_its_digits() -> None:
    x = (1000 + floats(50, 5)).astype(np.float32)
    vectors, weights = (1000 + floats(40, 5, seed=1)).astype(np.float32), floats(40, seed=2)
    model = ml_model("SVMRegressor", x, kernel_type="RBF", kernel_params=[0.5, 0.0, 0.0], n_supports=40,
                     support_vectors=vectors.reshape(-1).tolist(), coefficients=weights.tolist(), rho=[0.0])
    distances = np.square(x[:, None].astype(np.float64) - vectors).sum(axis=2)
    np.testing.assert_allclose(compiled(model, x)[0][:, 0], np.exp(-0.5 * distances) @ weights, atol=1e-5)


def test_trees_with_labels_of_text() -> None:
    trees = grown(9, 5, "class", [0, 1, 2], 2, True)
    check(ml_model("TreeEnsembleClassifier", X, 2, classlabels_strings=["a", "b", "a b"], **trees))
    two = grown(9, 5, "class", [0], 2, True)
    check(ml_model("TreeEnsembleClassifier", X, 2, classlabels_strings=["no", "yes"], **two))


@pytest.mark.parametrize(("named", "positive", "post"), [(0, True, "LOGISTIC"), (0, False, "NONE"), (1, True, "NONE"),
                                                         (1, False, "LOGISTIC")])
def test_two_classes_of_which_one_is_named(named: int, positive: bool, post: str) -> None:
    trees = grown(9, 5, "class", [named], 2, positive)
    check(ml_model("TreeEnsembleClassifier", X, 2, classlabels_int64s=[0, 1], post_transform=post, **trees))


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"])
@pytest.mark.parametrize("wide", [False, True])
def test_every_comparison(mode: str, wide: bool) -> None:
    """At the thresholds themselves, at both zeros, infinities and NaN; in f64 too."""
    trees = grown(12, 5, "target", [0], 3, False)
    trees["nodes_modes"] = [mode if m != "LEAF" else m for m in trees["nodes_modes"]]
    grid = [-0.5, -0.0, 0.25, float("inf"), float("-inf")]
    trees["nodes_values"] = [grid[k % 5] for k in range(len(trees["nodes_values"]))]
    trees["nodes_missing_value_tracks_true"] = [int(k % 3 == 0) for k in range(len(trees["nodes_modes"]))]
    x = RNG.choice(np.array([*grid, 0.0, np.nan, 1e-40, -1e-40]), (60, 5)).astype(np.float64 if wide else np.float32)
    if wide:
        for name in ("nodes_values", "target_weights"):
            values = np.array(trees.pop(name), np.float64)
            trees[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(values, name)
    model = ml_model("TreeEnsembleRegressor", x, n_targets=1, **trees)
    (got,) = compiled(model, x)
    np.testing.assert_allclose(got, _walked(trees, x), rtol=1e-5, atol=1e-6)
    if mode != "BRANCH_NEQ":  # ONNX Runtime sends a NaN that tracks nothing to the other side there
        check(model, x)


def _walked(lists: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Trees as the standard describes them, one row and one node at a time."""
    compare = {"LEQ": np.less_equal, "LT": np.less, "GTE": np.greater_equal, "GT": np.greater, "EQ": np.equal,
               "NEQ": np.not_equal}
    values, weights = (onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else np.array(v, np.float32)
                       for v in (lists.get(n, lists.get(f"{n}_as_tensor")) for n in ("nodes_values", "target_weights")))
    place = {key: k for k, key in enumerate(zip(lists["nodes_treeids"], lists["nodes_nodeids"], strict=True))}
    leaves = zip(lists["target_treeids"], lists["target_nodeids"], strict=True)
    weight = dict(zip(leaves, weights, strict=True))
    total = np.zeros((len(x), 1))
    for row, tree in ((r, t) for r in range(len(x)) for t in sorted(set(lists["nodes_treeids"]))):
        node = 0
        while (mode := lists["nodes_modes"][at := place[tree, node]]) != "LEAF":
            seen = x[row, lists["nodes_featureids"][at]]
            yes = compare[mode.removeprefix("BRANCH_")](seen, values[at])
            yes |= bool(np.isnan(seen) and lists["nodes_missing_value_tracks_true"][at])
            node = lists["nodes_truenodeids" if yes else "nodes_falsenodeids"][at]
        total[row] += weight[tree, node]
    return total


TEXT = np.array(["a", "b", "zz", "", "a"], object)


@pytest.mark.parametrize(("op", "x", "version", "attributes"), [
    ("LabelEncoder", TEXT, 2, {"keys_strings": ["a", "b"], "values_int64s": [1, 2]}),
    ("LabelEncoder", TEXT, 2, {"keys_strings": ["a", "b"], "values_strings": ["q", ""], "default_string": "é"}),
    ("LabelEncoder", ints(1, 2, 9), 2, {"keys_int64s": [1, 2], "values_strings": ["q", "r"]}),
    ("LabelEncoder", TEXT, 1, {"classes_strings": ["a", "b"]}),
    ("LabelEncoder", ints(1, 0, 9), 1, {"classes_strings": ["a", "b"], "default_string": "none"}),
    ("CategoryMapper", TEXT, 1, {"cats_strings": ["a", "b"], "cats_int64s": [10, 20]}),
    ("CategoryMapper", ints(10, 20, 3), 1, {"cats_strings": ["a", "b"], "cats_int64s": [10, 20]}),
    ("OneHotEncoder", TEXT, 1, {"cats_strings": ["a", "b"], "zeros": 1}),
    ("OneHotEncoder", floats(7, 3) * 2, 1, {"cats_int64s": [0, 1, -1], "zeros": 1}),
    ("Imputer", ints(1, 2, 3, 2).reshape(2, 2), 1, {"imputed_value_int64s": [7, 8], "replaced_value_int64": 2}),
    ("Normalizer", -np.abs(X), 1, {"norm": "L1"}), ("Normalizer", np.zeros((2, 3), np.float32), 1, {"norm": "L2"}),
])
def test_categories_and_columns(op: str, x: np.ndarray, version: int, attributes: dict[str, Any]) -> None:
    check(ml_model(op, x, version=version, **attributes), x)


@pytest.mark.parametrize("count", [2, 65, 66, 64 + 2**10])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_many_keys(count: int, dtype: Any) -> None:
    """Sorted or not, twice the same, next to each other and far away."""
    keys = RNG.permutation(np.concatenate([np.arange(count - 1), [2**40]])).astype(dtype)
    keys[-1] = keys[0]
    x = np.concatenate([keys, keys + 1, keys - 1, [-5, 2**41]]).astype(dtype)
    name = "keys_int64s" if dtype is np.int64 else "keys_floats"
    model = ml_model("LabelEncoder", x, **{name: keys.tolist()}, values_int64s=list(range(count)), default_int64=-9)
    first = dict(reversed([(k, v) for v, k in enumerate(keys.tolist())]))
    assert compiled(model, x)[0].tolist() == [first.get(v, -9) for v in x.tolist()]


def test_feature_vectorizer_cuts_and_fills() -> None:
    arrays = {"a": floats(4, 2), "b": floats(4), "c": ints(1, 2, 3, 4).reshape(4, 1)}
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
             for n, a in arrays.items()]
    node = helper.make_node("FeatureVectorizer", list(arrays), ["y"], domain="ai.onnx.ml", inputdimensions=[1, 1, 3])
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=10)
    (want,) = ReferenceEvaluator(model).run(None, arrays)
    np.testing.assert_array_equal(lepton.compile(model)(*arrays.values()), want)


def test_what_does_not_fit_is_refused() -> None:
    wrong: list[tuple[str, int, dict[str, Any], str]] = [
        ("LinearClassifier", 2, {"coefficients": some(10), "classlabels_ints": [1, 2, 3]}, "2 rows"),
        ("SVMClassifier", 2, {"vectors_per_class": [1, 1], "coefficients": some(2), **INTS}, "3 classes"),
        ("SVMRegressor", 1, {"n_supports": 3, "support_vectors": some(10), "coefficients": some(3)}, "10 numbers"),
        ("LabelEncoder", 1, {"keys_strings": ["a"], "values_int64s": [1]}, "keys of type str"),
        ("Scaler", 1, {"offset": some(2)}, "2 values"),
    ]
    for op, outputs, attributes, message in wrong:
        with pytest.raises(LeptonError, match=message):
            lepton.compile(ml_model(op, X, outputs, version=2, **attributes))
