"""What a compiled model costs besides time: memory, also shared between processes; first answer; evenness; company.

    python -m benchmarks.costs MODEL.onnx [...] [--json FILE [--add]] [--artifacts FOLDER] [--first | --sizes]

| what | wanted |
|---|---|
| compile, without tuning | 8 s resnet50, 12 s BERT-base |
| the compiler's memory | 2.5 x the model file + 300 MB |
| artifact | 1.05 x the model's weights + 0.6 MB |
| workspace | 5 % above the most bytes alive at any step |
| resident memory, over that of a process without the model; at its peak too | packed weights + workspace + 15 MB |
| what a second process adds | workspace + 15 MB: the weights are shared |
| threads where the process may use one core | 1 |
| load and first answer | a tenth of ONNX Runtime's session and first run |
| of it beyond one run | the same: all that counts where one run alone takes longer than that |
| jitter (p99 / p50), one thread; that of a loop without memory shows what the machine adds | 1.2 |
| two threads, in turns with one; that of a loop without memory shows what the machine has | 1.8 times faster |
| two threads beside a busy core | 2.2 times slower |

First answers are medians of several processes that take turns with ONNX Runtime's, on one thread each and on all cores
each; numpy has no threads of its own in any of them. The last three need a quiet machine: they are shown beside what is
wanted and not counted. Exit status: 0 all others kept, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budgets import Line, artifact_line, compile_cost, compile_lines
from benchmarks.probes import FIRST, MEMORY, PLAN, RUNTIME_FIRST, THREADS, TIMES, TURNS, probe, together

SPIN = "while True: pass"
NOISY = "noise counts"           # these are about the machine's other work too


def memory(artifact: Path, weights: float, workspace: float) -> list[Line]:
    """Megabytes that one process holds because of the model, and those of a second one's own; without inputs and
    outputs, which are the caller's."""
    before, after = together(MEMORY, artifact)

    def own(row: dict[str, float]) -> float:
        return row["Private_Clean"] + row["Private_Dirty"]

    whole, arrays = weights + workspace + 15, after[0]["Callers"]
    return [Line("resident memory", after[0]["Rss"] - before[0]["Rss"] - arrays, whole, "MB"),
            Line("at its peak", after[0]["Peak"] - before[0]["Rss"] - arrays, whole, "MB"),
            Line("a second process", own(after[1]) - own(before[1]) - arrays, workspace + 15, "MB")]


def first_answers(model: Path, artifact: Path, threads: int, processes: int) -> list[Line]:
    """From a file to an answer, medians. `threads`: 0 for all cores."""
    ours, theirs = [], []
    for _ in range(processes):
        ours.append(probe(FIRST, artifact, threads))
        theirs.append(probe(RUNTIME_FIRST, model, artifact, threads)["first"])
    first, run = (statistics.median(row[key] for row in ours) * 1e3 for key in ("first", "run"))
    limit = statistics.median(theirs) * 1e3 / 10
    where = "" if threads else ", all cores"
    return [Line(f"load and first answer{where}", first, limit, "ms", "less than one run" if run > limit else ""),
            Line(f"of it beyond one run{where}", first - run, limit, "ms")]


