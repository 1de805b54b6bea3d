"""Products of few tiles, whose sums several blocks share: against their meaning, and when it is done."""
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.codegen.cuda.split import parts_of
from lepton.codegen.cuda.templates.parts import SumOfParts
from lepton.codegen.cuda.templates.product import Product
from lepton.codegen.lower.matmul_cost import Problem
from lepton.commands.inspect_ import artifact_record
from lepton.ir import ops
from lepton.ir.core import Graph, Node
from lepton.ir.dims import Dim, sym
from lepton.ir.types import DType
from lepton.passes.fuse import Fuse
from tests.codegen import harness
from tests.cuda.checking import BODIES, check, constant, node_of, random
from tests.cuda.fakecuda import Fake
from tests.cuda.simulated import COMPILER
from tests.cuda.test_artifacts import draw, model_of, node, value, weights

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]


def shared(node: Node, arrays: Any, parts: int, **more: Any) -> None:
    """By so many parts, of which the first body is a product's."""
    BODIES.clear()
    check(node, arrays, SumOfParts, **more)
    assert isinstance(BODIES[0], Product)
    assert BODIES[-1].count == parts


@pytest.mark.usefixtures("on_simulator")
@pytest.mark.parametrize(("dtype", "m", "k", "parts"), [
    (DType.F16, 33, 1024, 2), pytest.param(DType.F32, 20, 1280, 5, marks=pytest.mark.slow),
    pytest.param(DType.F64, 20, 768, 6, marks=pytest.mark.slow),
    pytest.param(DType.BF16, 1, 2048, 4, marks=pytest.mark.slow)], ids=str)
def test_constant_weights(dtype: DType, m: int, k: int, parts: int) -> None:
    """What follows the sum is done once, on the whole."""
    a, w, bias = harness.value((m, k), dtype), constant(random((k, 50), dtype)), constant(random((50,), dtype))
    result = ops.relu(ops.add(ops.matmul(a, w), bias))
    graph = Graph.of("g", [a], [result])
    Fuse().run(graph)
    (fused,) = [n for n in graph.nodes if n.op is not ops.constant]
    tolerance = {"rtol": 2e-5, "atol": 1e-4} if dtype.bytes > 2 else {"rtol": 1e-2, "atol": 0.1}
    shared(fused, {a: random((m, k), dtype)}, parts, **tolerance)


@pytest.mark.slow
@pytest.mark.usefixtures("on_simulator")
@pytest.mark.parametrize("layout", [harness.dense, harness.gaps], ids=["dense", "gaps"])
def test_unknown_factors_of_a_batch(layout: Callable[..., Any]) -> None:
    a, b = harness.value((2, 3, 12, 1024), DType.F16), harness.value((3, 1024, 40), DType.F16)
    shared(node_of(ops.matmul(a, b)), {a: random((2, 3, 12, 1024), DType.F16), b: random((3, 1024, 40), DType.F16)}, 2,
           rtol=1e-2, atol=0.1, layouts={a: layout, b: layout})


@pytest.mark.slow
@pytest.mark.usefixtures("on_simulator")
def test_a_number_in_one_part_reaches_its_results_only() -> None:
    """Infinities and NaN of one row and one part."""
    a, w = harness.value((20, 1024), DType.F16), constant(random((1024, 40), DType.F16))
    x = random((20, 1024), DType.F16)
    x[3, 700], x[7, 5] = np.inf, np.nan
    shared(node_of(ops.matmul(a, w)), {a: x}, 2, rtol=1e-2, atol=0.1)


def problem(m: Dim, n: Dim, k: Dim, *batch: Dim) -> Problem:
    return Problem(batch, m, n, k, (*(0,) * len(batch), k, 1), (*(0,) * len(batch), n, 1), [], None)


@pytest.mark.parametrize(("of", "parts"), [
    (problem(16, 1024, 4096), 4),          # 32 tiles: as many blocks as there are multiprocessors
    (problem(1, 64, 4096), 8),             # not less than 1024 bytes of k for each
    (problem(1, 64, 1 << 16), 16),
    (problem(1, 64, 4096 + 32), 3),        # parts end where steps do
    (problem(1, 64, 4096 + 1), 1),
    (problem(1024, 1024, 4096), 1),        # tiles enough
    (problem(16, 1024, 4096, 4), 1),
    (problem(16, 64, 256), 1),             # short
    (problem(sym("m"), 64, 4096), 1), (problem(0, 64, 4096), 1), (problem(16, 64, 4096, sym("b")), 1)],
    ids=lambda x: "" if isinstance(x, Problem) else str(x))
def test_when(of: Problem, parts: int) -> None:
    assert parts_of(of, 32, 32, DType.F16) == parts
    assert parts_of(replace(of, k=1), 32, 32, DType.F16) == 1


def test_in_a_model(fake: Fake, tmp_path: Path) -> None:
    """Two kernels for one product, the same bits in every run and in every order of blocks."""
    model = model_of([node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])], [value("x", [12, 1536])],
                     [value("y", [12, 40])], weights(w=(1536, 40)))
    lepton.compile_to(model.SerializeToString(), tmp_path / "m.so", target="cuda-sm90,x86-sse4")
    x = draw(12, 1536)
    found = []
    for seed in (1, 2, 3):
        fake.mode(late=True, seed=seed)
        found.append(lepton.load(tmp_path / "m.so")(x))
    np.testing.assert_allclose(found[0], lepton.load(tmp_path / "m.so", device="cpu")(x), rtol=1e-4, atol=1e-4)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    kernels = [k["name"] for k in artifact_record(str(tmp_path / "m.so"))["cuda"]["kernels"]]
    assert kernels == ["k0_matmul_relu_parts", "k1_matmul_relu"]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_an_open_sum_is_whole(batch: tuple[int, ...], tmp_path: Path) -> None:
    """Though the weights say how long it is."""
    model = model_of([node("MatMul", ["x", "w"], ["y"])], [value("x", [*batch, 12, "K"])],
                     [value("y", [*batch, 12, 40])], weights(w=(36, 40)))
    lepton.compile_to(model.SerializeToString(), tmp_path / "m.so", target="cuda-sm90,x86-sse4")
    x = draw(*batch, 12, 36)
    want = lepton.load(tmp_path / "m.so", device="cpu")(x)
    np.testing.assert_allclose(lepton.load(tmp_path / "m.so")(x), want, rtol=1e-4, atol=1e-4)
