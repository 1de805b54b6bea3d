"""A search's report for people: Markdown, or one HTML page with a plot of the points."""
from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from lepton.compressed import exceptions, many, told

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """Result, recipe, Pareto points, layers."""
    return "\n".join([*_summary(report), "", *_points(report), "", *_layers(report), ""])


def _summary(report: Report) -> list[str]:
    score, time, weights = report["score"], report["milliseconds"], report["weights"]
    lines = [f"# {report['metric']} within {report['budget']}, for {report['objective']}", "",
             "| | before | after | |", "|---|--:|--:|--:|"]
    for which in ("search", "held out"):
        row = score[which]
        change = row["after"] - row["before"]
        lines.append(f"| {report['metric']}, {which} data ({many(row['runs'], 'run')}) | {row['before']:.6g} | "
                     f"{row['after']:.6g} | {change:+.3g} |")
    lines.append(f"| ms a run | {time['before']:.4g} | {time['after']:.4g} | {time['before'] / time['after']:.2f}× |")
    share = weights["before"] / max(weights["after"], 1)
    lines.append(f"| bytes of weights | {weights['before']} | {weights['after']} | {share:.2f}× |")
    recipe = report["recipe"]
    return [*lines, "", _data(report), "", f"Recipe: {told(recipe)}{exceptions(recipe)}. "
            f"{many(report['trials'], 'trial')}, {many(len(report['refused']), 'point')} refused on held-out data.",
            *_plain(report)]


def _data(report: Report) -> str:
    """What was searched and certified by."""
    seen, unseen = (report["score"][which]["runs"] for which in ("search", "held out"))
    grouped = report.get("samples", 0) > seen + unseen
    samples = f"{many(report['samples'], 'sample')} in {many(seen + unseen, 'run')}" if grouped else \
        many(seen + unseen, "run")
    unlabelled = report["metric"] in ("top1", "f1") and not report.get("labelled", True)
    judge = " No labels: the uncompressed model's answers count as right." if unlabelled else ""
    return f"Data: {samples}, {seen} to search by, {unseen} to certify by.{judge}"


def _plain(report: Report) -> list[str]:
    """Against int8 of all layers, the first trial."""
    plain = report.get("plain int8")
    if not plain:
        return []
    outside = "" if plain["within"] else ", outside the budget"
    return ["", f"Plain int8: {report['metric']} {plain['score']:.6g}{outside}, {plain['speedup']:.2f}× faster, "
            f"{plain['shrink']:.2f}× smaller."]


def _points(report: Report) -> list[str]:
    lines = [f"| {report['metric']} | faster | smaller | recipe | layers in f32 | of 16-bit inputs |",
             "|--:|--:|--:|---|--:|--:|"]
    for point in report["pareto"]:
        r = point["recipe"]
        lines.append(f"| {point['score']:.6g} | {point['speedup']:.2f}× | {point['shrink']:.2f}× | "
                     f"{told(r)} | {point['kept in f32']} | {point.get('wide', 0)} |")
    return ["## Points that no other beats", "", *lines]


def _layers(report: Report) -> list[str]:
    lines = ["| layer | noise of 8 bits | loss alone | |", "|---|--:|--:|---|"]
    for row in report["layers"]:
        loss = "" if row["loss"] is None else f"{row['loss']:+.3g}"
        lines.append(f"| `{row['layer']}` | {row['noise']:.2g} | {loss} | "
                     f"{'f32' if row['kept in f32'] else 'int8, 16-bit inputs' if row.get('wide') else 'int8'} |")
    return ["## Layers, those that hurt most for their work first", "", *lines]


def html_page(report: Report) -> str:
    """One file that needs nothing else: a plot of speed-up and score, and the tables."""
    body = "\n".join(_html_table(block) for block in markdown(report).split("\n\n") if block.strip())
    return (f'<!doctype html><meta charset="utf-8"><title>lepton compress</title><style>body{{font:15px sans-serif;'
            f'margin:2em;max-width:60em}}td,th{{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}}'
            f"</style>\n{_plot(report)}\n{body}\n")


def _html_table(block: str) -> str:
    lines = block.splitlines()
    if lines[0].startswith("#"):
        level = len(lines[0]) - len(lines[0].lstrip("#"))
        return f"<h{level}>{html.escape(lines[0].lstrip('# '))}</h{level}>"
    if not lines[0].startswith("|"):
        return f"<p>{html.escape(block)}</p>"
    rows = [[html.escape(cell.strip().strip("`")) for cell in line.strip("|").split("|")] for line in lines
            if not line.startswith(("|--", "|:-"))]
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows) + "</table>"


def _plot(report: Report) -> str:
    """Score over speed-up, the points of the Pareto front."""
    points = [(p["speedup"], p["score"]) for p in report["pareto"]]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (50 + 480 * (x - left) / ((right - left) or 1), 20 + 240 * (high - y) / ((high - low) or 1))

    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="#36c"><title>{x:.2f}×, {y:.6g}</title></circle>'
                   for (x, y), (a, b) in ((p, place(*p)) for p in points))
    return (f'<svg viewBox="0 0 580 300" width="580"><path d="M40 10V270H550" fill="none" stroke="#888"/>{dots}'
            f'<text x="50" y="290">{left:.2f}× … {right:.2f}× faster</text>'
            f'<text x="50" y="15">{html.escape(str(report["metric"]))} {low:.6g} … {high:.6g}</text></svg>')
