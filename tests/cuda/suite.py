"""ONNX's backend tests on the fake driver and the simulator: all of CUDA but the GPU. Networks are left out: they take
hours there.

    python -m tests.cuda.suite --part 3/10               the fourth tenth
    python -m tests.cuda.suite --part 3/10 --record      and keep how its tests ended in record.txt

Exit status: 0 if nothing ended worse than in record.txt, 1 if something did.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from tests.conformance import record
from tests.conformance.adapters import find_backend
from tests.conformance.isolate import Outcome
from tests.conformance.run_modes import part_of
from tests.conformance.run_suite import run_cases
from tests.conformance.suite import Case, Suite, default_cache, open_suite

RECORD = Path(__file__).with_name("record.txt")
ENGINE = "tests.cuda.engine:prepare"
TIMEOUT_S = 120


def cases_of(suite: Suite) -> list[Case]:
    """Those that a simulator can run."""
    return [case for case in suite.cases if case.kind != "real"]


def run(suite: Suite, cases: list[Case], jobs: int) -> dict[Case, Outcome]:
    return run_cases(suite, cases, find_backend(ENGINE), jobs, TIMEOUT_S)


def known(path: Path = RECORD) -> dict[str, str]:
    """Full name -> how it ended last; nothing where nothing is recorded."""
    return record.read(path) if path.exists() else {}


def keep(suite: Suite, results: Mapping[Case, Outcome], path: Path = RECORD) -> None:
    """Put these outcomes among those that are recorded."""
    status = {**known(path), **{case.full_name: outcome.status for case, outcome in results.items()}}
    ends = {case: Outcome(status.get(case.full_name, "UNSUPPORTED"), "", 0.0) for case in cases_of(suite)}
    record.write(ends, f"{ENGINE}, onnx {onnx.__version__}", path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", metavar="K/N", default="0/1", help="every N-th test, from the K-th on (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument("--record", action="store_true", help="keep the outcomes in record.txt")
    options = parser.parse_args()
    suite, start = open_suite(default_cache()), time.monotonic()
    results = run(suite, part_of(cases_of(suite), options.part), options.jobs)
    ends = Counter(outcome.status for outcome in results.values())
    totals = "  ".join(f"{status} {n}" for status, n in sorted(ends.items()))
    print(f"part {options.part}: {len(results)} tests in {time.monotonic() - start:.0f} s: {totals}")
    for case, outcome in results.items():
        if outcome.status != "PASS":
            print(f"  {outcome.status} {case.full_name}  {outcome.detail[:200]}")
    worse = record.worse(results, known())
    print("".join(f"  worse: {line[:200]}\n" for line in worse), end="")
    if options.record:
        keep(suite, results)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
