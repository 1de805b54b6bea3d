"""Models on NVIDIA GPUs: a demonstration, and the measurements of docs/performance-cuda.md."""
