"""The schedules that come with Lepton: what tuning finds for these models, measured again before it counts.

    python -m benchmarks.kernels.defaults MODEL.onnx [...] --cache FILE [--time SECONDS]

Tunes each model for so many seconds (0: only what the cache knows), has every schedule that beat the cost model's run
against it once more, and writes those that save 4 % both by the least time and by the median to
lepton/tuning/defaults.jsonl, beside what is there for other kernels. On a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import lepton.tuning
from lepton.codegen.group import LowerOptions
from lepton.codegen.schedule import Schedule
from lepton.codegen.target import native
from lepton.driver import Options, checked, optimise, pipelines
from lepton.ir.core import Graph
from lepton.tuning.cache import HEADER, Cache, Row, defaults
from lepton.tuning.search import Job, jobs, tune
from lepton.tuning.trial import Compiled, Memory, processor_time

FILE = Path(lepton.tuning.__file__).with_name("defaults.jsonl")
SAMPLES = 40
SAVED = 0.04


def optimised(model: str) -> Graph:
    options = Options.of({"level": 3})
    return optimise(checked(model, options), pipelines((native(),), options)[0], options)


def ratio(job: Job, row: Row, weights: int) -> tuple[float, float, float]:
    """(the row's time over the model's, the worse of least and median; the least of each)."""
    memory = Memory(job.choice.group.accesses, weights)
    ours, theirs = (Compiled(job.kernel(s), native(), memory, 0, processor_time)
                    for s in (Schedule.parse(row.schedule), job.choice.model()))
    pairs = [(ours.seconds(), theirs.seconds()) for _ in range(SAMPLES)]
    mine, other = (min(column) for column in zip(*pairs, strict=True))
    return max(mine / other, median(a / b for a, b in pairs)), mine, other


def confirmed(graph: Graph, cache: Cache) -> Iterator[Row]:
    """The rows of this graph's kernels that win again."""
    known = cache.here(native().name, 0)
    found, _, weights = jobs(graph, LowerOptions(native()))
    for job in found:
        row, model = known.get(job.choice.key), str(job.choice.model())
        if row is None or row.schedule == model or not job.choice.legal(Schedule.parse(row.schedule)):
            continue
        share, mine, other = ratio(job, row, weights)
        print(f"  {share:.3f}  {other * 1e6:8.1f} us  {model} -> {row.schedule}  {job.choice.key[:60]}", flush=True)
        if share <= 1 - SAVED:
            yield replace(row, model=model, seconds=mine, model_seconds=other)


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--time", type=float, default=60.0, help="seconds of tuning for each model")
    args = parser.parse_args(argv)
    rows = {(r.target, r.kernel): r for r in defaults()}
    for model in args.models:
        print(os.path.basename(model), flush=True)
        graph, cache = optimised(model), Cache.open(args.cache)
        tune(graph, LowerOptions(native()), 0, cache, args.time)
        rows |= {(r.target, r.kernel): r for r in confirmed(graph, cache)}
    lines = [json.dumps(HEADER), *(json.dumps(asdict(rows[key])) for key in sorted(rows))]
    FILE.write_text("\n".join(lines) + "\n")
    print(f"{FILE}: {len(rows)} schedules")


if __name__ == "__main__":
    main()
