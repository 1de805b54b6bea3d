"""`search`: which layers to compress and how, so that the model gets faster or smaller and stays within a budget.

A study of trials, each a recipe that is compiled, judged on one half of the data and timed; the best that is within
the budget is judged again on the other half, which no trial saw. What fails there is not given out."""
from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lepton.artifact import Model
from lepton.compress.data import Run
from lepton.compress.metrics import WORST, Budget, Metric, NoNumberError, answers, metric_of
from lepton.compress.observe import Tell, silent
from lepton.compress.prepare import LAYERS, NO_LAYERS, prepare
from lepton.compress.quantize import Calibration, Recipe
from lepton.compress.sensitivity import Damage, damages
from lepton.driver import Options, Source, lower, run_here
from lepton.ir.core import Graph
from lepton.ir.diagnostics import Exit, LeptonError, UsageError
from lepton.ir.printer import show
from lepton.passes.compress.layers import layers
from lepton.passes.compress.quantize_recurrent import recurrences

if TYPE_CHECKING:
    from lepton.compress.study import Study

Objective = Literal["latency", "size", "both"]
Method = Literal["tpe", "random", "grid"]
CALIBRATE = 64       # runs at most that calibration looks at
SECONDS = 0.6        # that timing one candidate may take


class BudgetError(LeptonError):
    """No point is within the budget."""

    exit = Exit.WRONG


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    budget: Budget
    objective: Objective = "latency"
    method: Method = "tpe"
    trials: int = 24
    seconds: float = 600.0
    study: str = ""                      # file that remembers the trials; "": none
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)
    target: str = "native"
    level: int = 2
    threads: int = 1

    def checked(self) -> Plan:
        """Itself. Raises UsageError."""
        if self.objective not in get_args(Objective) or self.method not in get_args(Method):
            raise UsageError(f"objective {self.objective!r} by {self.method!r}",
                             help=f"objectives {get_args(Objective)}, methods {get_args(Method)}")
        if self.trials < 1 or not self.seconds > 0:
            raise UsageError("a search needs at least one trial and some time")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed {self.seed}; it must fit 32 bits without a sign")
        return self

    @property
    def options(self) -> dict[str, Any]:
        return {"target": self.target, "level": self.level, "threads": self.threads}


@dataclass(frozen=True)
class Point:
    """One recipe and what it came to; `speedup` and `shrink` are the uncompressed model's figure over this one's."""

    recipe: Recipe
    score: float
    milliseconds: float
    weights: int
    speedup: float
    shrink: float

    def value(self, objective: Objective) -> float:
        """What is minimised."""
        cost = {"latency": 1 / self.speedup, "size": 1 / self.shrink,
                "both": 1 / math.sqrt(self.speedup * self.shrink)}
        return cost[objective]


@dataclass(frozen=True)
class Result:
    """The best point, rebuilt and certified, and all that was found on the way."""

    graph: Graph
    best: Point
    report: dict[str, Any]


def search(model: Source, data: Any, metric: str | Callable[..., float], budget: str, *, progress: Tell = silent,
           **plan: Any) -> Result:
    """The best recipe within the budget, as a graph to compile. `plan`: fields of `Plan`.

    Raises BudgetError where no recipe is within the budget on data that the search has not seen, LeptonError."""
    made = Plan(Budget.of(budget), **plan).checked()
    return Search(model, data, metric_of(metric), made, progress).run()


