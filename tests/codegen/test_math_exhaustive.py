"""All 2**32 floats through each polynomial, against f64: `pytest -m big tests/codegen/test_math_exhaustive.py`.

One to three minutes of two cores for each function; for one of them: `-k tanh`. With `-s` the worst errors are printed.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lepton.ir.tensor import Array
from tests.codegen.harness import HERE, Code
from tests.codegen.test_math import REFERENCE, ULPS, OneOp

PIECE = 1 << 16        # floats at a time: small enough that their f64 stay in the cache
RANGES = {"exp": (0, math.inf), "sigmoid": (0, 1), "tanh": (-1, 1), "erf": (-1, 1)}


class Worst:
    """One op on one target: what of a piece is wrong, and the largest error so far."""

    def __init__(self, op: str, code: Code, allowed: float) -> None:
        self.op, self.code, self.allowed = op, code, allowed
        self.error, self.at = 0.0, 0.0

    def take(self, x: Array, exact: Array, rounded: Array) -> None:
        y = np.empty_like(x)
        self.code([x.ctypes.data, y.ctypes.data], [], 0, [(0, len(x))])
        numbers, finite = ~np.isnan(rounded), np.isfinite(rounded)
        np.testing.assert_array_equal(y[~finite], rounded[~finite])
        assert (np.signbit(y) == np.signbit(rounded))[numbers].all(), f"signs from {x[0]!r} on"
        low, high = RANGES.get(self.op, (-math.inf, math.inf))
        assert ((y >= low) & (y <= high))[numbers].all(), f"results out of range from {x[0]!r} on"
        if self.op == "sigmoid":  # denormal results are 0
            finite &= x >= -87.3
        error = np.where(finite, np.abs(y.astype(np.float64) - exact) / unit(rounded), 0)
        worst = int(error.argmax())
        assert error[worst] <= self.allowed, f"{error[worst]} ulp at {x[worst]!r}"
        if error[worst] > self.error:
            self.error, self.at = float(error[worst]), float(x[worst])


def unit(y: Array) -> Array:
    """The unit in the last place of each f32, as f64: np.spacing, but faster."""
    power = (y.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32).astype(np.float64)
    return np.maximum(power * 2.0**-23, 2.0**-149)


def f64_of(op: str) -> Callable[[Array], Array]:
    if op != "erf":
        return REFERENCE[op]
    return pytest.importorskip("scipy.special").erf  # type: ignore[no-any-return]  # math.erf took half an hour


@pytest.mark.big
@pytest.mark.parametrize("eighth", range(8))
@pytest.mark.parametrize("op", ULPS)
def test_every_float(op: str, eighth: int) -> None:
    """Of an eighth of them: what takes too long as one test is ended as if it hung."""
    of = f64_of(op)
    worst = [Worst(op, Code(OneOp(op), t), ULPS[op][0 if t.fma else 1]) for t in HERE]

    def piece(start: int) -> None:
        with np.errstate(all="ignore"):
            x = np.arange(start, start + PIECE, dtype=np.uint32).view(np.float32)
            exact = of(x.astype(np.float64))
            rounded = exact.astype(np.float32)
            for w in worst:
                w.take(x, exact, rounded)

    with ThreadPoolExecutor(2) as threads:
        for _ in threads.map(piece, range(eighth << 29, (eighth + 1) << 29, PIECE)):
            pass
    for w, target in zip(worst, HERE, strict=True):
        print(f"{op} on {target.name}: {w.error:.2f} ulp at {w.at!r}")