def timing(artifact: Path, seconds: float) -> list[Line]:
    """How even runs are, what a second thread brings, and what it costs to share a core with others."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    one = probe(TIMES, artifact, 1, seconds, cores[-1])
    lines = [Line("one run", one["p50"] * 1e3, None, "ms"), Line("jitter", one["p99"] / one["p50"], 1.2, "x", NOISY),
             Line("jitter of the C call", one["c99"] / one["c50"], 1.2, "x", NOISY),
             Line("jitter of a loop in registers", one["machine"], None, "x")]
    if len(cores) < 2:
        return lines
    names = ",".join(map(str, cores))
    two = probe(TIMES, artifact, 2, seconds, names)
    neighbour = subprocess.Popen(["taskset", "-c", str(cores[0]), sys.executable, "-c", SPIN])
    try:
        busy = probe(TIMES, artifact, 2, seconds, names)
    finally:
        neighbour.kill()
        neighbour.wait()
    turns = probe(TURNS, artifact, 2 * seconds, names)
    return [*lines, Line("two threads", turns["gain"], 1.8, "x", NOISY, least=True),
            Line("two threads of a loop in registers", turns["machine"], None, "x"),
            Line("beside a busy core", busy["p50"] / two["p50"], 2.2, "x", NOISY)]


def compiled(model: Path, folder: Path, target: str) -> tuple[Path, dict[str, float]]:
    """The artifact and what is known of it, made unless the folder has both."""
    artifact, told = folder / f"{model.stem}.so", folder / f"{model.stem}.json"
    if not (artifact.is_file() and told.is_file()):
        seconds, peak = compile_cost(str(model), artifact, ("--target", target))
        told.write_text(json.dumps({**probe(PLAN, model, target), "seconds": seconds, "peak": peak}))
    facts: dict[str, float] = json.loads(told.read_text())
    return artifact, facts


def costs(model: Path, folder: Path, options: argparse.Namespace) -> list[Line]:
    artifact, facts = compiled(model, folder, options.target)
    if options.compile:
        return []
    packed, workspace = facts["packed"] / 1e6, facts["workspace"] / 1e6
    return [
        *([] if options.sizes else compile_lines(model.stem, model.stat().st_size, facts["seconds"], facts["peak"])),
        artifact_line(artifact, facts["weights"]),
        Line("workspace", workspace, 1.05 * facts["least"] / 1e6 + 0.001, "MB"),
        *memory(artifact, packed, workspace),
        Line("threads on one core", probe(THREADS, artifact)["threads"], 1, ""),
        *([] if options.sizes else first_answers(model, artifact, 1, options.processes)),
        *([] if options.sizes else first_answers(model, artifact, 0, options.processes)),
        *([] if options.sizes or options.first else timing(artifact, options.seconds)),
    ]


def report(folder: Path, options: argparse.Namespace) -> int:
    """All lines, printed and recorded as they come; how many were missed."""
    record: dict[str, Any] = {"kind": "costs", "date": time.strftime("%Y-%m-%d"), "machine": platform.machine(),
                              "load": os.getloadavg()[0], "processes": options.processes, "costs": {}}
    if options.json and options.add and options.json.is_file():
        record["costs"] = json.loads(options.json.read_text())["costs"]
    missed = 0
    for model in options.models:
        print(model.stem, flush=True)
        lines = costs(model, folder, options)
        print("\n".join(map(str, lines)), flush=True)
        missed += sum(not line.kept for line in lines)
        record["costs"][model.stem] = [{**asdict(line), "reached": line.reached, "kept": line.kept} for line in lines]
        if options.json and lines:
            options.json.write_text(json.dumps(record, indent=1))
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx", help="with inputs of known sizes")
    parser.add_argument("--target", default="native")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each timing (default: 1)")
    parser.add_argument("--processes", type=int, default=5, help="for each first answer (default: 5)")
    parser.add_argument("--first", action="store_true", help="leave out what takes --seconds")
    parser.add_argument("--sizes", action="store_true", help="only what other load on the machine does not change")
    parser.add_argument("--compile", action="store_true", help="only make what --artifacts lacks")
    parser.add_argument("--artifacts", type=Path, help="folder where compiled models stay for the next time")
    parser.add_argument("--json", type=Path, help="write the figures to this file, for benchmarks.performance")
    parser.add_argument("--add", action="store_true", help="to those of other models that it holds")
    options = parser.parse_args()
    if lost := [str(model) for model in options.models if not model.is_file()]:
        parser.error(f"no file {', '.join(lost)}")
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as passing:
        folder = options.artifacts or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            missed = report(folder, options)
        except RuntimeError as error:  # of a process of its own, which has said why
            raise SystemExit(f"costs: {error}") from None
    print("all kept" if not missed else f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
