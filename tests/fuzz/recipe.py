"""One random ONNX model in the making: arrays, which of them are inputs and which weights, one node and a tail."""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17)


class Recipe:
    """Collects what makers choose; `model` puts it together."""

    def __init__(self, seed: int) -> None:
        self.choose, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.feeds: dict[str, np.ndarray] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.outputs: list[str] = []
        self.opset = 0
        self.open = self.chance(0.3)      # whether inputs' sizes are left open

    # --- dice ---

    def chance(self, probability: float) -> bool:
        return self.choose.random() < probability

    def pick(self, *values: Any) -> Any:
        return self.choose.choice(values)

    def size(self, low: int) -> int:
        return self.choose.choice([n for n in SIZES if n >= low][:7])

    def shape(self, least: int, most: int, low: int = 1) -> tuple[int, ...]:
        return tuple(self.choose.choice([n for n in SIZES[:7] if n >= low])
                     for _ in range(self.choose.randrange(least, most + 1)))

    def array(self, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return np.asarray(self.rng.integers(0, 2, shape), np.bool_)
        if dtype.kind in "iu":
            low, high = (-100, 100) if dtype.kind == "i" else (0, 200)
            return np.asarray(self.rng.integers(low, high, shape)).astype(dtype)
        return np.asarray(self.rng.standard_normal(shape)).astype(dtype)

    # --- the model ---

    def input(self, array: np.ndarray) -> str:
        name = f"x{len(self.feeds)}"
        self.feeds[name] = np.asarray(array)
        return name

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def either(self, array: np.ndarray) -> str:
        return self.weight(array) if self.chance(0.5) else self.input(array)

    def node(self, op: str, inputs: Sequence[str], *, opset: int, outputs: int = 1, **attrs: Any) -> None:
        self.outputs = [f"y{i}" for i in range(outputs)]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(helper.make_node(op, list(inputs), self.outputs, name="node", **attrs))
        self.opset = opset

    def tail(self) -> None:
        """An activation behind a node that gives floats, now and then: what a compiler fuses."""
        first = self.model().graph.output[0].type.tensor_type.elem_type
        if self.opset >= 7 and first == TensorProto.FLOAT and self.chance(0.3):
            op = self.pick("Relu", "Sigmoid", "Tanh", "Neg")
            self.nodes.append(helper.make_node(op, [self.outputs[0]], ["z"], name="tail"))
            self.outputs[0] = "z"

    def model(self) -> onnx.ModelProto:
        def info(name: str, x: np.ndarray) -> onnx.ValueInfoProto:
            shape: list[Any] = [f"{name}_{i}" if self.open and n > 1 else n for i, n in enumerate(x.shape)]
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), shape)

        graph = helper.make_graph(
            self.nodes, "fuzz", [info(name, x) for name, x in self.feeds.items()],
            [onnx.ValueInfoProto(name=name) for name in self.outputs],
            [numpy_helper.from_array(x, name) for name, x in self.weights.items()])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        # ONNX Runtime wants the outputs' types.
        inferred = onnx.shape_inference.infer_shapes(made)
        for output in inferred.graph.output:
            if not output.type.WhichOneof("value"):
                output.type.tensor_type.elem_type = TensorProto.FLOAT
        return inferred
