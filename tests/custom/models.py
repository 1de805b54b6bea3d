"""Arrays that are hard to get right, and operators that several tests declare."""
from __future__ import annotations

from typing import Any

import numpy as np

from lepton import custom
from lepton.ir.types import TensorType

F32 = np.float32
HARD = np.array([[np.nan, np.inf, -np.inf], [-0.0, 0.0, 1e-40], [1.5, -2.5, 3e38]], F32)


def declare_median() -> None:
    @custom.host_function("my::Median", lambda x, *, scale: TensorType(x.dtype, x.shape[:-1]))
    def median(x: Any, *, scale: float = 1.0) -> Any:
        return (np.median(x, axis=-1) * scale).astype(x.dtype)
