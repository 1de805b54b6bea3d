"""What a compilation may cost, measured: time, memory, size of the artifact, time from its file to the first answer.

    python -m benchmarks.budgets            resnet50 and BERT-base; or name other networks of the tests

| what | budget |
|---|---|
| compile | 10 s for light_resnet50, 15 s for bert_base |
| peak memory of leptonc | 2.5 x the model file + 300 MB |
| artifact | 1.05 x the weights + 1 MB |
| load and first answer | 20 ms beyond one run and the page faults on the file |

Exit status: 0 all kept, 1 one was missed. This process stays small: a child's peak memory counts its parent's pages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

COMPILE_S = {"light_resnet50": 10.0, "bert_base": 15.0}
FIRST_MS = 20.0

_FACTS = """
import json, sys, onnx
from tests.models.networks import BY_NAME
network = BY_NAME[sys.argv[1]]
path = network.pinned_path()
weights = sum(len(t.raw_data) or 4 * len(t.float_data) for t in onnx.load(path).graph.initializer)
print(json.dumps({"path": str(path), "weights": weights}))
"""

# Page faults are what the mapping of the weights costs: every page is touched once between loading and running.
_FIRST = """
import ctypes, json, os, sys, time
import numpy as np
import lepton
lepton.load
from lepton.library import load
import lepton.ir.diagnostics

def zeros(port):
    return np.zeros([size if isinstance(size, int) else 1 for size in port.shape], port.dtype)

path = sys.argv[1]
start = time.perf_counter()
model = load(path, threads=1)
touching = time.perf_counter()
for line in open("/proc/self/maps"):
    span, access, _, _, inode, *_ = line.split()
    if inode == str(os.stat(path).st_ino) and access[0] == "r":
        low, high = (int(x, 16) for x in span.split("-"))
        np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))[::4096].sum()
faults = time.perf_counter() - touching
feeds = {port.name: zeros(port) for port in model.inputs}
model.run(feeds)
first = time.perf_counter() - start
times = []
for _ in range(5):
    start = time.perf_counter()
    model.run(feeds)
    times.append(time.perf_counter() - start)
print(json.dumps({"first_ms": first * 1e3, "run_ms": min(times) * 1e3, "faults_ms": faults * 1e3}))
"""


@dataclass(frozen=True)
class Line:
    """One measured figure and what it may be."""

    what: str
    got: float
    budget: float | None
    unit: str

    @property
    def kept(self) -> bool:
        return self.budget is None or self.got <= self.budget

    def __str__(self) -> str:
        budget = "" if self.budget is None else f"of {self.budget:8.1f} {self.unit}"
        return f"  {self.what:24} {self.got:9.1f} {self.unit:3} {budget} {'' if self.kept else 'MISSED'}".rstrip()


def _python(code: str, *arguments: str) -> dict[str, float | str]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compile_cost(model: str, artifact: Path, target: str) -> tuple[float, float]:
    """Seconds and peak megabytes of one `leptonc`."""
    leptonc = str(Path(sys.executable).with_name("leptonc"))
    start = time.monotonic()
    process = subprocess.Popen([leptonc, model, "-o", str(artifact), "--target", target, "-q"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"leptonc {model}: exit status {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def measure(name: str, target: str) -> list[Line]:
    facts = _python(_FACTS, name)
    model, weights = str(facts["path"]), float(facts["weights"]) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / f"{name}.so"
        seconds, peak = compile_cost(model, artifact, target)
        size = artifact.stat().st_size / 1e6
        answer = {key: float(value) for key, value in _python(_FIRST, str(artifact)).items()}
    beyond = answer["first_ms"] - answer["run_ms"] - answer["faults_ms"]
    return [
        Line("compile", seconds, COMPILE_S.get(name), "s"),
        Line("peak memory", peak, 2.5 * os.path.getsize(model) / 1e6 + 300, "MB"),
        Line("artifact", size, 1.05 * weights + 1, "MB"),
        Line("load and first answer", beyond, FIRST_MS, "ms"),
        Line("  of that page faults", answer["faults_ms"], None, "ms"),
        Line("  one run", answer["run_ms"], None, "ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(COMPILE_S), metavar="NAME")
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
