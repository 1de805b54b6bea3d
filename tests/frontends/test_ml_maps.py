"""Maps of ai.onnx.ml at the border of compiled models."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton
import lepton.backend
from lepton.ir.diagnostics import LeptonError
from tests.frontends.build import floats, runtime
from tests.frontends.test_ml import ml_model

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def map_model(op: str, key: int, value: int, **attributes: Any) -> onnx.ModelProto:
    """A model whose one node reads a map."""
    kind = helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, None))
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph([node], "g", [helper.make_value_info("x", kind)], [onnx.ValueInfoProto(name="y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [3, -1, 7]}, {"classlabels_strings": ["a", "bé", ""]}])
def test_zip_map_gives_dicts(labels: dict[str, Any], tmp_path: Path) -> None:
    x = floats(4, 3)
    model = ml_model("ZipMap", x, **labels)
    wanted = runtime(model, {"x": x})[0]
    assert lepton.compile(model)(x) == wanted
    onnx.save(model, tmp_path / "m.onnx")
    lepton.compile_to(tmp_path / "m.onnx", tmp_path / "m.so")
    loaded = lepton.load(tmp_path / "m.so")
    assert loaded.run({"x": x})["out0"] == wanted
    assert loaded(x[:0]) == []
    np.testing.assert_array_equal(loaded.run_ports({"x": x})["out0"], x)
    session = lepton.InferenceSession(str(tmp_path / "m.onnx"))
    kind = "string" if "classlabels_strings" in labels else "int64"
    assert [o.type for o in session.get_outputs()] == [f"seq(map({kind},tensor(float)))"]
    assert lepton.backend.prepare(model).run([x])[0] == wanted


@pytest.mark.parametrize(("key", "vocabulary", "given"), [
    (STRING, {"string_vocabulary": ["a", "b", "c"]}, {"b": 2, "zz": 9, "a": 1}),
    (INT64, {"int64_vocabulary": [5, -7]}, {-7: 3}),
    (INT64, {"int64_vocabulary": [5, -7]}, {}),
])
@pytest.mark.parametrize("value", [FLOAT, INT64])
def test_dict_vectorizer_takes_dicts(key: int, vocabulary: dict[str, Any], given: dict[Any, Any], value: int) -> None:
    if key == INT64 and value == INT64:
        pytest.skip("not a type that ONNX has")
    model = map_model("DictVectorizer", key, value, **vocabulary)
    given = {k: float(v) if value == FLOAT else v for k, v in given.items()}
    got = lepton.compile(model)(given)
    (words,) = vocabulary.values()
    wanted = np.array([[given.get(k, 0) for k in words]], np.float32 if value == FLOAT else np.int64)
    np.testing.assert_array_equal(got, wanted, strict=True)
    if given and value == FLOAT:   # what ONNX Runtime takes from Python
        feeds: Any = {"x": given}
        np.testing.assert_array_equal(got, runtime(model, feeds)[0], strict=True)


def test_cast_map() -> None:
    sparse = map_model("CastMap", INT64, FLOAT, cast_to="TO_INT64", map_form="SPARSE", max_map=4)
    np.testing.assert_array_equal(lepton.compile(sparse)({1: 2.9, 3: -7.0}), [[0, 2, 0, -7]])
    dense = map_model("CastMap", INT64, FLOAT, cast_to="TO_FLOAT", map_form="DENSE")
    model = lepton.compile(dense, structure={"x": [9, -2]})
    np.testing.assert_array_equal(model({9: 1.5, -2: 0.5}), [[0.5, 1.5]])
    text = map_model("CastMap", INT64, STRING, cast_to="TO_FLOAT", map_form="DENSE")
    np.testing.assert_array_equal(lepton.compile(text, structure={"x": [0, 1]})({0: "1e2", 1: "-3"}), [[100, -3]])


def test_what_does_not_fit_is_said() -> None:
    dense = map_model("CastMap", INT64, FLOAT, cast_to="TO_FLOAT", map_form="DENSE")
    with pytest.raises(LeptonError, match="its keys must be known"):
        lepton.compile(dense)
    with pytest.raises(LeptonError, match="expected keys of type int"):
        lepton.compile(dense, structure={"x": ["a"]})
    model = lepton.compile(dense, structure={"x": [0, 1]})
    for wrong, message in (({0: 1.0}, "key 1 is missing"), ({0: 1.0, 1: 1.0, 5: 1.0}, "key 5 is not known"),
                           ([1.0], "expected a dict")):
        with pytest.raises(LeptonError, match=message):
            model(wrong)
    with pytest.raises(LeptonError, match="2 classes"):
        lepton.compile(ml_model("ZipMap", floats(4, 3), classlabels_int64s=[1, 2]))
    bare = ml_model("DictVectorizer", floats(1, 3), string_vocabulary=["a"])
    with pytest.raises(LeptonError, match="expected a map"):
        lepton.compile(bare)
