"""What pruning gains on a whole network: `python -m benchmarks.compression.zeros`.

ResNet-50 (random weights) with 70 % and 80 % of its weights zero in blocks, or half of its channels gone, against the
same network as it is: pruned, compiled, checked against ONNX Runtime on the same pruned weights, timed in turns. Floats
lose blocks of 16 outputs by one input, bytes (static int8) of 16 by four. Exit status 1: an answer is off."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import onnx
import onnxruntime

import lepton
from benchmarks.peers.zoo import light
from lepton.compress import prune_model, quantize_model
from lepton.frontends.onnx.export import to_onnx
from lepton.ir.core import Graph
from lepton.ir.tensor import Array

INPUT, SHAPE = "gpu_0/data_0", (1, 3, 224, 224)
ALLOWED = {"f32": 1e-4, "int8": 0.1}     # of the outputs' spread: half levels are rounded differently elsewhere


@dataclass(frozen=True, eq=False)
class Variant:
    """One form of the network; how fast it is counts against the first of its kind."""

    name: str
    kind: str
    model: lepton.Model
    error: float


def made(name: str, kind: str, graph: Graph, x: Array) -> Variant:
    """Compiled and checked."""
    model = lepton.compile(graph)
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {INPUT: x})
    (got,) = model.session(1).run({INPUT: x}).values()
    return Variant(name, kind, model, float(np.abs(got - want).max() / np.ptp(want)))


def variants(network: onnx.ModelProto, kinds: Sequence[str], x: Array) -> list[Variant]:
    found = []
    if "f32" in kinds:
        found += [made("as it is", "f32", prune_model(network, 0.0, "16x1"), x),
                  *(made(f"{rate:.0%} zeros, 16x1", "f32", prune_model(network, rate, "16x1"), x)
                    for rate in (0.7, 0.8)),
                  made("50% of the channels", "f32", prune_model(network, 0.5, "channels"), x)]
    if "int8" in kinds:
        data = np.concatenate([x, np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)])
        for rate in (0.0, 0.7, 0.8):
            pruned = to_onnx(prune_model(network, rate, "16x4"))
            name = f"{rate:.0%} zeros, 16x4" if rate else "as it is"
            found.append(made(name, "int8", quantize_model(pruned, calibration=data), x))
    return found


def times(found: Sequence[Variant], threads: int, seconds: float, x: Array) -> list[list[float]]:
    """Seconds of each variant's runs, taken in turns: of one thread processor time, of more wall time."""
    clock = time.process_time if threads == 1 else time.perf_counter
    sessions = [v.model.session(threads) for v in found]
    taken: list[list[float]] = [[] for _ in found]
    end = time.monotonic() + seconds
    while len(taken[0]) < 6 or time.monotonic() < end:
        for session, mine in zip(sessions, taken, strict=True):
            start = clock()
            session.run({INPUT: x})
            mine.append(clock() - start)
    return [mine[1:] for mine in taken]


def table(found: Sequence[Variant], threads: int, taken: Sequence[Sequence[float]]) -> None:
    first = {v.kind: t for v, t in reversed(list(zip(found, taken, strict=True)))}
    for variant, mine in zip(found, taken, strict=True):
        ratio = median(a / b for a, b in zip(first[variant.kind], mine, strict=True))
        print(f"{threads} threads  {variant.kind:5s} {variant.name:22s} {1e3 * min(mine):8.2f} ms  {ratio:5.2f}x  "
              f"error {variant.error:.1e}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(ALLOWED), default=list(ALLOWED))
    parser.add_argument("--seconds", type=float, default=15, help="to measure, for each number of threads")
    args = parser.parse_args()
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    found = variants(light.build("resnet50"), args.kinds, x)
    for threads in args.threads:
        table(found, threads, times(found, threads, args.seconds, x))
    return int(any(v.error > ALLOWED[v.kind] for v in found))


if __name__ == "__main__":
    sys.exit(main())
