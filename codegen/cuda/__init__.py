"""Code generation for NVIDIA GPUs: CUDA C as text, through NVRTC. README.md says how the parts fit."""
