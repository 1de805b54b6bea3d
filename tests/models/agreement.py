"""How far Lepton's answers lie from ONNX Runtime's: the engine, the reference and the measure, in one place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

import lepton
from tests.models.networks import BY_NAME, Feeds, Network

TOLERANCE = 1e-4  # of the largest magnitude in the reference output
Form = Literal["jit", "so"]
Run = Callable[[Feeds], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Setting:
    """One way to compile a network. `pinned`: with the file's open dimensions fixed beforehand."""

    target: str
    form: Form
    pinned: bool = False

    def __str__(self) -> str:
        return f"{self.target}-{self.form}{'-pinned' if self.pinned else ''}"


@dataclass(frozen=True)
class Error:
    """The difference of one output: largest absolute one, and as a share of the reference's largest magnitude."""

    output: str
    absolute: float
    relative: float


class Disagreement(AssertionError):
    """The outputs are not the reference's; the text says which and how."""


def compiled(model: Path, setting: Setting, folder: Path) -> lepton.Model:
    """The model as `setting` wants it, ready to run; a `.so` goes to `folder` and is made once."""
    if setting.form == "jit":
        made: lepton.Model = lepton.compile(model, target=setting.target)
        return made
    artifact = folder / f"{model.stem}-{setting.target}.so"
    if not artifact.exists():
        lepton.compile_to(model, artifact, target=setting.target)
    return lepton.load(artifact)


@lru_cache(maxsize=4)
def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def open_onnxruntime(path: Path) -> Run:
    """ONNX Runtime as an engine: feeds by name to outputs by name."""
    session = _session(path)
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


@lru_cache(maxsize=8)
def reference(name: str, run: int) -> tuple[Feeds, dict[str, np.ndarray]]:
    """Inputs of run number `run` of the network, and what ONNX Runtime makes of them."""
    network = BY_NAME[name]
    feeds = network.feeds(run)
    return feeds, open_onnxruntime(network.path())(feeds)


def errors(want: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> list[Error]:
    """One Error per output, in the model's order. Raises Disagreement for other names, dtypes or shapes."""
    if list(want) != list(got):
        raise Disagreement(f"outputs {list(got)}, expected {list(want)}")
    return [_error(name, want[name], got[name]) for name in want]


def _error(name: str, want: np.ndarray, got: np.ndarray) -> Error:
    if (want.shape, want.dtype) != (got.shape, got.dtype):
        raise Disagreement(f"{name}: {got.dtype}{got.shape}, expected {want.dtype}{want.shape}")
    if not want.size:
        return Error(name, 0.0, 0.0)
    if want.dtype.kind != "f":
        absolute = float((want != got).sum())
        return Error(name, absolute, absolute)  # integers are equal or they are not
    wide = want.astype(np.float64)
    absolute = float(np.abs(got - wide).max())
    if not np.isfinite(absolute):
        raise Disagreement(f"{name}: not finite where the reference is")
    return Error(name, absolute, absolute / max(float(np.abs(wide).max()), float(np.finfo(np.float32).tiny)))


def check(network: Network, want: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> list[Error]:
    """The errors; raises Disagreement above TOLERANCE, or where another class wins by more than that."""
    found = errors(want, got)
    for error in found:
        if error.relative > TOLERANCE:
            raise Disagreement(f"{error.output}: max|Δ| {error.absolute:.3g} is {error.relative:.2g} of max|ref|")
    for position in network.classes:
        name = list(want)[position]
        if other := other_winners(want[name], got[name]):
            raise Disagreement(f"{name}: another class wins in {other} rows")
    return found


def other_winners(want: np.ndarray, got: np.ndarray) -> int:
    """Rows whose largest element lies elsewhere, not counting ties within the tolerance."""
    reference_rows = want.reshape(-1, want.shape[-1])
    winner = got.reshape(reference_rows.shape).argmax(-1)
    rows = np.arange(len(winner))
    lost = reference_rows.max(-1) - reference_rows[rows, winner]
    return int((lost > 2 * TOLERANCE * np.abs(want).max()).sum())


def targets() -> Sequence[str]:
    """The targets of the acceptance that this machine can run."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((set(line.split()[2:]) for line in file if line.startswith("flags")), set())
    except OSError:
        flags = set()
    wanted = {"x86-avx2": {"avx2", "fma"}, "x86-avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return [*(target for target, needs in wanted.items() if needs <= flags), "native"]
