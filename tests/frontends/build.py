"""Small models for the frontend's tests, and the comparison of what they mean with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lepton.frontends import load
from lepton.ir.core import Graph
from lepton.ir.evaluate import evaluate
from lepton.ir.verify import verify

IR_VERSION = 10


def text_model(text: str) -> onnx.ModelProto:
    """A model in onnx's own text format."""
    return onnx.parser.parse_model(text)


def single(
    op: str, inputs: Mapping[str, np.ndarray | None], *, constants: Mapping[str, np.ndarray] = {}, outputs: int = 1,
    opset: int = 20, domain: str = "", open_dims: bool = False, **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node. An input of None is left out; `constants` are initialisers that follow the inputs."""
    present = {name: x for name, x in inputs.items() if x is not None}
    given = [name if x is not None else "" for name, x in inputs.items()] + list(constants)
    results = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(op, given, results, name="the_node", domain=domain, **attributes)
    infos = [helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(x.dtype),
        [f"{name}_{i}" for i in range(x.ndim)] if open_dims else x.shape) for name, x in present.items()]
    tensors = [numpy_helper.from_array(x, name) for name, x in constants.items()]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=r) for r in results], tensors)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def imported(model: onnx.ModelProto, **options: Any) -> Graph:
    """The model as a graph that verifies."""
    graph = load(model, **options)
    verify(graph)
    return graph


def runtime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime answers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def agrees(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, rtol: float = 1e-5, atol: float = 1e-5,
           **options: Any) -> Graph:
    """Check that the imported graph means what ONNX Runtime computes, in dtypes and shapes too."""
    graph = imported(model, **options)
    got = evaluate(graph, *(feeds[v.name or ""] for v in graph.inputs))
    same(got, runtime(model, feeds), rtol=rtol, atol=atol)
    return graph


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], *, rtol: float, atol: float) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.asarray(np.abs(floats(*shape)) + np.float32(0.1))


def ints(*values: int, dtype: Any = np.int64) -> np.ndarray:
    return np.array(values, dtype)


def external(tensor: TensorProto, location: str, **entries: object) -> TensorProto:
    """The tensor with its elements said to lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
