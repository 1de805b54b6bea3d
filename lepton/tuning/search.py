"""Which kernels a model has to tune, and the race between the candidates for each."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Protocol

from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.group import LowerOptions, lowering_of
from lepton.codegen.kernel import Kernel
from lepton.codegen.plan import plan
from lepton.codegen.schedule import Choice, Schedule
from lepton.ir.core import Graph
from lepton.tuning.cache import Cache, Row, compiler, cpu
from lepton.tuning.trial import Compiled, Memory, processor_time

ROUNDS = (3, 4, 6)             # samples of each candidate before the next are dropped
KEPT = (1.25, 1.08, 1.03)      # of the least time: what stays in the race after each
DUEL = 12                      # samples of the winner and the cost model's, in turns
GAIN = 0.02                    # what a winner must save: less is noise, and the cost model's is taken


class Trial(Protocol):
    """A candidate that can be measured again and again."""

    def seconds(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Job:
    """A distinct kernel of a program, `count` times in it."""

    choice: Choice
    count: int
    flops: int
    options: LowerOptions
    made: dict[Schedule, Kernel] = field(default_factory=dict)

    def kernel(self, schedule: Schedule) -> Kernel:
        """The kernel cut so. It is kept: packing weights takes time."""
        if schedule not in self.made:
            self.made[schedule] = self._lower(schedule)
        return self.made[schedule]

    def _lower(self, schedule: Schedule) -> Kernel:
        def choose(choice: Choice) -> Schedule:
            return schedule if choice.key == self.choice.key else choice.model()

        anchor = self.choice.group.anchor
        lowering = lowering_of(anchor.op if anchor is not None else None, self.options.target)
        assert lowering is not None
        return lowering(self.choice.group, replace(self.options, choose=choose))


@dataclass
class Report:
    """What tuning did for one program."""

    kernels: int = 0               # distinct ones that have schedules
    open: int = 0                  # more, whose sizes are open: the cost model decides
    known: int = 0                 # of the distinct ones, found in the cache
    measured: int = 0
    candidates: int = 0
    changed: int = 0               # kernels, known or measured, where another than the cost model's is faster
    seconds: float = 0.0
    model_seconds: float = 0.0     # of a run, in the kernels known or measured: as the cost model would have them
    tuned_seconds: float = 0.0     # and as they are now
    damaged: int = 0               # lines of the cache that could not be read

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def jobs(graph: Graph, options: LowerOptions) -> tuple[list[Job], int, int]:
    """What there is to tune, the most work first; how many kernels have open sizes; bytes of weights."""
    found: dict[str, list[Choice]] = {}
    unknown = 0

    def record(choice: Choice) -> Schedule:
        nonlocal unknown
        if choice.key:
            found.setdefault(choice.key, []).append(choice)
        else:
            unknown += 1
        return choice.model()

    program = plan(graph, replace(options, choose=record))
    weights = sum(b.size for b in program.buffers if b.data is not None and isinstance(b.size, int))
    made = []
    for choices in found.values():
        job = Job(choices[0], len(choices), 0, options)
        flops = job.kernel(choices[0].model()).flops
        job.made.clear()
        made.append(replace(job, flops=flops if isinstance(flops, int) else 0))
    return sorted(made, key=lambda j: -j.flops * j.count), unknown, weights


def tune(graph: Graph, options: LowerOptions, threads: int, cache: Cache, seconds: float,
         progress: Callable[[str], None] | None = None) -> Report:
    """Measure what the cache does not know, for so many seconds; it is written after each kernel, so that an interrupt
    loses one. `threads`: of a run; 0 where that is not known."""
    found, unknown, weights = jobs(graph, options)
    report = Report(len(found), unknown, damaged=cache.damaged)
    start = time.perf_counter()
    for number, job in enumerate(found):
        row = cache.here(options.target.name, threads).get(job.choice.key)
        if row is not None:
            report.known += 1
        elif time.perf_counter() - start < seconds:
            if progress is not None:
                progress(f"tuning kernel {number + 1} of {len(found)}")
            if not report.measured:
                cache.save()  # where that cannot be done, it is said before time is spent
            row = _measured(job, threads, weights, start + seconds)
            cache.rows[row.place] = row
            cache.save()
            report.measured += 1
            report.candidates += row.tried
        if row is not None:
            report.changed += row.schedule != row.model
            report.model_seconds += row.model_seconds * job.count
            report.tuned_seconds += row.seconds * job.count
    report.seconds = time.perf_counter() - start
    return report


def _measured(job: Job, threads: int, weights: int, deadline: float) -> Row:
    memory = Memory(job.choice.group.accesses, weights)
    target = job.options.target

    def trial(schedule: Schedule) -> Trial:
        return Compiled(job.kernel(schedule), target, memory, threads, processor_time)

    best = search(job, trial, threads, lambda: time.perf_counter() > deadline)
    job.made.clear()
    return Row(cpu(), compiler(), target.name, threads, job.choice.key, str(best.schedule), best.seconds,
               str(job.choice.model()), best.model_seconds, best.tried)


@dataclass(frozen=True)
class Found:
    """The outcome of a race. Seconds are the least of each in the last duel."""

    schedule: Schedule
    seconds: float
    model_seconds: float
    tried: int


def search(job: Job, trial: Callable[[Schedule], Trial], threads: int, late: Callable[[], bool]) -> Found:
    """Race tiles with their best blocks, then blocks for the best tile, then the best against the cost model's."""
    model = job.choice.model()
    trials: dict[Schedule, Trial] = {}

    def heat(entrants: Sequence[Schedule]) -> list[Schedule]:
        allowed = [s for s in dict.fromkeys(entrants) if _allowed(job, s, model, threads)]
        for schedule in allowed:
            if schedule not in trials and not (late() and trials):
                trials[schedule] = trial(schedule)
        return race([s for s in allowed if s in trials], trials, late)

    ahead = heat([model, *job.choice.others()])
    ahead = heat([*ahead, *job.choice.around(ahead[0])])
    best = next((s for s in ahead if s != model), None)
    found = duel(model, best, trials)
    if found.schedule == model:
        return found
    # Where code and pages happen to lie is luck, and lasts as long as they do: it must win with fresh ones as well.
    again = duel(model, best, {s: trial(s) for s in (model, found.schedule)})
    return replace(again, tried=found.tried)


