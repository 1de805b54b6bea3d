"""How an artifact's weights come into memory."""
from __future__ import annotations

from pathlib import Path

import numpy as np

import lepton
from lepton.ir import ops
from lepton.ir.core import Graph, User, Value
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

WIDTH = 1000


def resident(path: Path) -> int:
    """Bytes of a file that this process has mapped in."""
    found, own = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            own = words[-1] == str(path)
        elif words[0] == "Rss:" and own:
            found += int(words[1]) * 1024
    return found


def test_weights_are_mapped_when_a_session_is_made(tmp_path: Path) -> None:
    """One after the other, which takes less than page faults in the middle of a run."""
    x = Value(TensorType(DType.F32, (1, WIDTH)), name="x")
    weights = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    y = ops.matmul(x, ops.constant(value=Tensor.of(weights)))
    path = tmp_path / "m.so"
    lepton.compile_to(Graph("g", (x,), User((y,))), path)
    model = lepton.load(path)
    before = resident(path)
    session = model.session()
    assert before < weights.nbytes / 2
    assert resident(path) >= weights.nbytes
    data = np.ones((1, WIDTH), np.float32)
    (got,) = session.run({"x": data}).values()
    np.testing.assert_allclose(got, data @ weights, rtol=1e-4, atol=1e-3)
