"""How every test of the suite last ended, kept in `record.txt`, so that none gets worse unnoticed.

The file lists what did not end as UNSUPPORTED, one `STATUS kind/name` a line, below the counts per tier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.conformance.isolate import OUTCOMES, Outcome
from tests.conformance.suite import TIERS, Case

RECORD = Path(__file__).with_name("record.txt")
# An answer, an honest refusal, and what a user must never see; within one rank no change counts as worse.
RANK = {"PASS": 2, "UNSUPPORTED": 1, "WRONG": 0, "ERROR": 0, "CRASH": 0, "TIMEOUT": 0}


def read(path: Path = RECORD) -> dict[str, str]:
    """Full name -> status of the tests that are listed; the others were UNSUPPORTED."""
    entries = (line.split() for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: status for status, name in entries}


def write(results: Mapping[Case, Outcome], versions: str, path: Path = RECORD) -> None:
    """Replace the record by the outcomes of a complete run."""
    lines = [f"# {versions}", f"# {'tier':20}{'tests':>7}" + "".join(f"{status:>12}" for status in OUTCOMES)]
    for tier in TIERS:
        ends = Counter(outcome.status for case, outcome in results.items() if case.tier == tier)
        lines.append(f"# {tier:20}{ends.total():7}" + "".join(f"{ends[status]:12}" for status in OUTCOMES))
    total = Counter(outcome.status for outcome in results.values())
    lines.append(f"# {'all':20}{total.total():7}" + "".join(f"{total[status]:12}" for status in OUTCOMES))
    lines += [
        f"{outcome.status} {case.full_name}"
        for case, outcome in sorted(results.items(), key=lambda item: item[0].full_name)
        if outcome.status != "UNSUPPORTED"
    ]
    path.write_text("\n".join(lines) + "\n")


def worse(results: Mapping[Case, Outcome], before: Mapping[str, str]) -> list[str]:
    """One line for each test that ended worse than in the record `before`."""
    lines = []
    for case, outcome in results.items():
        was = before.get(case.full_name, "UNSUPPORTED")
        if RANK[outcome.status] < RANK[was]:
            lines.append(f"{case.full_name}: {was} -> {outcome.status}  {outcome.detail}")
    return lines
