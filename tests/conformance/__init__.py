"""ONNX's own backend tests, each in a process of its own (README.md)."""
