"""What a model of floats answers in float64: the yardstick of all engines' errors. Runs where Lepton is installed.

    python -m benchmarks.peers.exact FOLDER      of `zoo prepare`: writes exact.npz beside its info.json

Lepton's interpreter runs the graph as it was read, no pass having touched it, each op by its meaning in numpy with
f32 taken as f64. It shares no code with the kernels that are measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from lepton import frontends
from lepton.ir.evaluate import evaluate


def main() -> None:
    folder = Path(sys.argv[1])
    info = json.loads((folder / "info.json").read_text())
    graph = frontends.load(info["model"])
    with np.load(folder / "inputs.npz") as arrays:
        feeds = dict(zip(info["inputs"], (arrays[key] for key in arrays.files), strict=True))
    outputs = evaluate(graph, *(feeds[value.name] for value in graph.inputs), float64=True)
    partial = folder / "exact.partial.npz"
    np.savez(partial, *outputs)
    partial.replace(folder / "exact.npz")


if __name__ == "__main__":
    main()
