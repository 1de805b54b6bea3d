"""Products of 8-bit floats: on the simulator's tensor cores, and in models that quantize to them."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import lepton
from lepton.codegen.cuda import warpgroups
from lepton.codegen.cuda.templates.product import Product, TensorTile
from lepton.codegen.cuda.templates.warpgroup import WarpgroupProduct
from lepton.commands.inspect_ import artifact_record
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import sym
from lepton.ir.types import DType
from lepton.passes.float8 import format_of
from lepton.passes.fuse import Fuse
from tests.codegen import harness
from tests.cuda import simulated
from tests.cuda.checking import BODIES, check, constant, rng
from tests.cuda.fakecuda import Fake
from tests.cuda.simulated import COMPILER

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
E4M3, E5M2 = DType.F8E4M3FN, DType.F8E5M2


def draw(dtype: DType, *shape: int) -> Any:
    """Codes of numbers up to 8, subnormal ones and zeros of both signs too."""
    every = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    return rng.choice(np.flatnonzero(np.abs(every.astype(np.float32)) <= 8), shape).astype(np.uint8).view(dtype.numpy)


def fused(a: Value, result: Value) -> Node:
    """The one kernel that fusion makes."""
    graph = Graph.of("g", [a], [result])
    Fuse(float8=True).run(graph)
    (node,) = [n for n in graph.nodes if n.op is not ops.constant]
    assert node.op is ops.fusion
    return node


def product(left: DType, right: DType, m: Any, n: int, k: int) -> tuple[Value, Node]:
    a, w = harness.value((m, k), left), draw(right, k, n).astype(np.float32)
    bias = constant(rng.standard_normal(n).astype(np.float32))
    return a, fused(a, ops.relu(ops.add(ops.matmul(ops.cast(a, to=DType.F32), constant(w)), bias)))


def exact(node: Node, arrays: Any, kind: type, name: str, **more: Any) -> None:
    """Against the meaning, up to the order of sums: the simulator's tensor cores keep all bits."""
    check(node, arrays, kind, rtol=1e-5, atol=1e-3, **more)
    assert BODIES[-1].tile.kind == name


@pytest.mark.usefixtures("on_simulator")
@pytest.mark.parametrize(("left", "right", "name"), [
    (E5M2, E4M3, "e5m2e4m3"), pytest.param(E4M3, E4M3, "e4m3e4m3", marks=pytest.mark.slow),
    pytest.param(E4M3, E5M2, "e4m3e5m2", marks=pytest.mark.slow),
    pytest.param(E5M2, E5M2, "e5m2e5m2", marks=pytest.mark.slow)], ids=str)
def test_products_by_warps(left: DType, right: DType, name: str) -> None:
    """Rows that end inside a run of 16 bytes, views, an open size; weights of each format."""
    a, node = product(left, right, sym("m"), 33, 75)
    for layout in (harness.dense, harness.gaps):
        exact(node, {a: draw(left, 37, 75)}, Product, name, env={"m": 37}, layouts={a: layout})
    assert isinstance(BODIES[-1].tile, TensorTile)


@pytest.mark.usefixtures("on_simulator")
@pytest.mark.parametrize(("left", "right", "name"), [
    (E4M3, E4M3, "e4m3e4m3"), pytest.param(E5M2, E4M3, "e5m2e4m3", marks=pytest.mark.slow),
    pytest.param(E5M2, E5M2, "e5m2e5m2", marks=pytest.mark.slow)], ids=str)
