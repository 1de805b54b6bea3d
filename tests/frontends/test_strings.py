"""Operators on text, imported and compiled, against ONNX Runtime or, where it goes its own way, the specification."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import lepton
from lepton.ir.diagnostics import LeptonError, UnsupportedError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import imported, runtime, single
from tests.ir.ops_strings import text

DAYS = text("Monday", "tuesday", "WEDNESDAY", "", "monday", "Größe")


def compiled(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    """What compiled code gives, which is what the interpreter gives."""
    got = lepton.compile(model).run(feeds)
    want = evaluate(imported(model), *feeds.values())
    for mine, theirs in zip(got.values(), want, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    return list(got.values())


def agrees(model: onnx.ModelProto, **feeds: Any) -> None:
    for got, want in zip(compiled(model, **feeds), runtime(model, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("open_dims", [False, True])
@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,)), ((0, 2), (2,))])
def test_concat_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]], open_dims: bool) -> None:
    if open_dims and shapes[0] != shapes[1]:
        return  # an open dimension never broadcasts
    x, y = (text(*(f"{name}{i}é" for i in range(int(np.prod(shape)))), shape=shape)
            for name, shape in zip("xy", shapes, strict=True))
    agrees(single("StringConcat", {"x": x, "y": y}, open_dims=open_dims), x=x, y=y)


@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize("case", ["LOWER", "UPPER", "NONE"])
@pytest.mark.parametrize("stopwords", [[], ["monday"], ["MONDAY", "größe", ""], ["Monday", "tuesday"]])
def test_normalizer(sensitive: int, case: str, stopwords: list[str]) -> None:
    if "größe" in stopwords and case != "NONE":
        return  # ONNX Runtime asks the machine's locale about letters that are not ASCII
    x = DAYS[:5] if case != "NONE" or not sensitive else DAYS
    x = x.reshape(1, -1) if len(stopwords) == 2 else x
    given: dict[str, Any] = {"stopwords": stopwords} if stopwords else {}
    model = single("StringNormalizer", {"x": x}, case_change_action=case, is_case_sensitive=sensitive, opset=10,
                   locale="C", **given)
    agrees(model, x=x)


def test_normalizer_leaves_one_empty_string() -> None:
    x = text("a", "A")
    model = single("StringNormalizer", {"x": x}, case_change_action="LOWER", stopwords=["a"], open_dims=True)
    assert compiled(model, x=x)[0].tolist() == [""]
    assert compiled(model, x=text("a"))[0].tolist() == [""]
    assert compiled(model, x=text("a", "é", "b"))[0].tolist() == ["é", "b"]
    plain = single("StringNormalizer", {"x": x}, open_dims=True)
    assert compiled(plain, x=text())[0].tolist() == [""]


def test_normalizer_knows_letters_beyond_ascii() -> None:
    x = text("Größe", "ΑΒΓ", "Iİ")
    lower = single("StringNormalizer", {"x": x}, case_change_action="LOWER", locale="de_DE")
    assert compiled(lower, x=x)[0].tolist() == ["größe", "αβγ", "ii̇"]
    turkish = single("StringNormalizer", {"x": x}, case_change_action="LOWER", locale="tr_TR")
    assert compiled(turkish, x=x)[0].tolist() == ["größe", "αβγ", "ıi"]
    upper = single("StringNormalizer", {"x": x}, case_change_action="UPPER")
    assert compiled(upper, x=x)[0].tolist() == ["GRÖSSE", "ΑΒΓ", "Iİ"]


@pytest.mark.parametrize("attributes", [{}, {"delimiter": ""}, {"delimiter": ","}, {"delimiter": ",", "maxsplit": 1},
                                        {"delimiter": "ab"}, {"maxsplit": 0}])
def test_split(attributes: dict[str, Any]) -> None:
    x = text("a b", "", "a,,b", " x  y ", "abab", ",", shape=(2, 3) if attributes else (6,))
    model = single("StringSplit", {"x": x}, outputs=2, open_dims=True, **attributes)
    for got, want in zip(compiled(model, x=x), ReferenceEvaluator(model).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)  # ONNX Runtime finds no piece in an empty string


def test_split_feeds_what_comes_behind() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (string[N] x) => (bool[N, K] hit, int64[N] n, float[A] all) {
            pieces, n = StringSplit<delimiter=" ">(x)
            hit = RegexFullMatch<pattern="\\\\d+">(pieces)
            zero = Constant<value_strings=["0"]>()
            digits = Where(hit, pieces, zero)
            numbers = Cast<to=1>(digits)
            shape = Constant<value_ints=[-1]>()
            all = Reshape(numbers, shape)
        }""")
    agrees(model, x=text("12 red 7", "x", "5"))


