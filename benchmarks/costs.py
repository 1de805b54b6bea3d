"""What a compiled model costs besides time: memory, also shared between processes; first answer; evenness; company.

    python -m benchmarks.costs MODEL.onnx [...] [--json FILE]

| what | wanted |
|---|---|
| artifact | 1.05 x the weights + 0.6 MB |
| workspace | 5 % above the most bytes alive at any step |
| resident memory, over that of a process without the model | weights + workspace + 15 MB |
| what a second process adds | workspace + 15 MB: the weights are shared |
| load and first answer | a tenth of ONNX Runtime's session and first run |
| jitter (p99 / p50), one thread | 1.2 |
| two threads beside a busy core | 2.2 times slower |
| two threads | 1.8 times faster |

The last three mean something on a quiet machine only, and are not counted. Exit status: 0 all others kept, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budgets import Line, compile_cost

SPIN = "while True: pass"

_PLAN = """
import json, sys
from lepton.codegen.kernel import align
from lepton.codegen.memory import lower_bound
from lepton.codegen.program import Storage
from lepton.driver import Options, lower
((program, _),) = lower(sys.argv[1], Options.of({"target": sys.argv[2]})).programs
buffers = [b for b in program.buffers if b.storage is Storage.WORKSPACE]
least = lower_bound([align(b.size) for b in buffers], [(b.first, b.last) for b in buffers]) if program.is_static else 0
weights = sum(b.size for b in program.buffers if b.storage is Storage.CONSTANT)
print(json.dumps({"workspace": program.workspace, "least": least, "weights": weights}))
"""

_START = """
import json, os, sys, time
import numpy as np
import lepton
lepton.load
from lepton.library import load
from lepton.inputs import make_inputs

def memory():
    rows = (line.split() for line in open("/proc/self/smaps_rollup") if line.endswith("kB\\n"))
    return {row[0][:-1]: int(row[1]) / 1e3 for row in rows}

def sized(path, threads):
    model = load(path, threads=threads)
    return model, make_inputs(model.inputs, [], {}, 0)
"""

_MEMORY = _START + """
before = memory()
model, feeds = sized(sys.argv[1], 1)
for _ in range(3):
    model.run(feeds)
print(json.dumps(before), flush=True)
sys.stdin.readline()                       # until all processes are this far
print(json.dumps(memory()), flush=True)
sys.stdin.readline()
"""

_TIMES = _START + """
threads, seconds = int(sys.argv[2]), float(sys.argv[3])
os.sched_setaffinity(0, {int(core) for core in sys.argv[4].split(",")})
model, feeds = sized(sys.argv[1], threads)
session, times = model.session(), []
for _ in range(5):
    session.run(feeds)
end = time.perf_counter() + seconds
while time.perf_counter() < end or len(times) < 5:
    start = time.perf_counter()
    session.run(feeds)
    times.append(time.perf_counter() - start)
times.sort()
print(json.dumps({"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "runs": len(times)}))
"""

_FIRST = _START + """
start = time.perf_counter()
model = load(sys.argv[1], threads=1)
loaded = time.perf_counter() - start
feeds = make_inputs(model.inputs, [], {}, 0)
start = time.perf_counter()
model.run(feeds)
print(json.dumps({"seconds": loaded + time.perf_counter() - start}))
"""

_RUNTIME_FIRST = """
import json, sys, time
import onnxruntime
from lepton.library import load
from lepton.inputs import make_inputs
feeds = make_inputs(load(sys.argv[2]).inputs, [], {}, 0)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
start = time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, feeds)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def _python(code: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def memory(artifact: Path) -> tuple[float, float]:
    """Megabytes that one process holds because of the model; and of those, in the second of two, its own."""
    processes = [subprocess.Popen([sys.executable, "-c", _MEMORY, str(artifact)], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    before: list[dict[str, float]] = []
    after: list[dict[str, float]] = []
    for found in (before, after):
        for process in processes:
            assert process.stdout is not None
            found.append(json.loads(process.stdout.readline()))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        process.wait()

    def own(row: dict[str, float]) -> float:
        return row["Private_Clean"] + row["Private_Dirty"]

    return after[0]["Rss"] - before[0]["Rss"], own(after[1]) - own(before[1])


def timing(artifact: Path, seconds: float) -> list[Line]:
    """How even runs are, what a second thread brings, and what it costs to share a core with others."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    one = _python(_TIMES, artifact, 1, seconds, cores[-1])
    lines = [Line("one run", one["p50"] * 1e3, None, "ms"), Line("jitter", one["p99"] / one["p50"], None, "x")]
    if len(cores) < 2:
        return lines
    names = ",".join(map(str, cores))
    two = _python(_TIMES, artifact, 2, seconds, names)
    neighbour = subprocess.Popen(["taskset", "-c", str(cores[0]), sys.executable, "-c", SPIN])
    try:
        busy = _python(_TIMES, artifact, 2, seconds, names)
    finally:
        neighbour.kill()
        neighbour.wait()
    return [*lines, Line("two threads", one["p50"] / two["p50"], None, "x"),
            Line("beside a busy core", busy["p50"] / two["p50"], None, "x")]


def costs(model: Path, target: str, seconds: float) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / f"{model.stem}.so"
        compile_cost(str(model), artifact, target)
        plan = _python(_PLAN, model, target)
        weights, workspace = plan["weights"] / 1e6, plan["workspace"] / 1e6
        resident, second = memory(artifact)
        first = _python(_FIRST, artifact)["seconds"] * 1e3
        runtime = _python(_RUNTIME_FIRST, model, artifact)["seconds"] * 1e3
        return [
            Line("artifact", artifact.stat().st_size / 1e6, 1.05 * weights + 0.6, "MB"),
            Line("workspace", workspace, 1.05 * plan["least"] / 1e6 + 0.001, "MB"),
            Line("resident memory", resident, weights + workspace + 15, "MB"),
            Line("a second process", second, workspace + 15, "MB"),
            Line("load and first answer", first, runtime / 10, "ms"),
            *timing(artifact, seconds),
        ]


def report(models: Sequence[Path], target: str, seconds: float) -> tuple[dict[str, list[Line]], int]:
    """All lines, printed as they come; how many were missed."""
    found, missed = {}, 0
    for model in models:
        print(model.stem, flush=True)
        found[model.stem] = costs(model, target, seconds)
        for line in found[model.stem]:
            print(line, flush=True)
            missed += not line.kept
    return found, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx", help="with inputs of known sizes")
    parser.add_argument("--target", default="native")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, for benchmarks.performance")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"load average {load:.2f} on {os.cpu_count()} cores")
    found, missed = report(options.models, options.target, options.seconds)
    if options.json:
        options.json.write_text(json.dumps({
            "kind": "costs", "date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), "load": load,
            "costs": {name: [{**asdict(line), "kept": line.kept} for line in lines] for name, lines in found.items()},
        }, indent=1))
    print("all kept" if not missed else f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