def _allowed(job: Job, schedule: Schedule, model: Schedule, threads: int) -> bool:
    """Whether code can be made, and where the number of threads is not known, for as many of them as before."""
    if schedule == model:
        return True
    if not job.choice.legal(schedule):
        return False
    if threads:
        return True
    now, before = job.kernel(schedule).tasks, job.kernel(model).tasks
    return isinstance(now, int) and isinstance(before, int) and now >= before


def race(entrants: Sequence[Schedule], trials: dict[Schedule, Trial], late: Callable[[], bool]) -> list[Schedule]:
    """The fastest first. Samples are taken in turns, and who falls behind drops out."""
    least = dict.fromkeys(entrants, float("inf"))
    racing = list(entrants)
    for rounds, kept in zip(ROUNDS, KEPT, strict=True):
        for _ in range(rounds):
            for schedule in racing:
                least[schedule] = min(least[schedule], trials[schedule].seconds())
        limit = kept * min(least[s] for s in racing)
        racing = [s for s in racing if least[s] <= limit]
        if late():
            break
    return sorted(racing, key=lambda s: (least[s], entrants.index(s)))


def duel(model: Schedule, best: Schedule | None, trials: dict[Schedule, Trial]) -> Found:
    """Whether the best really is faster than what the cost model takes: by its least time and by the median."""
    ours, theirs = [], []
    for _ in range(DUEL):
        theirs.append(trials[model].seconds())
        if best is not None:
            ours.append(trials[best].seconds())
    if best is not None:
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        if max(ratio, min(ours) / min(theirs)) < 1 - GAIN:
            return Found(best, min(ours), min(theirs), len(trials))
    return Found(model, min(theirs), min(theirs), len(trials))
