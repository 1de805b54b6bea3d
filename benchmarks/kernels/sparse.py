"""ResNet-50's convolutions with weights pruned in blocks, against the same shapes dense: one thread, in turns.

    python -m benchmarks.kernels.sparse --density 0.3 --block 16x1
    python -m benchmarks.kernels.sparse --density 0.3 --block 16x4 --bytes
"""
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.kernels.conv import SHAPES
from benchmarks.kernels.timing import kernel_runner
from lepton.codegen.group import LowerOptions
from lepton.codegen.target import TARGETS, native
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType

# How often each of SHAPES occurs in ResNet-50, the first one aside (it reads three channels: no blocks pay there).
TIMES = {1: 1, 2: 3, 3: 4, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3, 9: 1, 10: 5, 11: 5, 12: 1, 13: 2, 14: 3, 15: 2}
ROUNDS = 9


def pruned(weights: Array, density: float, rows: int, columns: int) -> Array:
    """[O, C, k, k] with blocks of `rows` filters by `columns` inputs at random set to zero."""
    rng = np.random.default_rng(1)
    filters, channels = weights.shape[:2]
    blocks = rng.random((-(-filters // rows), -(-channels // columns), *weights.shape[2:])) < density
    mask = blocks.repeat(rows, axis=0)[:filters].repeat(columns, axis=1)[:, :channels]
    return np.asarray(weights * mask, weights.dtype)


def node_of(shape: tuple[int, ...], density: float, block: tuple[int, int], dtype: DType = DType.F32) -> Node:
    """A convolution of floats, or of u8 by i8."""
    channels, filters, size, kernel, stride, groups = shape
    rng, places = np.random.default_rng(0), (filters, channels // groups, kernel, kernel)
    floats = dtype is DType.F32
    w = rng.standard_normal(places).astype(np.float32) if floats else rng.integers(-127, 128, places).astype(np.int8)
    x = Value(TensorType(dtype, (1, size, size, channels)))
    if density < 1:
        w = pruned(w, density, *block)
    given: dict[str, Any] = {"strides": (stride,) * 2, "layout": "nhwc", "pads_begin": (kernel // 2,) * 2,
             "pads_end": (kernel // 2,) * 2, "dilations": (1, 1)}
    if not floats:
        return ops.conv_integer.node(x, ops.constant(value=Tensor.of(w)), group=1, **given)
    bias = ops.constant(value=Tensor.of(np.zeros(filters, np.float32)))
    return ops.conv.node(x, ops.constant(value=Tensor.of(w)), bias, **given)


def best_of(runners: list[Callable[[], None]]) -> list[float]:
    best = [float("inf")] * len(runners)
    for _ in range(ROUNDS):
        for i, run in enumerate(runners):
            run()
            start = time.thread_time()
            run()
            best[i] = min(best[i], time.thread_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default=native().name, choices=list(TARGETS))
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--block", default="16x1", help="outputs x inputs")
    parser.add_argument("--bytes", action="store_true", help="u8 by i8 in place of floats")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    options = LowerOptions(TARGETS[args.target])
    rows, columns = map(int, args.block.split("x"))
    dtype = DType.U8 if args.bytes else DType.F32
    total = [0.0, 0.0]
    for i, times in TIMES.items():
        channels, filters, size, kernel, stride, _ = SHAPES[i]
        runners = [kernel_runner(node_of(SHAPES[i], d, (rows, columns), dtype), options)[0]
                   for d in (1.0, args.density)]
        dense, sparse = best_of(runners)
        total = [total[0] + times * dense, total[1] + times * sparse]
        print(f"{kernel}x{kernel} s{stride} {channels}->{filters} {size}x{size}".ljust(32),
              f"dense {dense * 1e6:8.1f} us   sparse {sparse * 1e6:8.1f} us   {dense / sparse:5.2f}x", flush=True)
    print(f"{'as often as in ResNet-50':32s} dense {total[0] * 1e6:8.1f} us   sparse {total[1] * 1e6:8.1f} us   "
          f"{total[0] / total[1]:5.2f}x")


if __name__ == "__main__":
    main()
