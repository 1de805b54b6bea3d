"""Microbenchmarks of single kernels: GFLOP/s, share of the machine's multiply-add peak, ONNX Runtime beside them."""
