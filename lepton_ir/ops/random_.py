"""Random draws: `draw_state` says which draw it is, the others are functions of that.

So only `draw_state` is IMPURE: two of them are two draws whatever their attributes say, and none is computed ahead.
What hangs on one may be moved, fused or computed twice. `lepton.ir.draws` has the formulas.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton.ir import draws
from lepton.ir.dims import Dim
from lepton.ir.op import Trait, op
from lepton.ir.ops.elementwise import convert
from lepton.ir.ops.rules import fail, size_is, tensor
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

DRAWN = (DType.F16, DType.BF16, DType.F32, DType.F64)


def _state_type(*, stream: int, seed: int) -> TensorType:
    if stream < 1:
        raise fail(f"stream {stream}; they count from 1")
    return TensorType(DType.U64, (2,))


@op(_state_type, Trait.IMPURE)
def draw_state(*, stream: int, seed: int = -1) -> Array:
    """Which draw comes now, as (key, count): u64[2].

    The count is how often the session ran this node before; the key is `seed` or, if that is -1, comes of the session's
    seed and `stream`, a number that no other node of the model has."""
    session = draws.current()
    count = session.counts[stream]
    session.counts[stream] += 1
    key = draws.stream_key(session.seed, stream) if seed < 0 else draws.stream_key(seed, 0)
    return np.array([key, count], np.uint64)


def _random_type(state: Type, *, shape: Sequence[Dim], dtype: DType, **_rest: float) -> TensorType:
    if tensor(state) != TensorType(DType.U64, (2,)):
        raise fail("the state of random draws is u64[2]", state)
    if dtype not in DRAWN:
        raise fail(f"random draws are floats, not {dtype.value}")
    return TensorType(dtype, tuple(size_is(d, "the result") for d in shape))


def _rounded(values: Array, dtype: DType) -> Array:
    """Halves are rounded twice, over f32."""
    return values if dtype is DType.F64 else convert(values.astype(np.float32), dtype)


@op(_random_type)
def random_normal(
    state: Array, *, shape: tuple[Dim, ...], dtype: DType, mean: float = 0.0, scale: float = 1.0
) -> Array:
    """Draws from the normal distribution, computed in f64 and rounded. The same state gives the same draws, bit by bit,
    on every machine; an element depends on its place in row-major order only."""
    sizes = [d for d in shape if isinstance(d, int)]
    return _rounded(draws.elements(state, sizes, lambda m, bits: draws.normal(m, bits, mean, scale)), dtype)


@op(_random_type)
def random_uniform(state: Array, *, shape: tuple[Dim, ...], dtype: DType, low: float = 0.0, high: float = 1.0) -> Array:
    """Draws from [low, high), evenly spread: multiples of 2**-52 of the interval, rounded. `state` as in
    `random_normal`."""
    sizes = [d for d in shape if isinstance(d, int)]
    return _rounded(draws.elements(state, sizes, lambda m, bits: draws.uniform(m, bits, low, high, dtype)), dtype)
