"""What open sizes cost: models with open dimensions against the same ones compiled for the sizes they are run at.

    python -m benchmarks.open_sizes [minilm_l3 ppocr_rec resnet50]

One thread, by turns, processor time (so that other work on the machine matters little), the least of all runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import lepton
from benchmarks.peers.zoo import light
from tests.models.networks import BY_NAME

Feeds = dict[str, np.ndarray]
ROUNDS = 15


def text(batch: int, length: int) -> Feeds:
    ids = np.random.default_rng(0).integers(0, 1000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones((batch, length), np.int64)}


def image(name: str, *shape: int) -> Feeds:
    return {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def open_resnet() -> onnx.ModelProto:
    """ResNet-50 with an open batch; its last Reshape takes any."""
    model = light.build("resnet50")
    names = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            shape = numpy_helper.to_array(tensor).copy()
            shape[0] = -1
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in {t.name for t in model.graph.initializer}:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    return model


CASES: Mapping[str, Sequence[Feeds]] = {
    "minilm_l3": (text(1, 128), text(8, 64)),
    "ppocr_rec": (image("x", 1, 3, 48, 320), image("x", 4, 3, 48, 160)),
    "resnet50": (image("gpu_0/data_0", 1, 3, 224, 224), image("gpu_0/data_0", 4, 3, 224, 224)),
}


def least(sessions: Sequence[lepton.Session], feeds: Feeds) -> list[float]:
    """Seconds of processor time of each session's fastest run."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for session, found in zip(sessions, times, strict=True):
            start = time.process_time()
            session.run(feeds)
            found.append(time.process_time() - start)
    return [min(found[1:]) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(CASES), help=", ".join(CASES))
    for name in parser.parse_args().models:
        source: Path | onnx.ModelProto = open_resnet() if name == "resnet50" else BY_NAME[name].path()
        open_model = lepton.compile(source)
        for feeds in CASES[name]:
            sizes = {str(d): n for port in open_model.inputs
                     for d, n in zip(port.shape, feeds[port.name].shape, strict=True) if not isinstance(d, int)}
            pinned = lepton.compile(source, dims=sizes)
            a, b = least([open_model.session(1), pinned.session(1)], feeds)
            shape = "x".join(map(str, next(iter(feeds.values())).shape))
            print(f"{name} {shape}: open {a * 1e3:.2f} ms, pinned {b * 1e3:.2f} ms, {a / b:.3f}", flush=True)


if __name__ == "__main__":
    main()
