"""What compressing a model came to, in words; nothing of the compiler is needed to say it."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def exceptions(recipe: Mapping[str, Any]) -> str:
    """What becomes of single layers."""
    wide = f"; {many(len(recipe['wide']), 'layer')} with 16-bit inputs" if recipe.get("wide") else ""
    return f"; {many(len(recipe['skip']), 'layer')} in f32{wide}" if recipe["kind"] != "float" else ""


def told(recipe: Mapping[str, Any]) -> str:
    """A recipe in a few words."""
    words = {"static": f"int8, ranges by {recipe['ranges']}", "dynamic": "int8, ranges while it runs",
             "weights": f"weights in {recipe['bits']} bits", "palette": f"palettes of {2 ** recipe['bits']} weights",
             "float": "f32"}[recipe["kind"]].split(", ")
    if recipe["kind"] == "static" and recipe["activations"] != "u8":
        words.append(f"{recipe['activations']} activations")
    if recipe["kind"] != "float" and recipe["rounding"] != "nearest":
        words.append(recipe["rounding"])
    words += [name for name in ("equalize", "smooth", "awq") if recipe[name] and recipe["kind"] != "float"]
    if recipe["prune"]:
        words.append(f"{recipe['prune']:.0%} of the "
                     f"{'channels' if recipe['pattern'] == 'channels' else recipe['pattern'] + ' blocks'} pruned")
    if recipe["factors"]:
        words.append(f"factors with an error of {recipe['factors']:.2g}")
    return ", ".join(words)


def many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def brief(report: Mapping[str, Any]) -> list[str]:
    """For a terminal: what it came to, by what, and which layers are not int8."""
    score, recipe = report["score"]["held out"], report["recipe"]
    rows = [("", "before", "after")]
    rows += [(f"{report['metric']}, held out", f"{score['before']:.4g}", f"{score['after']:.4g}")]
    rows += [(what, f"{report[key]['before']:.{digits}g}", f"{report[key]['after']:.{digits}g}")
             for what, key, digits in (("ms a run", "milliseconds", 4), ("bytes of weights", "weights", 12))]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join((a.ljust(widths[0]), b.rjust(widths[1]), c.rjust(widths[2]))) for a, b, c in rows]
    lines.append(f"{told(recipe)}{exceptions(recipe)}; budget {report['budget']}, for {report['objective']}, "
                 f"{many(report['trials'], 'trial')}")
    left = [("in f32", recipe["skip"]), ("16-bit inputs", recipe.get("wide", ()))]
    return lines + [f"{what}: {', '.join(names)}" for what, names in left if names and recipe["kind"] != "float"]
