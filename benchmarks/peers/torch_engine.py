"""PyTorch as a peer: the very nets that `torch_nets` exports to ONNX, with the same weights. Runs in venv-models."""

from __future__ import annotations

from typing import Any

import numpy as np


class Torch:
    """Eager PyTorch, or `torch.compile` with its weights frozen (constant folding and prepacking, as for inference)."""

    def __init__(self, compiled: bool) -> None:
        import torch

        from benchmarks.peers.zoo import torchvision_stub

        torchvision_stub.install()
        from benchmarks.peers.zoo import torch_nets

        self.torch, self.nets, self.compiled = torch, torch_nets, compiled
        self.version = torch.__version__

    def load(self, job: dict[str, Any], feeds: dict[str, np.ndarray]) -> None:
        self.torch.set_num_threads(job["threads"])
        self.module: Any = self.nets.instantiate(job["model"])[1]
        self.arguments = [self.torch.from_numpy(array) for array in feeds.values()]
        if self.compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            self.module = self.torch.compile(self.module)

    def run(self) -> Any:
        with self.torch.no_grad():
            return self.module(*self.arguments)

    def outputs(self, result: Any) -> list[np.ndarray]:
        return [result.numpy()]