def test_products_by_warp_groups(left: DType, right: DType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged everywhere, three tiles for two blocks, more steps than places."""
    monkeypatch.setattr(warpgroups, "ENOUGH_TILES", 1)
    monkeypatch.setattr(simulated, "BLOCKS", 2)
    a, node = product(left, right, 270, 120, 48 + 128 * 7)
    exact(node, {a: draw(left, 270, 48 + 128 * 7)}, WarpgroupProduct, name)
    assert BODIES[-1].tile.columns == 128


@pytest.mark.usefixtures("on_simulator")
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 9, 8, 32), (1, 7, 6, 5)])
def test_convolutions(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warpgroups, "ENOUGH_TILES", 1)
    x, w = harness.value(shape, E4M3), draw(E4M3, 64, shape[-1], 3, 3).astype(np.float32)
    node = fused(x, ops.relu(ops.conv(
        ops.cast(x, to=DType.F32), constant(w), None, layout="nhwc", strides=(1, 1), pads_begin=(1, 1),
        pads_end=(1, 1), dilations=(1, 1), group=1)))
    exact(node, {x: draw(E4M3, *shape)}, WarpgroupProduct if shape[-1] == 32 else Product, "e4m3e4m3")


@pytest.mark.slow
@pytest.mark.usefixtures("on_simulator")
def test_infinities_and_nan_pass() -> None:
    a, node = product(E5M2, E4M3, 6, 20, 40)
    x = draw(E5M2, 6, 40)
    x[1, 3], x[2, 4] = np.nan, np.inf
    exact(node, {a: x}, Product, "e5m2e4m3")


def test_which_floats_fit() -> None:
    """All 256 codes of a format are of it; one more bit is not."""
    for dtype in (E4M3, E5M2):
        every = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
        assert format_of(every) is dtype
    assert format_of(np.array([1 + 2**-4], np.float32)) is None
    assert format_of(np.array([1e6], np.float32)) is None


# --- models ---------------------------------------------------------------------------------------


def quantized(shape: tuple[int, ...], kernel: tuple[int, ...], code: int = TensorProto.FLOAT8E4M3FN) -> onnx.ModelProto:
    """x -> Q -> DQ -> a product or convolution, with bias -> Relu -> Q -> DQ -> the same again, weights transposed."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(code)
    wide = len(kernel) == 4
    inits, nodes = [], []
    for i in (0, 1):
        weight = (rng.standard_normal(kernel) * 0.2 / 0.01).astype(dtype)
        scales = rng.uniform(0.005, 0.02, kernel[0 if wide else 1]).astype(np.float32)
        inits += [helper.make_tensor(f"w{i}", code, kernel, weight.tobytes(), raw=True),
                  onnx.numpy_helper.from_array(scales, f"s{i}"),
                  onnx.numpy_helper.from_array(np.array(0.02 + i / 50, np.float32), f"t{i}"),
                  onnx.numpy_helper.from_array(rng.standard_normal(scales.shape).astype(np.float32), f"b{i}"),
                  helper.make_tensor(f"z{i}", code, (), b"\0", raw=True)]
        nodes += [helper.make_node("QuantizeLinear", [f"x{i}", f"t{i}", f"z{i}"], [f"q{i}"]),
                  helper.make_node("DequantizeLinear", [f"q{i}", f"t{i}", f"z{i}"], [f"d{i}"]),
                  helper.make_node("DequantizeLinear", [f"w{i}", f"s{i}"], [f"v{i}"], axis=0 if wide or i else 1)]
        if wide:
            nodes.append(helper.make_node("Conv", [f"d{i}", f"v{i}", f"b{i}"], [f"p{i}"], pads=[1, 1, 1, 1]))
        else:
            nodes.append(helper.make_node("Gemm", [f"d{i}", f"v{i}", f"b{i}"], [f"p{i}"], transB=i))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"x{i + 1}"]))
    out = (shape[0], kernel[0], *shape[2:]) if wide else (shape[0], kernel[1])
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("x2", TensorProto.FLOAT, out)], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


MODELS = {"gemm": ((40, 64), (64, 64), TensorProto.FLOAT8E4M3FN),
          "conv": ((1, 16, 9, 7), (16, 16, 3, 3), TensorProto.FLOAT8E4M3FN),
          "gemm_e5m2": ((40, 64), (64, 64), TensorProto.FLOAT8E5M2)}


@pytest.mark.parametrize("name", ["conv", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n != "conv")])
def test_models(name: str, fake: Fake, tmp_path: Path) -> None:
    """Two kernels of 8-bit floats, the first of which stores what the second reads, and one for the input; images are
    turned to channels last and back."""
    shape, kernel, code = MODELS[name]
    kernels = agreeing(quantized(shape, kernel, code), shape, tmp_path)
    assert sum("matmul" in k or "conv" in k for k in kernels) == 2
    assert len(kernels) <= (5 if name == "conv" else 3), kernels


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"target": "cuda-sm80"}, {"math": "strict"}], ids=str)
def test_where_there_are_no_such_tensor_cores(options: dict[str, Any], fake: Fake, tmp_path: Path) -> None:
    """The same in f32; so with strict math, where scales stay inside of sums."""
    shape, kernel, code = MODELS["gemm"]
    fake.set(capability=80 if "target" in options else 90)
    kernels = agreeing(quantized(shape, kernel, code), shape, tmp_path, **options)
    assert "k1_dequantize" in kernels


def agreeing(onnx_model: onnx.ModelProto, shape: tuple[int, ...], folder: Path, **options: Any) -> list[str]:
    """Compile, run, compare with ONNX Runtime; the artifact's kernels."""
    model = onnx_model.SerializeToString()
    x = (rng.standard_normal(shape) * 2).astype(np.float32)
    as_written = ort.SessionOptions()
    as_written.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(model, as_written, providers=["CPUExecutionProvider"]).run(None, {"x0": x})[0]
    lepton.compile_to(model, folder / "m.so", **{"target": "cuda-sm90", **options})
    got = lepton.load(folder / "m.so")(x)
    # Where a sum is near the middle between two 8-bit floats, the order of summing decides between them.
    assert np.quantile(np.abs(got - want), 0.99) < 1e-5 * np.abs(want).max()
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    return [k["name"] for k in artifact_record(str(folder / "m.so"))["cuda"]["kernels"]]
