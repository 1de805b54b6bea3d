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
from lepton.codegen.cuda.split import parts_of, parts_of_windows
from lepton.codegen.cuda.templates.parts import SumOfParts
from lepton.codegen.cuda.templates.product import Product
from lepton.codegen.lower.conv_cost import Shape
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
from tests.cuda.test_convolutions import attributes

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


CONVOLUTIONS: list[tuple[DType, str, tuple[int, ...], tuple[int, ...], int, dict[str, Any], int]] = [
    (DType.F32, "nhwc", (1, 5, 6, 64), (20, 64, 3, 3), 1, {"pads_begin": (1, 1), "pads_end": (1, 1)}, 2),
    (DType.F16, "nhwc", (1, 7, 7, 256), (66, 128, 3, 3), 2, {"strides": (2, 2), "pads_end": (1, 1)}, 2),
    (DType.BF16, "nchw", (1, 192, 4, 5), (9, 192, 3, 2), 1, {"dilations": (1, 2), "pads_begin": (2, 0)}, 2),
    (DType.F64, "nchw", (1, 32, 6, 5), (9, 32, 3, 3), 1, {}, 2),
    (DType.F32, "nhwc", (1, 3, 4, 5, 64), (12, 64, 2, 2, 2), 1, {"pads_begin": (1, 0, 0)}, 2)]


@pytest.mark.usefixtures("on_simulator")
@pytest.mark.parametrize(("dtype", "layout", "shape", "filters", "groups", "given", "parts"), [
    pytest.param(*case, id=f"{i}-{case[0].value}", marks=[] if i in (0, 2) else pytest.mark.slow)
    for i, case in enumerate(CONVOLUTIONS)])
def test_convolutions(dtype: DType, layout: str, shape: tuple[int, ...], filters: tuple[int, ...], groups: int,
                      given: dict[str, Any], parts: int) -> None:
    """What follows the sum is done once; channels are shared in runs of 64 bytes."""
    x, w, b = harness.value(shape, dtype), constant(random(filters, dtype)), constant(random(filters[:1], dtype))
    found = ops.relu(ops.conv(x, w, b, layout=layout, group=groups, **attributes(len(shape) - 2, given)))
    graph = Graph.of("g", [x], [found])
    Fuse().run(graph)
    (fused,) = [n for n in graph.nodes if n.op is not ops.constant]
    tolerance = {"rtol": 2e-5, "atol": 1e-4} if dtype.bytes > 2 else {"rtol": 1e-2, "atol": 0.1}
    shared(fused, {x: random(shape, dtype)}, parts, **tolerance)


@pytest.mark.parametrize(("channels", "taps", "filters", "places", "parts"), [
    (512, (1, 3, 3), 512, 49, 4),        # ResNet-50's last ones: 32 tiles
    (256, (1, 3, 3), 256, 196, 2), (64, (1, 3, 3), 64, 3136, 1),
    (3, (1, 7, 7), 64, 49, 1),           # few channels
    (96, (1, 3, 3), 32, 20, 3), (80, (1, 3, 3), 32, 20, 1),
    (512, (1, 3, 3), 512, sym("m"), 1), (512, (1, 3, 3), 512, 0, 1)])
def test_when_convolutions_are_shared(channels: int, taps: tuple[int, int, int], filters: int, places: Dim,
                                      parts: int) -> None:
    shape = Shape(DType.F32, 1, (1, 1, places), (1, 1, places), 1, channels, filters, taps, (1, 1, 1), (1, 1, 1),
                  (0, 0, 0), (0, 0, 0), (0, 0, 0, 0, 1), [], np.zeros(0, np.float32))
    assert parts_of_windows(shape, places, 32, 32, DType.F32) == parts


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
