"""Linear algebra beyond products."""
from __future__ import annotations

import numpy as np

from lepton.ir.ops.rules import fail, floating, same_dim, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import TensorType, Type


def _det_type(x: Type) -> TensorType:
    t = tensor(x, floating, least=2)
    same_dim(t.shape[-2], t.shape[-1], "sides of the matrix", x)
    if isinstance(t.shape[-1], int) and t.shape[-1] > 4096:
        raise fail("a matrix of more than 4096 rows", x)
    return t.with_shape(t.shape[:-2])


@wide_op(_det_type)
def det(x: Array) -> Array:
    """The determinant of each matrix [...,n,n], computed in f64; 1 for n = 0."""
    return np.asarray(np.linalg.det(x.astype(np.float64)), x.dtype)