class Search:
    """One search under way."""

    def __init__(self, model: Source, data: Any, metric: Metric, plan: Plan, tell: Tell = silent) -> None:
        self.metric, self.plan, self.tell, self.started = metric, plan, tell, time.monotonic()
        self.calibration = Calibration.of(prepare(model, dims=dict(plan.dims)), data, tell)
        if not self.layer_facts():
            raise UsageError(NO_LAYERS, help=LAYERS)
        runs = list(self.calibration.runs)
        if len(runs) < 2:
            raise UsageError("the data set is one run; a search needs two",
                             help="half of the data certifies what was chosen by the other half")
        self.seen, self.unseen = runs[::2], runs[1::2]
        self.calibration.runs = self.seen[:CALIBRATE]
        tell("compiling the uncompressed model")
        self.float_model, self.float_weights = self.compiled(self.calibration.graph)
        self.reference = {id(r): a for some in (self.seen, self.unseen)
                          for r, a in zip(some, answers(self.float_model, some), strict=True)}
        self.baseline = self.score(self.float_model, self.seen)
        self.points: dict[int, Point] = {}

    # --- measuring --------------------------------------------------------------------------------

    def compiled(self, graph: Graph) -> tuple[Model, int]:
        """The model here, and the bytes of its weights."""
        options = Options.of(self.plan.options)
        done = lower(graph, options)
        weights = int(next(iter(done.report.targets.values()))["weights"])
        return run_here(done, options), weights

    def score(self, model: Model, runs: Sequence[Run]) -> float:
        if model is not self.float_model:
            return self.judged(answers(model, runs), runs)
        want = self.reference_of(runs)
        return self.metric(want, want, [r.labels for r in runs])

    def judged(self, got: Sequence[dict[str, Any]], runs: Sequence[Run]) -> float:
        """The score of a point's answers; WORST where the metric finds none: the search goes on without that point."""
        try:
            return self.metric(got, self.reference_of(runs), [r.labels for r in runs])
        except NoNumberError:
            return WORST

    def reference_of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        return [self.reference[id(r)] for r in runs]

    def milliseconds(self, model: Model) -> tuple[float, float]:
        """(the model's, the uncompressed model's) median time of a run, measured in turns. On one thread processor
        time: where others want the processor too, waiting for it would count against the longer runs only."""
        feeds, clock = self.seen[0].feeds, time.process_time if self.plan.threads == 1 else time.perf_counter
        times: tuple[list[float], list[float]] = ([], [])
        end = time.monotonic() + SECONDS
        while len(times[0]) < 5 or (time.monotonic() < end and len(times[0]) < 400):
            for which, one in enumerate((model, self.float_model)):
                start = clock()
                one.run_ports(feeds)
                times[which].append(1e3 * (clock() - start))
        return median(times[0][1:]), median(times[1][1:])

    def point(self, recipe: Recipe) -> Point:
        """Build and measure a recipe. Raises LeptonError."""
        model, weights = self.compiled(self.calibration.quantize(recipe))
        mine, theirs = self.milliseconds(model)
        return Point(recipe, self.score(model, self.seen), mine, weights, theirs / mine,
                     max(self.float_weights, 1) / max(weights, 1))

    # --- the search -------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Of what makes the trials of two searches comparable."""
        state = hashlib.sha256(show(self.calibration.graph).encode())
        for run in (*self.seen, *self.unseen):
            for array in (*run.feeds.values(), *(() if run.labels is None else (run.labels,))):
                state.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array).encode())
        plan = self.plan
        words = [self.metric.name, self.metric.source, plan.objective, plan.target, plan.level, plan.threads]
        state.update(json.dumps(words).encode())
        return state.hexdigest()[:16]

    def left(self) -> float:
        return self.plan.seconds - (time.monotonic() - self.started)

    def run(self) -> Result:
        """Raises BudgetError, LeptonError."""
        from lepton.compress.study import Study

        with Study.open(self) as study:
            return self.found(study)

    def found(self, study: Study) -> Result:
        """Try, and certify what is best. Raises BudgetError, LeptonError."""
        least = self.plan.budget.least(self.baseline)
        sensitivity = study.remembered("sensitivity", lambda: [asdict(d) for d in damages(self, self.left() / 4)])
        ranked = [Damage(**d) for d in sensitivity]
        study.run(ranked, least)
        better = [p for p in study.points if p.value(self.plan.objective) < 1]  # else the model itself is the best
        inside = sorted((p for p in better if p.score >= least), key=lambda p: p.value(self.plan.objective))
        tried: list[dict[str, Any]] = []
        unseen = self.score(self.float_model, self.unseen)
        for point in inside:
            self.tell("certifying on data not used in the search")
            graph = self.calibration.quantize(point.recipe)
            score = self.score(self.compiled(graph)[0], self.unseen)
            tried.append({"recipe": asdict(point.recipe), "score": score})
            if score >= self.plan.budget.least(unseen):
                report = self.report(point, score, unseen, ranked, study.points, tried[:-1])
                graph.metadata["compression"] = json.dumps(report, sort_keys=True)
                return Result(graph, point, report)
        raise self.missed(study.points, len(better), len(tried), least)

    def missed(self, points: Sequence[Point], better: int, tried: int, least: float) -> BudgetError:
        """What to say where no point is left."""
        best = max((p.score for p in points), default=math.nan)
        more = f"; {tried} were within it only on the data of the search" if tried else ""
        return BudgetError(
            f"no point within the budget {self.plan.budget.text}: {self.metric.name} is {self.baseline:.6g} "
            f"uncompressed, must be {least:.6g}, the best of {len(points)} points has {best:.6g}; {better} "
            f"of them gain in {self.plan.objective}{more}",
            help="a wider --budget, or more --trials; what was tried with --study FILE need not be tried again")

    def report(self, best: Point, certified: float, unseen: float, ranked: Sequence[Damage], points: Sequence[Point],
               refused: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What was done and what it came to, as the artifact carries it."""
        kept = {d.layer for d in ranked} if best.recipe.kind == "float" else set(best.recipe.skip)
        table = [{**asdict(d), "kept in f32": d.layer in kept, "wide": d.layer in best.recipe.wide} for d in ranked]
        return {
            "metric": self.metric.name, "budget": self.plan.budget.text, "objective": self.plan.objective,
            "recipe": {k: v for k, v in asdict(best.recipe).items()},
            "score": {"search": {"before": self.baseline, "after": best.score, "runs": len(self.seen)},
                      "held out": {"before": unseen, "after": certified, "runs": len(self.unseen)}},
            "milliseconds": {"before": best.milliseconds * best.speedup, "after": best.milliseconds},
            "weights": {"before": self.float_weights, "after": best.weights}, "layers": table,
            "samples": sum(run.samples for run in (*self.seen, *self.unseen)),
            "labelled": all(run.labels is not None for run in (*self.seen, *self.unseen)),
            "plain int8": self.plain(points), "trials": len(points),
            "pareto": [_row(p) for p in pareto(points)], "refused": list(refused)}

    def plain(self, points: Sequence[Point]) -> dict[str, Any] | None:
        """What int8 of all layers came to, if it was tried."""
        found = next((p for p in points if p.recipe == Recipe()), None)
        return None if found is None else {"score": found.score, "speedup": found.speedup, "shrink": found.shrink,
                                           "within": found.score >= self.plan.budget.least(self.baseline)}

    def layer_facts(self) -> dict[str, tuple[bool, int]]:
        """By layer: whether it is depthwise, and how many numbers each output sums over."""
        found = layers(self.calibration.graph, with_activations=True)
        return {**{x.name: (x.groups > 1, x.weight[0].size if x.is_conv else
                            int(x.weight.shape[-2]) if x.w is not None else 0) for x in found},
                **{x.name: (False, x.width) for x in recurrences(self.calibration.graph)}}


def _row(point: Point) -> dict[str, Any]:
    return {"score": point.score, "speedup": point.speedup, "shrink": point.shrink,
            "recipe": asdict(replace(point.recipe, skip=(), wide=(), whole=())), "kept in f32": len(point.recipe.skip),
            "wide": len(point.recipe.wide)}


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in score, speed and size at once, fastest first."""
    def beaten(p: Point) -> bool:
        return any(q.score >= p.score and q.speedup >= p.speedup and q.shrink >= p.shrink
                   and (q.score, q.speedup, q.shrink) != (p.score, p.speedup, p.shrink) for q in points)

    return sorted((p for p in points if not beaten(p)), key=lambda p: -p.speedup)
