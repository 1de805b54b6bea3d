"""docs/performance.md and its plot, written from the JSON of other benchmarks; nothing is measured here.

    python -m benchmarks.peers.bench MODEL... --threads 1 --json one.json ...        once per setting
    python -m benchmarks.costs MODEL.onnx... --json costs.json
    lepton bench MODEL.onnx -O3 --threads 1 --roofline --json > roofline.json
    python -m benchmarks.performance one.json ... --costs costs.json --roofline roofline.json... --to docs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.report import geometric_mean, number

NAMES = {"ort": "ONNX Runtime", "ov": "OpenVINO", "mnn": "MNN", "lepton": "Lepton"}
HEAD = """\
# Performance

Written by `python -m benchmarks.performance` from the results of the commands named below; not edited by hand.
Times are only comparable within one table: engines took turns there, each in a process of its own, on the same cores.
"""
TIMES = """\

## {title}

{cpu}, {date}, load average {load:.1f}. Versions: {versions}.
`python -m benchmarks.peers.bench --precision {precision} --threads {threads} \
--batch {batch} --rounds {rounds}`, compiled with `-O3`. Milliseconds: {clock}.
`error` is the relative difference (L2) from ONNX Runtime's answer.

| model | {engines} | best peer / Lepton | error |
|---|{rules}--:|--:|
"""
CLOCKS = {True: "the CPU time of the middle run in the better round, which other load on the machine disturbs least",
          False: "the middle run's time in the better round"}


def times(record: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """The table of one run of the peers' benchmark, and each model's ratio."""
    settings = record["settings"]
    engines = [e for e in NAMES if e in settings["engines"]]
    alone = settings["threads"] == 1
    title = f"{settings['precision']}, batch {settings['batch']}, {settings['threads']} thread{'' if alone else 's'}"
    key = "cpu_median_ms" if alone else "median_ms"
    found = {model: _best(rows, key) for model, rows in record["results"].items()}
    lines = TIMES.format(
        title=title, cpu=record["cpu"], load=record["load"], date=record["date"], clock=CLOCKS[alone],
        versions=_versions(record["results"].values()),
        engines=" | ".join(NAMES[e] for e in engines), rules="--:|" * len(engines),
        **{key: settings[key] for key in ("precision", "threads", "batch", "rounds")}).splitlines()
    if not alone and record["load"] > settings["threads"]:
        lines[-3:-3] = ["Other programs wanted the same cores: threads that wait for each other lose most by that, "
                        "and the ratios say little about a quiet machine."]
    ratios = {}
    for model, row in found.items():
        peers = [row[e][0] for e in engines if e != "lepton" and e in row]
        shown = " | ".join(number(row[e][0]) if e in row else "-" for e in engines)
        if peers and "lepton" in row:
            ratios[model] = min(peers) / row["lepton"][0]
        error = f"{row['lepton'][1]:.0e}" if "lepton" in row else "-"
        lines.append(f"| {model} | {shown} | {ratios[model]:.2f} | {error} |" if model in ratios
                     else f"| {model} | {shown} | - | {error} |")
    if ratios:
        lines += ["", f"Best peer / Lepton: geometric mean {geometric_mean(list(ratios.values())):.2f}, "
                      f"least {min(ratios.values()):.2f}, over {len(ratios)} models."]
    return lines, ratios


def _best(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, tuple[float, float]]:
    """Each engine's milliseconds in its better round, and its error."""
    return {row["engine"]: (min(r[key] for r in row["rounds"]), max(r["relative_error"] for r in row["rounds"]))
            for row in rows if row["rounds"]}


