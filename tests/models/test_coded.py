"""Models whose weights are a few bits each, as other tools write them: small artifacts, ONNX Runtime's answers."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton
from lepton.commands.inspect_ import artifact_record, text
from lepton.driver import Options, compile_to, lower
from lepton.ir import ops
from lepton.ir.tensor import Array
from lepton.summary import as_text

K, N, BLOCK = 160, 96, 32
RNG = np.random.default_rng(11)
SCALES = RNG.uniform(0.01, 0.1, (N, K // BLOCK)).astype(np.float32)
Held = dict[str, Any]


def model(nodes: list[Any], held: Held, rows: int | str) -> onnx.ModelProto:
    """x [rows,K] -> y [rows,N]."""
    tensors = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t, name) for name, t in held.items()]
    graph = helper.make_graph(nodes, "coded", [helper.make_tensor_value_info("x", 1, [rows, K])],
                              [helper.make_tensor_value_info("y", 1, [rows, N])], tensors)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def matmul_n_bits(rows: int | str, zeros: bool = True) -> onnx.ModelProto:
    held: Held = {"b": RNG.integers(0, 256, (N, K // BLOCK, BLOCK // 2)).astype(np.uint8), "s": SCALES}
    held |= {"z": RNG.integers(0, 256, (N, 3)).astype(np.uint8)} if zeros else {}
    node = helper.make_node("MatMulNBits", ["x", *held], ["y"], domain="com.microsoft", K=K, N=N, bits=4,
                            block_size=BLOCK)
    return model([node], held, rows)


def blocked_dequantize(rows: int | str) -> onnx.ModelProto:
    """DequantizeLinear of int4, blocks along the first axis."""
    codes = numpy_helper.from_array(RNG.integers(-8, 8, (K, N)).astype(ml_dtypes.int4), "q")
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=BLOCK),
             helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, {"q": codes, "s": np.ascontiguousarray(SCALES.T)}, rows)


def cast_and_mul(rows: int | str) -> onnx.ModelProto:
    """Levels of bytes around 100, a scale for each column, and Gemm reading the matrix turned."""
    held = {"q": RNG.integers(0, 256, (N, K)).astype(np.uint8), "z": np.float32(100), "b": SCALES[:, 0].copy(),
            "s": SCALES[:, :1].copy()}
    nodes = [helper.make_node("Cast", ["q"], ["f"], to=1), helper.make_node("Sub", ["f", "z"], ["d"]),
             helper.make_node("Mul", ["s", "d"], ["w"]), helper.make_node("Gemm", ["x", "w", "b"], ["p"], transB=1),
             helper.make_node("Relu", ["p"], ["y"])]
    return model(nodes, held, rows)


def palette(rows: int | str) -> onnx.ModelProto:
    """Places in a table of 16."""
    held = {"t": RNG.standard_normal(16).astype(np.float32), "q": RNG.integers(0, 16, (K, N)).astype(np.uint8)}
    nodes = [helper.make_node("Cast", ["q"], ["i"], to=6), helper.make_node("Gather", ["t", "i"], ["w"]),
             helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, held, rows)


def few_values(rows: int | str) -> onnx.ModelProto:
    """Floats, but only eight different ones."""
    table = RNG.standard_normal(8).astype(np.float32)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": table[RNG.integers(0, 8, (K, N))]}, rows)


Make = Callable[[int | str], onnx.ModelProto]
MAKERS: dict[str, tuple[Make, float]] = {     # and the most bits of a weight
    "MatMulNBits": (matmul_n_bits, 5.5), "no zero points": (lambda rows: matmul_n_bits(rows, False), 5.1),
    "DequantizeLinear": (blocked_dequantize, 5.1), "Cast+Mul": (cast_and_mul, 8.6), "palette": (palette, 4.4),
    "few values": (few_values, 3.8)}


def onnxruntime_says(source: onnx.ModelProto, x: Array) -> Array:
    """Without its rewriting, which would round activations to bytes where it reads int4."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("name", MAKERS)
def test_weights_stay_packed(name: str) -> None:
    make, bits = MAKERS[name]
    source = make("rows")
    done = lower(source, Options())
    assert [n.op for n in done.graphs[0].walk() if n.op in (ops.matmul, ops.matmul_coded)] == [ops.matmul_coded]
    (facts,) = done.report.targets.values()
    assert facts["weights"] * 8 / (K * N) < bits
    run = lepton.compile(source)
    for rows in (1, 3, 40, 0):
        x = np.random.default_rng(rows).standard_normal((rows, K)).astype(np.float32)
        got = run(x)
        if rows:
            want = onnxruntime_says(source, x)
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * float(np.abs(want).max()))
        else:
            assert got.shape == (0, N)


def test_many_known_rows_read_floats() -> None:
    source = palette(64)
    assert ops.matmul_coded not in {n.op for n in lower(source, Options()).graphs[0].walk()}
    x = RNG.standard_normal((64, K)).astype(np.float32)
    np.testing.assert_allclose(lepton.compile(source)(x), onnxruntime_says(source, x), rtol=1e-4, atol=1e-4)


def test_a_scale_that_is_no_number_stays_one() -> None:
    source = blocked_dequantize(2)
    scales = SCALES.T.copy()
    scales[1, 3], scales[2, 5] = np.nan, np.inf
    source.graph.initializer[1].CopyFrom(numpy_helper.from_array(scales, "s"))
    x = RNG.standard_normal((2, K)).astype(np.float32)
    got, want = lepton.compile(source)(x), onnxruntime_says(source, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    assert np.isnan(got[:, 3]).all()
    assert not np.isnan(got[:, 0]).any()


def test_what_is_not_finite_in_a_row_stays_in_it() -> None:
    source = palette(3)
    x = RNG.standard_normal((3, K)).astype(np.float32)
    x[1, 7] = np.nan
    got = lepton.compile(source)(x)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


def test_the_summary_says_how_many_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    report = compile_to(matmul_n_bits(1), path)
    (row,) = report.targets.values()
    assert row["coded"] == {"products": 1, "weights": K * N, "bytes": row["coded"]["bytes"]}
    words = f"(of them 15.4 k weights in {8 * row['coded']['bytes'] / K / N:.1f} bits each)"
    assert words in as_text([path], report, verbose=False)
    assert words in text(artifact_record(str(path)))


@pytest.mark.parametrize("rows", [16, 17, 95, 96])
def test_the_number_of_rows_decides(rows: int) -> None:
    """Between few rows and many, decoding would take too much of the time; bf16 has no use for it but at few rows."""
    for precision, most in (("f32", 16 if rows < 96 else rows), ("bf16", 16)):
        done = lower(blocked_dequantize(rows), Options.of({"precision": precision}))
        found = {n.op for n in done.graphs[0].walk()}
        assert (ops.matmul_coded in found) == (rows <= most)
