"""How far each engine's answers on one int8 model are from the float model's: Lepton, ONNX Runtime, OpenVINO.

    python -m benchmarks.compression.errors [--root FOLDER] [--samples 128] [--engines ort,ov]

The models are those of `benchmarks/peers/setup.sh` in FOLDER/models, a quantised one and the float one it was made
from; the peers are in FOLDER/venv-peers. Inputs are random as everywhere in `benchmarks.peers`, and none of those that
calibrated. An error is the 2-norm of the difference over that of the float answer, the largest of the outputs; told are
the means over the samples. "as written" is the file node by node, in f32 (ONNX Runtime without any rewriting): engines
round differently from it, which moves the error up on some inputs and down on others. So each engine is compared with
Lepton input by input: the last columns are the mean of Lepton's error less the other's, in percent of the other's mean,
and the ends of its 99 % confidence interval. Exit status 1: one lies above 0 as a whole, and by more than LARGE.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.child import ENGINES, OnnxRuntime, relative_error

MODELS = ("resnet50", "mobilenetv2", "vit_small_patch16", "bert_base_s128", "minilm_l6_s128")
NAMES = {"ort": "ONNX Runtime", "ov": "OpenVINO"}
QUANTILE = 2.576       # of the normal distribution, for 99 %
LARGE = 0.01           # of the other's error
FIRST = 10_000         # seed of the first sample
CHECKOUT = Path(__file__).parents[2]

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


# --- in a process of its own, with an engine's Python ---------------------------------------------


class AsWritten(OnnxRuntime):
    """Every node by itself."""

    def load(self, job: dict[str, Any], feeds: Feeds) -> None:
        options = self.ort.SessionOptions()
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = job["threads"]
        self.session = self.ort.InferenceSession(job["artifact"], options, providers=["CPUExecutionProvider"])
        self.feeds = feeds


def answer(job: dict[str, Any]) -> None:
    """Every sample's outputs, into the file that the job names."""
    with np.load(job["inputs"]) as file:
        samples = [{name: file[f"{i}/{name}"] for name in job["input_names"]} for i in range(job["samples"])]
    kept: dict[str, Any] = {}
    engine = AsWritten() if job["engine"] == "written" else ENGINES[job["engine"]]()
    engine.load(job, samples[0])
    for i, feeds in enumerate(samples):
        feed(engine, feeds)
        for k, output in enumerate(engine.outputs(engine.run())):
            kept[f"{i}/{k}"] = np.array(output)
    np.savez(job["answers"], **kept)
    os._exit(0)  # some engines crash while the interpreter shuts down; the answers are written


def feed(engine: Any, feeds: Feeds) -> None:
    """Other inputs for a loaded engine."""
    if hasattr(engine, "request"):
        for name, array in feeds.items():
            engine.request.set_tensor(name, engine.ov.Tensor(array, shared_memory=False))
    else:
        engine.feeds = feeds


# --- here -----------------------------------------------------------------------------------------


def answers(python: Path, job: dict[str, Any], folder: Path) -> list[list[Array]]:
    """[sample][output]. Raises CalledProcessError."""
    path = folder / "job.json"
    target = folder / "answers.npz"
    path.write_text(json.dumps({**job, "answers": str(target)}))
    command = [str(python), "-m", "benchmarks.compression.errors", "--job", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, cwd=CHECKOUT)
    with np.load(target) as file:
        count = 1 + max(int(key.split("/")[1]) for key in file.files)
        return [[file[f"{i}/{k}"] for k in range(count)] for i in range(job["samples"])]


def errors(name: str, engines: list[str], root: Path, count: int, folder: Path) -> dict[str, Array]:
    """Each engine's error on each sample."""
    import onnx

    import lepton
    from benchmarks.peers.zoo.inputs import make_inputs

    source, small = (root / "models" / f"{name}{end}.onnx" for end in ("", "_int8"))
    model = onnx.load(small)
    samples = [make_inputs(model, FIRST + i) for i in range(count)]
    named: dict[str, Any] = {f"{i}/{k}": v for i, s in enumerate(samples) for k, v in s.items()}
    np.savez(folder / "inputs.npz", **named)
    compiled = folder / "model.so"
    lepton.compile_to(small, compiled, level=3)
    job = {"inputs": str(folder / "inputs.npz"), "input_names": list(samples[0]), "samples": count, "threads": 1,
           "output_names": [o.name for o in model.graph.output], "precision": "int8"}
    peers = root / "venv-peers" / "bin" / "python"
    reference = answers(peers, {**job, "engine": "ort", "artifact": str(source)}, folder)
    found = {}
    for engine in ("written", *engines, "lepton"):
        python, artifact = (Path(sys.executable), compiled) if engine == "lepton" else (peers, small)
        got = answers(python, {**job, "engine": engine, "artifact": str(artifact)}, folder)
        found[engine] = np.array([relative_error(g, r, strict=False) for g, r in zip(got, reference, strict=True)])
    return found


def interval(mine: Array, other: Array) -> tuple[float, float, float]:
    """Mean of the paired differences and the ends of its confidence interval, over the other's mean."""
    more = mine - other
    half = QUANTILE * more.std(ddof=1) / np.sqrt(len(more))
    mean, least, most = (float(v / other.mean()) for v in (more.mean(), more.mean() - half, more.mean() + half))
    return mean, least, most


def row(name: str, found: dict[str, Array]) -> tuple[str, bool]:
    """A line of the table, and whether Lepton is above a peer by more than chance allows and than what is LARGE."""
    others = [engine for engine in found if engine != "lepton"]
    intervals = {engine: interval(found["lepton"], found[engine]) for engine in others}
    means = " | ".join(f"{found[engine].mean():.6f}" for engine in (*others, "lepton"))
    told = " | ".join(f"{100 * m:+.2f} ({100 * a:+.2f} … {100 * b:+.2f})" for m, a, b in intervals.values())
    above = any(a > 0 and m > LARGE for engine, (m, a, _) in intervals.items() if engine in NAMES)
    return f"| {name} | {means} | {told} |", above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--root", type=Path, default=os.environ.get("LEPTON_BENCH", ".bench"),
                        help="where setup.sh put models and peers")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--engines", default="ort,ov", help="peers, of " + ", ".join(NAMES))
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        answer(json.loads(options.job.read_text()))
    peers = options.engines.split(",")
    if unknown := [p for p in peers if p not in NAMES]:
        parser.error(f"--engines {unknown}: not of {', '.join(NAMES)}")
    if options.samples < 2:
        parser.error("--samples: a standard error takes two")
    above = False
    names = ["as written", *(NAMES[p] for p in peers)]
    print(f"| model | {' | '.join(names)} | Lepton | {' | '.join(f'from {n}, %' for n in names)} |")
    print("|---|" + "--:|" * (2 * len(names) + 1))
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            line, more = row(name, errors(name, peers, options.root, options.samples, Path(folder)))
        print(line, flush=True)
        above |= more
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
