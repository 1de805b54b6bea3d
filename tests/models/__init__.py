"""Whole networks: where they come from, what is asked of them, and how far they agree with ONNX Runtime."""
