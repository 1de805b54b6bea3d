"""Copies into scratch that make the operands of a microkernel regular: panels of B, rows of an image with borders."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lepton.codegen.llvm.builder import Function, Int, Val, vec
from lepton.codegen.llvm.convert import memory_type
from lepton.codegen.llvm.expr import broadcast
from lepton.codegen.target import Target
from lepton.codegen.templates.memory import (
    Mask,
    load_lanes,
    load_raw,
    mask_of,
    store_raw,
    transpose,
    zeros,
)
from lepton.ir.types import DType

FEW = 4      # elements narrower than a float that are copied one by one, without a loop or a mask


def pack_panel(fn: Function, machine: Target, dtype: DType, source: Val, extent: tuple[Int, Int],
               strides: tuple[Int, Int], target: Val, vectors: int) -> None:
    """target[k][c] = source[k, c] for k < extent[0], c < extent[1]; rows of the target are `vectors` vectors long.

    Strides in elements. Columns at and after extent[1] get zeros or copies of others: they only fill vectors."""
    rows, columns = extent
    lanes = machine.lanes(dtype)
    if strides[1] == 1:
        _pack_rows(fn, dtype, source, rows, columns, strides[0], target, vectors, lanes)
        return
    for v in range(vectors):
        if strides[0] == 1 and lanes > 1:
            _pack_transposed(fn, machine, dtype, source, rows, columns, strides[1], target, vectors, lanes, v)
        else:
            _pack_strided(fn, machine, dtype, source, (0, rows), columns, strides, target, vectors, lanes, v)


def _pack_rows(fn: Function, dtype: DType, source: Val, rows: Int, columns: Int, stride: Int, target: Val, vectors: int,
               lanes: int) -> None:
    pitch = vectors * lanes * dtype.bytes
    masks = [mask_of(fn, columns, v, lanes) for v in range(vectors)]

    def row(k: Int, _: list[Val]) -> None:
        at = fn.gep(source, fn.mul(fn.mul(k, stride), dtype.bytes))
        to = fn.gep(target, fn.mul(k, pitch))
        for v, mask in enumerate(masks):
            step = v * lanes * dtype.bytes
            store_raw(fn, load_raw(fn, memory_type(dtype), at, lanes, step, mask), to, step)

    fn.loop(rows, row)


def _pack_transposed(fn: Function, machine: Target, dtype: DType, source: Val, rows: Int, columns: Int, stride: Int,
                     target: Val, vectors: int, lanes: int, v: int) -> None:
    """k is adjacent in the source: squares of `lanes` x `lanes` are transposed in registers."""
    pitch = vectors * lanes * dtype.bytes
    last = fn.sub(columns, 1)
    lines = [fn.gep(source, fn.mul(fn.mul(fn.max(fn.min(v * lanes + i, last), 0), stride), dtype.bytes))
             for i in range(lanes)]
    type = vec(lanes, memory_type(dtype))

    def square(b: Int, _: list[Val]) -> None:
        from_k = fn.mul(b, lanes * dtype.bytes)
        block = transpose(fn, [fn.load(type, line, from_k) for line in lines])
        to = fn.gep(target, fn.add(fn.mul(fn.mul(b, lanes), pitch), v * lanes * dtype.bytes))
        for i, value in enumerate(block):
            fn.store(value, to, i * pitch)

    whole = fn.div(rows, lanes)
    fn.loop(whole, square)
    done = fn.mul(whole, lanes)
    rest = fn.sub(rows, done)
    if not isinstance(rest, int):
        _pack_strided(fn, machine, dtype, source, (done, rows), columns, (1, stride), target, vectors, lanes, v)
    elif rest:
        mask = mask_of(fn, rest, 0, lanes)
        from_k = fn.mul(done, dtype.bytes)
        block = transpose(fn, [load_raw(fn, memory_type(dtype), line, lanes, from_k, mask) for line in lines])
        to = fn.gep(target, fn.add(fn.mul(done, pitch), v * lanes * dtype.bytes))
        for i, value in enumerate(block[:rest]):
            fn.store(value, to, i * pitch)


def _pack_strided(fn: Function, machine: Target, dtype: DType, source: Val, rows: tuple[Int, Int], columns: Int,
                  strides: tuple[Int, Int], target: Val, vectors: int, lanes: int, v: int) -> None:
    pitch = vectors * lanes * dtype.bytes
    mask = mask_of(fn, columns, v, lanes)

    def row(k: Int, _: list[Val]) -> None:
        offset = fn.add(fn.mul(k, strides[0]), fn.mul(strides[1], v * lanes))
        value = load_lanes(fn, machine, dtype, fn.gep(source, fn.mul(offset, dtype.bytes)), lanes, strides[1], mask)
        fn.store(value, target, fn.add(fn.mul(k, pitch), v * lanes * dtype.bytes))

    fn.loop(rows[1], row, start=rows[0])


def copy_run(fn: Function, dtype: DType, source: Val, target: Val, count: Int, lanes: int) -> None:
    """target[i] = source[i] for i < count: whole vectors, then a masked one."""
    element = memory_type(dtype)
    whole = fn.div(count, lanes)

    def some(i: Int, _: list[Val]) -> None:
        at = fn.mul(i, lanes * dtype.bytes)
        fn.store(fn.load(vec(lanes, element), source, at), target, at)

    fn.loop(whole, some)
    _rest(fn, count, lanes, lambda at, mask: store_raw(
        fn, load_raw(fn, element, fn.gep(source, at), lanes, 0, mask), fn.gep(target, at), 0, mask), dtype)


def fill_run(fn: Function, dtype: DType, target: Val, count: Int, lanes: int, fill: Val | None = None) -> None:
    """target[i] = fill (as it lies in memory; None: 0) for i < count."""
    value = zeros(vec(lanes, memory_type(dtype))) if fill is None else broadcast(fn, fill, lanes)
    fn.loop(fn.div(count, lanes), lambda i, _: fn.store(value, target, fn.mul(i, lanes * dtype.bytes)))
    _rest(fn, count, lanes, lambda at, mask: store_raw(fn, value, fn.gep(target, at), 0, mask), dtype)


def _rest(fn: Function, count: Int, lanes: int, body: Callable[[Int, Mask], None], dtype: DType) -> None:
    """body(byte offset, mask) for the elements after the last whole vector."""
    done = fn.mul(fn.div(count, lanes), lanes)
    left = fn.sub(count, done)
    if left != 0:
        body(fn.mul(done, dtype.bytes), mask_of(fn, left, 0, lanes))


@dataclass(frozen=True, slots=True)
class Border:
    """A run of `left` zeros, `inside` elements of the source (its first one is number `left`), `right` zeros."""

    left: Int
    inside: Int
    right: Int

    @classmethod
    def around(cls, fn: Function, first: Int, count: Int, extent: Int) -> Border:
        """Positions [first, first + count) of an axis of `extent` elements."""
        left = fn.min(fn.max(fn.sub(0, first), 0), count)
        right = fn.min(fn.max(fn.sub(fn.add(first, count), extent), 0), fn.sub(count, left))
        return cls(left, fn.sub(fn.sub(count, left), right), right)

    def unless(self, fn: Function, inside: bool | Val) -> Border:
        """The same, or nothing but zeros where the condition does not hold."""
        count = fn.add(fn.add(self.left, self.inside), self.right)
        if inside is True:
            return self
        if inside is False:
            return Border(count, 0, 0)
        pick = [fn.select(inside, fn.i64(a), fn.i64(b))
                for a, b in ((self.left, count), (self.inside, 0), (self.right, 0))]
        return Border(*pick)


def copy_line(fn: Function, machine: Target, dtype: DType, source: Val, target: Val, border: Border, channels: int,
              strides: tuple[Int, Int], to: tuple[Int, Int], fill: Val | None = None) -> None:
    """One line of pixels with its borders: pixel i, channel c goes to target[i*to[0] + c*to[1]].

    `source` is where pixel 0 would lie, borders counted; `strides` are the source's between pixels and channels.
    Borders hold `fill` (None: 0)."""
    few, step, pitch = channels, strides[0], to[0]
    if isinstance(few, int) and isinstance(step, int) and isinstance(pitch, int) and dtype.bytes < 4:
        many = 4 // dtype.bytes
        if strides[1] == to[1] == 1 and few % many == step % many == pitch % many == 0:
            dtype, channels, strides, to = DType.I32, few // many, (step // many, 1), (pitch // many, 1)
            fill = None if fill is None else fn.op("mul", fn.convert("zext", fill, "i32"), Val("i32", str(0x01010101)))
    lanes, size = machine.lanes(dtype), dtype.bytes
    total = fn.add(border.left, border.inside)
    skip = fn.mul(border.left, size)
    if to[1] == 1 and (to[0] != 1 or channels == 1):  # pixels one after the other, with or without gaps
        for start, count in ((0, border.left), (total, border.right)):
            fill_run(fn, dtype, fn.gep(target, fn.mul(fn.mul(start, to[0]), size)), fn.mul(count, to[0]), lanes, fill)
        first = fn.gep(target, fn.mul(skip, to[0]))
        at = fn.gep(source, fn.mul(skip, strides[0]))
        if strides == (channels, 1) and to[0] == channels:
            copy_run(fn, dtype, at, first, fn.mul(border.inside, channels), lanes)
            return

        def pixel(i: Int, _: list[Val]) -> None:
            p = fn.gep(at, fn.mul(fn.mul(i, strides[0]), size))
            q = fn.gep(first, fn.mul(fn.mul(i, to[0]), size))
            copy_elements(fn, machine, dtype, p, q, channels, strides[1])
            if odd:  # what lies there meets a weight of 0, and must be a number
                fn.store(zeros(memory_type(dtype)), q, fn.mul(channels, size))

        odd = dtype.is_float and dtype.bytes < 4 and isinstance(channels, int) and channels % 2 == 1
        fn.loop(border.inside, pixel)
        return

    def plane(c: Int, _: list[Val]) -> None:
        line = fn.gep(target, fn.mul(fn.mul(c, to[1]), size))
        for start, count in ((0, border.left), (total, border.right)):
            fill_run(fn, dtype, fn.gep(line, fn.mul(start, size)), count, lanes, fill)
        at = fn.gep(source, fn.add(fn.mul(fn.mul(c, strides[1]), size), fn.mul(skip, strides[0])))
        copy_elements(fn, machine, dtype, at, fn.gep(line, skip), border.inside, strides[0])

    fn.loop(channels, plane)


def copy_elements(fn: Function, machine: Target, dtype: DType, source: Val, target: Val, count: Int,
                  stride: Int) -> None:
    """target[i] = source[i*stride] for i < count."""
    if isinstance(count, int) and count <= FEW and dtype.bytes < 4:
        for i in range(count):
            value = fn.load(memory_type(dtype), source, fn.mul(fn.mul(stride, i), dtype.bytes))
            fn.store(value, target, i * dtype.bytes)
        return
    if stride == 1:
        copy_run(fn, dtype, source, target, count, machine.lanes(dtype))
        return

    def one(i: Int, _: list[Val]) -> None:
        value = fn.load(memory_type(dtype), source, fn.mul(fn.mul(i, stride), dtype.bytes))
        fn.store(value, target, fn.mul(i, dtype.bytes))

    fn.loop(count, one)
