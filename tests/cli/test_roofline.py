"""`lepton bench --roofline`: the report's structure, its arithmetic, and the ceilings it is measured against."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lepton import ceilings, roofline
from lepton.ceilings import Ceilings
from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.target import TARGETS, native, runs_here
from lepton.codegen.templates.dots import FMA, Dot
from lepton.driver import Options, lower
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType
from tests.cli.models import Invoke

SLOW = Ceilings(2, {FMA: 1e9, Dot(4): 4e9}, {"L2": 1e8, "L3": 1e7, "memory": 1e6},
                {"L2": 1 << 10, "L3": 1 << 20})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "ROUNDS", 2)
    monkeypatch.setattr(ceilings, "ROUND_S", 2e-4)


def product(rows: Dim, k: int, columns: int) -> Graph:
    x = Value(TensorType(DType.F32, (rows, k)), name="x")
    w = ops.constant(value=Tensor.of(np.full((k, columns), 1 / 3, np.float32)))    # no halves, which are stored as such
    return Graph.of("g", (x,), (ops.relu(ops.matmul(x, w)),))


def found(graph: Graph, shape: tuple[int, ...], limits: Ceilings = SLOW) -> list[roofline.Work]:
    ((program, _),) = lower(graph, Options()).programs
    return roofline.works(program, [shape], limits)


def test_report_of_a_source(folder: Path, lepton_tool: Invoke) -> None:
    words = ("--runs", "3", "--threads", "2", "--dim", "N=4", "--roofline", "-O3")
    code, out, err = lepton_tool("bench", "mlp.onnx", *words, "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)["roofline"]
    limits = record["ceilings"]
    assert record["threads"] == 2
    assert limits["gflops"]["f32"] > 0.1
    assert set(limits["gbytes"]) == {"L2", "L3", "memory"}
    assert min(limits["gbytes"].values()) > 0.01
    (kernel,) = record["kernels"]
    assert kernel["flops"] == 2 * 4 * 16 * 8
    assert "matmul_add_relu" in kernel["name"]
    assert kernel["kind"] == "Gemm"
    assert kernel["nodes"]
    assert kernel["why"]
    assert kernel["gain"] == pytest.approx(record["gain"]) == pytest.approx(record["by_kind"]["Gemm"]["gain"])
    assert kernel["gain"] > 0
    assert kernel["run_share"] == pytest.approx(1)
    assert kernel["bound"] in ("compute", "L2", "L3", "memory")
    assert kernel["ceiling_share"] == pytest.approx(kernel["ceiling_seconds"] / kernel["seconds"])
    assert sum(row["run_share"] for row in record["by_kind"].values()) == pytest.approx(1)

    code, out, _ = lepton_tool("bench", "mlp.onnx", *words)
    assert code == 0
    for word in ("measured ceilings of 2 threads", "GFLOP/s", "GB/s", "bound", "matmul_add_relu (Gemm", "100.0%",
                 "times as fast as on one thread"):
        assert word in out


def test_gains_of_threads() -> None:
    """One thread's time over theirs: of each kernel, and of all by their times."""
    works = [*found(product(8, 64, 32), (8, 64)), *found(product(64, 64, 32), (64, 64))]
    single = Ceilings(1, {FMA: 5e8}, SLOW.bytes, SLOW.sizes)
    rows = [roofline.rows([work], [seconds], SLOW, ([alone], single))[0]
            for work, seconds, alone in zip(works, (1.0, 3.0), (1.0, 5.0), strict=True)]
    assert [row.gain for row in rows] == pytest.approx([1.0, 5 / 3])
    assert [row.allowed_gain for row in rows] == pytest.approx([1.0, 1.0])    # the memory's bandwidth is one
    record = roofline.report(rows, SLOW)
    assert record["gain"] == pytest.approx(6 / 4)
    assert record["allowed_gain"] == pytest.approx(1.0)
    assert "; 1.50 times as fast as on one thread, of 1.00 that the ceilings allow" in roofline.lines(record)[1]
    alone = roofline.report(roofline.rows([works[0]], [1.0], SLOW), SLOW)
    assert alone["gain"] is alone["kernels"][0]["gain"] is alone["by_kind"]["Gemm"]["gain"] is None
    assert alone["allowed_gain"] is alone["kernels"][0]["allowed_gain"] is None


def test_computing_gains_what_the_peaks_do() -> None:
    limits = Ceilings(2, {FMA: 1.8e9}, {"L2": 1e9, "L3": 1e9, "memory": 1e9}, {"L2": 1 << 20, "L3": 1 << 24})
    (work,) = found(product(64, 512, 512), (64, 512), limits)
    single = Ceilings(1, {FMA: 1e9}, limits.bytes, limits.sizes)
    (row,) = roofline.rows([work], [1.0], limits, ([1.7], single))
    assert (row.gain, row.allowed_gain) == pytest.approx((1.7, 1.8))


def test_compiled_models_are_refused(artifact: Path, lepton_tool: Invoke) -> None:
    code, _, err = lepton_tool("bench", artifact, "--roofline")
    assert code == 2
    assert "does not say what its kernels do" in err


