"""Kernels in CUDA C: templates of the prelude, filled in with a problem's operands and epilogue."""
