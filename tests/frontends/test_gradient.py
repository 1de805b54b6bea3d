"""The Gradient operator, imported and compiled."""
from __future__ import annotations

import numpy as np
import onnx
import pytest

import lepton
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import evaluate
from tests.frontends.build import floats, imported, text_model

HEAD = '<ir_version: 8, opset_import: ["": 17, "ai.onnx.preview.training": 1]>\n'


def model(body: str) -> onnx.ModelProto:
    return text_model(HEAD + body)


LOSS = """g (float[N,4] x, float[4,3] w, float[3] b) => (float loss, float[4,3] dw, float[3] db) {
    product = MatMul (x, w)
    logits = Add (product, b)
    p = LogSoftmax <axis = 1> (logits)
    squared = Mul (p, p)
    mean = ReduceMean <keepdims = 0> (squared)
    loss = Neg (mean)
    dw, db = ai.onnx.preview.training.Gradient <xs = ["w", "b"], y = "loss"> (w, b)
}"""


def test_a_number_grows_along_its_gradient() -> None:
    """Compiled, with the batch left open; the gradients against differences."""
    proto = model(LOSS)
    compiled = lepton.compile(proto)
    x, w, b = floats(6, 4), floats(4, 3, seed=1), floats(3, seed=2)
    loss, dw, db = compiled.run({"x": x, "w": w, "b": b}).values()
    for want, got in zip(evaluate(imported(proto), x, w, b), (loss, dw, db), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    h = np.float32(1e-2)
    for place in ((0, 0), (3, 2)):
        ends = []
        for sign in (h, -h):
            moved = w.copy()
            moved[place] += sign
            ends.append(compiled.run({"x": x, "w": moved, "b": b})["loss"])
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), dw[place], rtol=0.02, atol=1e-3)
    length = float((dw * dw).sum() + (db * db).sum())
    after = compiled.run({"x": x, "w": w + 1e-2 * dw, "b": b + 1e-2 * db})["loss"]
    assert loss < after < loss + 2e-2 * length


def test_inputs_other_than_the_named_values() -> None:
    """The function is y of (a, z); it is taken at what is handed in. z is held, though it depends on a."""
    proto = model("""g (float[3] a, float[3] at, float[3] zat) => (float[3] da, float[3] dz) {
        z = Exp (a)
        product = Mul (a, z)
        y = Mul (product, a)
        da = ai.onnx.preview.training.Gradient <xs = ["a"], zs = ["z"], y = "y"> (at, zat)
        dz = ai.onnx.preview.training.Gradient <xs = ["z"], zs = ["a"], y = "y"> (zat, at)
    }""")
    a, at, zat = floats(3), floats(3, seed=1), floats(3, seed=2)
    da, dz = lepton.compile(proto).run({"a": a, "at": at, "zat": zat}).values()
    np.testing.assert_allclose(da, 2 * at * zat, rtol=1e-5)
    np.testing.assert_allclose(dz, at * at, rtol=1e-5)


def test_gradients_of_gradients() -> None:
    proto = model("""g (float a) => (float second) {
        y = Sin (a)
        first = ai.onnx.preview.training.Gradient <xs = ["a"], y = "y"> (a)
        second = ai.onnx.preview.training.Gradient <xs = ["a"], y = "first"> (a)
    }""")
    a = np.array(0.7, np.float32)
    np.testing.assert_allclose(lepton.compile(proto)(a), -np.sin(a), rtol=1e-5)


@pytest.mark.parametrize(("xs", "inputs", "message"), [
    ('["a"]', "a, a", "2 inputs for 1 names"), ('["nowhere"]', "a", "nowhere"),
    ('["a"]', "wide", r"the input for 'a' is f32\[2\]"), ('["a"]', "a", "top_k cannot be differentiated")])
def test_refusals(xs: str, inputs: str, message: str) -> None:
    proto = model(f"""g (float[3] a, float[2] wide) => (float[3] da) {{
        k = Constant <value = int64[1] {{2}}> ()
        y, i = TopK (a, k)
        da = ai.onnx.preview.training.Gradient <xs = {xs}, y = "y"> ({inputs})
    }}""")
    with pytest.raises(LeptonError, match=message):
        imported(proto)
