"""Where intermediate tensors lie: offsets in one arena, by the planner that the runtime uses for dynamic shapes."""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence, Set
from itertools import pairwise

from lepton.codegen.kernel import align
from lepton.codegen.program import Program, StepKind, Storage
from lepton.ir.dims import symbols

ALIGNMENT = 64
TRIES = 60           # of orders in which to place buffers
MANY = 1000          # buffers: a plan takes time by the square of their number

Lifetime = tuple[int, int]  # (first step, last step), both inclusive


def plan_static(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets and the arena's size, such that buffers alive at a common step do not overlap.

    Calls lpt_plan of runtime_c/src/plan.c, so compiler and runtime agree. Raises ValueError for sizes that are
    negative or more than memory can be.
    """
    from lepton._rt import ffi, lib

    if len(sizes) != len(lifetimes):
        raise ValueError(f"{len(sizes)} sizes, {len(lifetimes)} lifetimes")
    offsets = ffi.new("int64_t[]", max(len(sizes), 1))
    order = ffi.new("uint32_t[]", max(2 * len(sizes), 1))
    try:
        total = lib.lpt_plan(len(sizes), list(sizes), [a for a, _ in lifetimes], [b for _, b in lifetimes],
                             order, offsets)
    except OverflowError as e:
        raise ValueError(f"a size or lifetime is out of range: {e}") from e
    if total < 0:
        raise ValueError("buffer sizes are negative or more than memory can be")
    return [offsets[i] for i in range(len(sizes))], total


def plan_tight(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """`plan_static`, or a smaller plan where it leaves a gap: what sticks out is placed earlier, some times over.

    For sizes that are known when compiling; a session does not spend the time. Raises ValueError like plan_static."""
    best = plan_static(sizes, lifetimes)
    rounded = [align(size, ALIGNMENT) for size in sizes]
    least = lower_bound(rounded, lifetimes)
    order = sorted((i for i, size in enumerate(sizes) if size), key=lambda i: (-rounded[i], lifetimes[i][0], i))
    tries = TRIES if len(order) <= MANY else 0
    while best[1] > least and tries:
        tries -= 1
        offsets = _place(order, rounded, lifetimes)
        ends = [offsets[i] + rounded[i] for i in order]
        if max(ends) < best[1]:
            best = offsets, max(ends)
        highest = max(range(len(order)), key=ends.__getitem__)
        order.insert(highest // 2 if highest else len(order), order.pop(highest))
    return best


def _place(order: Sequence[int], sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> list[int]:
    """Offsets of buffers that each take the smallest hole among those placed before, else lie on top of them."""
    offsets, placed = [0] * len(sizes), list[int]()
    for i in order:
        first, last = lifetimes[i]
        spans = sorted((offsets[j], offsets[j] + sizes[j]) for j in placed
                       if lifetimes[j][0] <= last and first <= lifetimes[j][1])
        end, holes = 0, []
        for start, after in spans:
            if start - end >= sizes[i]:
                holes.append((start - end, end))
            end = max(end, after)
        offsets[i] = min(holes)[1] if holes else end
        placed.append(i)
    return offsets


def verify_plan(sizes: Sequence[int], lifetimes: Sequence[Lifetime], offsets: Sequence[int], total: int) -> None:
    """Check a plan without knowing how it was made. Raises ValueError naming the buffers that are wrong."""
    if not len(sizes) == len(lifetimes) == len(offsets):
        raise ValueError(f"{len(sizes)} sizes, {len(lifetimes)} lifetimes, {len(offsets)} offsets")
    for i, (size, offset) in enumerate(zip(sizes, offsets, strict=True)):
        if offset % ALIGNMENT:
            raise ValueError(f"buffer {i}: offset {offset} is not a multiple of {ALIGNMENT}")
        if offset < 0 or offset + size > total:
            raise ValueError(f"buffer {i}: bytes {offset}..{offset + size} are outside the arena of {total}")
    events = sorted({step for life in lifetimes for step in life})
    alive_at: dict[int, list[int]] = {step: [] for step in events}
    for i, (first, last) in enumerate(lifetimes):
        if sizes[i]:
            for step in events[bisect_left(events, first):bisect_left(events, last) + 1]:
                alive_at[step].append(i)
    for step, alive in alive_at.items():
        alive.sort(key=lambda i: offsets[i])
        for a, b in pairwise(alive):
            if offsets[a] + sizes[a] > offsets[b]:
                raise ValueError(f"buffers {a} and {b} overlap at step {step}")


def lower_bound(sizes: Sequence[int], lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes alive at any one step: no plan can be smaller."""
    change: dict[int, int] = {}
    for size, (first, last) in zip(sizes, lifetimes, strict=True):
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    alive = most = 0
    for step in sorted(change):
        alive += change[step]
        most = max(most, alive)
    return most


def check_sizes_known(program: Program, given: Set[str]) -> None:
    """Nothing is written to memory whose size is found later. A bug of the planner's where it is."""
    known = set(given)
    for i, step in enumerate(program.steps):
        if step.call is not None:
            known |= {str(d) for d in step.call.bound}
        for operand in step.operands:
            buffer = operand.buffer
            planned = buffer.storage is Storage.OUTPUT or (buffer.storage is Storage.WORKSPACE and buffer.first == i)
            if planned and (unknown := symbols(buffer.size) - known):
                raise AssertionError(f"step {i} ({step.name}) writes memory of size {buffer.size} before "
                                     f"{min(unknown)} is known")
        if step.kind is StepKind.BIND:
            known |= symbols(step.bound)
