"""How far answers in narrow numbers are from ONNX Runtime's in f32, and how long they take.

    python -m benchmarks.precision FOLDER/*.onnx

Random inputs, open sizes 1. Errors are 2-norms of the difference over those of the answer, the largest of the outputs;
times are the least processor time on one thread. OpenVINO's column is there where it is installed."""
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import lepton
from lepton.codegen.target import TARGETS, native
from lepton.ir.tensor import Array

ROUNDS = 10
FORMS = ("f32", "fp16", "bf16")


def feeds(path: Path) -> dict[str, Array]:
    """Floats around 0; ones for masks, zeros for types of tokens, small numbers for other integers."""
    graph, rng = onnx.load(path, load_external_data=False).graph, np.random.default_rng(0)
    constant = {tensor.name for tensor in graph.initializer}
    found: dict[str, Array] = {}
    for port in graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        shape = [max(d.dim_value, 1) for d in port.type.tensor_type.shape.dim]
        if port.name in constant:
            continue
        if kind.kind == "f":
            found[port.name] = rng.standard_normal(shape).astype(kind)
        else:
            most = 1 if "type" in port.name or "mask" in port.name else 1000
            found[port.name] = (rng.integers(0, most, shape) + ("mask" in port.name)).astype(kind)
    return found


def distance(got: list[Array], want: list[Array]) -> float:
    return max(float(np.linalg.norm((g - w).astype(np.float64).ravel()) / np.linalg.norm(w.astype(np.float64).ravel()))
               for g, w in zip(got, want, strict=True))


def openvino(path: Path, given: dict[str, Array]) -> list[Array] | None:
    """Its answers in bf16."""
    try:
        import openvino as peer
    except ImportError:
        return None
    model = peer.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    answers: Any = model(given)
    return [answers[output] for output in model.outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default=native().name, choices=list(TARGETS))
    args = parser.parse_args()
    for path in args.models:
        given = feeds(path)
        want = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)
        words = []
        for form in FORMS:
            run = lepton.compile(path, target=args.target, precision=form, level=3, threads=1)
            answers = run(*given.values())
            found = [np.asarray(a) for a in (answers if isinstance(answers, list | tuple) else [answers])]
            words.append(f"{form} {distance(found, want):.1e} {least(run, given) * 1e3:.2f} ms")
        peer = openvino(path, given)
        words += [] if peer is None else [f"OpenVINO bf16 {distance(peer, want):.1e}"]
        print(f"{path.stem:24s} " + "   ".join(words), flush=True)


def least(run: Any, given: dict[str, Array]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        run(*given.values())
        best = min(best, time.thread_time() - start)
    return best


if __name__ == "__main__":
    main()
