"""Arrays to feed random programs: of moderate size, or with everything that arithmetic gets wrong."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.tensor import Array
from lepton.ir.types import DType

# NaN, infinities, both zeros, subnormals, the largest, halves, where exp and f16 overflow.
HARD = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-40, -1e-40, 3.4e38, -3.4e38, 1e-7, 88.9,
        -104.5, 65504.0, 1e10)


def array(rng: np.random.Generator, dtype: DType, shape: Sequence[int], hard: bool = False) -> Array:
    """Elements of `dtype`: normal floats, small integers; `hard`: extremes among them."""
    if dtype is DType.BOOL:
        return np.asarray(rng.integers(0, 2, shape), np.bool_)
    if dtype.is_integer:
        return _integers(rng, dtype, shape, hard)
    values = np.asarray(rng.standard_normal(shape))
    if hard:
        special = rng.choice(np.array(HARD), shape)
        values = np.where(rng.random(shape) < 0.3, special, values)
    if dtype is DType.F8E8M0:
        values = np.abs(values)
    with np.errstate(all="ignore"):
        return np.asarray(values.astype(dtype.numpy))


def _integers(rng: np.random.Generator, dtype: DType, shape: Sequence[int], hard: bool) -> Array:
    iinfo: Any = ml_dtypes.iinfo
    info = iinfo(dtype.numpy)
    least, most = int(info.min), int(info.max)
    low, high = max(least, -9), min(most, 9)
    values = rng.integers(low, high + 1, shape)
    if hard:
        ends = rng.choice(np.array([least, most, 0, 1, max(least, -1)], object), shape)
        values = np.where(rng.random(shape) < 0.3, ends, values.astype(object))
    if dtype.bits >= 8:
        return np.asarray(values).astype(dtype.numpy)
    return np.asarray(values).astype(np.int8).astype(dtype.numpy)
