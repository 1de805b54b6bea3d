"""Weights that lie in memory in half the space: f32 numbers that are halves, every one of them.

Kernels widen them as they read them, so the answers are the same; what is read once, as in a product of few rows, takes
half the time. `--precision fp16` rounds weights so that they are halves (lepton.passes.halves).
"""
from __future__ import annotations

import ml_dtypes
import numpy as np

from lepton.codegen.llvm.convert import has_half
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.ir.tensor import Array
from lepton.ir.types import DType

GLANCE = 4096                 # numbers that are looked at before all of them are


def halved(target: Target, weights: Array) -> tuple[Dot, Array]:
    """How f32 weights are read, and the weights as they are stored: in f16 or bf16 where that loses nothing."""
    for dtype in (DType.F16, DType.BF16):
        if weights.dtype == np.float32 and (dtype is DType.BF16 or has_half(target)):
            narrow = np.float16 if dtype is DType.F16 else ml_dtypes.bfloat16
            if _exact(weights.flat[:GLANCE], narrow) and _exact(weights, narrow):
                return Dot(stored=dtype), weights.astype(narrow)
    return FMA, weights


def _exact(weights: Array, narrow: object) -> bool:
    """Whether the numbers, zeros' signs too, come back as they were. NaN never does."""
    with np.errstate(over="ignore"):
        back = weights.astype(narrow).astype(np.float32)  # type: ignore[call-overload]
    return bool(np.array_equal(back, weights))
