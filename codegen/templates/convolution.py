"""Direct convolution on the microkernel: a tile is a few output pixels times a few vectors of output channels.

Three spatial axes (d, h, w) always; missing ones have size 1. A task is a block of output rows and columns of one image
times a block of channel panels of one group. Where the image has borders, or its elements lie awkwardly, the input rows
of a block are first copied to scratch with zeros around them; consecutive tasks on the same block share the copy.

Input in two orders: pixels (channels adjacent: NHWC) or planes (columns adjacent: NCHW, good for few channels). The
filters are packed in the order in which the input is walked.

Of bytes (`dot`), channels go in groups of four; where they do not fill them, or the input lies awkwardly, the copy
makes it so. Borders hold `fill`, the input's zero point.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton.codegen.kernel import Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val
from lepton.codegen.target import Target
from lepton.codegen.templates.dots import FMA, Dot
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.gemm import Ahead, cover, frozen, heights, pack_constant, unravel, when
from lepton.codegen.templates.memory import size
from lepton.codegen.templates.microkernel import Micro, on_tile, stride_arguments
from lepton.codegen.templates.pack import Border, copy_line
from lepton.codegen.templates.quads import Zero
from lepton.codegen.templates.tiles import Tile
from lepton.ir.tensor import Array
from lepton.ir.types import DType

Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """How output positions map to input positions, per spatial axis (d, h, w)."""

    kernel: Three
    strides: Three
    dilations: Three
    pads: tuple[Size, Size, Size]      # at the start; may be negative

    def span(self, axis: int, outputs: Int, fn: Function) -> Int:
        """Input positions under `outputs` adjacent windows."""
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return fn.add(fn.mul(fn.sub(outputs, 1), self.strides[axis]), reach)


@dataclass(frozen=True, slots=True)
class Convolution:
    """The body of a convolution kernel with constant filters."""

    dtype: DType                       # of the sums
    images: Size
    out: tuple[Size, Size, Size]
    into: tuple[Size, Size, Size]      # the input's spatial sizes
    groups: int
    channels: int                      # of one group
    filters: int                       # of one group
    window: Window
    x: Operand                         # over (n, d, h, w, channel)
    w: int                             # buffer of pack_filters' result
    epilogue: Epilogue                 # over (n, d, h, w, filter)
    tile: tuple[int, int]              # output rows and columns of a tile
    vectors: int
    block: tuple[Size, Size]           # output rows and columns of a task
    block_panels: int
    copied: bool                       # the input goes through scratch
    planar: bool                       # columns, not channels, are the innermost axis of what the microkernel reads
    gap: int = 0                       # elements between the copied pixels, so that few share a set of the cache
    dot: Dot = FMA
    passes: int = 1                    # times the input is walked: filters of nine bits lie in two panels
    fill: Zero | None = None           # None: 0.0

    @property
    def groups_of_channels(self) -> int:
        return -(-self.channels // self.dot.group)

    @property
    def depth(self) -> int:
        """Rows of a panel."""
        return int(np.prod(self.window.kernel)) * self.groups_of_channels * self.passes + int(self.dot.starts)

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Convolution(self, module.kernel(symbol), target).run()


def pack_filters(w: Array, groups: int, target: Target, vectors: int, planar: bool, dtype: DType) -> Array:
    """[O, C/group, d, h, w] -> per group, panels over filters of rows in the order of the reduction; flat."""
    filters = w.shape[0] // groups
    order = (1, 2, 3, 4, 0) if planar else (2, 3, 4, 1, 0)
    parts = [pack_constant(np.transpose(w[g * filters:(g + 1) * filters], order).reshape(-1, filters), target,
                           Tile(1, vectors), dtype) for g in range(groups)]
    return parts[0] if groups == 1 else frozen(np.concatenate(parts))


class _Convolution:
    def __init__(self, body: Convolution, fn: Function, target: Target) -> None:
        self.body, self.fn, self.target = body, fn, target
        self.bytes = body.x.dtype.bytes
        self.images = size(fn, body.images)
        self.out = tuple(size(fn, d) for d in body.out)
        self.into = tuple(size(fn, d) for d in body.into)
        self.pads = tuple(size(fn, p) for p in body.window.pads)
        self.x_strides = tuple(size(fn, s) for s in body.x.strides)
        self.lanes = target.lanes(body.dtype)
        self.width = body.vectors * self.lanes
        self.vector = self.lanes * body.dot.width(body.dtype)     # bytes of one of filters
        self.pointers = [fn.buffer(o.buffer) for o in body.epilogue.operands]
        self.x, self.w = fn.buffer(body.x.buffer), fn.buffer(body.w)
        self.on_tile = on_tile(body.epilogue, 2, 3, 4)
        self.arguments = stride_arguments(fn, body.epilogue, 2, 3, 4)
        self.block_h, self.block_w = (size(fn, b) for b in body.block)
        self.panels = -(-body.filters // self.width)
        self._walk()

    def _walk(self) -> None:
        """The strides, in elements, of what the microkernel reads, and the loops of the reduction."""
        body, fn = self.body, self.fn
        window, channels = body.window, body.channels
        if not body.copied:
            _, self.plane, self.line, self.pixel, self.channel = self.x_strides
        else:
            columns = window.span(2, self.block_w, fn)
            rows = window.span(1, self.block_h, fn)
            whole = fn.mul(fn.mul(rows, columns), window.kernel[0])
            pixel = body.groups_of_channels * body.dot.group + body.gap
            self.pixel, self.channel = (1, whole) if body.planar else (pixel, 1)
            self.line = fn.mul(columns, self.pixel)
            self.plane = fn.mul(rows, self.line)
        kd, kh, kw = window.kernel
        taps = [(kd, fn.mul(self.plane, window.dilations[0] if not body.copied else 1)),
                (kh, fn.mul(self.line, window.dilations[1])), (kw, fn.mul(self.pixel, window.dilations[2]))]
        if body.planar:
            loops = [(channels, self.channel), *taps]
        else:
            loops = [*taps, (body.groups_of_channels, fn.mul(self.channel, body.dot.group))]
        if body.passes > 1:
            loops.insert(0, (body.passes, 0))
        loops = [(count, stride) for count, stride in loops if count != 1] or [(1, 1)]
        while len(loops) > 1 and isinstance(loops[-1][1], int) and loops[-2][1] == loops[-1][0] * loops[-1][1]:
            loops[-2:] = [(loops[-2][0] * loops[-1][0], loops[-1][1])]
        self.nest, (self.k, self.step) = loops[:-1], loops[-1]
        for d, (count, stride) in enumerate(self.nest):
            self.arguments |= {f"count{d}": count, f"stride{d}": fn.mul(stride, self.bytes)}
        self.arguments |= {"k": self.k, "step": fn.mul(self.step, self.bytes),
                           "row": fn.mul(self.pixel, window.strides[2] * self.bytes)}

    def run(self) -> None:
        fn, body = self.fn, self.body
        self.blocks_h = fn.div(fn.add(self.out[1], fn.sub(self.block_h, 1)), self.block_h)
        self.blocks_w = fn.div(fn.add(self.out[2], fn.sub(self.block_w, 1)), self.block_w)
        self.blocks_n = -(-self.panels // body.block_panels)
        nothing = [Val("i64", "-1")] if body.copied else []
        fn.loop(Val("i64", "%hi"), lambda t, last: self.task(t, last), nothing, start=Val("i64", "%lo"))

    def task(self, index: Int, last: list[Val]) -> list[Val]:
        fn, body = self.fn, self.body
        place, panel_block = (index, 0) if self.blocks_n == 1 else (fn.div(index, self.blocks_n),
                                                                    fn.rem(index, self.blocks_n))
        n, group, d, bh, bw = unravel(fn, place, (self.images, body.groups, self.out[0], self.blocks_h, self.blocks_w))
        oy, ox = self._first(bh, self.block_h, self.blocks_h), self._first(bw, self.block_w, self.blocks_w)
        rows = fn.min(fn.sub(self.out[1], oy), self.block_h) if self.blocks_h != 1 else self.out[1]
        columns = fn.min(fn.sub(self.out[2], ox), self.block_w) if self.blocks_w != 1 else self.out[2]
        if body.copied:
            a = Val("ptr", "%scratch")
            changed = fn.compare("icmp ne", fn.i64(place), last[0])
            when(fn, changed, lambda: self.copy(n, group, (d, oy, ox), rows, columns, a))
        else:
            a = self.input_at(n, group, d, oy, ox)
        first = fn.mul(panel_block, body.block_panels)
        self.sweep((n, d, oy, ox), group, (rows, columns), first, a)
        return [fn.i64(place)] if body.copied else []

    def _first(self, block: Int, extent: Int, blocks: Int) -> Int:
        return 0 if blocks == 1 else self.fn.mul(block, extent)

    def input_at(self, n: Int, group: Int, d: Int, y: Int, x: Int) -> Val:
        """The input element under the first tap of output (d, y, x)."""
        fn, window = self.fn, self.body.window
        offset = fn.add(fn.mul(n, self.x_strides[0]),
                        fn.mul(fn.mul(group, self.body.channels), self.x_strides[4]))
        for axis, o in enumerate((d, y, x)):
            position = fn.sub(fn.mul(o, window.strides[axis]), self.pads[axis])
            offset = fn.add(offset, fn.mul(position, self.x_strides[1 + axis]))
        return fn.gep(self.x, fn.mul(offset, self.bytes))

    # --- the copy ---

    def copy(self, n: Int, group: Int, at: tuple[Int, Int, Int], rows: Int, columns: Int, target: Val) -> None:
        """The input rows under a block of outputs, with zeros where there is no input."""
        fn, window = self.fn, self.body.window
        d, y, x = (fn.sub(fn.mul(o, s), p) for o, s, p in zip(at, window.strides, self.pads, strict=True))
        count_y, count_x = window.span(1, rows, fn), window.span(2, columns, fn)
        border = Border.around(fn, x, count_x, self.into[2])
        base = fn.add(fn.mul(n, self.x_strides[0]), fn.mul(fn.mul(group, self.body.channels), self.x_strides[4]))

        fill = None if self.body.fill is None else self.body.fill.byte(fn)

        def line(kd: Int, i: Int) -> None:
            depth, row = fn.add(d, fn.mul(kd, window.dilations[0])), fn.add(y, i)
            inside = self._inside(((depth, self.into[0]), (row, self.into[1])))
            offset = fn.add(base, fn.add(fn.mul(depth, self.x_strides[1]), fn.mul(row, self.x_strides[2])))
            offset = fn.add(offset, fn.mul(x, self.x_strides[3]))
            to = fn.gep(target, fn.mul(fn.add(fn.mul(kd, self.plane), fn.mul(i, self.line)), self.bytes))
            source = fn.gep(self.x, fn.mul(offset, self.bytes))
            copy_line(fn, self.target, self.body.x.dtype, source, to, border.unless(fn, inside), self.body.channels,
                      (self.x_strides[3], self.x_strides[4]), (self.pixel, self.channel), fill)

        fn.loop(window.kernel[0], lambda kd, _: fn.loop(count_y, lambda i, _: line(kd, i)) and None)

    def _inside(self, pairs: tuple[tuple[Int, Int], ...]) -> bool | Val:
        """Whether every position lies in [0, extent)."""
        fn, found = self.fn, []
        for position, extent in pairs:
            if isinstance(position, int) and isinstance(extent, int):
                if not 0 <= position < extent:
                    return False
            else:
                found.append(fn.compare("icmp ult", fn.i64(position), fn.i64(extent)))
        result: bool | Val = found[0] if found else True
        for other in found[1:]:
            assert isinstance(result, Val)
            result = fn.op("and", result, other)
        return result

    # --- the product ---

    def sweep(self, at: tuple[Int, Int, Int, Int], group: Int, extent: tuple[Int, Int], first: Int, a: Val) -> None:
        """All panels of a block, from `first`."""
        fn, body = self.fn, self.body
        full, tail = divmod(body.filters, self.width)
        last = fn.min(fn.add(first, body.block_panels), self.panels) if self.blocks_n != 1 else self.panels
        fn.loop(fn.min(last, full), lambda p, _: self.panel(at, group, extent, p, body.vectors, self.width, a),
                start=first)
        if tail:
            inside = True if isinstance(last, int) else fn.compare("icmp sgt", last, fn.i64(full))
            when(fn, inside, lambda: self.panel(at, group, extent, full, -(-tail // self.lanes), tail, a))

    def panel(self, at: tuple[Int, Int, Int, Int], group: Int, extent: tuple[Int, Int], panel: Int, vectors: int,
              columns: int, a: Val) -> None:
        fn, body = self.fn, self.body
        depth, vectors_of_group = body.depth, -(-body.filters // self.lanes)
        offset = fn.add(fn.mul(group, depth * vectors_of_group), fn.mul(panel, depth * body.vectors))
        w = fn.gep(self.w, fn.mul(offset, self.vector))
        channel = fn.add(fn.mul(group, body.filters), fn.mul(panel, self.width))
        self.tiles(at, extent, vectors, columns, a, w, channel)

    def tiles(self, at: tuple[Int, Int, Int, Int], extent: tuple[Int, Int], vectors: int, columns: int, a: Val, w: Val,
              channel: Int) -> None:
        """All tiles of a panel of so many columns; `a` is the input under the first of them."""
        fn, body = self.fn, self.body
        n, d, oy, ox = at
        high, wide = (fn.div(fn.add(e, t - 1), t) for e, t in zip(extent, body.tile, strict=True))
        ahead = Ahead(fn, self.target, fn.mul(high, wide), 1, body.depth, vectors * self.vector)

        def tile(y: Int, x: Int, height: int, width: int) -> None:
            micro = self.micro(height, width, vectors, columns, ahead.lines)
            index = fn.add(fn.mul(fn.div(y, body.tile[0]), wide), fn.div(x, body.tile[1]))
            coords = (n, d, fn.add(oy, y), fn.add(ox, x), channel)
            pointers = [o.at(fn, p, coords) for o, p in zip(body.epilogue.operands, self.pointers, strict=True)]
            step = fn.add(fn.mul(fn.mul(y, body.window.strides[1]), self.line),
                          fn.mul(fn.mul(x, body.window.strides[2]), self.pixel))
            micro.call(fn, self.target, fn.gep(a, fn.mul(step, self.bytes)), w, pointers,
                       self.arguments | {"share": ahead.share}, ahead.place(w, index))

        cover(fn, extent[0], heights(body.tile[0], body.out[1]), lambda y, height: cover(
            fn, extent[1], heights(body.tile[1], body.out[2]), lambda x, width: tile(y, x, height, width)))

    def micro(self, height: int, width: int, vectors: int, columns: int, lines: int) -> Micro:
        body, strides = self.body, self.body.window.strides
        rows: tuple[int, ...] | None = None
        if isinstance(self.pixel, int) and (height == 1 or isinstance(self.line, int)):
            line = self.line if isinstance(self.line, int) else 0
            rows = tuple((y * strides[1] * line + x * strides[2] * self.pixel) * self.bytes
                         for y in range(height) for x in range(width))
        assert rows is not None or height == 1
        step = self.step * self.bytes if isinstance(self.step, int) else None
        return Micro(body.dtype, (height, width), vectors, rows, step, True, len(self.nest),
                     self.on_tile, columns, vectors * self.vector, True, lines, dot=body.dot)
