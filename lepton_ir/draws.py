"""Random numbers as formulas: one source for numpy arrays (the ops' meaning) and for the expressions of kernels.

Element i of the n-th draw under a key is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as
1, 2, 3; SC 2011) of counter (i, n): no element waits for another. Beyond integer operations only those occur that
IEEE 754 rounds in one way (+, -, *, / and square root, in f64), so every machine and every emitter gives the same bits.

A number here is anything with Python's operators: u64 or f64, constants beside them are Python's.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from lepton.ir.tensor import Array
from lepton.ir.types import DType

Number = TypeVar("Number", bound=Any)

GOLDEN = 0x9E3779B97F4A7C15          # 2**64 over the golden ratio: keys of neighbouring streams lie far apart
MASK = 0xFFFFFFFF
MULTIPLIERS, WEYL, ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10
ONE = 0x3FF0000000000000             # the bits of 1.0
FRACTION = 0x000FFFFFFFFFFFFF        # those of a double that are not sign or exponent
SINE = [(-1) ** k * (math.pi / 2) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(12)]
LOG = [2 / (2 * k + 1) for k in range(11)]


@dataclass
class Session:
    """What outlives a draw: the seed, and how often each stream has been drawn from."""

    seed: int = 0
    counts: Counter[int] = field(default_factory=Counter)


_SESSION: ContextVar[Session | None] = ContextVar("session of random draws", default=None)


@contextmanager
def drawing(seed: int = 0) -> Iterator[Session]:
    """The interpreter's draws inside count from 0, as those of a new session with this seed."""
    token = _SESSION.set(Session(seed))
    try:
        yield current()
    finally:
        _SESSION.reset(token)


def current() -> Session:
    return _SESSION.get() or Session()


class Arithmetic(Protocol[Number]):
    """What Python's operators do not spell."""

    def name(self, x: Number) -> Number:
        """`x`, which is going to be used more than once."""

    def as_float(self, bits: Number) -> Number: ...
    def as_bits(self, x: Number) -> Number: ...
    def sqrt(self, x: Number) -> Number: ...
    def where_less(self, a: Number, b: float, then: Number, otherwise: Number) -> Number: ...
    def minimum(self, x: Number, bound: float) -> Number: ...
    def maximum(self, x: Number, bound: float) -> Number: ...


def stream_key(seed: int, stream: int) -> int:
    """The key of a node's draws: of its number under the session's seed, or (stream 0) of a seed of its own."""
    return (seed + stream * GOLDEN) % 2**64


def philox(m: Arithmetic[Any], counter: Sequence[Any], key: Sequence[Any]) -> tuple[Any, ...]:
    """Four random words for a counter of four words and a key of two; words are u64 below 2**32."""
    c, k = list(counter), list(key)
    for _ in range(ROUNDS):
        low, high = (m.name(c[2 * i] * MULTIPLIERS[i]) for i in range(2))
        c = [m.name((high >> 32) ^ c[1] ^ k[0]), high & MASK, m.name((low >> 32) ^ c[3] ^ k[1]), low & MASK]
        k = [m.name((x + w) & MASK) for x, w in zip(k, WEYL, strict=True)]
    return tuple(c)


def block(m: Arithmetic[Any], key: Any, count: Any, index: Any) -> tuple[Any, Any]:
    """128 random bits as two u64 for element `index` (u64) of draw `count` under `key`."""
    key, count, index = m.name(key), m.name(count), m.name(index)
    words = philox(m, (index & MASK, index >> 32, count & MASK, count >> 32), (key & MASK, key >> 32))
    return words[0] | (words[1] << 32), words[2] | (words[3] << 32)


def fraction(m: Arithmetic[Any], bits: Any) -> Any:
    """A multiple of 2**-52 in [0, 1)."""
    return m.as_float((bits >> 12) | ONE) - 1.0