def _versions(models: Iterable[Iterable[Mapping[str, Any]]]) -> str:
    found = {NAMES[row["engine"]]: row["rounds"][0]["version"] for rows in models for row in rows if row["rounds"]}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def roofline(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model: what its kernels reach of what the machine allows, and which do not reach it."""
    if not records:
        return []
    limits = records[0]["roofline"]["ceilings"]
    peaks = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in limits["gflops"].items())
    rates = ", ".join(f"{level} {rate:.0f} GB/s" for level, rate in limits["gbytes"].items())
    lines = ["", "## Distance to the machine's limits", "",
             f"`lepton bench MODEL.onnx -O3 --threads {records[0]['threads']} --roofline`: each kernel's time against "
             f"the larger of its operations at the measured peak and its bytes at the measured bandwidth "
             f"(first model's: {peaks}; {rates}).", "",
             "| model | at 80 % or more | limits explain | kinds, share of the run, of the limit | furthest from it |",
             "|---|--:|--:|---|---|"]
    for record in records:
        found = record["roofline"]
        kinds = ", ".join(f"{kind} {row['run_share']:.0%} at {row['ceiling_share']:.0%}"
                          for kind, row in list(found["by_kind"].items())[:4])
        lost = max(found["kernels"], key=lambda k: k["seconds"] - (k["ceiling_seconds"] or 0.0))
        where = f"{lost['name'][:32]} ({lost['kind']}): {lost['run_share']:.1%} of the run"
        share = "?" if lost["ceiling_share"] is None else f"{lost['ceiling_share']:.0%}"
        lines.append(f"| {Path(record['model']).stem} | {found['near_share']:.0%} | {found['ceiling_share']:.0%} "
                     f"| {kinds} | {where} at {share}; {lost['why']} |")
    return lines


def costs(record: Mapping[str, Any]) -> list[str]:
    """What compiled models cost besides time, against what is wanted."""
    lines = ["", "## Costs besides time", "",
             f"`python -m benchmarks.costs`, {record['date']}, load average {record['load']:.1f}: figures without a "
             f"limit are of little worth where others compute. Limits in brackets; what is beyond is marked (!).", ""]
    names = list(dict.fromkeys(line["what"] for rows in record["costs"].values() for line in rows))
    lines += [f"| model | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for model, rows in record["costs"].items():
        by_name = {line["what"]: line for line in rows}
        lines.append(f"| {model} | {' | '.join(_cost(by_name.get(name)) for name in names)} |")
    return lines


def _cost(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "-"
    limit = "" if line["budget"] is None else f" ({number(line['budget'], 3)})"
    return f"{number(line['got'], 3)} {line['unit']}{limit}{'' if line['kept'] else ' (!)'}"


def plot(ratios: Mapping[str, float], title: str) -> str:
    """Bars of best peer / Lepton as SVG, a line at 1."""
    rows = sorted(ratios.items(), key=lambda item: -item[1])
    width, left, step = 640, 190, 20
    scale = (width - left - 50) / max(1.0, *ratios.values())
    height = step * len(rows) + 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
             f'font-size="12"><rect width="100%" height="100%" fill="white"/><text x="8" y="18">{title}</text>']
    for i, (model, value) in enumerate(rows):
        y = 30 + step * i
        parts.append(f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{model}</text>'
                     f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{step - 5}" fill="#3b7dd8"/>'
                     f'<text x="{left + value * scale + 4:.1f}" y="{y + 12}">{value:.2f}</text>')
    line = left + scale
    parts.append(f'<line x1="{line:.1f}" y1="26" x2="{line:.1f}" y2="{height - 14}" stroke="#c33"/></svg>')
    return "\n".join(parts) + "\n"


def page(runs: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]],
         cost: Mapping[str, Any] | None) -> tuple[str, str]:
    """The document, and the plot of the first run."""
    lines, picture = HEAD.splitlines(), ""
    for i, run in enumerate(runs):
        table, ratios = times(run)
        lines += table
        if i == 0 and ratios:
            threads = run["settings"]["threads"]
            picture = plot(ratios, f"best peer's time / Lepton's, {threads} thread(s), {run['date']}")
            lines += ["", "![best peer's time over Lepton's](performance.svg)"]
    lines += roofline(limits)
    lines += costs(cost) if cost is not None else []
    return "\n".join(lines) + "\n", picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="what peers.bench wrote with --json")
    parser.add_argument("--roofline", nargs="*", type=Path, default=[],
                        help="what lepton bench --roofline --json wrote")
    parser.add_argument("--costs", type=Path, help="what benchmarks.costs wrote")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of performance.md and performance.svg")
    options = parser.parse_args()

    def read(path: Path) -> Any:
        return json.loads(path.read_text())

    text, picture = page([read(p) for p in options.runs], [read(p) for p in options.roofline],
                         read(options.costs) if options.costs else None)
    (options.to / "performance.md").write_text(text)
    if picture:
        (options.to / "performance.svg").write_text(picture)


if __name__ == "__main__":
    main()
