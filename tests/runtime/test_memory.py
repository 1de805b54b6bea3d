"""The memory planner, checked by a verifier that knows nothing of it."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.codegen.memory import lower_bound, plan_static, plan_tight, verify_plan

buffers = st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 40), st.integers(0, 10)), max_size=60)


@given(buffers)
def test_plans_are_sound_and_not_larger_than_the_sum(rows: list[tuple[int, int, int]]) -> None:
    sizes = [size for size, _, _ in rows]
    lifetimes = [(first, first + length) for _, first, length in rows]
    offsets, total = plan_static(sizes, lifetimes)
    verify_plan(sizes, lifetimes, offsets, total)
    assert lower_bound(sizes, lifetimes) <= total <= sum(-(-size // 64) * 64 for size in sizes)
    assert plan_static(sizes, lifetimes) == (offsets, total)


@given(buffers)
def test_tight_plans_are_sound_and_no_larger(rows: list[tuple[int, int, int]]) -> None:
    sizes = [size for size, _, _ in rows]
    lifetimes = [(first, first + length) for _, first, length in rows]
    offsets, total = plan_tight(sizes, lifetimes)
    verify_plan(sizes, lifetimes, offsets, total)
    assert lower_bound(sizes, lifetimes) <= total <= plan_static(sizes, lifetimes)[1]
    assert plan_tight(sizes, lifetimes) == (offsets, total)


def test_a_gap_is_closed_by_another_order() -> None:
    """Largest first, 23 units; 22 are alive at once at most, and another order needs no more."""
    sizes = [64 * units for units in (4, 7, 1, 8, 6, 4, 7, 8)]
    lifetimes = [(6, 8), (3, 5), (0, 2), (3, 3), (6, 7), (5, 6), (4, 5), (6, 6)]
    _, before = plan_static(sizes, lifetimes)
    offsets, total = plan_tight(sizes, lifetimes)
    verify_plan(sizes, lifetimes, offsets, total)
    assert total == lower_bound(sizes, lifetimes) < before


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_a_chain_needs_two_neighbours(units: list[int]) -> None:
    """Where each buffer dies as the next but one is born, the largest pair of neighbours bounds the arena closely."""
    sizes = [64 * u for u in units]
    lifetimes = [(i, i + 1) for i in range(len(sizes))]
    _, total = plan_static(sizes, lifetimes)
    assert lower_bound(sizes, lifetimes) <= total <= 2 * lower_bound(sizes, lifetimes)


def test_lower_bound() -> None:
    assert lower_bound([], []) == 0
    assert lower_bound([10, 20, 40], [(0, 1), (1, 2), (2, 2)]) == 60


@pytest.mark.parametrize(("offsets", "total", "words"), [
    ([0, 64], 192, "buffers 0 and 1 overlap at step 1"),
    ([0, 96], 256, "buffer 1: offset 96 is not a multiple of 64"),
    ([0, 128], 200, r"buffer 1: bytes 128..228 are outside the arena of 200"),
    ([-64, 128], 256, "buffer 0: bytes -64..36 are outside"),
    ([0], 256, "2 sizes, 2 lifetimes, 1 offsets"),
])
def test_the_verifier_finds_faults(offsets: list[int], total: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        verify_plan([100, 100], [(0, 1), (1, 2)], offsets, total)


def test_the_verifier_allows_reuse() -> None:
    verify_plan([100, 100, 0], [(0, 0), (1, 2), (0, 2)], [0, 0, 0], 128)


@pytest.mark.parametrize("sizes", [[-1], [1 << 62], [1 << 70], [1 << 47, 1 << 47]])
def test_absurd_sizes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"buffer sizes|out of range"):
        plan_static(sizes, [(0, 1)] * len(sizes))