def uniform(m: Arithmetic[Any], bits: tuple[Any, Any], low: float, high: float, dtype: DType) -> Any:
    """From [low, high), such that rounding to `dtype` does not leave the interval."""
    x = fraction(m, bits[0])
    if (low, high) != (0.0, 1.0):
        x = x * (high - low) + low
    least, most = bounds(low, high, dtype)
    return m.maximum(m.minimum(x, most), least) if least <= most else x


def bounds(low: float, high: float, dtype: DType) -> tuple[float, float]:
    """The least and the largest number of `dtype` in [low, high)."""
    least, most = dtype.numpy.type(low), dtype.numpy.type(high)
    up, down = dtype.numpy.type(math.inf), dtype.numpy.type(-math.inf)
    least = least if float(least) >= low else np.nextafter(least, up)
    most = most if float(most) < high else np.nextafter(most, down)
    return float(least), float(most)


def normal(m: Arithmetic[Any], bits: tuple[Any, Any], mean: float, scale: float) -> Any:
    """From the normal distribution, by Box and Muller: the angle's quadrant is a sign, as the sine of the first
    quadrant has the distribution of all sines' magnitudes. Below 8.5 standard deviations."""
    u = 2.0 - m.as_float((bits[0] >> 12) | ONE)        # in (0, 1]
    turn = fraction(m, bits[1]) + 2.0**-53             # of a quadrant, in (0, 1)
    radius = m.sqrt(log(m, u) * -2.0)
    sign = (bits[1] << 63) | ONE                       # 1 or -1
    z = radius * sine_of_quadrant(m, turn) * m.as_float(sign)
    return z if (mean, scale) == (0.0, 1.0) else z * scale + mean


def sine_of_quadrant(m: Arithmetic[Any], t: Any) -> Any:
    """sin(pi/2 * t) for t in [0, 1], within 2**-51."""
    t = m.name(t)
    return t * horner(m, SINE, m.name(t * t))


def log(m: Arithmetic[Any], x: Any) -> Any:
    """The natural logarithm of a normal number, within 2**-51 of it; ends where the exponent is 0 exactly."""
    bits = m.name(m.as_bits(x))
    mantissa = m.name(m.as_float((bits & FRACTION) | ONE))
    exponent = m.name(m.as_float((bits >> 52) | 0x4330000000000000) - (2.0**52 + 1023))
    large = math.sqrt(2.0)                             # mantissas beyond count as half, one exponent up
    f = m.name(m.where_less(mantissa, large, mantissa, mantissa * 0.5))
    exponent = m.where_less(mantissa, large, exponent, exponent + 1.0)
    s = m.name((f - 1.0) / (f + 1.0))
    return exponent * math.log(2.0) + s * horner(m, LOG, m.name(s * s))


def horner(m: Arithmetic[Any], coefficients: Sequence[float], x: Any) -> Any:
    total = x * coefficients[-1]
    for c in reversed(coefficients[1:-1]):
        total = (total + c) * x
    return total + coefficients[0]


class Arrays:
    """The arithmetic of numpy."""

    def name(self, x: Array) -> Array:
        return x

    def as_float(self, bits: Array) -> Array:
        return bits.view(np.float64)

    def as_bits(self, x: Array) -> Array:
        return x.view(np.uint64)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def where_less(self, a: Array, b: float, then: Array, otherwise: Array) -> Array:
        return np.where(a < b, then, otherwise)

    def minimum(self, x: Array, bound: float) -> Array:
        return np.minimum(x, bound)

    def maximum(self, x: Array, bound: float) -> Array:
        return np.maximum(x, bound)


def elements(state: Array, shape: Sequence[int], formula: Callable[[Arrays, tuple[Any, Any]], Array]) -> Array:
    """A formula of random bits at every place of `shape`. `state`: u64[2], a key and a count."""
    m, size = Arrays(), math.prod(shape)
    key, count = np.asarray(state[:1]), np.asarray(state[1:])
    with np.errstate(over="ignore"):
        return formula(m, block(m, key, count, np.arange(size, dtype=np.uint64))).reshape(tuple(shape))
