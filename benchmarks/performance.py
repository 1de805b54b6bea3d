"""docs/performance.md and its plots, written from the JSON of other benchmarks; nothing is measured here.

    python -m benchmarks.peers.bench MODEL... --threads 1 --json one.json ...        once per setting
    python -m benchmarks.costs MODEL.onnx... --json costs.json
    lepton bench MODEL.onnx -O3 --threads 1 --roofline --json > roofline.json
    python -m benchmarks.performance one.json ... --costs costs.json --roofline roofline.json... --to docs
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.report import WRONG, geometric_mean, number

NAMES = {"ort": "ONNX Runtime", "ov": "OpenVINO", "mnn": "MNN", "torch": "PyTorch", "inductor": "torch.compile",
         "lepton": "Lepton"}
HEAD = """\
# Performance

Written by `python -m benchmarks.tables` from the results of the commands named below, which need the environments and \
models of [benchmarks/peers](../benchmarks/peers/README.md); not edited by hand. `python -m benchmarks.tables --list` \
names the tables, each can be measured alone.
Times are only comparable within one table: engines took turns there, each in a process of its own, on the same cores.
"""
TIMES = """\

## {title}

{cpu}, {date}. Versions: {versions}.
`python -m benchmarks.peers.bench MODELS --lepton-python PYTHON --engines {asked} --precision {precision} \
--threads {threads} --batch {batch} --rounds {rounds}{options}`, compiled with `-O3`. Milliseconds: {clock}.
{errors}{remarks}

| model | {engines} | best peer / Lepton | {error} |
|---|{rules}--:|{error_rules}
"""
CLOCKS = {True: "the CPU time of the middle run{round}, which other load on the machine disturbs least",
          False: "the middle run's time{round}"}
YARDSTICKS = {True: "the model computed in float64", False: "ONNX Runtime's fp32 answer"}
LEAST = 0.003       # of a run: losses below it are not told
SHARED = 0.05       # of the CPUs' time taken by other programs: above it a machine was not quiet


@dataclass(frozen=True)
class Times:
    """A table's settings, drawn from its record."""

    engines: tuple[str, ...]
    peers: tuple[str, ...]      # those that the ratio is about
    blamed: tuple[str, ...]     # those whose errors are shown
    exact: bool                 # whether these are errors against float64
    key: str
    busy: float

    @staticmethod
    def of(record: Mapping[str, Any]) -> Times:
        settings = record["settings"]
        engines = tuple(e for e in NAMES if e in settings["engines"])
        rows = [row for rows in record["results"].values() for row in rows]
        free = {row["engine"] for row in rows if not row.get("comparable", True)}
        busy = statistics.median([r.get("others_share", 0.0) for row in rows for r in row["rounds"]] or [0.0])
        cpu = settings["threads"] == 1 and busy > SHARED
        exact = all(r.get("float64_error") is not None for row in rows for r in row["rounds"])
        shown = {"lepton", "ort"} if exact else {"lepton"}
        return Times(engines, tuple(e for e in engines if e != "lepton" and e not in free),
                     tuple(e for e in engines if e in shown or (settings["precision"] != "fp32" and e != "ort")),
                     exact, "cpu_median_ms" if cpu else "median_ms", busy)


