"""Random draws: the generator against its published vectors, the formulas against exact ones, the distributions."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lepton.ir import draws, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import TypeRuleError
from lepton.ir.dims import sym
from lepton.ir.evaluate import evaluate
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

ARRAYS = draws.Arrays()


def words(*numbers: int) -> list[Array]:
    return [np.array([n], np.uint64) for n in numbers]


@pytest.mark.parametrize(("counter", "key", "expected"), [  # kat_vectors of Random123 1.14
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert tuple(int(w[0]) for w in draws.philox(ARRAYS, words(*counter), words(*key))) == expected


def test_a_block_is_the_philox_of_place_and_count() -> None:
    index, count, key = 5 << 32 | 7, 3 << 32 | 1, 0xA4093822299F31D0
    got = [int(x[0]) for x in draws.block(ARRAYS, *words(key, count, index))]
    w = [int(x[0]) for x in draws.philox(ARRAYS, words(7, 5, 1, 3), words(0x299F31D0, 0xA4093822))]
    assert got == [w[0] | w[1] << 32, w[2] | w[3] << 32]


def test_log_and_sine_are_accurate() -> None:
    x = np.concatenate([np.random.default_rng(0).random(20000), [1.0, 2.0**-52, 0.5, np.nextafter(1, 0)]])
    exact = np.log(x.astype(np.longdouble))
    assert (np.abs(draws.log(ARRAYS, x) - exact) <= 2.0**-51 * np.abs(exact)).all()
    t = np.linspace(0, 1, 20001)
    exact = np.sin(t.astype(np.longdouble) * np.longdouble("1.57079632679489661923"))
    assert (np.abs(draws.sine_of_quadrant(ARRAYS, t) - exact) <= 2.0**-51 * t).all()


def cdf(name: str, x: Array) -> Array:
    return x if name == "uniform" else np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def distance(sample: Array, name: str) -> float:
    """Kolmogorov's and Smirnov's: the largest gap between the sample's distribution and the exact one, times √n."""
    x = cdf(name, np.sort(sample.astype(np.float64).reshape(-1)))
    steps = np.arange(len(x) + 1) / len(x)
    return float(max((steps[1:] - x).max(), (x - steps[:-1]).max()) * math.sqrt(len(x)))


def draw(op: Any, shape: tuple[int, ...], dtype: DType, key: int = 1, count: int = 0, **attrs: float) -> Array:
    got: Array = op.reference(np.array([key, count], np.uint64), shape=shape, dtype=dtype, **attrs)
    assert (got.shape, got.dtype) == (shape, dtype.numpy)
    return got


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_distributions(name: str, dtype: DType) -> None:
    """At √n D of 1.95 one good sample in a thousand is refused; these samples are always the same."""
    op = ops.random_uniform if name == "uniform" else ops.random_normal
    sample = draw(op, (200, 100), dtype)
    assert distance(sample, name) < 1.95
    for other in (draw(op, (200, 100), dtype, key=2), draw(op, (200, 100), dtype, count=1), np.roll(sample, 1)):
        assert abs(np.corrcoef(sample.reshape(-1), other.reshape(-1))[0, 1]) < 4 / math.sqrt(sample.size)


def test_means_and_scales() -> None:
    z = draw(ops.random_normal, (5000,), DType.F64)
    moved = draw(ops.random_normal, (5000,), DType.F64, mean=3.0, scale=0.5)
    np.testing.assert_allclose(moved, z * 0.5 + 3, rtol=1e-15)
    assert (draw(ops.random_normal, (5,), DType.F32, mean=3.0, scale=0.0) == 3).all()
    assert draw(ops.random_normal, (0, 3), DType.F16).shape == (0, 3)
    assert draw(ops.random_normal, (), DType.F32).shape == ()


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F32, DType.F64], ids=lambda d: d.value)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0), (0.1, 0.3), (1000.0, 1001.0), (5.0, 5.0)])
def test_uniform_draws_stay_inside(dtype: DType, low: float, high: float) -> None:
    u = draw(ops.random_uniform, (20000,), dtype, low=low, high=high).astype(np.float64)
    least, most = draws.bounds(low, high, dtype)
    if least > most:  # the type has no number in there
        assert np.unique(u).size == 1
    else:
        assert low <= least <= u.min()
        assert u.max() <= most < high


def test_the_state_counts() -> None:
    x = Value(TensorType(DType.F32, (sym("N"),)), name="x")
    states = [ops.draw_state(stream=1), ops.draw_state(stream=2), ops.draw_state(stream=3, seed=7),
              ops.draw_state(stream=4, seed=7)]
    made = [ops.random_uniform(s, shape=(sym("N"), 100), dtype=DType.F32) for s in states]
    graph = Graph.of("g", [x], [*states, *made])
    *got, a, b, c, d = evaluate(graph, np.zeros(50, np.float32), seed=5)
    assert [tuple(map(int, s)) for s in got] == [
        (draws.stream_key(5, 1), 0), (draws.stream_key(5, 2), 0), (7, 0), (7, 0)]
    assert not (a == b).any()
    np.testing.assert_array_equal(c, d)
    again = evaluate(graph, np.zeros(50, np.float32), seed=5)
    np.testing.assert_array_equal(a, again[4])
    other = evaluate(graph, np.zeros(50, np.float32), seed=6)
    assert not (a == other[4]).any()
    np.testing.assert_array_equal(c, other[6])


def test_types() -> None:
    state = ops.draw_state(stream=1)
    with pytest.raises(TypeRuleError, match="random draws are floats, not i32"):
        ops.random_normal(state, shape=(2,), dtype=DType.I32)
    with pytest.raises(TypeRuleError, match=r"the state of random draws is u64\[2\]"):
        ops.random_uniform(Value(TensorType(DType.F32, (2,))), shape=(2,), dtype=DType.F32)
    with pytest.raises(TypeRuleError, match="stream 0"):
        ops.draw_state(stream=0)
