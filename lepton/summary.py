"""What leptonc says at the end: for people, and as JSON."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.terminal import human

if TYPE_CHECKING:
    from lepton.driver import Report

JSON_VERSION = 1
KINDS = 6     # of ops shown unless more is asked for


def as_json(model: str, emitted: str, files: Sequence[Path], report: Report) -> dict[str, Any]:
    """The record `--json` prints; docs/cli.md describes it. Fields are added, never changed, within a version."""
    return {
        "version": JSON_VERSION, "model": model, "emit": emitted,
        "files": [{"path": str(f), "bytes": f.stat().st_size} for f in files],
        "seconds": {stage: round(s, 6) for stage, s in report.seconds.items()},
        "ops_before": report.ops_before, "targets": report.targets,
        **_tuning(report),
        **({"models": {name: {"ops_before": r.ops_before, "targets": r.targets, **_tuning(r)}
                       for name, r in report.models.items()}} if report.models else {}),
    }


def _tuning(report: Report) -> dict[str, Any]:
    return {"tuning": report.tuning} if report.tuning else {}


def as_text(files: Sequence[Path], report: Report, verbose: bool) -> str:
    """Some lines: what was written, how long it took, and what each target's program is made of."""
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report.seconds.items())
    lines = [f"{f}: {human(f.stat().st_size, 'B')}" for f in files]
    lines.append(f"  compiled in {sum(report.seconds.values()):.2f} s ({stages})")
    for model, part in (report.models or {"": report}).items():
        for name, row in part.targets.items():
            lines += _target(f"{model} for {name}" if model else name, row, part.ops_before, None if verbose else KINDS)
            lines += [tuned(name, found) for found in part.tuning.get(name, ())]
    return "\n".join(lines)


def _target(name: str, row: Mapping[str, Any], before: Mapping[str, int], most: int | None) -> list[str]:
    fused = row["fusions"]
    after = {op: n for op, n in row["ops"].items() if op != "fusion"}
    return [
        f"  {name}: {count(row['kernels'], 'kernel')} ({row['bodies']} distinct), {count(fused, 'fused group')}, "
        f"{work(row['flops'])}, weights {human(row['weights'], 'B')}{coded(row)}, "
        f"workspace {space(row['workspace'])}",
        f"    ops before: {_kinds(before, most)}",
        f"    ops after:  {_kinds(after, most)}",
        *(f"    for {usual}: {words}" for usual, words in variants(row)),
    ]


def variants(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`B=4` and what there is for it beside the program for all sizes: `3 kernels of its own, …`."""
    return [(", ".join(f"{name}={size}" for name, size in variant["dims"].items()),
             f"{count(variant['kernels'], 'kernel')} of its own, {work(variant['flops'])}, "
             f"workspace {space(variant['workspace'])}")
            for variant in row.get("variants", ())]


def tuned(target: str, row: Mapping[str, Any]) -> str:
    """What was measured, and what that gained."""
    words = f"{row['measured']} of {count(row['kernels'], 'kernel')} measured"
    words += f" ({count(row['candidates'], 'candidate')}, {row['seconds']:.1f} s), {row['known']} known"
    if (left := row["kernels"] - row["measured"] - row["known"]):
        words += f", {left} left to the cost model"
    if row["open"]:
        words += f", {row['open']} with open sizes left to it"
    if row["model_seconds"]:
        ours, theirs = row["tuned_seconds"], row["model_seconds"]
        words += (f"; {count(row['changed'], 'kernel')} cut another way: together {ours * 1e3:.3g} ms in place of "
                  f"{theirs * 1e3:.3g} ({ours / theirs - 1:+.1%})")
    lost = f"\n  {count(row['damaged'], 'damaged line')} of the tuning cache left out" if row["damaged"] else ""
    return f"  tuned for {target}: {words}{lost}"


def coded(row: Mapping[str, Any]) -> str:
    """` (of them 85 M in 4.5 bits each)`: what products read as codes; nothing where none do."""
    facts = row.get("coded") or {}
    if not facts.get("products"):
        return ""
    number = human(facts["weights"], "").strip()
    return f" (of them {number} weights in {8 * facts['bytes'] / facts['weights']:.1f} bits each)"


def work(flops: int | str) -> str:
    """`0.56 GFLOP`, or the expression where it is short."""
    if isinstance(flops, int):
        return human(flops, "FLOP")
    return f"{flops} FLOP" if len(flops) <= 40 else "FLOP by input shapes"


def space(size: int | None) -> str:
    return "by input shapes" if size is None else human(size, "B")


def count(number: int, what: str) -> str:
    """`1 kernel`, `2 kernels`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _kinds(ops: Mapping[str, int], most: int | None) -> str:
    shown = list(ops.items())[:most]
    rest = sum(ops.values()) - sum(n for _, n in shown)
    words = ", ".join(f"{op} {n}" for op, n in shown) + (f", {rest} more" if rest else "")
    return f"{sum(ops.values())} ({words})" if ops else "none"
