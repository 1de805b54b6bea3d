"""Depthwise convolution, channels last: vectors of channels, a few output pixels of one line at a time.

No copy of the input: taps outside it are left out. Vertically that is a run-time range of taps; horizontally, where
the width is known, each kind of border tile has code of its own; where it is not, border pixels are done one by one
with a run-time range of taps.

A task is a block of output lines and of channels. It goes down the lines tile by tile, for so few channels that the
input lines under a tile stay in L1 until the last line that reads them: L2 gives each input once, not once per tap
line, which for whole lines of many channels took twice the time.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, literal, vec
from lepton.codegen.llvm.convert import from_memory, memory_type
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Window
from lepton.codegen.templates.epilogue import Epilogue, Operand, Part, Place, finish
from lepton.codegen.templates.gemm import cover, heights, unravel, when
from lepton.codegen.templates.memory import Mask, fma, load_raw, mask_of, size
from lepton.ir.tensor import Array
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Depthwise:
    """The body of a depthwise kernel: every channel has its own filter."""

    dtype: DType                # of the sums; x may hold bytes or bf16, which are exact in them
    images: Size
    out: tuple[Size, Size, Size]
    into: tuple[Size, Size, Size]
    channels: int
    window: Window              # pads are integers
    x: Operand                  # over (n, d, h, w, channel), channels adjacent
    w: int                      # buffer of pack_taps' result
    epilogue: Epilogue          # over (n, d, h, w, channel)
    tile: int                   # output pixels of a tile
    block: int                  # output lines of a task
    block_channels: int         # channels of a task, whole vectors
    zero: int = 0               # the zero point of bytes

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Depthwise(self, module.kernel(symbol), target).run()


def pack_taps(w: Array, lanes: int) -> Array:
    """[C, 1, d, h, w] -> [d*h*w][C rounded up to vectors]."""
    channels = w.shape[0]
    packed = np.zeros((int(np.prod(w.shape[2:])), -(-channels // lanes) * lanes), w.dtype)
    packed[:, :channels] = w.reshape(channels, -1).T
    return packed


def tile_width(target: Target, taps: int) -> int:
    """Pixels whose accumulators fit beside a line of taps."""
    return max(2, min(14, target.vector_registers - min(taps, target.vector_registers // 3) - 4))


def channels_of(target: Target, channels: int, window: Window, tile: int, element: int) -> int:
    """Channels of a task: as many as leave a tile's input lines, of so many bytes an element, in L1."""
    planes, high, _ = window.kernel
    lines = planes * ((high - 1) * window.dilations[1] + 1)
    wide = (tile - 1) * window.strides[2] + (window.kernel[2] - 1) * window.dilations[2] + 1
    lanes = target.lanes(DType.F32)
    most = max(2, target.l1_bytes * 3 // 4 // (lines * wide * element * lanes))
    vectors = -(-channels // lanes)
    return -(-vectors // -(-vectors // most)) * lanes


@dataclass(frozen=True, slots=True)
class _Part:
    """What a task does: channels and output lines, half open, of one plane of an image."""

    n: Int
    d: Int
    lines: tuple[Int, Int]
    channels: tuple[Int, Int]


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a tile's data lie: addresses for pixel 0 and channel 0, and the vertical taps that exist."""

    x: Val                      # under tap 0 of the first tap line that exists
    w: Val
    counts: tuple[Int, Int]     # tap planes and lines
    pointers: tuple[Val, ...]   # the epilogue's operands


class _Depthwise:
    def __init__(self, body: Depthwise, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.bytes, self.lanes = body.x.dtype.bytes, target.lanes(body.dtype)
        self.type = vec(self.lanes, memory_type(body.dtype))
        self.images = size(fn, body.images)
        self.out, self.into = tuple(size(fn, d) for d in body.out), tuple(size(fn, d) for d in body.into)
        self.strides = tuple(fn.mul(size(fn, s), self.bytes) for s in body.x.strides)
        self.steps = [tuple(fn.mul(size(fn, s), o.dtype.bytes) for s in o.strides) for o in body.epilogue.operands]
        self.bases = [fn.buffer(o.buffer) for o in body.epilogue.operands]
        self.x, self.w = fn.buffer(body.x.buffer), fn.buffer(body.w)
        self.pads = tuple(size(fn, p) for p in body.window.pads)
        self.tap = -(-body.channels // self.lanes) * self.target.vector_bytes   # bytes between taps

    def run(self) -> None:
        fn, body, block = self.fn, self.body, self.body.block
        blocks = fn.div(fn.add(self.out[1], block - 1), block)
        parts = -(-body.channels // body.block_channels)

        def task(index: Int, _: list[Val]) -> None:
            n, d, c, b = unravel(fn, index, (self.images, self.out[0], parts, blocks))
            line, channel = fn.mul(b, block), fn.mul(c, body.block_channels)
            part = _Part(n, d, (line, fn.min(fn.add(line, block), self.out[1])),
                         (channel, fn.min(fn.add(channel, body.block_channels), body.channels)))
            if isinstance(self.out[2], int) and isinstance(self.into[2], int):
                self.known_width(part, self.out[2], self.into[2])
            else:
                self.any_width(part)

        fn.loop(Val("i64", "%hi"), task, start=Val("i64", "%lo"))

    def line(self, n: Int, d: Int, y: Int) -> _Line:
        """One line of output pixels."""
        fn, (_, kh, kw) = self.fn, self.body.window.kernel
        (depth, planes, skip_d), (row, lines, skip_h) = self.taps(0, d), self.taps(1, y)
        offset = fn.mul(n, self.strides[0])
        for position, stride in ((depth, self.strides[1]), (row, self.strides[2])):
            offset = fn.add(offset, fn.mul(position, stride))
        tap = fn.mul(fn.add(fn.mul(skip_d, kh), skip_h), kw * self.tap)
        pointers = [fn.gep(b, fn.add(fn.add(fn.mul(n, s[0]), fn.mul(d, s[1])), fn.mul(y, s[2])))
                    for b, s in zip(self.bases, self.steps, strict=True)]
        return _Line(fn.gep(self.x, offset), fn.gep(self.w, tap), (planes, lines), tuple(pointers))

    def taps(self, axis: int, o: Int) -> tuple[Int, Int, Int]:
        """(input position of the first tap inside, number of taps inside, taps before) for output position `o`."""
        fn, window = self.fn, self.body.window
        step = window.dilations[axis]
        start = fn.sub(fn.mul(o, window.strides[axis]), self.pads[axis])
        before = fn.div(fn.add(fn.max(fn.sub(0, start), 0), step - 1), step)
        room = fn.max(fn.sub(self.into[axis], start), 0)
        end = fn.min(fn.div(fn.add(room, step - 1), step), window.kernel[axis])
        return fn.add(start, fn.mul(before, step)), fn.max(fn.sub(end, before), 0), before

    # --- tiles along the line ---

    def known_width(self, part: _Part, wide: int, into: int) -> None:
        starts = [(x, min(self.body.tile, wide - x)) for x in range(0, wide, self.body.tile)]
        tiles = [(x, self.pattern(x, many, into)) for x, many in starts]
        for pattern, group in groupby(tiles, key=lambda t: t[1]):
            same = list(group)
            first = same[0][0]

            def tile(i: Int, _: list[Val], first: int = first, pattern: tuple[frozenset[int], ...] = pattern) -> None:
                self.tile(part, self.fn.add(self.fn.mul(i, self.body.tile), first), pattern)

            self.fn.loop(len(same), tile)

    def pattern(self, x: int, many: int, into: int) -> tuple[frozenset[int], ...]:
        """For each pixel of a tile, its horizontal taps that lie inside the input."""
        window, pad = self.body.window, self.pads[2]
        assert isinstance(pad, int)
        return tuple(frozenset(k for k in range(window.kernel[2])
                               if 0 <= (x + j) * window.strides[2] - pad + k * window.dilations[2] < into)
                     for j in range(many))

    def any_width(self, part: _Part) -> None:
        """Border pixels one by one, the others in tiles."""
        fn, window, pad = self.fn, self.body.window, self.pads[2]
        stride, reach = window.strides[2], (window.kernel[2] - 1) * window.dilations[2]
        wide = self.out[2]
        left = fn.min(fn.div(fn.add(fn.max(pad, 0), stride - 1), stride), wide)
        room = fn.max(fn.add(fn.sub(self.into[2], reach + 1), fn.add(pad, stride)), 0)
        right = fn.max(fn.min(fn.div(room, stride), wide), left)
        whole = frozenset(range(window.kernel[2]))
        fn.loop(left, lambda x, _: self.pixel(part, x))
        cover(fn, fn.sub(right, left), heights(self.body.tile, self.body.out[2]),
              lambda x, many: self.tile(part, fn.add(left, x), (whole,) * many))
        fn.loop(wide, lambda x, _: self.pixel(part, x), start=right)

    def tile(self, part: _Part, x: Int, pattern: tuple[frozenset[int], ...]) -> None:
        """Pixels from x on; the taps of each are known."""
        fn, window = self.fn, self.body.window
        start = fn.sub(fn.mul(x, window.strides[2]), self.pads[2])
        used = sorted({(j * window.strides[2] + k * window.dilations[2], j, k)
                       for j, taps in enumerate(pattern) for k in taps})

        def lines(at: _Line, channel: Int, mask: Mask) -> list[Val]:
            def taps(_: Int, state: list[Val]) -> list[Val]:
                line, weights, sums = state[0], state[1], list(state[2:])
                loaded: dict[int, Val] = {}
                filters = {k: fn.load(self.type, weights, k * self.tap, self.target.vector_bytes)
                           for k in sorted({k for _, _, k in used})}
                for position, j, k in used:
                    if position not in loaded:
                        place = fn.mul(position, self.strides[3])
                        loaded[position] = self.load(line, place, mask)
                    sums[j] = fma(fn, self.target.fma, loaded[position], filters[k], sums[j])
                return [fn.gep(line, fn.mul(self.strides[2], window.dilations[1])),
                        fn.gep(weights, window.kernel[2] * self.tap), *sums]

            first = fn.gep(at.x, fn.add(fn.mul(start, self.strides[3]), fn.mul(channel, self.bytes)))
            return self.vertical(at, first, fn.gep(at.w, fn.mul(channel, self.body.dtype.bytes)), taps, len(pattern))

        self.channels(lines, part, x)

    def pixel(self, part: _Part, x: Int) -> None:
        """One pixel, its horizontal taps found at run time."""
        fn, window = self.fn, self.body.window
        start, count, before = self.taps(2, x)

        def lines(at: _Line, channel: Int, mask: Mask) -> list[Val]:
            def taps(_: Int, state: list[Val]) -> list[Val]:
                def one(_: Int, inner: list[Val]) -> list[Val]:
                    value = self.load(inner[0], 0, mask)
                    weight = fn.load(self.type, inner[1], 0, self.target.vector_bytes)
                    return [fn.gep(inner[0], fn.mul(self.strides[3], window.dilations[2])), fn.gep(inner[1], self.tap),
                            fma(fn, self.target.fma, value, weight, inner[2])]

                total = fn.loop(count, one, state)[2]
                return [fn.gep(state[0], fn.mul(self.strides[2], window.dilations[1])),
                        fn.gep(state[1], window.kernel[2] * self.tap), total]

            first = fn.gep(at.x, fn.add(fn.mul(start, self.strides[3]), fn.mul(channel, self.bytes)))
            weights = fn.gep(at.w, fn.add(fn.mul(before, self.tap), fn.mul(channel, self.body.dtype.bytes)))
            return self.vertical(at, first, weights, taps, 1)

        self.channels(lines, part, x)

    def vertical(self, at: _Line, x: Val, w: Val, taps: Callable[[Int, list[Val]], list[Val]], many: int) -> list[Val]:
        """The loops over the tap planes and lines that exist."""
        fn, window = self.fn, self.body.window
        zero = [literal(self.type, 0)] * many
        if window.kernel[0] == 1:
            return fn.loop(fn.mul(*at.counts), taps, [x, w, *zero])[2:]   # planes: 0 where there is only padding

        def plane(_: Int, state: list[Val]) -> list[Val]:
            after = fn.loop(at.counts[1], taps, state)
            return [fn.gep(state[0], fn.mul(self.strides[1], window.dilations[0])),
                    fn.gep(state[1], window.kernel[1] * window.kernel[2] * self.tap), *after[2:]]

        return fn.loop(at.counts[0], plane, [x, w, *zero])[2:]

    def load(self, line: Val, place: Int, mask: Mask) -> Val:
        """A vector of channels of one pixel."""
        fn, body, dtype = self.fn, self.body, self.body.x.dtype
        raw = load_raw(fn, memory_type(dtype), line, self.lanes, place, mask)
        if dtype.is_float:
            return from_memory(fn, self.target, raw, dtype)
        level = fn.convert("sitofp" if dtype.is_signed else "uitofp", raw, self.type)
        return fn.op("fsub", level, literal(self.type, body.zero)) if body.zero else level

    # --- channels ---

    def channels(self, sums: Callable[[_Line, Int, Mask], list[Val]], part: _Part, x: Int) -> None:
        """A tile of each line, all vectors of channels: sums, epilogue, stores."""
        fn = self.fn

        def vector(at: _Line, channel: Int, mask: Mask) -> None:
            bases = [fn.gep(p, fn.mul(x, s[3])) for p, s in zip(at.pointers, self.steps, strict=True)]
            results = sums(at, channel, mask)
            parts = []
            for j, value in enumerate(results):
                places = [Place(fn.gep(b, fn.add(fn.mul(s[3], j), fn.mul(channel, s[4]))), size(fn, o.strides[4]))
                          for b, s, o in zip(bases, self.steps, self.body.epilogue.operands, strict=True)]
                if self.body.x.dtype.is_integer:
                    value = fn.convert("fptosi", value, vec(self.lanes, "i32"))
                parts.append(Part(value, places, mask))
            finish(fn, self.target, self.body.epilogue, self.lanes, parts)

        rest = self.body.channels % self.lanes
        whole, (start, end) = self.body.channels - rest, part.channels

        def line(y: Int, _: list[Val]) -> None:
            at = self.line(part.n, part.d, y)
            fn.loop(fn.min(end, whole), lambda c, _: vector(at, c, None), start=start, step=self.lanes)
            if rest:
                last = end == self.body.channels if isinstance(end, int) else fn.compare(
                    "icmp eq", end, fn.i64(self.body.channels))
                when(fn, last, lambda: vector(at, whole, mask_of(fn, rest, 0, self.lanes)))

        fn.loop(part.lines[1], line, start=part.lines[0])
