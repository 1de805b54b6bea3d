"""Products in f32 by way of bf16 parts: whether they win over multiply-adds, and what is lost against float64.

    python -m benchmarks.kernels.parts --target x86-avx512bf16

The split of the left factor is part of the time, as a kernel of its own; in a model it joins what makes that factor."""
from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np

import lepton
from lepton.ceilings import peak_loop
from lepton.codegen.target import TARGETS, native
from lepton.codegen.templates.dots import FMA, PAIRS
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

SHAPES = ((128, 768, 768), (128, 768, 3072), (128, 3072, 768), (512, 512, 512), (196, 384, 1536))   # m, k, n
FORMS = {"f32": "fuse", "1 product": "halves{precision=bf16},fuse", "3 products": "parts{products=3},fuse",
         "6 products": "parts{products=6},fuse"}
ROUNDS = 100


def graph_of(w: Array, m: int) -> Graph:
    x = Value(TensorType(DType.F32, (m, len(w))), name="x")
    return Graph.of("product", [x], [ops.matmul(x, ops.constant(value=Tensor.of(w)))])


def seconds(runs: dict[str, Any], x: Array) -> dict[str, list[float]]:
    """Each form's times, taken in turns, each after a run that warms its operands."""
    times: dict[str, list[float]] = {form: [] for form in runs}
    for _ in range(ROUNDS):
        for form, run in runs.items():
            run(x)
            start = time.thread_time()
            run(x)
            times[form].append(time.thread_time() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default=native().name, choices=list(TARGETS))
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    target, rng = TARGETS[args.target], np.random.default_rng(0)
    for name, dot in (("f32", FMA), ("bf16", PAIRS)):
        loop, operations = peak_loop(target, dot)
        loop()
        best = min(_timed(loop) for _ in range(ROUNDS))
        print(f"peak of {name}: {operations / best / 1e9:.0f} GFLOP/s")
    for m, k, n in SHAPES:
        x, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        exact = x.astype(np.float64) @ w.astype(np.float64)
        runs = {form: lepton.compile(graph_of(w, m), target=args.target, passes=passes, threads=1)
                for form, passes in FORMS.items()}
        times = seconds(runs, x)
        for form, run in runs.items():
            off = np.linalg.norm(np.asarray(run(x)) - exact) / np.linalg.norm(exact)
            least, middle = min(times[form]), np.median(times[form])
            gain, best = np.median(times["f32"]) / middle, min(times["f32"]) / least
            print(f"{m}x{k}x{n}  {form:10s} {middle * 1e6:8.1f} us, at least {least * 1e6:8.1f}  "
                  f"{gain:5.2f}x, at best {best:5.2f}x  error {off:.1e}", flush=True)


def _timed(loop: object) -> float:
    start = time.thread_time()
    loop()  # type: ignore[operator]
    return time.thread_time() - start


if __name__ == "__main__":
    main()
