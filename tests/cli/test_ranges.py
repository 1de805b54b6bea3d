"""Dimensions with a least, a usual and a largest size: one artifact, two programs, memory for the largest."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import lepton
from lepton import ranges
from lepton.cli import main
from lepton.driver import Options, lower
from lepton.ir.diagnostics import UsageError
from lepton.terminal import parse_sizes
from lepton.tool import main as tool
from tests.frontends.build import floats, runtime, text_model


def model() -> onnx.ModelProto:
    weights = onnx.numpy_helper.from_array(floats(16, 24), "w")
    made = text_model("""
    <ir_version: 10, opset_import: ["" : 17]>
    g (float[n.rows, T, 16] x) => (float[a, b, 24] y, float[c] total) {
      p = MatMul (x, w)
      y = Relu (p)
      s = ReduceSum <keepdims = 0> (y)
      one = Constant <value = int64[1] {1}> ()
      total = Reshape (s, one)
    }""".replace("n.rows", "N"))
    made.graph.initializer.append(weights)
    return made


def test_sizes_are_read() -> None:
    assert parse_sizes(["N=1..8..64", "T=3"]) == {"N": (1, 8, 64), "T": 3}
    for bad in ("N=1..8", "N=..", "N=1..2..3..4", "=1..2..3", "N=1..x..3", "N=-1..2..3"):
        with pytest.raises(UsageError, match="--dim"):
            parse_sizes([bad])
    for wrong in ((0, 1, 2), (3, 2, 4), (1, 5, 4), (1, 2), ("1", 2, 3)):
        with pytest.raises(UsageError, match="dimension 'N' cannot be"):
            ranges.split({"N": wrong})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["N", "M"])
def test_only_open_dimensions_have_ranges(name: str) -> None:
    if name == "M":
        with pytest.raises(UsageError, match="no dimension 'M'"):
            lower(model(), Options(dims={"M": (1, 2, 3)}))
        return
    done = lower(model(), Options(dims={"N": (1, 2, 3)}))
    (program, _), = done.programs
    assert program.limits == {"N": (1, 3)}
    assert [v.inputs[0].tensor.shape[0] for v in program.variants] == [2]


def test_a_dimension_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be 0"):
        lepton.compile(model(), dims={"N": 0})


@pytest.mark.parametrize("threads", [1, 2])
def test_every_size_within_the_range(threads: int) -> None:
    source = model()
    session = lepton.compile(source, dims={"N": (2, 4, 6), "T": (1, 3, 5)}).session(threads)
    for n, t in ((4, 3), (2, 1), (6, 5), (4, 3), (4, 5), (2, 3), (4, 3)):
        x = floats(n, t, 16, seed=n * t)
        want = runtime(source, {"x": x})
        mine = {"y": np.empty_like(want[0])}
        for outputs in (None, mine, None):
            got = session.run({"x": x}, outputs)
            for g, w in zip(got.values(), want, strict=True):
                assert g.shape == w.shape
                np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5)
    for n, t in ((1, 3), (7, 3), (4, 6), (0, 3)):
        with pytest.raises(UsageError, match=r"compiled for \d to \d"):
            session.run({"x": floats(n, t, 16)})
    x = floats(4, 3, 16)
    np.testing.assert_allclose(session.run({"x": x})["y"], runtime(source, {"x": x})[0], rtol=2e-5, atol=2e-5)


def test_the_usual_sizes_have_steps_of_their_own() -> None:
    """Which program answers shows in the profile."""
    session = lepton.compile(model(), dims={"N": (2, 4, 6), "T": 3}).session(1)
    session.profile()

    def ran() -> list[bool]:
        return [step.calls > 0 for step in session.step_times()]

    session.run({"x": floats(5, 3, 16)})
    general = ran()
    session.profile()
    session.run({"x": floats(4, 3, 16)})
    special = ran()
    assert any(general)
    assert any(special)
    assert not any(a and b for a, b in zip(general, special, strict=True))


@pytest.mark.slow
def test_a_library_with_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    fixed, ranged = tmp_path / "fixed.so", tmp_path / "ranged.so"
    assert main([str(tmp_path / "m.onnx"), "-o", str(fixed), "--dim", "N=4", "--dim", "T=3"]) == 0
    assert main([str(tmp_path / "m.onnx"), "-o", str(ranged), "--dim", "N=1..4..9", "--dim", "T=3"]) == 0
    assert "\n    for N=4: " in capsys.readouterr().err, "the summary tells of the second program"
    loaded = lepton.load(ranged)
    for n in (1, 4, 9):
        x = floats(n, 3, 16)
        np.testing.assert_allclose(loaded.run({"x": x})["y"], runtime(model(), {"x": x})[0], rtol=2e-5, atol=2e-5)
    assert tool(["inspect", str(ranged)]) == 0
    shown = capsys.readouterr().out
    assert "for     N=4: " in shown
    assert "--dim N=1..4..9" in shown
    statistics = loaded.metadata["statistics"]
    assert statistics["variants"][0]["dims"] == {"N": 4}
    assert statistics["variants"][0]["workspace"] is not None
