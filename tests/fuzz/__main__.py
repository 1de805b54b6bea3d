"""Random programs, compiled in several ways and compared with what they mean.

    python -m tests.fuzz --programs 5000 --seed 1       # programs of graph IR, against the interpreter
    python -m tests.fuzz --models 5000 --seed 1         # ONNX models, against ONNX Runtime
    python -m tests.fuzz --layers 1000 --seed 1         # networks of layers, compressed
    python -m tests.fuzz --replay 17                    # one of them again, made small if it fails
    python -m tests.fuzz --cuda --programs 200          # for GPUs, on the simulator

Each runs in a process of its own. Exit status: 0 nothing unexplained, 1 mismatches, errors or crashes.
"""
from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from tests.conformance.adapters import warm
from tests.conformance.isolate import Outcome, run_isolated
from tests.fuzz import models, running
from tests.fuzz.layered import layered_program
from tests.fuzz.minimise import minimise
from tests.fuzz.programs import Program, random_program

BATCH = 256


@dataclass
class Tally:
    """How the programs ended."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[int, Outcome]] = field(default_factory=list)


def one_program(forms: int, seed: int, targets: Sequence[str] = running.HERE,
                make: Callable[[int], Program] = random_program) -> None:
    """Check the program of this seed. Raises what goes wrong."""
    warnings.simplefilter("ignore")  # numpy's, about NaN and the like
    running.check(make(seed), running.forms(seed, forms, targets))


def ended(seeds: range, one: Callable[[int], None], jobs: int, deadline: float) -> Iterator[tuple[int, Outcome]]:
    """(seed, outcome), until the deadline; how far it got goes to stderr."""
    warm()
    rest = iter(seeds)
    while time.monotonic() < deadline and (batch := list(islice(rest, BATCH))):
        for index, outcome in run_isolated([partial(one, seed) for seed in batch], jobs, 120):
            yield batch[index], outcome
        print(f"… {batch[-1] - seeds[0] + 1} of {len(seeds)}", file=sys.stderr, flush=True)


def sweep(seeds: range, one: Callable[[int], None], jobs: int, minutes: float) -> Tally:
    """Run them all; print what fails as it fails."""
    tally = Tally()
    start = time.monotonic()
    for seed, outcome in ended(seeds, one, jobs, start + 60 * minutes):
        status = outcome.status
        if status == "UNSUPPORTED" and outcome.detail.startswith(models.EXPLAINED):
            status = "EXPLAINED"
            tally.explained[outcome.detail[len(models.EXPLAINED):]] += 1
        elif status == "UNSUPPORTED":
            tally.refusals[outcome.detail[:90]] += 1
        elif status != "PASS":
            tally.failed.append((seed, outcome))
            print(f"{seed}: {status} {outcome.detail}", flush=True)
        tally.counts[status] += 1
    seconds = time.monotonic() - start
    print(f"{tally.counts.total()} programs in {seconds:.0f} s: "
          + ", ".join(f"{status} {n}" for status, n in tally.counts.most_common()))
    return tally


def replay(seed: int, forms: int, targets: Sequence[str], make: Callable[[int], Program] = random_program) -> int:
    """Run one program again; where it fails, print the smallest program found that fails the same way."""
    program, ways = make(seed), running.forms(seed, forms, targets)
    outcome = isolated(program, ways)
    if outcome.status == "PASS":
        print(f"{running.text(program)}\npasses")
        return 0
    print(f"{outcome.status} {outcome.detail}\n", flush=True)
    if outcome.status == "UNSUPPORTED":
        return 0
    guilty = [w for w in ways if isolated(program, [w]).status == outcome.status][:1] or ways
    small = minimise(program, lambda p: isolated(p, guilty).status == outcome.status)
    again = isolated(small, guilty)
    print(f"{running.text(small)}\n// {again.status} {again.detail}\n// python -m tests.fuzz --replay {seed}")
    return 1


def isolated(program: Program, ways: list[running.Form]) -> Outcome:
    """How the check of this program ends, in a child."""
    warnings.simplefilter("ignore")
    return next(outcome for _, outcome in run_isolated([partial(running.check, program, ways)], 1, 60))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=0, help="how many programs of graph IR")
    parser.add_argument("--models", type=int, default=0, help="how many ONNX models")
    parser.add_argument("--layers", type=int, default=0, help="how many networks of layers, compressed")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow (default: 0)")
    parser.add_argument("--forms", type=int, default=3, help="ways to compile each (default: 3)")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="programs at a time")
    parser.add_argument("--cuda", action="store_true", help="for GPUs, on the simulator; needs g++")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one program again, made small")
    parser.add_argument("--replay-model", type=int, metavar="SEED", help="one ONNX model again, printed")
    parser.add_argument("--replay-layers", type=int, metavar="SEED", help="one network of layers again, made small")
    return parser.parse_args()


def main() -> int:
    options = parse()
    targets = running.GPUS if options.cuda else running.HERE
    if options.cuda:
        running.on_simulator()
    if options.replay is not None:
        return replay(options.replay, options.forms, targets)
    if options.replay_model is not None:
        return models.replay(options.replay_model, targets)
    if options.replay_layers is not None:
        return replay(options.replay_layers, options.forms, targets, layered_program)
    failed = 0
    for count, one in ((options.programs, partial(one_program, options.forms, targets=targets)),
                       (options.models, partial(models.one_model, targets=targets)),
                       (options.layers, partial(one_program, options.forms, targets=targets, make=layered_program))):
        if count:
            tally = sweep(range(options.seed, options.seed + count), one, options.jobs, options.minutes)
            for title, counts in (("refused", tally.refusals), ("explained", tally.explained)):
                for reason, n in counts.most_common(20):
                    print(f"  {title} {n:5}  {reason}")
            failed += len(tally.failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
