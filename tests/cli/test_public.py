"""`import lepton`: the public names, what they cost to import, and that options reach what they are for."""
from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from tests.cli import models
from tests.cli.models import ROOT, mlp_answer

HEAVY = ("onnx", "llvmlite", "networkx", "lepton.frontends", "lepton.passes", "lepton.codegen")

LOAD_AND_RUN = """
import sys
import numpy as np
import lepton
assert "numpy" in sys.modules
light = {"lepton.artifact", "lepton.driver", "lepton._rt"} & set(sys.modules)
assert not light, f"import lepton alone has imported {light}"
model = lepton.load(sys.argv[1])
print(model(np.ones((2, 16), np.float32)).sum())
print(*sys.modules)
"""

COUNT_THREADS = """
import os, sys
import numpy as np
import lepton
model = lepton.compile(sys.argv[1], threads=int(sys.argv[2]))
before = len(os.listdir("/proc/self/task"))
model(np.ones((4096, 16), np.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""


def _python(code: str, *words: object) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], env=models.process_environment(), text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_loading_imports_no_compiler(artifact: Path) -> None:
    answer, modules = _python(LOAD_AND_RUN, artifact)
    assert float(answer) == pytest.approx(float(mlp_answer(np.ones((2, 16), np.float32)).sum()), rel=1e-4)
    loaded = modules.split()
    assert "lepton.artifact" in loaded
    assert not [m for m in loaded if m in HEAVY or m.startswith(tuple(f"{h}." for h in HEAVY))]


def test_public_names() -> None:
    assert set(lepton.__all__) <= set(dir(lepton))
    for name in lepton.__all__:
        assert getattr(lepton, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = lepton.nosuch
    assert lepton.SessionOptions().intra_op_num_threads == 0


def test_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == lepton.__version__


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there are no other threads")
def test_threads_of_a_compile_reach_its_sessions(folder: Path) -> None:
    assert [int(_python(COUNT_THREADS, "mlp.onnx", n)[-1]) for n in (1, 2)] == [0, 1]


def test_python_and_command_line_agree(folder: Path) -> None:
    """The same options give the same bytes."""
    from lepton import cli

    assert cli.main(["mlp.onnx", "-o", "one.so", "-q", "--target", "x86-avx2", "--dim", "N=2", "-O1"]) == 0
    lepton.compile_to("mlp.onnx", "two.so", target="x86-avx2", dims={"N": 2}, level=1)
    assert (folder / "one.so").read_bytes() == (folder / "two.so").read_bytes()


def test_several_targets_in_process(folder: Path) -> None:
    """The best one that this machine can run, as when an artifact is loaded."""
    from lepton.codegen.target import TARGETS, native, runs_here

    rows = [t for t in TARGETS.values() if t.triple == native().triple]
    model = lepton.compile("mlp.onnx", target=",".join(t.name for t in rows))
    assert model.target == [t for t in rows if runs_here(t)][-1].name
    x = np.ones((2, 16), np.float32)
    np.testing.assert_allclose(model(x), mlp_answer(x), rtol=1e-4, atol=1e-5)


def test_options_in_python_are_checked(folder: Path) -> None:
    wrong: list[dict[str, Any]] = [{"targets": "native"}, {"level": 7}, {"math": "sloppy"}, {"threads": -1},
                                   {"target": "vax"}, {"passes": "x{"}]
    for options in wrong:
        with pytest.raises(lepton.LeptonError) as caught:
            lepton.compile("mlp.onnx", **options)
        assert caught.value.exit == 2
