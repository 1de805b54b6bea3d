"""What other people's programs say an ONNX node means: ONNX Runtime, and onnx's own reference evaluator."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from lepton.ir.tensor import Array

onnxruntime.set_default_logger_severity(4)


@dataclass(frozen=True)
class Onnx:
    """A node to compare with: operator, attributes, inputs (None: the case's operands), and who computes it."""

    op: str
    attrs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Array | None, ...] | None = None
    outputs: int = 1
    opset: int = 17
    by: str = "ort"            # or "reference"


def model(node: Onnx, inputs: Sequence[Array | None]) -> onnx.ModelProto:
    """A model of one node. The outputs' types are left to inference."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    outputs = [f"y{i}" for i in range(node.outputs)]
    infos = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for name, x in zip(names, inputs, strict=True) if x is not None]
    graph = helper.make_graph([helper.make_node(node.op, names, outputs, **node.attrs)], "one", infos,
                              [onnx.ValueInfoProto(name=name) for name in outputs])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def run(node: Onnx, operands: Sequence[Array | None]) -> list[Array]:
    """The node's outputs."""
    inputs = operands if node.inputs is None else node.inputs
    proto = model(node, inputs)
    feed = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    if node.by == "reference":
        return [np.asarray(y) for y in ReferenceEvaluator(proto).run(None, feed)]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))
