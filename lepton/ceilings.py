"""What this machine can do at most, measured: multiply-adds a second, and bytes a second from each level of memory."""
from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lepton.codegen.llvm.builder import Int, Module, Val, literal, vec
from lepton.codegen.llvm.machine import Linked, compile_module
from lepton.codegen.target import Target
from lepton.codegen.templates.blocks import FIRST_A, FIRST_W, HIGH, configure, release
from lepton.codegen.templates.dots import FMA, Dot
from lepton.ir.tensor import Array
from lepton.ir.types import DType

LEVELS = ("L2", "L3", "memory")
ROUNDS = 15               # the best of so many counts: what else runs here only ever slows a loop down
ROUND_S = 2e-3
SUMS = 4                  # tiles of sums of the loop of tiles
READ_BYTES = 8 << 20      # of a call: threads meet at Python's lock between calls
READS = 8                 # vectors a turn of the reading loop
Run = Callable[[], None]


@dataclass(frozen=True)
class Ceilings:
    """The limits of `threads` threads at work together. Rates are per second, sizes in bytes."""

    threads: int
    operations: dict[Dot, float]     # 2 per product and sum
    bytes: dict[str, float]          # by level
    sizes: dict[str, int]            # what one level holds

    def level_of(self, size: float) -> str:
        """Where `size` bytes that are read again and again come from."""
        return next((level for level in LEVELS[:2] if size <= self.sizes[level]), "memory")


