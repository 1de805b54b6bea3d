"""Functions on the CPU inside models on a GPU: strings, Python functions, sizes that they give; on the fake driver."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton
from lepton.artifact import Model
from lepton.ir.diagnostics import LeptonError, ResourceError
from tests.cuda.fakecuda import Fake, OnDevice
from tests.cuda.simulated import COMPILER
from tests.cuda.test_artifacts import draw, model_of, node, value
from tests.custom.models import declare_median
from tests.custom.test_functions import declare_split, split_numpy
from tests.frontends.build import text_model

pytestmark = [pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
              pytest.mark.usefixtures("forgotten")]     # what tests declare is gone after them
TEXT = TensorProto.STRING


def made(source: Any, folder: Path, **options: Any) -> Model:
    lepton.compile_to(source.SerializeToString(), folder / "m.so", target="cuda-sm90,x86-sse4", **options)
    return lepton.load(folder / "m.so")


def median(x: Any, *, scale: float) -> Any:
    return (np.median(x, axis=-1) * scale).astype(np.float32)


def words(*texts: str) -> Any:
    return np.array(texts, object)


def test_text_is_made_on_the_cpu_and_moved_on_the_gpu(fake: Fake, tmp_path: Path) -> None:
    """concat (CPU) -> transpose, comparison, choice (GPU) -> split, whose size the call gives (CPU)."""
    nodes = [node("StringConcat", ["a", "b"], ["c"]), node("Transpose", ["c"], ["t"], perm=[1, 0]),
             node("Equal", ["t", "word"], ["same"]), node("Where", ["same", "b", "t"], ["chosen"]),
             node("StringSplit", ["chosen"], ["parts", "n"], delimiter="-")]
    inputs = [value("a", ["N", "M"], TEXT), value("b", [1, 1], TEXT)]
    outputs = [value("same", ["M", "N"], TensorProto.BOOL), value("chosen", ["M", "N"], TEXT),
               value("parts", ["M", "N", "K"], TEXT), value("n", ["M", "N"], TensorProto.INT64)]
    source = model_of(nodes, inputs, outputs, [numpy_helper.from_array(words("x-y"), "word")])
    model, cpu = made(source, tmp_path), lepton.load(tmp_path / "m.so", device="cpu")
    assert model.target == "cuda-sm90"
    reference = ort.InferenceSession(source.SerializeToString())
    for a in (words("x", "é--q", "", "longer than the others-", "x", "-").reshape(2, 3), words("x").reshape(1, 1),
              words("x", "-x").reshape(2, 1)):
        feeds = {"a": a, "b": words("-y").reshape(1, 1)}
        got, again, there = model.run(feeds), cpu.run(feeds), reference.run(None, feeds)
        for name, want in zip(("same", "chosen", "parts", "n"), there, strict=True):
            assert got[name].shape == want.shape
            assert (got[name] == want).all(), name
            assert (again[name] == want).all(), name
    empty = model.run({"a": np.zeros((0, 3), object), "b": words("-y").reshape(1, 1)})
    assert empty["chosen"].shape == (3, 0)
    assert empty["parts"].shape[:2] == (3, 0)


def test_python_functions_stand_between_kernels(fake: Fake, tmp_path: Path) -> None:
    declare_median()
    model = made(text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[N,M] x) => (float[N] y) { a = Relu(x)  b = my.Median<scale = 3.0>(a)  y = Exp(b) }"""), tmp_path)
    model.register("my::Median", median)
    for shape in ((4, 3), (4, 3), (1, 1), (0, 5), (3, 8), (4, 3)):
        x = draw(*shape)
        want = np.exp(median(np.maximum(x, 0), scale=3.0)) if shape[0] else np.zeros(0, np.float32)
        np.testing.assert_allclose(model(x), want, rtol=1e-5)
    x = draw(4, 3)
    want = np.exp(median(np.maximum(x, 0), scale=3.0))
    with OnDevice(fake, x) as there, OnDevice(fake, np.zeros(4, np.float32)) as out:
        model.run({"x": there}, {"y": out})
        np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)
    sessions = [model.session() for _ in range(3)]
    for session in (*sessions, *sessions):
        np.testing.assert_allclose(session(x), want, rtol=1e-5)


