"""What `lepton compress` finds within ten minutes: `python -m benchmarks.compression.search [TASK ...]`.

Each task's model, with the data that calibrates and chooses (`tasks.py`), goes through the command as a user types it.
The artifact that comes out then answers the task's test data, which the search never saw. Scores are by what the task
is for (letters read, files named), or by `--metric`. Exit status 1: a task has no point within its budget that is
faster or smaller than plain int8, or one that is outside the budget on the test data."""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import lepton
from benchmarks.compression.quantise import ratio
from benchmarks.compression.tasks import TASKS, Part, Task
from lepton.compress.data import LABELS
from lepton.compress.metrics import answers, metric_of
from lepton.compressed import exceptions, told
from lepton.tool import main as lepton_main

SEARCHED = ("PP-OCR recogniser", "Magika")
TRIALS = 1000     # more than there is time for


@dataclass(frozen=True)
class Row:
    """What one search came to: (before, after) on the task's test data; minutes of processor time."""

    task: str
    report: dict[str, Any]
    runs: int
    metric: str
    score: tuple[float, float]
    faster: float
    smaller: float
    within: bool
    minutes: float

    @property
    def gains(self) -> bool:
        """On plain int8, as the search measured both: in speed or size, or because that is outside the budget."""
        plain, ms = self.report["plain int8"], self.report["milliseconds"]
        return not plain["within"] or ms["before"] / ms["after"] > plain["speedup"] or self.smaller > plain["shrink"]


def save(part: Part, folder: Path) -> None:
    """The model, and the data of the search as a folder of runs."""
    onnx.save(part.model, folder / "model.onnx")
    (folder / "data").mkdir()
    for i, run in enumerate((*part.calibration, *part.choice)):
        named: dict[str, Any] = {**run.feeds, **({} if run.labels is None else {LABELS: run.labels})}
        np.savez(folder / "data" / f"{i:04}.npz", **named)


def search(task: Task, options: argparse.Namespace) -> Row | None:
    """None: no point within the budget, as the command says itself."""
    part = next(iter(task.parts()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(part, folder)
        out = folder / "model.so"
        words = ["compress", str(folder / "model.onnx"), "--data", str(folder / "data"), "--metric",
                 options.metric or task.searched, "--budget", options.budget, "--objective", options.objective,
                 "--time", str(options.time), "--trials", str(TRIALS), "-o", str(out)]
        start = time.process_time()
        if lepton_main(words) != 0:
            return None
        return judge(task, part, lepton.load(out), options, (time.process_time() - start) / 60)


def judge(task: Task, part: Part, small: lepton.Model, options: argparse.Namespace, minutes: float) -> Row:
    """By the test data."""
    report = json.loads(small.metadata["model"]["compression"])
    whole = lepton.compile(part.model)
    want, got = answers(whole, part.test), answers(small, part.test)
    labels = [run.labels for run in part.test]
    metric = metric_of(options.metric or task.searched)
    before, after = (metric(some, want, labels) for some in (want, got))
    allowed = before + float(options.budget.rstrip("%")) / 100
    weights = report["weights"]
    return Row(task.name, report, len(part.test), metric.name, (before, after),
               ratio(whole, small, part.test[0]), weights["before"] / max(weights["after"], 1), after >= allowed,
               minutes)


def table(rows: Sequence[Row]) -> str:
    lines = ["| model, metric | recipe | points | processor minutes | held out half | test data | faster | smaller | "
             "plain int8: score, faster, smaller |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for r in rows:
        held, plain = r.report["score"]["held out"], r.report["plain int8"]
        missed, lost = ("" if within else " (outside)" for within in (r.within, plain["within"]))
        recipe = r.report["recipe"]
        lines.append(
            f"| {r.task}, {Path(r.metric).stem} | {told(recipe)}{exceptions(recipe)} | {r.report['trials']} | "
            f"{r.minutes:.1f} | {held['before']:.4f} → {held['after']:.4f} | "
            f"{r.score[0]:.4f} → {r.score[1]:.4f}{missed} | {r.faster:.2f}× | {r.smaller:.2f}× | "
            f"{plain['score']:.4f}{lost}, {plain['speedup']:.2f}×, {plain['shrink']:.2f}× |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=SEARCHED, metavar="TASK", help="words of the names in tasks.py")
    parser.add_argument("--time", type=float, default=590,
                        help="seconds of each search (default 590)")
    parser.add_argument("--metric", help="as `lepton compress` takes it, in place of the task's own")
    parser.add_argument("--budget", default="-0.5%", help="how far the score may fall: -N%%")
    parser.add_argument("--objective", choices=["latency", "size", "both"], default="both")
    options = parser.parse_args()
    chosen = [t for t in TASKS if any(word.lower() in t.name.lower() for word in options.tasks)]
    if not chosen:
        parser.error(f"no task of {', '.join(options.tasks)}")
    found = [search(task, options) for task in chosen]
    rows = [row for row in found if row is not None]
    print(table(rows))
    return 0 if len(rows) == len(found) and all(row.within and row.gains for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
