"""Putting rows in order."""
from __future__ import annotations

import numpy as np

from lepton.ir.op import op
from lepton.ir.ops.rules import anything, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type


def _sort_rows_type(x: Type) -> TensorType:
    return TensorType(DType.I64, tensor(x, anything, rank=2).shape[:1])


@op(_sort_rows_type)
def sort_rows(x: Array) -> Array:
    """The indices that put the rows of x [n,m] in ascending order, compared from the first column on: i64[n].

    Equal rows keep their order. NaN counts as larger than all, and as equal to NaN; -0 is equal to 0."""
    keys = x if x.dtype.isbuiltin == 1 else x.astype(np.float32)  # others do not sort NaN
    if not x.shape[1]:
        return np.arange(len(x))
    return np.lexsort(keys.T[::-1]).astype(np.int64)
