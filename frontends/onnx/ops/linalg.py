"""Linear algebra beyond products."""
from __future__ import annotations

from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value


@imports("Det", since=11)
def det(c: Call) -> Value:
    return c(ops.det, c.x())