def times(record: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """The table of one run of the peers' benchmark, and each model's ratio."""
    shape = Times.of(record)
    lines, ratios = _head(record, shape), {}
    for model, rows in record["results"].items():
        row = _best(rows, shape.key)
        peers = [row[e][0] for e in shape.peers if e in row and not wrong(row[e][1], record)]
        shown = " | ".join(number(row[e][0]) if e in row else "-" for e in shape.engines)
        if peers and "lepton" in row and not wrong(row["lepton"][1], record):
            ratios[model] = min(peers) / row["lepton"][0]
        ratio = f"{ratios[model]:.2f}" if model in ratios else "-"
        errors = " | ".join(_error(row[e], record) if e in row else "-" for e in shape.blamed)
        lines.append(f"| {model} | {shown} | {ratio} | {errors} |")
    if ratios:
        lines += ["", f"Best peer / Lepton: geometric mean {geometric_mean(list(ratios.values())):.2f}, "
                      f"least {min(ratios.values()):.2f}, over {len(ratios)} models."]
    return [*lines, *_problems(record)], ratios


def _head(record: Mapping[str, Any], shape: Times) -> list[str]:
    settings, precision = record["settings"], record["settings"]["precision"]
    alone, isa = settings["threads"] == 1, settings.get("isa")
    blamed = [NAMES[e] for e in shape.blamed]
    remarks = []
    if isa:
        free = [NAMES[e] for e in shape.engines if e not in (*shape.peers, "lepton")]
        remarks = [f"Limited to {isa.upper()}: Lepton by its target, OpenVINO's oneDNN by `ONEDNN_MAX_CPU_ISA`; matrix "
                   "products that OpenVINO gives to MLAS (half of a transformer's) run with all that the CPU has. ONNX "
                   "Runtime and MNN have no such switch" + (", are shown and not ranked." if free else ".")]
    if shape.busy > SHARED:
        remarks.append(f"Other programs took {shape.busy:.0%} of the same cores' time" + (
            "." if alone else ": threads that wait for each other lose most by that, and the ratios say little about a "
                              "quiet machine."))
    title = f"{precision}, batch {settings['batch']}, {settings['threads']} thread{'' if alone else 's'}"
    title += f", {isa.upper()}" if isa else ", next to PyTorch" if "torch" in shape.engines else ""
    budget = f" --budget {settings['budget']:g}" if "budget" in settings else ""
    clock = CLOCKS[shape.key == "cpu_median_ms"].format(round=" in the better round" if settings["rounds"] > 1 else "")
    return TIMES.format(
        title=title, cpu=record["cpu"], date=record["date"], clock=clock, asked=",".join(settings["engines"]),
        versions=_versions(record["results"].values()), options=budget + (f" --isa {isa}" if isa else ""),
        errors=f"Errors are relative differences (L2) from {YARDSTICKS[shape.exact]}; an answer more than "
               f"{WRONG[precision]:.0%} from ONNX Runtime's in fp32 counts as wrong, and is not ranked.",
        remarks="\n" + "\n".join(remarks) if remarks else "", engines=" | ".join(NAMES[e] for e in shape.engines),
        rules="--:|" * len(shape.engines), error_rules="--:|" * len(blamed),
        error=" | ".join(f"{name}'s error" for name in blamed) if len(blamed) > 1 else "error",
        **{key: settings[key] for key in ("precision", "threads", "batch", "rounds")}).splitlines()


def wrong(error: float, record: Mapping[str, Any]) -> bool:
    return error > WRONG[record["settings"]["precision"]]


def _error(row: tuple[float, float, float], record: Mapping[str, Any]) -> str:
    return f"{row[2]:.1e}" + (" (wrong)" if wrong(row[1], record) else "")


def _problems(record: Mapping[str, Any]) -> list[str]:
    """What an engine could not do, in its own words; wrong answers too."""
    found: dict[tuple[str, str], list[str]] = {}
    for model, rows in record["results"].items():
        for row in rows:
            words = row["problem"].removeprefix("skipped: ")
            if row["rounds"] and wrong(max(r["relative_error"] for r in row["rounds"]), record):
                words = "wrong answer"
            if words:
                found.setdefault((row["engine"], words), []).append(model)
    whole = len(record["results"])
    lines = [f"- {NAMES[engine]}, {'all models' if len(models) == whole else ', '.join(models)}: {words}"
             for (engine, words), models in found.items()]
    return ["", *lines] if lines else []


def _best(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, tuple[float, float, float]]:
    """Each engine's milliseconds in its better round, its difference from ONNX Runtime and the error that is shown."""
    return {row["engine"]: (min(r[key] for r in row["rounds"]), max(r["relative_error"] for r in row["rounds"]),
                            max(r.get("float64_error") or r["relative_error"] for r in row["rounds"]))
            for row in rows if row["rounds"]}


def _versions(models: Iterable[Iterable[Mapping[str, Any]]]) -> str:
    found = {NAMES[row["engine"]]: row["rounds"][0]["version"] for rows in models for row in rows if row["rounds"]}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def roofline(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model: what its kernels reach of what the machine allows, and which do not reach it."""
    records = [record for record in records if "losses" in record["roofline"]]     # others: by an earlier Lepton
    if not records:
        return []
    limits = records[0]["roofline"]["ceilings"]
    peaks = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in limits["gflops"].items())
    rates = ", ".join(f"{level} {rate:.0f} GB/s" for level, rate in limits["gbytes"].items())
    lines = ["", "## Distance to the machine's limits", "",
             f"`lepton bench MODEL.onnx -O3 --threads {records[0]['threads']} --roofline`: each kernel's time against "
             f"the larger of its operations at the measured peak and its bytes at the measured bandwidth "
             f"(first model's: {peaks}; {rates}).", "",
             "At 80 % or more: share of the time in kernels that reach that much of their limit. Limits explain: share "
             "of the time that the limits account for. Losses: time over the limit in kernels below 80 % of it.", "",
             "| model | at 80 % or more | limits explain | kinds, share of the run, of the limit | losses and why |",
             "|---|--:|--:|---|---|"]
    for record in records:
        found = record["roofline"]
        kinds = ", ".join(f"{kind} {row['run_share']:.0%} at {row['ceiling_share']:.0%}"
                          for kind, row in list(found["by_kind"].items())[:4])
        lost = "; ".join(
            f"**{row['lost_share']:.1%}** {row['kind']} ×{row['kernels']} at {row['ceiling_share']:.0%} "
            f"({row['why'].replace(';', ',')})" for row in found["losses"][:3] if row["lost_share"] > LEAST)
        lines.append(f"| {Path(record['model']).stem} | {found['near_share']:.0%} | {found['ceiling_share']:.0%} "
                     f"| {kinds} | {lost or f'none above {LEAST:.1%}'} |")
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
    excuse = line.get("excuse") if not line.get("reached", True) else ""
    limit = "" if line["budget"] is None else f" ({number(line['budget'], 3)}{f', {excuse}' if excuse else ''})"
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


def page(runs: Mapping[str, Mapping[str, Any]], limits: Sequence[Mapping[str, Any]],
         cost: Mapping[str, Any] | None, name: str = "performance") -> tuple[str, dict[str, str]]:
    """The document, and a plot for each run by its name. `name`: of the files, without what comes behind."""
    lines, pictures, flags = HEAD.splitlines(), {}, {run.get("flags", "") for run in runs.values()} - {""}
    lines += [f"CPU flags: {known}." for known in flags]
    for each, run in runs.items():
        table, ratios = times(run)
        lines += table
        if ratios:
            title = table[1].removeprefix("## ")
            pictures[each] = plot(ratios, f"best peer's time / Lepton's: {title}")
            lines += ["", f"![best peer's time over Lepton's: {title}]({name}-{each}.svg)"]
    lines += roofline(limits)
    lines += costs(cost) if cost is not None else []
    return "\n".join(lines) + "\n", pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="what peers.bench wrote with --json")
    parser.add_argument("--roofline", nargs="*", type=Path, default=[],
                        help="what lepton bench --roofline --json wrote")
    parser.add_argument("--costs", type=Path, help="what benchmarks.costs wrote")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the page and its plots")
    parser.add_argument("--name", default="performance", help="of the page: another machine's beside the first one's")
    options = parser.parse_args()

    def read(path: Path) -> Any:
        return json.loads(path.read_text())

    text, pictures = page({path.stem: read(path) for path in options.runs}, [read(p) for p in options.roofline],
                          read(options.costs) if options.costs else None, options.name)
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / f"{options.name}.md").write_text(text)
    for old in options.to.glob(f"{options.name}-*.svg"):
        old.unlink()
    for each, picture in pictures.items():
        (options.to / f"{options.name}-{each}.svg").write_text(picture)


if __name__ == "__main__":
    main()
