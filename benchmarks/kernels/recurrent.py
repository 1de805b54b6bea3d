"""Recurrent layers: speech activity (one step, and many), tagging in two directions, translation, batches."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.kernels.timing import Case, main, model_of
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

LAYERS = {"lstm": (ops.lstm, 4, "LSTM"), "gru": (ops.gru, 3, "GRU"), "rnn": (ops.rnn, 1, "RNN")}
SHAPES = (  # layer, direction, steps, batch, inputs, hidden
    ("lstm", "forward", 1, 1, 128, 128), ("lstm", "forward", 32, 1, 128, 128), ("lstm", "forward", 32, 8, 128, 128),
    ("lstm", "bidirectional", 100, 1, 64, 64), ("gru", "forward", 1, 1, 128, 128), ("gru", "forward", 50, 1, 80, 256),
    ("gru", "forward", 20, 32, 64, 128), ("rnn", "forward", 100, 1, 64, 64),
)


def case(kind: str, direction: str, steps: int, batch: int, inputs: int, hidden: int) -> Case:
    op, gates, onnx_name = LAYERS[kind]
    d = 2 if direction == "bidirectional" else 1
    rng = np.random.default_rng(0)
    shapes = {"w": (d, gates * hidden, inputs), "r": (d, gates * hidden, hidden), "b": (d, 2 * gates * hidden)}
    constants = {name: (rng.standard_normal(s) * hidden ** -0.5).astype(np.float32) for name, s in shapes.items()}
    x = Value(TensorType(DType.F32, (steps, batch, inputs)))
    node = op.node(x, *(ops.constant(value=Tensor.of(a)) for a in constants.values()), hidden=hidden,
                   direction=direction)
    model = model_of(onnx_name, [("x", (steps, batch, inputs))], constants, hidden_size=hidden, direction=direction)
    feed = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
    return Case(f"{kind} {direction} {steps}x{batch}x{inputs} h{hidden}", node, model, (("x", feed),))


def cases() -> Iterator[Case]:
    for row in SHAPES:
        yield case(*row)


if __name__ == "__main__":
    main(cases, __doc__)
