"""ONNX models: read safely (`model`), checked (`check`), turned into a graph (`importer`)."""
from __future__ import annotations

if __name__ != "lepton.frontends.onnx":
    raise ImportError("import lepton.frontends.onnx")
