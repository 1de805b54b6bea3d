"""Random draws. IMPURE: two nodes with the same attributes are still two draws, and none is computed ahead."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.ir.dims import Dim
from lepton.ir.op import Trait, op
from lepton.ir.ops.rules import fail, size_is
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType


def _random_type(*, shape: Sequence[Dim], dtype: DType, **_rest: float) -> TensorType:
    if not dtype.is_float:
        raise fail(f"random draws are floats, not {dtype.value}")
    return TensorType(dtype, tuple(size_is(d, "the result") for d in shape))


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(None if seed < 0 else seed)


@op(_random_type, Trait.IMPURE)
def random_normal(
    *, shape: tuple[Dim, ...], dtype: DType, mean: float = 0.0, scale: float = 1.0, seed: int = -1
) -> Array:
    """Draws from the normal distribution. A `seed` >= 0 gives the same draws in every run (of one implementation);
    -1 gives new ones."""
    sizes = [d for d in shape if isinstance(d, int)]
    return _generator(seed).normal(mean, scale, sizes).astype(dtype.numpy)


@op(_random_type, Trait.IMPURE)
def random_uniform(
    *, shape: tuple[Dim, ...], dtype: DType, low: float = 0.0, high: float = 1.0, seed: int = -1
) -> Array:
    """Draws from [low, high), evenly spread. `seed` as in `random_normal`."""
    sizes = [d for d in shape if isinstance(d, int)]
    return _generator(seed).uniform(low, high, sizes).astype(dtype.numpy)
