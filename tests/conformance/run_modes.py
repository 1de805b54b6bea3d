"""Run the ONNX backend test suite in other modes (modes.py), and say what ends worse there than in the plain run.

    python -m tests.conformance.run_modes                        all modes, all tests; make conformance-modes
    python -m tests.conformance.run_modes --mode so --mode O3    some of them
    python -m tests.conformance.run_modes --part 3/10            the third tenth of the tests
    python -m tests.conformance.run_modes --record               keep the outcomes in record_modes.txt

Exit status: 0 if nothing ended worse than in record_modes.txt, 1 if something did, 2 if nothing was run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.conformance import record
from tests.conformance.adapters import find_backend
from tests.conformance.isolate import OUTCOMES, Outcome
from tests.conformance.modes import MODES
from tests.conformance.run_suite import compile_times, run_cases
from tests.conformance.suite import Case, Suite, default_cache, open_suite

RECORD = Path(__file__).with_name("record_modes.txt")


def read(path: Path = RECORD) -> dict[str, dict[str, str]]:
    """Mode -> the tests that end otherwise in it than in record.txt, and how."""
    found: dict[str, dict[str, str]] = {mode: {} for mode in MODES}
    for line in path.read_text().splitlines() if path.exists() else ():
        if line and not line.startswith("#"):
            mode, status, name = line.split()
            found.setdefault(mode, {})[name] = status
    return found


def expected(mode: str, modes: Mapping[str, Mapping[str, str]], plain: Mapping[str, str]) -> dict[str, str]:
    """How every test is known to end in a mode; those that are not listed are UNSUPPORTED."""
    return {**plain, **modes.get(mode, {})}


def write(results: Mapping[str, Mapping[Case, Outcome]], plain: Mapping[str, str], path: Path = RECORD) -> None:
    """Replace what is recorded of these modes; complete runs only."""
    before = read(path)
    counts = [line for line in path.read_text().splitlines() if line.startswith("# ")] if path.exists() else []
    rows = {line.split()[1]: line for line in counts[1:]}
    for mode, outcomes in results.items():
        ends = Counter(o.status for o in outcomes.values())
        rows[mode] = f"# {mode:20}{ends.total():7}" + "".join(f"{ends[status]:12}" for status in OUTCOMES)
        before[mode] = {case.full_name: o.status for case, o in outcomes.items()
                        if o.status != plain.get(case.full_name, "UNSUPPORTED")}
    lines = [f"# {'mode':20}{'tests':>7}" + "".join(f"{status:>12}" for status in OUTCOMES)]
    lines += [rows[mode] for mode in MODES if mode in rows]
    lines += [f"{mode} {status} {name}" for mode in MODES for name, status in sorted(before[mode].items())]
    path.write_text("\n".join(lines) + "\n")


def run_mode(suite: Suite, cases: list[Case], mode: str, jobs: int, timeout_s: float) -> dict[Case, Outcome]:
    return run_cases(suite, cases, find_backend(f"lepton-{mode}"), jobs, timeout_s)


def part_of(cases: list[Case], text: str) -> list[Case]:
    """`3/10`: every tenth test, from the third on. Raises ValueError."""
    which, _, parts = text.partition("/")
    return cases[int(which) % int(parts)::int(parts)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", action="append", choices=MODES, help="only this one; repeatable")
    parser.add_argument("--part", metavar="K/N", help="the K-th of N parts of the tests")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds per test (default: 120)")
    parser.add_argument("--record", action="store_true", help="after complete runs: keep the outcomes")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the suite is kept")
    return parser.parse_args()


def main() -> int:
    options = parse()
    suite, plain, known = open_suite(options.cache), record.read(), read()
    cases = part_of(suite.cases, options.part) if options.part else suite.cases
    if not cases or (options.record and options.part):
        print("run_modes: nothing to run, or a part to record", file=sys.stderr)
        return 2
    worse: list[str] = []
    for mode in options.mode or MODES:
        start = time.monotonic()
        outcomes = run_mode(suite, cases, mode, options.jobs, options.timeout)
        ends = Counter(o.status for o in outcomes.values())
        totals = "  ".join(f"{status} {ends[status]}" for status in OUTCOMES if ends[status])
        print(f"{mode:9} {len(cases)} tests in {time.monotonic() - start:.0f} s: {totals}\n  {compile_times(outcomes)}",
              flush=True)
        new = record.worse(outcomes, expected(mode, known, plain))
        worse += [f"{mode} {line}" for line in new]
        print("".join(f"  {line}\n" for line in new), end="", flush=True)
        if options.record:
            write({mode: outcomes}, plain)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
