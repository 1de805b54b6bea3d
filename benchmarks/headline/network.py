"""The classifier: a residual network of 14 layers, 64 to 256 channels wide, or of any other widths after pruning."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Widths:
    """Channels of what the network computes: the stem, each stage's trunk, and the inside of its two blocks."""

    stem: int = 64
    trunks: tuple[int, ...] = (64, 128, 256)
    inner: tuple[tuple[int, int], ...] = ((64, 64), (128, 128), (256, 256))


class Block(nn.Module):
    """Two 3x3 convolutions around a sum with what came in; a 1x1 one on that path where the shape changes."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


class Network(nn.Module):
    """[N,1,28,28] -> scores [N,10]."""

    def __init__(self, widths: Widths = Widths()) -> None:
        super().__init__()
        self.widths = widths
        self.stem = nn.Conv2d(1, widths.stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths.stem)
        blocks, before = [], widths.stem
        for trunk, inner in zip(widths.trunks, widths.inner, strict=True):
            for i, inside in enumerate(inner):
                blocks.append(Block(before, inside, trunk, 1 if i else 2))
                before = trunk
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(torch.relu(self.bn(self.stem(x))))
        return self.head(y.mean((2, 3)))


def pairs(network: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with the normalisation behind it, in the order in which they run."""
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = [(network.stem, network.bn)]
    for block in network.blocks:
        assert isinstance(block, Block)
        found += [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if isinstance(block.short, nn.Sequential) and len(block.short):
            found.append((block.short[0], block.short[1]))
    return found


def size(modules: Sequence[nn.Module]) -> int:
    """Bytes of all parameters."""
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())
