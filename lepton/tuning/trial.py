"""One candidate, measured: its kernel alone, compiled into this process, on made-up operands of the real shapes.

Values lie as they do in the program. Weights come from a large piece of memory, another part of it at each call, so
that they are as far away as in a run of the whole model: behind L2, or behind L3.
"""
from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from lepton.ceilings import aligned, native_code
from lepton.codegen.build import module_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.target import Target
from lepton.ir.core import Value
from lepton.ir.tensor import Array

SAMPLE_S = 4e-4          # what a sample should take at least, so that reading the clock costs nothing
SMALL = 1 << 16          # bytes: constants up to this are taken as they are
ARENA = 64 << 20         # bytes that weights are spread over at most
SCRATCH = 8 << 20        # bytes that are enough for most
PAGE = 4096
PATTERN = 1 << 16        # numbers after which they repeat
CHUNKS_PER_THREAD = 4    # as the runtime's pool deals a kernel's tasks out (runtime_c/src/pool.c)
WAKING_S = 3e-6          # what it costs to have another thread join in
Clock = Callable[[], float]


class Memory:
    """What the candidates for one kernel read and write. `cold`: the bytes of all weights of the model."""

    def __init__(self, accesses: Mapping[Value, Access], cold: int) -> None:
        self.accesses, self.cold = accesses, min(cold, ARENA)
        self._values: dict[Value, Array] = {}
        self._scratch = aligned(SCRATCH)
        self.kept: list[Array] = []

    def scratch(self, size: int) -> int:
        """The address of memory that candidates take in turns, as kernels do: where its pages lie favours none."""
        if size > self._scratch.nbytes:
            self.kept.append(self._scratch)
            self._scratch = aligned(size)
        return int(self._scratch.ctypes.data)

    def value(self, value: Value) -> int:
        """The address of element (0, …, 0)."""
        access = self.accesses.get(value) or Access(value.tensor, dense_strides(value.tensor.shape))
        strides = [s for s in access.strides if isinstance(s, int)]
        reach = [(n - 1) * s for n, s in zip(access.shape, strides, strict=True) if isinstance(n, int) and n > 0]
        below = -sum(min(r, 0) for r in reach) * access.dtype.bytes
        above = (sum(max(r, 0) for r in reach) + 1) * access.dtype.bytes
        if value not in self._values:
            self._values[value] = _filled(below + above, access.dtype.is_float)
        return int(self._values[value].ctypes.data) + below

    def constant(self, packed: Packed) -> list[int]:
        """Addresses to take in turn. The numbers there are not the constant's, unless it is small."""
        data = packed.array
        if data.nbytes <= SMALL:
            self.kept.append(aligned(data.nbytes))
            self.kept[-1][:] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            return [self.kept[-1].ctypes.data]
        step = -(-data.nbytes // PAGE) * PAGE
        arena = _arena(max(ARENA, step))
        return [arena.ctypes.data + i * step for i in range(max(1, min(self.cold, ARENA) // step))]


@cache
def _arena(size: int) -> Array:
    return _filled(size, True)


def _filled(size: int, floats: bool) -> Array:
    """Numbers from 0.5 to 2 of either sign, in whatever type they are read as; or small integers."""
    made = aligned(size + 2 * PAGE)
    rng = np.random.default_rng(0)
    if floats:
        pattern = (rng.integers(0x3F00, 0x4000, PATTERN) | rng.integers(0, 2, PATTERN) << 15).astype(np.uint16)
        for start in range(0, made.size, 2 * PATTERN):
            part = made[start:start + 2 * PATTERN]
            part[:] = pattern.view(np.uint8)[:part.size]
    return made


class Compiled:
    """A candidate's code and operands. Raises nothing: what code can be made for can be run."""

    def __init__(self, kernel: Kernel, target: Target, memory: Memory, threads: int, clock: Clock) -> None:
        self._before = None if kernel.before is None else Compiled(kernel.before, target, memory, threads, clock)
        module = module_of(target)
        kernel.body.emit(module, "candidate", target)
        self._code = native_code(module, target, "candidate")
        assert isinstance(kernel.tasks, int)
        assert isinstance(kernel.grain, int)
        assert isinstance(kernel.scratch, int)
        self._memory, self._scratch, self._clock = memory, memory.scratch(kernel.scratch), clock
        places = [memory.constant(o) if isinstance(o, Packed) else [memory.value(o)] for o in kernel.operands]
        self._tables = [_pointers([p[turn % len(p)] for p in places]) for turn in range(max(map(len, places)))]
        self._parts, self._ranges = _dealt(kernel.tasks, kernel.grain, threads)
        self._turn, self._turns = 0, 1
        self._warm_up()

    def _warm_up(self) -> None:
        """Touch all memory, and find how many calls make a sample."""
        self._calls(1)
        while self._turns < 1 << 14 and (spent := self._timed()) < SAMPLE_S:
            self._turns = max(self._turns * 2, int(self._turns * SAMPLE_S / max(spent, 1e-7) * 0.8))

    def _calls(self, turns: int) -> None:
        code, scratch = self._code, self._scratch
        for _ in range(turns):
            table = self._tables[self._turn % len(self._tables)]
            self._turn += 1
            for low, high in self._ranges:
                code(ctypes.addressof(table), None, scratch, low, high)

    def _timed(self) -> float:
        start = self._clock()
        self._calls(self._turns)
        return self._clock() - start

    def seconds(self) -> float:
        """What one run takes on the threads it is meant for: a sample."""
        alone = self._timed() / self._turns
        before = 0.0 if self._before is None else self._before.seconds()
        if self._parts == 1:
            return before + alone
        longest = -(-len(self._ranges) // self._parts)
        return before + alone * longest / len(self._ranges) + WAKING_S


def _pointers(addresses: list[int]) -> Any:
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)


def _dealt(tasks: int, grain: int, threads: int) -> tuple[int, list[tuple[int, int]]]:
    """(threads that take part, ranges of tasks), as the runtime's pool deals them out."""
    parts = max(1, min(threads, tasks // max(1, grain)))
    chunks = 1 if parts == 1 else min(tasks // max(1, grain), parts * CHUNKS_PER_THREAD)
    return parts, [(tasks * i // chunks, tasks * (i + 1) // chunks) for i in range(chunks)]


def processor_time() -> float:
    """Seconds this thread has run: what else runs here is not counted, unless it spoils the caches."""
    return time.thread_time()