def measure(target: Target, threads: int, dots: Iterable[Dot]) -> Ceilings:
    """Some tenths of a second of work. `target` must run here."""
    sizes = cache_sizes(target)
    # A third-level cache keeps part of what is read over and over, even where twice its size is: 1.4 times the rate.
    beyond = max(2 * sizes["L3"], min(8 * sizes["L3"], 1 << 30))
    spans = {"L2": sizes["L2"] // 2, "L3": sizes["L3"] // (4 * threads), "memory": beyond // threads}
    spans["L3"] = max(spans["L3"], 2 * sizes["L2"])
    rates = {level: rate([_reader(target, spans[level]) for _ in range(threads)]) for level in LEVELS}
    return Ceilings(threads, {dot: rate([peak_loop(target, dot) for _ in range(threads)]) for dot in {FMA, *dots}},
                    rates, sizes)


def cache_sizes(target: Target) -> dict[str, int]:
    """Bytes of L2 and L3 as Linux tells them; the target's where it does not."""
    found: dict[str, int] = {}
    for entry in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((entry / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and (match := re.fullmatch(r"(\d+)([KM]?)", size)):
            found[f"L{level}"] = int(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[match[2]]
    second = found.get("L2", target.l2_bytes)
    return {"L2": second, "L3": found.get("L3", 8 * second)}


def rate(loops: list[tuple[Run, float]]) -> float:
    """What the loops do in a second, each on a thread of its own; each tells what one call does."""
    best = 0.0
    for run, _ in loops:
        run()
    start = time.perf_counter()
    loops[0][0]()
    turns = max(1, int(ROUND_S / max(time.perf_counter() - start, 1e-7)))

    def work(run: Run) -> None:
        for _ in range(turns):
            run()

    for _ in range(ROUNDS):
        others = [threading.Thread(target=work, args=(run,)) for run, _ in loops[1:]]
        start = time.perf_counter()
        for other in others:
            other.start()
        work(loops[0][0])
        for other in others:
            other.join()
        best = max(best, turns * sum(done for _, done in loops) / (time.perf_counter() - start))
    return best


def peak_loop(target: Target, dot: Dot = FMA) -> tuple[Run, float]:
    """Independent products and sums in registers; how many operations a call does."""
    if dot.matrix:
        tiles, turns = _tile_code(target, dot), 2_000
        return lambda: tiles(None, None, None, 0, turns), 2.0 * dot.group * HIGH**3 * SUMS * turns
    lanes, turns = target.lanes(DType.F32), 20_000
    scratch = aligned(256)
    function, chains = _peak_code(target, dot), _chains(target)
    return lambda: function(None, None, scratch.ctypes.data, 0, turns), 2.0 * dot.group * lanes * chains * turns


def _chains(target: Target) -> int:
    return target.vector_registers - 6


@cache
def _peak_code(target: Target, dot: Dot) -> Any:
    module = Module()
    fn = module.kernel("peak")
    type = vec(target.lanes(DType.F32), "i32" if dot.group == 4 else "float")
    x = fn.load(vec(target.lanes(DType.F32), "float" if dot.group == 1 else "i32"), Val("ptr", "%scratch"), 0, 4)
    right = dot.right(fn, target, x)

    def turn(_: Int, state: list[Val]) -> list[Val]:
        # Groups change from turn to turn: where a product and its sum are two instructions, the first would leave the
        # loop otherwise.
        a, left = state[0], dot.left(fn, target, state[0])
        following = a if dot.group == 1 else fn.op("xor", a, x)
        return [following, *(dot.accumulate(fn, target, left, right, s) for s in state[1:])]

    sums = fn.loop(Val("i64", "%hi"), turn, [x, *[literal(type, 0)] * _chains(target)])[1:]
    total = sums[0]
    for other in sums[1:]:
        total = fn.op("xor" if dot.group == 4 else "fadd", total, other)
    fn.store(total, Val("ptr", "%scratch"), 0, 4)
    return native_code(module, target, "peak")


@cache
def _tile_code(target: Target, dot: Dot) -> Any:
    """Products of whole tiles of zeros, to four sums, as in a kernel's inner loop."""
    module = Module()
    fn = module.kernel("peak")
    configure(fn, HIGH, HIGH)
    for register in range(SUMS + 4):
        fn.call("void", "llvm.x86.tilezero", [Val("i8", str(register))])

    def turn(_: Int, state: list[Val]) -> list[Val]:
        for sums in range(SUMS):
            factors = FIRST_A + sums // 2, FIRST_W + sums % 2
            fn.call("void", f"llvm.x86.{dot.matrix}", [Val("i8", str(r)) for r in (sums, *factors)])
        return state

    fn.loop(Val("i64", "%hi"), turn)
    release(fn)
    return native_code(module, target, "peak")


def _reader(target: Target, size: int) -> tuple[Run, float]:
    """Read `size` bytes once; the bytes. Small spans are read several times a call, so that calls do not count."""
    step = READS * target.vector_bytes
    turns, times = size // step, max(1, READ_BYTES // size)
    data, scratch, function = aligned(turns * step), aligned(256), _read_code(target)
    data[:] = 1

    def run() -> None:
        for _ in range(times):
            function(None, data.ctypes.data, scratch.ctypes.data, 0, turns)

    return run, float(turns * step * times)


@cache
def _read_code(target: Target) -> Any:
    """`hi` times READS vectors behind %dims, added up so that no read is idle."""
    module = Module()
    fn = module.kernel("read")
    type = vec(target.lanes(DType.I32), "i32")
    source = Val("ptr", "%dims")

    def turn(i: Any, sums: list[Val]) -> list[Val]:
        at = fn.gep(source, fn.mul(i, READS * target.vector_bytes))
        return [fn.op("add", s, fn.load(type, at, j * target.vector_bytes, target.vector_bytes))
                for j, s in enumerate(sums)]

    total, *others = fn.loop(Val("i64", "%hi"), turn, [literal(type, 0)] * READS)
    for other in others:
        total = fn.op("add", total, other)
    fn.store(total, Val("ptr", "%scratch"), 0, 4)
    return native_code(module, target, "read")


class _Code:
    """A function linked into this process, and what owns its memory."""

    def __init__(self, linked: Linked, symbol: str) -> None:
        self._linked = linked
        self._call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)(linked[symbol])

    def __call__(self, *arguments: int | None) -> None:
        self._call(*arguments)


def native_code(module: Module, target: Target, symbol: str) -> Any:
    """The module's function as one to call with pointers (bufs, dims, scratch) and a range of tasks."""
    return _Code(Linked([compile_module(module, target)], target.triple, [symbol]), symbol)


def aligned(size: int) -> Array:
    """Zeros at the start of a page."""
    raw = np.zeros(size + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return raw[start:start + size]


def available_threads() -> int:
    """How many threads a run may use that asks for all."""
    return len(os.sched_getaffinity(0))
