"""What 8 bits cost trained models at what they are for: `python -m benchmarks.compression.quantise [TASK …]`.

Each model is quantised by recipes that leave more and more layers in f32, plain int8 first, until one is within the
limit on data set aside for that (which layers: those that hurt most alone, measured for the noisiest); it is judged on
data that neither calibrated nor chose. Beside it stands ONNX Runtime's static quantiser, as its documentation advises
to use it, on the same calibration data, all layers in bytes, answered by ONNX Runtime. Exit status 1: some task is
outside its limit. `--json FILE` keeps the rows."""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import lepton
from benchmarks.compression import peer
from benchmarks.compression.tasks import TASKS, Part, Task
from lepton.artifact import Model
from lepton.compress import Calibration, Recipe
from lepton.compress.data import Run
from lepton.compress.metrics import Outputs, answers
from lepton.compress.observe import silent
from lepton.compress.sensitivity import estimated
from lepton.compressed import told

SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)   # of the layers that are left in f32
ALONE = 16                             # layers at most that are tried alone


@dataclass(frozen=True)
class Row:
    """What a task came to, on its test data: in f32, with all layers in bytes, by the recipe that was chosen, and by
    ONNX Runtime's quantiser."""

    task: str
    metric: str
    runs: int
    before: float
    plain: float
    after: float
    peer: float
    within: bool
    recipe: str
    layers: int
    kept: int
    faster: float


@dataclass(frozen=True, eq=False)
class Judged:
    """A part's quantised model, and what the float one, it, plain int8 and the peer's answer on the test data."""

    recipe: Recipe
    layers: int
    got: Outputs
    want: Outputs
    plain: Outputs
    peer: Outputs
    faster: float


def recipes(hurting: Callable[[], Sequence[str]]) -> Iterator[Recipe]:
    """Plain int8, then weights rounded by what they read, then with fewer and fewer layers."""
    yield Recipe()
    yield Recipe(rounding="adaround")
    names = hurting()
    for share in SHARES:
        yield Recipe(rounding="adaround", skip=tuple(names[:max(1, round(share * len(names)))]))


def quantise(task: Task, part: Part) -> Judged:
    """By the first recipe within the task's limit on the data that chooses; the last one if none is."""
    calibration = Calibration.of(part.model, part.calibration, silent)
    whole = lepton.compile(calibration.graph)
    want = answers(whole, part.choice)
    least = task.least(task.score(want, want, part.choice))
    noisy = [damage.layer for damage in estimated(calibration)]

    def scored(recipe: Recipe) -> tuple[Model, float]:
        model = lepton.compile(calibration.quantize(recipe))
        return model, task.score(answers(model, part.choice), want, part.choice)

    def hurting() -> list[str]:
        alone = {name: scored(Recipe(only=(name,)))[1] for name in noisy[:ALONE]}
        return [*sorted(alone, key=lambda name: alone[name]), *noisy[ALONE:]]

    plain: Model | None = None
    for recipe in recipes(hurting):
        small, score = scored(recipe)
        plain = plain or small
        print(f"  {told(vars(replace(recipe, skip=())))}, {len(recipe.skip)} in f32: {score:.5f}, wanted {least:.5f}",
              file=sys.stderr)
        if score >= least:
            break
    assert plain is not None
    got, wanted, first = (answers(model, part.test) for model in (small, whole, plain))
    others = peer.answers(peer.quantised(part.model, part.calibration), part.test)
    return Judged(recipe, len(noisy), got, wanted, first, others, ratio(whole, small, part.test[0]))


def ratio(slow: Model, fast: Model, run: Run, seconds: float = 1.0) -> float:
    """Of the lower quartiles of their processor times on one thread, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times[0]) < 10:
        for which, model in enumerate((slow, fast)):
            start = time.process_time()
            model.run_ports(run.feeds)
            times[which].append(time.process_time() - start)
    low, high = (float(np.quantile(t, 0.25)) for t in reversed(times))
    return high / low


def judge(task: Task) -> Row:
    parts = list(task.parts())
    done = [quantise(task, part) for part in parts]
    tests = [part.test for part in parts]
    weights = [len(test) for test in tests]
    pairs = list(zip(done, tests, strict=True))

    def mean(which: Callable[[Judged], Outputs]) -> float:
        return float(np.average([task.score(which(d), d.want, test) for d, test in pairs], weights=weights))

    before, after = mean(lambda d: d.want), mean(lambda d: d.got)
    most = max(done, key=lambda d: len(d.recipe.skip))
    return Row(task.name, task.metric, sum(weights), before, mean(lambda d: d.plain), after, mean(lambda d: d.peer),
               after >= task.least(before) - 1e-9,
               told(vars(replace(most.recipe, skip=()))), most.layers, len(most.recipe.skip),
               float(np.median([d.faster for d in done])))


def table(rows: Sequence[Row]) -> str:
    lines = ["| task | metric | runs | f32 | ONNX Runtime's int8 | Lepton's, all layers | Lepton's, chosen | change | "
             "layers in f32 | faster | recipe |", "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"]
    for r in rows:
        missed = "" if r.within else " (missed)"
        lines.append(f"| {r.task} | {r.metric} | {r.runs} | {r.before:.4f} | {r.peer:.4f} | {r.plain:.4f} | "
                     f"{r.after:.4f} | "
                     f"{r.after - r.before:+.4f}{missed} | {r.kept} of {r.layers} | {r.faster:.2f}× | {r.recipe} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"words of {', '.join(t.name for t in TASKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows")
    options = parser.parse_args()
    chosen = [t for t in TASKS if not options.tasks or any(word.lower() in t.name.lower() for word in options.tasks)]
    if not chosen:
        parser.error(f"no task of {', '.join(options.tasks)}")
    rows = []
    for task in chosen:
        print(task.name, file=sys.stderr)
        rows.append(judge(task))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(table(rows))
    return 0 if all(row.within for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
