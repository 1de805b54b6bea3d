"""Training, and training on after pruning: gradient descent in bf16, one cycle of the learning rate."""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from benchmarks.headline.data import Part
from benchmarks.headline.network import Network

BATCH = 128
HEAT = 4.0     # softens the scores that a pruned network learns from the whole one


@dataclass(frozen=True)
class Course:
    """One course of training."""

    epochs: float
    rate: float
    decay: float = 5e-4
    seed: int = 0


def fit(network: Network, part: Part, course: Course, teacher: Network | None = None) -> None:
    """Train in place; with a teacher on its scores as well as on the labels (distillation)."""
    torch.manual_seed(course.seed)
    network.train().to(memory_format=torch.channels_last)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    optimizer = torch.optim.SGD(network.parameters(), lr=course.rate, momentum=0.9, weight_decay=course.decay,
                                nesterov=True)
    steps = int(course.epochs * len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, course.rate, total_steps=steps + 1, pct_start=0.2)
    order, start = torch.randperm(len(labels)), time.monotonic()
    for step in range(steps):
        place = step * BATCH % (len(labels) - BATCH)
        if place < BATCH:
            order = torch.randperm(len(labels))
        picked = order[place:place + BATCH]
        x = moved(images[picked]).contiguous(memory_format=torch.channels_last)
        loss = step_loss(network, x, labels[picked], teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step + 1 == steps:
            print(f"step {step + 1}/{steps}, loss {loss.item():.4f}, {time.monotonic() - start:.0f} s", file=sys.stderr,
                  flush=True)
    network.eval()


def step_loss(network: Network, x: Tensor, labels: Tensor, teacher: Network | None) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(x).float()
        if teacher is None:
            return cross_entropy(scores, labels)
        with torch.no_grad():
            wanted = teacher(x).float()
    soft = kl_div(log_softmax(scores / HEAT, 1), softmax(wanted / HEAT, 1), reduction="batchmean") * HEAT * HEAT
    return 0.2 * cross_entropy(scores, labels) + 0.8 * soft


def moved(x: Tensor) -> Tensor:
    """Half of the images mirrored, all shifted by up to 2 pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    across, down = torch.randint(-2, 3, (2,)).tolist()
    return torch.roll(x, (across, down), (2, 3))


def accuracy(network: Network, part: Part) -> float:
    """Share of the images whose largest score is the right one's, in f32."""
    right = 0
    with torch.inference_mode():
        for at in range(0, len(part.labels), 500):
            scores = network(torch.from_numpy(part.images[at:at + 500]))
            right += int((scores.argmax(1).numpy() == part.labels[at:at + 500]).sum())
    return right / len(part.labels)
