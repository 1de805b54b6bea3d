"""Kernels that are launched before the one in front of them has ended: they wait before they read or write."""
from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton.codegen.cuda import nvrtc
from lepton.codegen.cuda.source import prelude
from tests.cuda.fakecuda import Fake, FakeNvrtc
from tests.cuda.forked import succeeds
from tests.cuda.simulated import COMPILER
from tests.cuda.test_artifacts import draw, mlp

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="the simulator needs g++"),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulator switches stacks as Linux on x86-64 does")]
Change = Callable[[str], str]
# What a kernel's text becomes, by what is wrong with it then.
BUGS: dict[str, Change] = {
    "nobody waits": lambda text: text.replace("  lp_begin();", ""),
    "one warp waits": lambda text: text.replace("  lp_begin();", "  if (LP_THREAD < 32) lp_begin();"),
    "one block waits": lambda text: text.replace("  lp_begin();", "  if (LP_BLOCK == 0) lp_begin();"),
    "waits when all is done": lambda text: text.replace(
        "  lp_begin();", "  struct AtEnd { ~AtEnd() { lp_begin(); } } at_end;"),
    "looks before it waits": lambda text: re.sub(
        r"(\(const float \*(\w+).*\{)\n  lp_begin\(\);",
        r"\1\n  const u32 first = lp_bitcast<u32>(*\2);\n  lp_begin();\n  if (first != lp_bitcast<u32>(*\2)) return;",
        text),
}


@pytest.fixture(scope="module")
def model(fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("early") / "m.so"
    lepton.compile_to(mlp()[0].SerializeToString(), path, target="cuda-sm90,cuda-sm80")
    return path


def early(fake: Fake, path: Path, seed: int) -> list[int]:
    """How many kernels began early in each of four runs, the last of which replay a graph."""
    session, counts = lepton.load(path).session(), []
    fake.mode(late=True, seed=seed)
    for _ in range(4):
        before = fake.counts()
        session(draw(3, 12))
        counts.append(fake.counts().early - before.early)
    assert fake.counts().graph_launches > 0
    return counts


def test_kernels_begin_early_also_in_graphs(fake: Fake, model: Path) -> None:
    """The fake driver lets every second kernel begin early: the odd or the even ones."""
    odd, even = early(fake, model, 1), early(fake, model, 2)
    assert odd[0] >= 1
    assert odd == [odd[0]] * 4
    assert odd[0] - even[0] in (0, 1)
    assert even == [even[0]] * 4


def test_it_can_be_switched_off(fake: Fake, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CUDA_EARLY", "0")
    assert early(fake, model, 1) == [0] * 4


def test_older_gpus_take_turns(fake: Fake, model: Path) -> None:
    fake.set(capability=80)
    try:
        assert early(fake, model, 1) == [0] * 4
    finally:
        fake.set()


def right(fake: Fake, change: Change, folder: Path) -> bool:
    """Whether a child process gets the right results, whichever kernels begin early."""
    def work() -> bool:
        onnx_model, x = mlp()[0], draw(40, 12)   # several blocks
        nvrtc.nvrtc = lambda: planting(change)  # type: ignore[assignment]
        lepton.compile_to(onnx_model.SerializeToString(), folder / "m.so", target="cuda-sm90,x86-sse4")
        want = lepton.load(folder / "m.so", device="cpu").run({"x": x})["y"]
        for seed in (1, 2):
            fake.mode(late=True, seed=seed)
            np.testing.assert_allclose(lepton.load(folder / "m.so").run({"x": x})["y"], want, rtol=1e-5, atol=1e-6)
        return True

    return succeeds(work)


def planting(change: Change) -> FakeNvrtc:
    class Planting(FakeNvrtc):
        def compile(self, source: str, arch: str) -> nvrtc.Image:
            before = prelude("device.cuh")
            return super().compile(before + change(source.removeprefix(before)), arch)

    return Planting()


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_show(bug: str, fake: Fake, tmp_path: Path) -> None:
    assert not right(fake, BUGS[bug], tmp_path)


@pytest.mark.slow
def test_nothing_planted(fake: Fake, tmp_path: Path) -> None:
    assert right(fake, lambda text: text, tmp_path)
