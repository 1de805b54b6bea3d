"""What a compilation holds of large weights at its peak."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, User, Value
from lepton.ir.mapped import forget_pages, mapped
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

PEAK = """
import sys
import lepton
def rows():
    return {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.endswith("kB\\n")}
lepton.compile_to(sys.argv[1], sys.argv[3])
open("/proc/self/clear_refs", "w").write("5")      # the peak counts from here
before = int(rows()["VmRSS"])
lepton.compile_to(sys.argv[2], sys.argv[3])
print((int(rows()["VmHWM"]) - before) * 1024)
"""


def _classifier(path: Path, width: int) -> int:
    """A convolution, flattened, and a layer whose matrix stands transposed, as PyTorch writes them. Its bytes."""
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((width, 3, 3, 3)).astype(np.float32)
    matrix = rng.standard_normal((4 * width, 64 * width)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "f"], ["y"], pads=[1, 1, 1, 1]),
             helper.make_node("Flatten", ["y"], ["flat"]),
             helper.make_node("Gemm", ["flat", "m"], ["z"], transB=1)]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    z = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(filters, "f"), numpy_helper.from_array(matrix, "m")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [z], tensors)), path)
    return matrix.nbytes


def test_a_large_matrix_is_held_three_times_at_most(tmp_path: Path) -> None:
    """In the file, as the passes leave it, and as a pass is writing it or packed."""
    _classifier(tmp_path / "small.onnx", 4)
    size = _classifier(tmp_path / "large.onnx", 192)
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "small.onnx", tmp_path / "large.onnx",
                           tmp_path / "model.so"], capture_output=True, text=True, check=True)
    assert 2 * size < int(done.stdout) < 3.6 * size


def test_forgotten_pages_come_back(tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(100_000)
    (tmp_path / "f").write_bytes(data)
    with open(tmp_path / "f", "rb") as file:
        view = mapped(file.fileno(), len(data))
    part = view[5000:90_000]
    assert part == data[5000:90_000]
    forget_pages()
    assert part == data[5000:90_000]
    assert bytes(mapped(-1, 0)) == b""


def test_an_array_that_is_given_away_is_not_copied() -> None:
    array = np.arange(6, dtype=np.float32)
    given = Tensor.of(array, copy=False)
    assert given.array is array
    assert not array.flags.writeable
    assert Tensor.of(np.ones((2, 3), np.float32).T, copy=False).array.flags.c_contiguous


def test_denormals_in_any_piece_are_flushed() -> None:
    """More weights than are looked at at a time, denormals among the last."""
    weights = np.random.default_rng(2).standard_normal((300, 500)).astype(np.float32)
    weights[-1, -3:] = 1e-39, -0.0, -1e-39
    x = Value(TensorType(DType.F32, (1, 300)), name="x")
    y = ops.matmul(x, ops.constant(value=Tensor.of(weights)))
    one_hot = np.eye(300, dtype=np.float32)[-1:]
    (got,) = lepton.compile(Graph("g", (x,), User((y,)))).run({"x": one_hot}).values()
    np.testing.assert_array_equal(got[0], np.where(np.abs(weights[-1]) < 1e-38, 0, weights[-1]))


def test_pages_are_forgotten_while_others_map_files(tmp_path: Path) -> None:
    """Compilations in several threads: another one may come in between any two lines of Python."""
    (tmp_path / "f").write_bytes(b"weights")
    with open(tmp_path / "f", "rb") as file:
        kept = [mapped(file.fileno(), 7) for _ in range(3)]

        def between_lines(frame: FrameType, event: str, _argument: object) -> Any:
            if event == "line":
                kept.append(mapped(file.fileno(), 7))
            return between_lines

        before = sys.gettrace()
        sys.settrace(between_lines)
        try:
            forget_pages()
        finally:
            sys.settrace(before)
    assert len(kept) > 6
    assert all(bytes(view) == b"weights" for view in kept)