@pytest.mark.parametrize(("seconds", "share", "words"), [
    (2 * 8 * 64 * 32 / 1e9, 1.0, "at its ceiling (compute)"),
    (4 * 8 * 64 * 32 / 1e9, 0.5, "no known reason"),
    (1e-6, 2 * 8 * 64 * 32 / 1e3, "at its ceiling"),
])
def test_shares_of_the_ceiling(seconds: float, share: float, words: str) -> None:
    limits = Ceilings(1, {FMA: 1e9}, {"L2": 1e9, "L3": 1e9, "memory": 1e9}, {"L2": 1 << 20, "L3": 1 << 24})
    (work,) = found(product(8, 64, 32), (8, 64), limits)
    assert (work.flops, sum(work.traffic.values())) == (2 * 8 * 64 * 32, 4 * (8 * 64 + 64 * 32 + 8 * 32))
    (row,) = roofline.rows([work], [seconds], limits)
    assert row.bound == "compute"
    assert row.ceiling_share == pytest.approx(share)
    assert words in row.why
    assert row.gflops == pytest.approx(2 * 8 * 64 * 32 / seconds / 1e9)


def test_losses_are_told_by_kind_and_reason() -> None:
    """Of kernels below 80 % of their ceilings; what is at them loses nothing."""
    limits = Ceilings(1, {FMA: 1e9}, {"L2": 1e9, "L3": 1e9, "memory": 1e9}, {"L2": 1 << 20, "L3": 1 << 24})
    works = [*found(product(8, 64, 32), (8, 64), limits), *found(product(2, 64, 32), (2, 64), limits)]
    least = 2 * 8 * 64 * 32 / 1e9, 2 * 2 * 64 * 32 / 1e9
    runs = (0, 1.1), (0, 2), (1, 16), (0, 4)
    rows = [roofline.rows([works[i]], [times * least[i]], limits)[0] for i, times in runs]
    record = roofline.report(rows, limits)
    total = sum(row.seconds for row in rows)
    many, few = record["losses"]
    assert (many["why"], many["kernels"], few["kernels"]) == ("no known reason", 2, 1)
    assert many["lost_share"] == pytest.approx(4 * least[0] / total)
    assert many["ceiling_share"] == pytest.approx(2 / 6)
    assert "reads its weights for 2 rows" in few["why"]
    assert "Gemm x2 (matmul_relu) at 33% of the ceiling: no known reason" in "\n".join(roofline.lines(record))


def test_weights_come_from_where_all_of_them_fit() -> None:
    (work,) = found(product(1, 512, 640), (1, 512))  # 1.25 MB of weights: more than the L3
    assert work.traffic["memory"] == 4 * 512 * 640
    (row,) = roofline.rows([work], [10.0], SLOW)
    assert row.bound == "memory"
    assert row.ceiling_seconds == pytest.approx(4 * 512 * 640 / 1e6 + 4 * (512 + 640) / 1e7)


def test_open_sizes_are_those_of_the_run() -> None:
    (work,) = found(product(sym("N"), 16, 8), (6, 16))
    assert work.flops == 2 * 6 * 16 * 8
    assert any("sums of 16" in r for r in work.remarks)
    assert any("8 columns fill 50%" in r for r in work.remarks)


def test_a_report_of_nothing_is_whole() -> None:
    record = roofline.report([], SLOW)
    assert (record["kernels"], record["near_share"], record["ceiling_share"]) == ([], 0, 0)
    assert len(roofline.lines(record)) == 3


def test_traffic_of_a_table_is_what_is_picked() -> None:
    table = ops.constant(value=Tensor.of(np.ones((4096, 8), np.float32)))
    x = Value(TensorType(DType.I64, (3,)), name="x")
    (work,) = found(Graph.of("g", (x,), (ops.gather(table, x, axis=0),)), (3,))
    assert sum(work.traffic.values()) == 2 * 3 * 8 * 4 + 3 * 8


@pytest.mark.parametrize("dot", [FMA, Dot(4)], ids=["f32", "i8"])
@pytest.mark.parametrize("name", [t.name for t in TARGETS.values() if runs_here(t)])
def test_peak_loops_of_every_target(name: str, dot: Dot) -> None:
    run, operations = ceilings.peak_loop(TARGETS[name], dot)
    run()
    assert operations == 2 * dot.group * TARGETS[name].lanes(DType.F32) * (
        TARGETS[name].vector_registers - 6) * 20_000


def test_ceilings_of_this_machine() -> None:
    limits = ceilings.measure(native(), 1, [Dot(4)])
    assert set(limits.operations) == {FMA, Dot(4)}
    assert min(limits.operations.values()) > 1e8
    assert limits.bytes["L2"] > 1e8
    assert limits.sizes["L3"] > limits.sizes["L2"] > 0
    assert [limits.level_of(size) for size in (1, limits.sizes["L3"], limits.sizes["L3"] + 1)] == ["L2", "L3", "memory"]


def test_weights_that_are_halves() -> None:
    """They take half the bytes, and are multiplied as floats are."""
    x, w = Value(TensorType(DType.F32, (8, 64)), name="x"), ops.constant(value=Tensor.of(np.ones((64, 32), np.float32)))
    graph = Graph.of("g", (x,), (ops.matmul(x, w),))
    limits = Ceilings(1, {FMA: 1e9}, {"L2": 1e9, "L3": 1e9, "memory": 1e9}, {"L2": 1 << 20, "L3": 1 << 24})
    (work,) = found(graph, (8, 64), limits)
    assert work.dot == FMA
    assert sum(work.traffic.values()) == 4 * (8 * 64 + 8 * 32) + 2 * 64 * 32
    ((program, _),) = lower(graph, Options()).programs
    assert roofline.dots(program) == {FMA}
