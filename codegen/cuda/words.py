"""Constants as GPUs' kernels find them in memory."""
from __future__ import annotations

import numpy as np

from lepton.codegen.lower.halves import upper_halves
from lepton.ir.tensor import Array
from lepton.ir.types import DType


def words(array: Array, dtype: DType) -> Array:
    """Halves as their bits, and f32 that stand for bf16 as those."""
    if dtype is DType.BF16 and array.dtype == np.float32:
        return upper_halves(array)
    return array.view(np.uint16) if array.dtype.itemsize == 2 else array
