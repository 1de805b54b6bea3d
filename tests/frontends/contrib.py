"""One node of ONNX Runtime's own domain, compiled, against ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import lepton
from tests.frontends.build import IR_VERSION, same

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Held:
    """An operand that the model holds as a constant."""

    array: np.ndarray


def held(array: object, dtype: Any = None) -> Held:
    return Held(np.asarray(array, dtype))


Operand = np.ndarray | Held | None


def node_model(op: str, *operands: Operand, outputs: int | tuple[int, ...] = 1, domain: str = DOMAIN, opset: int = 21,
               sizes: Mapping[str, int] | None = None, **attributes: Any,
               ) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node and its feeds. `outputs`: how many, or the places of those that are asked for. `sizes`: the
    dimensions that are open, by name; absent: all, each with a name of its own."""
    wanted = tuple(range(outputs)) if isinstance(outputs, int) else outputs
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(operands)]
    results = [f"y{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    node = helper.make_node(op, names, results, name="the_node", domain=domain, **attributes)
    feeds = {n: x for n, x in zip(names, operands, strict=True) if isinstance(x, np.ndarray)}
    named = {size: name for name, size in (sizes or {}).items()}
    infos = [helper.make_tensor_value_info(
        n, helper.np_dtype_to_tensor_dtype(x.dtype),
        [f"{n}_{i}" if sizes is None else named.get(d, d) for i, d in enumerate(x.shape)]) for n, x in feeds.items()]
    constants = [numpy_helper.from_array(np.ascontiguousarray(x.array).reshape(x.array.shape), n)
                 for n, x in zip(names, operands, strict=True) if isinstance(x, Held)]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=r) for r in results if r], constants)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION), feeds


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime answers on one thread with its own rewriting off: the operator as it is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def compiled(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(lepton.compile(model).session(1).run(feeds).values())


def agrees(op: str, *operands: Operand, rtol: float = 1e-5, atol: float = 1e-5, **rest: Any) -> list[np.ndarray]:
    """Compiled code gives ONNX Runtime's answer, with the dimensions of all inputs open; the answer."""
    model, feeds = node_model(op, *operands, **rest)
    want = reference(model, feeds)
    same(compiled(model, feeds), want, rtol=rtol, atol=atol)
    return want
