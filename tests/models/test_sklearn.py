"""Models of scikit-learn, exported by skl2onnx and compiled, against scikit-learn: the same labels, scores to 1e-5.

Where an exported graph itself strays (ONNX Runtime's answers show that), the tolerance says so.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

import lepton

pytestmark = pytest.mark.slow
sklearn = pytest.importorskip("sklearn")
skl2onnx = pytest.importorskip("skl2onnx")

from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: E402
from sklearn import datasets, ensemble, linear_model, naive_bayes, neighbors, neural_network, svm, tree  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler, Normalizer, OneHotEncoder, StandardScaler  # noqa: E402

Array = np.ndarray[Any, np.dtype[Any]]
OPSETS = {"": 21, "ai.onnx.ml": 3}


def digits(missing: bool = False) -> tuple[Array, Array, Array]:
    """600 images to learn from, their labels, and 200 others; `missing`: a tenth of the pixels is not known."""
    data = datasets.load_digits()
    x, y = data.data.astype(np.float32), data.target
    if missing:
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    return x[:600], y[:600], x[600:800]


@pytest.fixture(autouse=True)
def plain_attributes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """skl2onnx 1.20 gives onnx truth values and numpy's integers, which onnx 1.23 refuses."""
    make = onnx.helper.make_attribute

    def plain(key: str, value: Any, *args: Any, **kwargs: Any) -> onnx.AttributeProto:
        if isinstance(value, list):
            value = [int(v) if isinstance(v, bool | np.bool_ | np.integer) else v for v in value]
        return make(key, value, *args, **kwargs)

    monkeypatch.setattr(onnx.helper, "make_attribute", plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exported(model: Any, x: Array, zipmap: bool = False, **more: Any) -> onnx.ModelProto:
    options = {id(model): {"zipmap": zipmap}} if hasattr(model, "predict_proba") else None
    proto: onnx.ModelProto = skl2onnx.to_onnx(model, x[:1], options=options, target_opset=OPSETS, **more)
    return proto


def close(got: Any, want: Any, atol: float) -> None:
    want = np.asarray(want)
    np.testing.assert_allclose(got, want.reshape(np.shape(got)), rtol=1e-5, atol=atol * max(1, np.abs(want).max()))


CLASSIFIERS: dict[str, tuple[Any, float]] = {
    "forest": (ensemble.RandomForestClassifier(30, random_state=0), 1e-6),
    "extra trees": (ensemble.ExtraTreesClassifier(10, random_state=0), 1e-6),
    "tree": (tree.DecisionTreeClassifier(random_state=0), 1e-6),
    "boosting": (ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0), 1e-6),
    "adaboost": (ensemble.AdaBoostClassifier(n_estimators=5, random_state=0), 1e-6),
    "bagging": (ensemble.BaggingClassifier(n_estimators=3, random_state=0), 1e-6),
    "svc": (svm.SVC(probability=True, random_state=0), 1e-5),
    "svc linear": (svm.SVC(kernel="linear", probability=True, random_state=0), 1e-4),   # its vectors, written in f32
    "svc poly": (svm.SVC(kernel="poly", probability=True, random_state=0), 1e-5),
    "svc sigmoid": (svm.SVC(kernel="sigmoid", gamma=1e-4, probability=True, random_state=0), 1e-5),
    "neighbours": (neighbors.KNeighborsClassifier(5), 1e-6),
    "logistic": (linear_model.LogisticRegression(max_iter=100), 1e-5),
    "mlp": (neural_network.MLPClassifier((16,), max_iter=20, random_state=0), 1e-5),
    "gaussian": (naive_bayes.GaussianNB(), 1e-5),
    "multinomial": (naive_bayes.MultinomialNB(), 5e-4),   # exported in f32: sums of logarithms of 300
    "bernoulli": (naive_bayes.BernoulliNB(), 5e-5),
    "scaled": (make_pipeline(MinMaxScaler(), Normalizer(), linear_model.LogisticRegression(max_iter=50)), 1e-5),
}


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str, classes: int) -> None:
    model, atol = CLASSIFIERS[name]
    x, y, new = digits()
    model.fit(x, y if classes == 10 else y % 2)
    labels, scores = lepton.compile(exported(model, x))(new)
    assert labels.tolist() == model.predict(new).tolist()
    close(scores, model.predict_proba(new), atol)


@pytest.mark.parametrize("classes", [2, 10])
def test_missing_values_in_boosting_by_histograms(classes: int) -> None:
    x, y, new = digits(missing=True)
    model = ensemble.HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(x, y if classes == 10 else y % 2)
    labels, scores = lepton.compile(exported(model, x))(new)
    assert labels.tolist() == model.predict(new).tolist()
    close(scores, model.predict_proba(new), 1e-6)


@pytest.mark.parametrize(("model", "missing"), [
    (ensemble.RandomForestRegressor(20, random_state=0), False),
    (ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0), False),
    (ensemble.HistGradientBoostingRegressor(max_iter=5, random_state=0), True),
    (svm.SVR(), False), (svm.OneClassSVM(nu=0.1), False), (neighbors.KNeighborsRegressor(5), False),
    (linear_model.Ridge(), False), (ensemble.IsolationForest(n_estimators=5, random_state=0), False),
], ids=lambda v: type(v).__name__)
def test_regressors_and_outliers(model: Any, missing: bool) -> None:
    x, y, new = digits(missing)
    model.fit(x, y)
    got = lepton.compile(exported(model, x))(new)
    first, *scores = got if isinstance(got, tuple) else (got,)
    close(first, model.predict(new), 1e-6)
    for found in scores:
        close(found, model.decision_function(new), 1e-5)


def test_columns_of_numbers_and_text() -> None:
    """A ColumnTransformer over what a table holds; labels are text, scores come as dicts."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((300, 3)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    words = rng.choice(np.array(["red", "green", "blå", ""], object), (300, 2))
    y = np.where((np.nan_to_num(numbers[:, 0]) > 0) ^ (words[:, 0] == "red"), "yes", "no")
    table = np.concatenate([numbers.astype(object), words], axis=1)
    columns = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 2]),
        ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [3, 4])])
    model = make_pipeline(columns, ensemble.RandomForestClassifier(20, random_state=0)).fit(table[:200], y[:200])
    kinds = [(f"n{i}", FloatTensorType([None, 1])) for i in range(3)]
    kinds += [(f"w{i}", StringTensorType([None, 1])) for i in range(2)]
    proto = skl2onnx.to_onnx(model, initial_types=kinds, target_opset=OPSETS)
    words[250:, 1] = "unheard of"
    table[:, 3:] = words
    labels, scores = lepton.compile(proto)(*(numbers[:, i:i + 1] for i in range(3)),
                                           *(words[:, i:i + 1] for i in range(2)))
    assert labels.tolist() == model.predict(table).tolist()
    want = [dict(zip(model.classes_.tolist(), row, strict=True)) for row in model.predict_proba(table).tolist()]
    assert [list(row) for row in scores] == [list(row) for row in want]
    close([list(row.values()) for row in scores], [list(row.values()) for row in want], 1e-6)
