"""Small ONNX files that the tests of the command line compile, and how they call the tools."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
Shapes = Mapping[str, Sequence[int | str]]
FLOAT = TensorProto.FLOAT
OLD = b"what was there before"
WEIGHTS = np.random.default_rng(3).standard_normal((16, 8)).astype(np.float32)
BIAS = np.linspace(-1, 1, 8, dtype=np.float32)


def mlp() -> onnx.ModelProto:
    """y = relu(x @ w + b), x[N, 16]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="mm"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="plus"),
        helper.make_node("Relu", ["sum"], ["y"], name="act"),
    ]
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 8]}, {"w": WEIGHTS, "b": BIAS})


def mlp_answer(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x @ WEIGHTS + BIAS, 0))


def model(nodes: Sequence[onnx.NodeProto], inputs: Shapes, outputs: Shapes,
          weights: Mapping[str, np.ndarray] | None = None, kinds: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """A model of these nodes; ports are float unless `kinds` says otherwise."""
    def port(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, (kinds or {}).get(name, FLOAT), shape)

    graph = helper.make_graph(
        nodes, "small", [port(*item) for item in inputs.items()], [port(*item) for item in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(made: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def call(module: str, *words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of the tools in a process of its own."""
    return subprocess.run(command(module, *words), cwd=cwd, env=process_environment(**environment), capture_output=True,
                          text=True, timeout=120)


def command(module: str, *words: str | Path) -> list[str]:
    return [sys.executable, "-m", f"lepton.{module}", *map(str, words)]


def process_environment(**environment: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    return {**kept, "PYTHONPATH": str(ROOT), **environment}


Invoke = Callable[..., tuple[int, str, str]]
