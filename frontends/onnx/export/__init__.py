"""The other way: a graph to an ONNX model, for other tools to read.

    onnx.save(to_onnx(graph), "model.onnx")
"""
from lepton.frontends.onnx.export import elementwise, layers, movement  # noqa: F401  (they fill the table of rules)
from lepton.frontends.onnx.export.writer import OPSET, to_onnx

__all__ = ["OPSET", "to_onnx"]
