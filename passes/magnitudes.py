"""What is known of how large the elements of a float value are, whatever the inputs hold (NaN aside)."""
from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.op import Op
from lepton.ir.types import DType
from lepton.passes.common import array_of

DEPTH = 8       # producers looked at one behind the other: sums of sums would else take ever longer

_MOVES: frozenset[Op] = frozenset({ops.reshape, ops.transpose, ops.broadcast_to, ops.slice_, ops.reduce_max,
                                   ops.reduce_min})
_MAKES_WHOLE: frozenset[Op] = frozenset({ops.round_, ops.floor, ops.ceil, ops.sign})
_KEEPS_WHOLE: frozenset[Op] = _MOVES | {ops.add, ops.sub, ops.mul, ops.maximum, ops.minimum, ops.reduce_sum, ops.neg,
                                        ops.abs_, ops.relu, ops.cast}


def has_reciprocals(value: Value) -> bool:
    """Whether each element has a reciprocal as exact as a division: none lies so near to 0 that it overflows. (0 itself
    may be there: 1 / 0 and x / 0 are infinite alike.)"""
    return _never_tiny(value, least_normal(value.tensor.dtype), DEPTH)


def least_normal(dtype: DType) -> float:
    """The least positive number of full precision of a float type."""
    info: Any = ml_dtypes.finfo  # has no types
    return float(info(dtype.numpy).tiny)


def _never_tiny(value: Value | None, tiny: float, depth: int) -> bool:
    if value is None or (node := value.producer) is None or not depth:
        return False
    if node.op is ops.sqrt:  # that of the least subnormal is far above all of them
        return True
    if node.op in _MOVES or node.op in (ops.neg, ops.abs_):
        return _never_tiny(node.inputs[0], tiny, depth - 1)
    return _is_whole(value, depth) or least(value, depth) >= tiny


def _is_whole(value: Value | None, depth: int) -> bool:
    """Whether all finite elements are whole numbers."""
    if value is None or not value.tensor.dtype.is_float:
        return value is not None
    if (node := value.producer) is None or not depth:
        return False
    if (array := array_of(value)) is not None:
        wide = array.astype(np.float64)
        return bool((np.trunc(wide) == wide).all())
    through = node.op in _KEEPS_WHOLE and all(_is_whole(x, depth - 1) for x in node.inputs)
    return node.op in _MAKES_WHOLE or through


def least(value: Value | None, depth: int = DEPTH) -> float:
    """What no element lies below; -inf where nothing is known. Rounding does not lead below it: it keeps order, and of
    sums and products only the sign is told."""
    if value is None or (node := value.producer) is None or not depth or not value.tensor.dtype.is_float:
        return -math.inf
    if (array := array_of(value)) is not None:
        low = array.astype(np.float64).min(initial=math.inf)
        return -math.inf if np.isnan(low) else float(low)

    def of(index: int) -> float:
        return least(node.inputs[index], depth - 1)

    match node.op:
        case ops.abs_ | ops.exp | ops.sqrt | ops.relu | ops.sigmoid | ops.softplus | ops.softmax:
            return 0.0
        case ops.mul:
            return 0.0 if node.inputs[0] is node.inputs[1] or min(of(0), of(1)) >= 0 else -math.inf
        case ops.reduce_sum | ops.reduce_mean:
            return 0.0 if of(0) >= 0 else -math.inf
        case ops.add:
            return of(0) + of(1)
        case ops.maximum:
            return max(of(0), of(1))
        case ops.minimum:
            return min(of(0), of(1))
        case ops.clip:  # a bound may be absent; the upper one has the last word
            low = max(of(0), of(1)) if len(node.inputs) > 1 else of(0)
            return low if len(node.inputs) < 3 or node.inputs[2] is None else min(low, of(2))
        case op if op in _MOVES or op is ops.cast:
            return of(0)
        case _:
            return -math.inf
