"""What a compiled file is: the same bytes wherever it was made, small, alone, and polite about the wrong machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import lepton
from tests.models.agreement import check, reference, targets
from tests.models.networks import BY_NAME

pytestmark = pytest.mark.slow

_COMPILE = "import sys, lepton; lepton.compile_to(sys.argv[1], sys.argv[2], target=sys.argv[3])"
ALLOWED = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("artifact") / "cls.so"
    lepton.compile_to(BY_NAME["ppocr_cls"].path(), target, target=targets()[0])
    return target


def test_same_bytes_from_two_places(artifact: Path, tmp_path: Path) -> None:
    """Another process, another folder, another hash seed, another clock: the same file."""
    again = tmp_path / "elsewhere" / "other-name.so"
    again.parent.mkdir()
    model = tmp_path / "copy.onnx"
    model.write_bytes(BY_NAME["ppocr_cls"].path().read_bytes())
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _COMPILE, str(model), str(again), targets()[0]]
    subprocess.run(command, cwd=again.parent, env=environment, check=True)
    assert again.read_bytes() == artifact.read_bytes()


def test_artifact_is_small(artifact: Path) -> None:
    initializers = onnx.load(BY_NAME["ppocr_cls"].path()).graph
    constants = [a.t for node in initializers.node if node.op_type == "Constant" for a in node.attribute]
    weights = sum(len(t.raw_data) + 4 * len(t.float_data) for t in [*initializers.initializer, *constants])
    assert artifact.stat().st_size <= 1.05 * weights + 1e6


def test_artifact_exports_one_symbol_and_needs_little(artifact: Path) -> None:
    symbols = subprocess.run(["nm", "-D", "--defined-only", artifact], capture_output=True, text=True, check=True)
    assert [line.split()[-1].split("@")[0] for line in symbols.stdout.splitlines()] == ["lepton_query"]
    listing = subprocess.run(["readelf", "-d", artifact], capture_output=True, text=True, check=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in listing.splitlines() if "NEEDED" in line}
    assert needed <= ALLOWED


def test_several_targets_in_one_artifact(tmp_path: Path) -> None:
    """The file holds them all; what is loaded is the best that this machine can run."""
    names = [target for target in targets() if target != "native"]
    if not names:
        pytest.skip("needs an x86 machine with AVX2")
    both = tmp_path / "several.so"
    lepton.compile_to(BY_NAME["magika"].path(), both, target=",".join(["x86-sse4", *names]))
    model = lepton.load(both)
    assert model.target == names[-1]
    feeds, want = reference("magika", 0)
    check(BY_NAME["magika"], want, model.run(feeds))


def test_two_models_in_one_process(artifact: Path, tmp_path: Path) -> None:
    """Nothing is shared by name: each answers for itself, whichever was loaded last."""
    other = tmp_path / "magika.so"
    lepton.compile_to(BY_NAME["magika"].path(), other, target=targets()[0])
    models = {"ppocr_cls": lepton.load(artifact), "magika": lepton.load(other)}
    for name in ("ppocr_cls", "magika", "ppocr_cls"):
        feeds, want = reference(name, 0)
        check(BY_NAME[name], want, models[name].run(feeds))


def test_wrong_input_is_refused(artifact: Path) -> None:
    model = lepton.load(artifact)
    good = np.zeros((1, 3, 48, 192), np.float32)
    for wrong in (good.astype(np.float64), good[:, :2], good[0], "text", None):
        with pytest.raises(lepton.LeptonError):
            model.run({"x": wrong})
    with pytest.raises(lepton.LeptonError, match="x"):
        model.run({"y": good})
    model.run({"x": good})
