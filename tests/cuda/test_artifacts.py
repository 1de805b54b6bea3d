"""Compiled CUDA models, whole, on the fake driver: against ONNX Runtime."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton
from lepton.artifact import Model
from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.nvrtc import nvrtc as real_nvrtc
from lepton.ir.diagnostics import LeptonError, NotInstalledError
from tests.cuda.fakecuda import Fake
from tests.cuda.simulated import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++")
RANDOM = np.random.default_rng(5)
F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
Feeds = dict[str, Any]


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array((RANDOM.standard_normal(s) * 0.3).astype(np.float32), n) for n, s in shapes.items()]


def value(name: str, shape: list[Any], dtype: int = F32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def draw(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def mlp() -> tuple[onnx.ModelProto, list[Feeds]]:
    """Two layers and a softmax, over an open batch."""
    nodes = [node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["s"]),
             node("Softmax", ["s"], ["y"])]
    made = model_of(nodes, [value("x", ["N", 12])], [value("y", ["N", 5])], weights(w=(12, 20), b=(20,), v=(20, 5)))
    return made, [{"x": draw(n, 12)} for n in (3, 1, 3, 0, 3, 40)]


def cnn() -> tuple[onnx.ModelProto, list[Feeds]]:
    """Convolutions, a depthwise one, pooling, a residual sum."""
    constants = weights(w=(8, 3, 3, 3), b=(8,), d=(8, 1, 3, 3), p=(8, 8, 1, 1), f=(8, 4))
    nodes = [node("Conv", ["x", "w", "b"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"]),
             node("Conv", ["r", "d"], ["e"], group=8, pads=[1, 1, 1, 1]), node("Conv", ["e", "p"], ["q"]),
             node("Add", ["q", "r"], ["s"]), node("MaxPool", ["s"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
             node("GlobalAveragePool", ["m"], ["g"]), node("Flatten", ["g"], ["l"]), node("MatMul", ["l", "f"], ["y"])]
    return model_of(nodes, [value("x", [2, 3, 11, 9])], [value("y", [2, 4])], constants), [{"x": draw(2, 3, 11, 9)}] * 3


def transformer() -> tuple[onnx.ModelProto, list[Feeds]]:
    """A block: normalisation, two heads of attention, a feed-forward layer."""
    constants = [*weights(q=(16, 16), k=(16, 16), v=(16, 16), o=(16, 16), g=(16,), c=(16,), u=(16, 32), d=(32, 16)),
                 ints("heads", 0, 0, 2, 8), ints("joined", 0, 0, 16)]
    nodes = [node("LayerNormalization", ["x", "g", "c"], ["n"])]
    for name in "qkv":
        nodes += [node("MatMul", ["n", name], [f"{name}1"]), node("Reshape", [f"{name}1", "heads"], [f"{name}2"]),
                  node("Transpose", [f"{name}2"], [f"{name}3"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])]
    nodes += [node("MatMul", ["q3", "k3"], ["s"]), node("Softmax", ["s"], ["p"]), node("MatMul", ["p", "v3"], ["a"]),
              node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "joined"], ["j"]),
              node("MatMul", ["j", "o"], ["z"]), node("Add", ["z", "x"], ["r"]), node("MatMul", ["r", "u"], ["f"]),
              node("Gelu", ["f"], ["h"]), node("MatMul", ["h", "d"], ["w"]), node("Add", ["w", "r"], ["y"])]
    made = model_of(nodes, [value("x", ["B", "S", 16])], [value("y", ["B", "S", 16])], constants)
    return made, [{"x": draw(*s, 16)} for s in ((1, 7), (1, 7), (2, 5))]


def branches() -> tuple[onnx.ModelProto, list[Feeds]]:
    """An If: the condition is read back, the branch that is taken runs."""
    bodies = [helper.make_graph([node(op, ["x", "w"], ["z"])], "branch", [], [value("z", ["N", 4])])
              for op in ("Mul", "Sub")]
    nodes = [node("If", ["c"], ["r"], then_branch=bodies[0], else_branch=bodies[1]), node("Exp", ["r"], ["y"])]
    made = model_of(nodes, [value("c", [], BOOL), value("x", ["N", 4])], [value("y", ["N", 4])], weights(w=(4,)))
    return made, [{"c": np.array(c), "x": draw(n, 4)} for c, n in ((True, 3), (False, 3), (True, 2))]


def loops() -> tuple[onnx.ModelProto, list[Feeds]]:
    """A Loop with a carried value and a result of every turn: memory that grows on the device."""
    body = helper.make_graph(
        [node("Add", ["s", "x"], ["s1"]), node("Mul", ["s1", "s1"], ["p"]), node("Identity", ["c"], ["c1"])], "body",
        [value("i", [], I64), value("c", [], BOOL), value("s", [3])],
        [value("c1", [], BOOL), value("s1", [3]), value("p", [3])])
    nodes = [node("Loop", ["n", "", "x"], ["y", "all"], body=body)]
    made = model_of(nodes, [value("n", [], I64), value("x", [3])], [value("y", [3]), value("all", ["T", 3])], [])
    return made, [{"n": np.array(n, np.int64), "x": draw(3)} for n in (4, 1, 0, 9)]


def late() -> tuple[onnx.ModelProto, list[Feeds]]:
    """NonZero: a size that the device counts."""
    nodes = [node("Greater", ["x", "zero"], ["g"]), node("NonZero", ["g"], ["at"]), node("Cast", ["at"], ["y"], to=F32)]
    made = model_of(nodes, [value("x", ["N", 3])], [value("y", [2, "K"])],
                    [numpy_helper.from_array(np.array(0, np.float32), "zero")])
    return made, [{"x": draw(n, 3)} for n in (4, 4, 9, 0)]


def narrow() -> tuple[onnx.ModelProto, list[Feeds]]:
    """f16 in, integers inside, several outputs."""
    nodes = [node("Cast", ["x"], ["f"], to=F32), node("ReduceSum", ["f", "axes"], ["s"], keepdims=1),
             node("Cast", ["s"], ["i"], to=I64), node("TopK", ["f", "k"], ["best", "places"])]
    made = model_of(nodes, [value("x", ["N", 6], TensorProto.FLOAT16)],
                    [value("i", ["N", 1], I64), value("best", ["N", 2]), value("places", ["N", 2], I64)],
                    [ints("axes", 1), ints("k", 2)])
    return made, [{"x": (draw(n, 6) * 9).astype(np.float16)} for n in (3, 3)]


def quantised() -> tuple[onnx.ModelProto, list[Feeds]]:
    """Sums of bytes: a convolution with a zero point, a product whose zero points come with the data."""
    u8, i8 = TensorProto.UINT8, TensorProto.INT8
    def many(low: int, *shape: int) -> Any:
        return RANDOM.integers(low, low + 256, shape)

    constants = [numpy_helper.from_array(many(-128, 16, 3, 3, 3).astype(np.int8), "w"),
                 numpy_helper.from_array(np.array(9, np.uint8), "z"),
                 numpy_helper.from_array(many(-128, 16, 20).astype(np.int8), "v"),
                 numpy_helper.from_array(np.array(0.001, np.float32), "s"), ints("rows", -1, 16)]
    nodes = [node("ConvInteger", ["x", "w", "z"], ["c"], pads=[1, 1, 1, 1]), node("Cast", ["c"], ["f"], to=F32),
             node("Mul", ["f", "s"], ["g"]), node("Reshape", ["g", "rows"], ["r"]),
             node("MatMulInteger", ["a", "v", "za"], ["m"]), node("Cast", ["m"], ["n"], to=F32),
             node("MatMulInteger", ["a", "b", "za", "zb"], ["o"])]
    made = model_of(nodes, [value("x", [1, 3, 8, 8], u8), value("a", ["N", 16], u8), value("za", [], u8),
                            value("b", [16, 24], i8), value("zb", [], i8)],
                    [value("r", [64, 16]), value("n", ["N", 20]), value("o", ["N", 24], TensorProto.INT32)], constants)
    return made, [{"x": many(0, 1, 3, 8, 8).astype(np.uint8), "a": many(0, n, 16).astype(np.uint8),
                   "za": np.array(200, np.uint8), "b": many(-128, 16, 24).astype(np.int8),
                   "zb": np.array(-7, np.int8)} for n in (5, 40)]


def lstm() -> tuple[onnx.ModelProto, list[Feeds]]:
    """A recurrent layer in both directions, of open length."""
    nodes = [node("LSTM", ["x", "w", "r", "b"], ["s", "h", ""], hidden_size=6, direction="bidirectional"),
             node("Tanh", ["s"], ["y"])]
    made = model_of(nodes, [value("x", ["T", 2, 5])], [value("y", ["T", 2, 2, 6]), value("h", [2, 2, 6])],
                    weights(w=(2, 24, 5), r=(2, 24, 6), b=(2, 48)))
    return made, [{"x": draw(n, 2, 5)} for n in (4, 1, 4)]


MODELS = (mlp, cnn, transformer, branches, loops, late, narrow, quantised, lstm)
LONG = (branches, late, narrow, quantised)  # of whose kinds the others show most


def compiled(made: onnx.ModelProto, folder: Path, **options: Any) -> Model:
    lepton.compile_to(made.SerializeToString(), folder / "m.so", **{"target": "cuda-sm90", **options})
    return lepton.load(folder / "m.so")


@pytest.mark.parametrize("make", [
    pytest.param(make, id=make.__name__, marks=[pytest.mark.slow] if make in LONG else []) for make in MODELS])
def test_models_agree_with_onnxruntime(make: Callable[[], tuple[onnx.ModelProto, list[Feeds]]], fake: Fake,
                                       tmp_path: Path) -> None:
    made, runs = make()
    model = compiled(made, tmp_path)
    assert model.target == "cuda-sm90"
    reference = ort.InferenceSession(made.SerializeToString())
    for feeds in runs:
        expected = reference.run(None, feeds)
        for name, want in zip(reference.get_outputs(), expected, strict=True):
            got = model.run(feeds)[name.name]
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    assert fake.counts().launches > 0


def test_nvrtc_makes_the_images(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real compiler's: cubins, PTX that older drivers read, what ptxas says. They are no images of the fake's."""
    try:
        real_nvrtc()
    except NotInstalledError:
        pytest.skip("NVRTC is not installed: pip install 'lepton-compiler[cuda]'")
    monkeypatch.setattr(nvrtc, "nvrtc", real_nvrtc)
    report = lepton.compile_to(mlp()[0].SerializeToString(), tmp_path / "m.so", target="cuda-sm80,cuda-sm90")
    images = [report.targets[t]["cuda"]["images"] for t in ("cuda-sm90", "cuda-sm80")]
    assert [(i["arch"], i["kind"]) for row in images for i in row] == [
        (90, "cubin, this one alone"), (80, "cubin"), (80, "PTX")]
    kernels = report.targets["cuda-sm80"]["cuda"]["kernels"]
    assert all(0 < k["registers"] <= 255 and k["spills"] == 0 for k in kernels)
    data = (tmp_path / "m.so").read_bytes()
    assert b"\n.version 8.0\n.target sm_80\n" in data
    with pytest.raises(LeptonError, match=r"\(Fake GPU\) cannot load the model's code: CUDA_ERROR_INVALID_IMAGE: "):
        lepton.load(tmp_path / "m.so").session()