@pytest.mark.parametrize("x", [draw(9), np.zeros(0, np.float32), np.ones(1, np.float32), -np.ones(70, np.float32)])
def test_sizes_that_a_function_gives_make_room_on_the_gpu(x: Any, fake: Fake, tmp_path: Path) -> None:
    declare_split()
    model = made(text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[N] x) => (float[P] high, int64[P] at, float[2,Q] low, bool[N] sign) {
            n = Neg(x)  m = Neg(n)  a, at, b, sign = my.Split(m)  high = Exp(a)  low = Sin(b) }"""), tmp_path)
    model.register("my::Split", split_numpy)
    high, at, low, sign = split_numpy(x)
    for _ in range(2):
        for got, want in zip(model(x), (np.exp(high), at, np.sin(low), sign), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)


def test_calls_inside_a_loop(fake: Fake, tmp_path: Path) -> None:
    """The carried text grows by a call in each turn."""
    body = helper.make_graph(
        [node("StringConcat", ["s", "x"], ["s1"]), node("Identity", ["c"], ["c1"])], "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("s", [2], TEXT)],
        [value("c1", [], TensorProto.BOOL), value("s1", [2], TEXT)])
    source = model_of([node("Loop", ["n", "", "x"], ["y"], body=body)],
                      [value("n", [], TensorProto.INT64), value("x", [2], TEXT)], [value("y", [2], TEXT)], [])
    model = made(source, tmp_path)
    for n in (3, 0, 1):
        got = model.run({"n": np.array(n), "x": words("ab", "ü")})["y"]
        assert list(got) == ["ab" * (n + 1), "ü" * (n + 1)]


def test_what_goes_wrong_in_a_function_is_told(fake: Fake, tmp_path: Path) -> None:
    declare_median()
    model = made(text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[N,M] x) => (float[N] y) { a = Relu(x)  b = my.Median<scale = 3.0>(a)  y = Exp(b) }"""), tmp_path)
    x = draw(4, 3)
    model.register("my::Median", lambda x, scale: 1 / 0)
    with pytest.raises(LeptonError, match=r"my::Median.*ZeroDivisionError: division by zero"):
        model(x)
    model.register("my::Median", median)
    session = model.session()
    for function, said in (("cuMemcpyDtoHAsync_v2", "give tensors to a function on the CPU"),
                           ("cuStreamSynchronize", "give tensors to a function on the CPU"),
                           ("cuMemcpyHtoDAsync_v2", "copy an input to its memory")):
        session(x)
        fake.fail(function, 1, 700)
        with pytest.raises(LeptonError, match=rf"\(Fake GPU\) cannot {said}: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal"):
            session(x)
        fake.set()  # whole again
    fake.fail("cuMemcpyHtoDAsync_v2", 2, 2)
    with pytest.raises(ResourceError, match="cannot take tensors from a function on the CPU: CUDA_ERROR_OUT_OF_MEM"):
        session(x)
    np.testing.assert_allclose(session(x), np.exp(median(np.maximum(x, 0), scale=3.0)), rtol=1e-5)


def test_calls_are_timed_on_the_cpu(fake: Fake, tmp_path: Path) -> None:
    declare_median()
    model = made(text_model("""<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
        m (float[4,3] x) => (float[4] y) { a = Relu(x)  b = my.Median<scale = 3.0>(a)  y = Exp(b) }"""), tmp_path)
    model.register("my::Median", median)
    model.profile()
    model(draw(4, 3))
    times = {t.name.partition(" ")[0]: t.seconds for t in model.step_times()}
    assert len(times) >= 2
    calls = [seconds for name, seconds in times.items() if "my" in name or "edian" in name]
    assert len(calls) == 1
    assert calls[0] > 2e-6  # Python's, not what the fake driver says of every kernel