@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32,
                                TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16])
def test_casts_from_strings(to: int) -> None:
    x = text("1", "-7", "42", " 3") if to != TensorProto.UINT8 else text("1", "200")
    if to in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        x = text("1", "-2.5", "1e3", "INF", "-inf", "nan", ".125")
    agrees(single("Cast", {"x": x}, to=to), x=x)


@pytest.mark.parametrize("x", [
    np.array([1.5, -0.1, 1e-5, 3e38, np.inf, np.nan], np.float32), np.array([0.1, 1e300]), np.array([-3, 5], np.int8),
    np.array([2**64 - 1], np.uint64), np.array([True, False]), np.array([0.1, 65504], np.float16)],
    ids=lambda x: str(x.dtype))
def test_casts_to_strings_read_back(x: np.ndarray) -> None:
    (printed,) = compiled(single("Cast", {"x": x}, to=TensorProto.STRING), x=x)
    back = single("Cast", {"x": printed}, to=onnx.helper.np_dtype_to_tensor_dtype(x.dtype))
    np.testing.assert_array_equal(compiled(back, x=printed)[0], x)


def test_casts_that_are_refused() -> None:
    import ml_dtypes

    with pytest.raises(UnsupportedError, match="cast of f8e5m2 to strings"):
        imported(single("Cast", {"x": np.zeros(2, ml_dtypes.float8_e5m2)}, to=TensorProto.STRING))
    model = lepton.compile(single("Cast", {"x": text("1")}, to=TensorProto.INT64))
    with pytest.raises(LeptonError, match=r"step 'string_to_number:.*': 'one' is no number"):
        model(text("one"))
    assert model(text("2")).tolist() == [2]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("order", [0, 1])
def test_unique(axis: int | None, order: int) -> None:
    x = text("b", "a", "é", "b", "", "é", "b", "a", "é", shape=(3, 3))
    given: dict[str, Any] = {} if axis is None else {"axis": axis}
    want = np.unique(x.astype(str), return_index=True, return_inverse=True, return_counts=True, axis=axis)
    model = single("Unique", {"x": x}, outputs=4, sorted=order, **given)
    got = compiled(model, x=x)
    assert sorted(got[1].tolist()) == sorted(want[1].tolist())
    assert got[3].sum() == x.size if axis is None else x.shape[axis]
    np.testing.assert_array_equal(np.take(got[0], got[2].reshape(-1), axis or 0).reshape(x.shape), x)
    if order:
        np.testing.assert_array_equal(got[0], want[0])


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_counting_ngrams(mode: str) -> None:
    x = text("a", "b", "c", "a", "b", "é", "é", "a", shape=(2, 4))
    weights: dict[str, Any] = {} if mode == "TF" else {"weights": [0.5, 1.0, 2.0, 3.0]}
    model = single("TfIdfVectorizer", {"x": x}, mode=mode, min_gram_length=1, max_gram_length=2, max_skip_count=1,
                   ngram_counts=[0, 2], ngram_indexes=[0, 3, 2, 1], pool_strings=["a", "é", "a", "b", "b", "é"],
                   **weights)
    agrees(model, x=x)


def test_patterns_that_are_refused() -> None:
    with pytest.raises(LeptonError, match=r"regular expression '\(a\)\\\\1'"):
        imported(single("RegexFullMatch", {"x": text("a")}, pattern=r"(a)\1"))
