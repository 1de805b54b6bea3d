"""Table of errors against ONNX Runtime, per model and target: `python -m tests.models.report [NAME …]`.

Every row is a network in one form for one target; the error is the largest of all outputs, sizes and thread counts:
max|Δ| over max|ref|. Exit status: 0 all within 1e-4, 1 some are not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.models.agreement import TOLERANCE, Disagreement, Setting, check, compiled, reference, targets
from tests.models.networks import BY_NAME, NETWORKS, Network

COLUMNS = "{:18} {:11} {:4} {:8} {:>5} {:>10} {:>10}  {}"


def measure(network: Network, setting: Setting, threads: tuple[int, ...], folder: Path) -> tuple[float, float]:
    """The worst relative error over sizes and thread counts, and the seconds that compiling took."""
    worst = 0.0
    path = network.pinned_path() if setting.pinned else network.path()
    runs = 1 if setting.pinned or not network.dynamic else len(network.shapes)
    start = time.monotonic()
    model = compiled(path, setting, folder)
    seconds = time.monotonic() - start
    for count in threads:
        session = model.session(count)
        for run in range(runs):
            feeds, want = reference(network.name, run)
            worst = max([worst, *(error.relative for error in check(network, want, session.run(feeds)))])
    return worst, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BY_NAME)}; default: all but the big")
    parser.add_argument("--all", action="store_true", help="the big networks too")
    parser.add_argument("--target", action="append", help="repeatable; default: what this machine can run")
    parser.add_argument("--form", choices=("jit", "so"), action="append", help="repeatable; default: both")
    parser.add_argument("--threads", type=int, action="append", help="repeatable; default: 1 and 2")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BY_NAME):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [BY_NAME[name] for name in options.names] or [n for n in NETWORKS if options.all or n.cost != "big"]
    print(COLUMNS.format("network", "target", "form", "shapes", "runs", "max error", "compile s", ""))
    failures = 0
    for network in chosen:
        for target in options.target or targets():
            failures += _rows(network, target, options.form or ["jit", "so"], tuple(options.threads or (1, 2)))
    print(f"{failures} failures; the limit is {TOLERANCE:g} of max|ref|")
    return 1 if failures else 0


def _rows(network: Network, target: str, forms: list[str], threads: tuple[int, ...]) -> int:
    """Print the network's lines for one target; how many of them failed."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for form in forms:
            for pinned in (False, True)[: 2 if network.dynamic else 1]:
                setting = Setting(target, "jit" if form == "jit" else "so", pinned)
                shapes = "dynamic" if network.dynamic and not pinned else "pinned" if pinned else "static"
                runs = len(threads) * (len(network.shapes) if shapes == "dynamic" else 1)
                error, seconds, note = "-", "-", ""
                try:
                    worst, took = measure(network, setting, threads, Path(folder))
                    error, seconds = f"{worst:.1e}", f"{took:.1f}"
                except Disagreement as problem:
                    note = f"WRONG: {problem}"
                except Exception as problem:  # a crash of one model must not hide the others
                    note = f"FAILED: {type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
                failures += bool(note)
                print(COLUMNS.format(network.name, target, form, shapes, runs, error, seconds, note), flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
