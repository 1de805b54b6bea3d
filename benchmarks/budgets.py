"""What a compilation may cost, measured: time, memory, size of the artifact, time from its file to the first answer.

    python -m benchmarks.budgets            resnet50 and BERT-base; or name other networks of the tests

| what | budget |
|---|---|
| compile | 8 s for light_resnet50, 12 s for bert_base |
| peak memory of leptonc | 2.5 x the model file + 300 MB |
| artifact | 1.05 x the weights + 0.6 MB |
| load and first answer | 20 ms beyond one run |

Exit status: 0 all kept, 1 one was missed. This process stays small: a child's peak memory counts its parent's pages.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.probes import FIRST, probe

COMPILE_S = {"light_resnet50": 8.0, "bert_base": 12.0, "resnet50": 8.0, "bert_base_s128": 12.0}
DEFAULT = ("light_resnet50", "bert_base")
FIRST_MS = 20.0

_FACTS = """
import json, sys, onnx
from tests.models.networks import BY_NAME
path = BY_NAME[sys.argv[1]].pinned_path()
weights = sum(onnx.numpy_helper.to_array(t).nbytes for t in onnx.load(path).graph.initializer)
print(json.dumps({"path": str(path), "weights": weights}))
"""


@dataclass(frozen=True)
class Line:
    """One measured figure and the most it may be, or the least. `excuse`: why it may miss that all the same."""

    what: str
    got: float
    budget: float | None
    unit: str
    excuse: str = ""
    least: bool = False

    @property
    def reached(self) -> bool:
        return self.budget is None or (self.got >= self.budget if self.least else self.got <= self.budget)

    @property
    def kept(self) -> bool:
        return self.reached or bool(self.excuse)

    def __str__(self) -> str:
        budget = "" if self.budget is None else f"of {self.budget:9.2f} {self.unit}"
        remark = "" if self.reached else self.excuse or "MISSED"
        return f"  {self.what:34} {self.got:9.2f} {self.unit:3} {budget} {remark}".rstrip()


def compile_cost(model: str, artifact: Path, words: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of one `leptonc` with these options."""
    leptonc = str(Path(sys.executable).with_name("leptonc"))
    start = time.monotonic()
    process = subprocess.Popen([leptonc, model, "-o", str(artifact), *words, "-q"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"leptonc {model}: exit status {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss * 1024 / 1e6


def compile_lines(name: str, model_bytes: int, seconds: float, peak: float) -> list[Line]:
    return [Line("compile", seconds, COMPILE_S.get(name), "s"),
            Line("compiler's memory", peak, 2.5 * model_bytes / 1e6 + 300, "MB")]


def artifact_line(artifact: Path, weights: float) -> Line:
    """`weights`: the model's, in bytes."""
    return Line("artifact", artifact.stat().st_size / 1e6, 1.05 * weights / 1e6 + 0.6, "MB")


def measure(name: str, target: str) -> list[Line]:
    facts = probe(_FACTS, name)
    model = str(facts["path"])
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / f"{name}.so"
        seconds, peak = compile_cost(model, artifact, ("--target", target))
        answer = probe(FIRST, artifact, 1)
        return [*compile_lines(name, os.path.getsize(model), seconds, peak), artifact_line(artifact, facts["weights"]),
                Line("first answer beyond one run", (answer["first"] - answer["run"]) * 1e3, FIRST_MS, "ms"),
                Line("one run", answer["run"] * 1e3, None, "ms")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT, metavar="NAME")
    parser.add_argument("--target", default="native")
    options = parser.parse_args()
    missed = 0
    for name in options.names:
        print(name, flush=True)
        for line in measure(name, options.target):
            print(line, flush=True)
            missed += not line.kept
    print("all kept" if not missed else f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
