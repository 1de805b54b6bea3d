"""Copies of a few planes into pixels of as many channels: vectors of the planes interleaved in registers."""
from __future__ import annotations

from dataclasses import dataclass

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import DimTable, Kernel, Size
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.lower.nest import GRAIN_ELEMENTS, TASK_ELEMENTS, Space, guess
from lepton.codegen.target import Target
from lepton.ir.dims import ceildiv, product

MOST_CHANNELS = 4
SLOWER = 4            # times that shuffling an element takes, of cheap elementwise work


@dataclass(frozen=True, slots=True)
class InterleaveBody:
    """out[o, r, c] = in[o, r, c] where `in` is contiguous along r, and `out` along r and c as one.

    A task is one index of the outer dims and `block` pixels. All strides in elements of `width` bytes."""

    width: int
    outer: tuple[Size, ...]
    outer_in: tuple[Size, ...]
    outer_out: tuple[Size, ...]
    pixels: Size
    channels: int
    plane: Size           # stride of `in` along c
    block: int            # pixels of a task: a multiple of 16
    chunks: Size          # tasks for each outer index

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        _Emitter(self, module.kernel(symbol), target).run()


class _Emitter:
    def __init__(self, body: InterleaveBody, f: Function, target: Target) -> None:
        self.body, self.f = body, f
        self.lanes = min(16, target.vector_bytes // body.width)
        self.type = f"i{8 * body.width}"
        self.plane, self.pixels, self.chunks = (self.size(s) for s in (body.plane, body.pixels, body.chunks))

    def size(self, s: Size) -> Int:
        return s if isinstance(s, int) else self.f.dim(s.index)

    def run(self) -> None:
        self.outer = [(self.size(n), self.size(a), self.size(b)) for n, a, b in zip(
            self.body.outer, self.body.outer_in, self.body.outer_out, strict=True)]
        self.f.loop(Val("i64", "%hi"), self.task, start=Val("i64", "%lo"))

    def task(self, t: Int, _: list[Val]) -> None:
        f, body = self.f, self.body
        index, chunk = f.div(t, self.chunks), f.rem(t, self.chunks)
        source, target = f.buffer(0), f.buffer(1)
        for n, a, b in reversed(self.outer):
            place = f.rem(index, n)
            source, target = self.at(source, f.mul(place, a)), self.at(target, f.mul(place, b))
            index = f.div(index, n)
        first = f.mul(chunk, body.block)
        last = f.min(f.add(first, body.block), self.pixels)
        count = f.sub(last, first)
        whole = f.sub(last, f.rem(count, self.lanes))
        f.loop(whole, lambda r, _: self.pixels_at(source, target, r, self.lanes), start=first, step=self.lanes)
        f.loop(last, lambda r, _: self.pixels_at(source, target, r, 1), start=whole)

    def pixels_at(self, source: Val, target: Val, r: Int, lanes: int) -> None:
        """`lanes` pixels from r on: a vector of each plane, interleaved."""
        f, width, channels = self.f, self.body.width, self.body.channels
        start, to = self.at(source, r), self.at(target, f.mul(r, channels))
        kind = vec(lanes, self.type) if lanes > 1 else self.type
        planes = [f.load(kind, self.at(start, f.mul(c, self.plane)), align=width) for c in range(channels)]
        if lanes > 1:
            f.store(interleaved(f, planes, lanes, self.type), to, align=width)
            return
        for c, value in enumerate(planes):
            f.store(value, self.at(to, c), align=width)

    def at(self, pointer: Val, elements: Int) -> Val:
        if isinstance(elements, int) and elements == 0:
            return pointer
        return self.f.value("ptr", f"getelementptr {self.type}, {pointer}, {self.f.i64(elements)}")


def interleaved(f: Function, planes: list[Val], lanes: int, type: str) -> Val:
    """The first elements of all planes, then the second ones …: two to four planes."""
    def shuffle(a: Val, b: Val, order: list[int]) -> Val:
        mask = ", ".join(f"i32 {i}" for i in order)
        return f.value(vec(len(order), type), f"shufflevector {a}, {b}, <{len(order)} x i32> <{mask}>")

    count = len(planes)
    order = [c * lanes + r for r in range(lanes) for c in range(count)]
    if count == 2:
        return shuffle(planes[0], planes[1], order)
    both = list(range(2 * lanes))
    return shuffle(shuffle(planes[0], planes[1], both), shuffle(planes[2], planes[-1], both), order)


def interleave_kernel(group: Group, space: Space, options: LowerOptions) -> Kernel | None:
    """The kernel for a copy of a few planes into dense pixels; else None."""
    source, target = space.views
    r = next((i for i, s in enumerate(source) if s == 1), None)
    c = next((i for i, s in enumerate(target) if s == 1), None)
    if r is None or c is None or r == c:
        return None
    channels = space.sizes[c]
    if not isinstance(channels, int) or not 2 <= channels <= MOST_CHANNELS or target[r] != channels:
        return None
    if guess(space.sizes[r]) < 16:
        return None
    table, width = DimTable(), group.outputs[0].tensor.dtype.bytes
    outer = [i for i in range(space.rank) if i not in (r, c)]
    block = TASK_ELEMENTS // SLOWER // channels // 16 * 16
    chunks = ceildiv(space.sizes[r], block)
    body = InterleaveBody(
        width, tuple(table.ref(space.sizes[i]) for i in outer), tuple(table.ref(source[i]) for i in outer),
        tuple(table.ref(target[i]) for i in outer), table.ref(space.sizes[r]), channels, table.ref(source[c]), block,
        table.ref(chunks))
    work = SLOWER * channels * min(block, guess(space.sizes[r]))
    tasks = product([*(space.sizes[i] for i in outer), chunks])
    return Kernel("interleave", body, (group.inputs[0], group.outputs[0]), tasks, table.dims,
                  grain=max(1, -(-GRAIN_ELEMENTS // work)), writes=group.outputs)
