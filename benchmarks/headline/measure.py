"""One image at a time on one thread, engine by engine in turns; sizes and accuracies."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

import lepton
from benchmarks.headline.data import Array, Part
from benchmarks.headline.network import Network

Run = Callable[[Array], Array]     # [1,1,28,28] -> scores [1,10]


@dataclass(frozen=True, eq=False)
class Entry:
    """One way to run the classifier: what it is called, the bytes it is kept in, and how to run it; `several`: whether
    it takes more than one image, which is how they are then judged."""

    name: str
    size: int
    run: Run
    several: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    size: int
    accuracy: float
    milliseconds: float


def eager(name: str, network: Network, folder: Path) -> Entry:
    """As PyTorch runs it when nothing is done: layer after layer, parameters in f32."""
    network.eval().to(memory_format=torch.contiguous_format)
    file = folder / "eager.pt"
    torch.save(network.state_dict(), file)

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(x)).numpy())

    return Entry(name, file.stat().st_size, run, several=True)


def compiled(name: str, file: Path) -> Entry:
    """An artifact of Lepton's."""
    session = lepton.load(file).session(threads=1)
    return Entry(name, file.stat().st_size, lambda x: session.run({"x": x})["scores"])


def onnxruntime(name: str, model: onnx.ModelProto) -> Entry:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Entry(name, len(data), lambda x: session.run(None, {"x": x})[0])


def openvino(name: str, model: onnx.ModelProto) -> Entry | None:
    """None where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    data = model.SerializeToString()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    ready = ov.Core().compile_model(ov.Core().read_model(data, b""), "CPU", settings)
    request = ready.create_infer_request()
    return Entry(name, len(data), lambda x: request.infer({"x": x})[0].copy())


def rows(entries: Sequence[Entry], test: Part, seconds: float) -> list[Row]:
    """Accuracy over all test images; time: the lower quartile of runs taken in turns."""
    right = {e.name: judged(e, test) for e in entries}
    times = in_turns(entries, test.images[:1], seconds)
    return [Row(e.name, e.size, right[e.name] / len(test.labels), 1e3 * float(np.quantile(times[e.name], 0.25)))
            for e in entries]


def judged(entry: Entry, test: Part) -> int:
    """How many answers are right."""
    size = 100 if entry.several else 1
    return sum(int((entry.run(test.images[i:i + size]).argmax(1) == test.labels[i:i + size]).sum())
               for i in range(0, len(test.labels), size))


def in_turns(entries: Sequence[Entry], x: Array, seconds: float) -> Mapping[str, list[float]]:
    """Pieces of twenty runs of each, so that caches are warm and the machine's moods spread evenly. Processor time of
    the one thread: waiting for a busy processor would count against the longer runs only."""
    times: dict[str, list[float]] = {e.name: [] for e in entries}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for entry in entries:
            for i in range(22):
                start = time.process_time()
                entry.run(x)
                if i > 1:
                    times[entry.name].append(time.process_time() - start)
    return times


def table(found: Sequence[Row]) -> str:
    """Against the first row."""
    first = found[0]
    lines = ["| | top-1 | | bytes | smaller | ms | faster |", "|---|--:|--:|--:|--:|--:|--:|"]
    for r in found:
        change, smaller, faster = (100 * (r.accuracy - first.accuracy), first.size / r.size,
                                   first.milliseconds / r.milliseconds)
        lines.append(f"| {r.name} | {r.accuracy:.2%} | {change:+.2f} | {r.size:,} | {smaller:.1f}× | "
                     f"{r.milliseconds:.3f} | {faster:.1f}× |")
    return "\n".join(lines)
