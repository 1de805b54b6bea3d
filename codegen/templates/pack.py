"""Copies into scratch that make the operands of a microkernel regular: panels of B, rows of an image with borders."""
from __future__ import annotations

from collections.abc import Callable

from lepton.codegen.llvm.builder import Function, Int, Val, vec
from lepton.codegen.llvm.convert import memory_type
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


def pack_panel(fn: Function, machine: Target, dtype: DType, source: Val, extent: tuple[Int, Int], strides: tuple[Int, Int], target: Val, vectors: int) -> None:
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


def _pack_transposed(fn: Function, machine: Target, dtype: DType, source: Val, rows: Int, columns: Int, stride: Int, target: Val,
                     vectors: int, lanes: int, v: int) -> None:
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
    _pack_strided(fn, machine, dtype, source, (done, rows), columns, (1, stride), target, vectors, lanes, v)


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


def fill_zero(fn: Function, dtype: DType, target: Val, count: Int, lanes: int) -> None:
    """target[i] = 0 for i < count."""
    value = zeros(vec(lanes, memory_type(dtype)))
    fn.loop(fn.div(count, lanes), lambda i, _: fn.store(value, target, fn.mul(i, lanes * dtype.bytes)))
    _rest(fn, count, lanes, lambda at, mask: store_raw(fn, value, fn.gep(target, at), 0, mask), dtype)


def _rest(fn: Function, count: Int, lanes: int, body: Callable[[Int, Mask], None], dtype: DType) -> None:
    """body(byte offset, mask) for the elements after the last whole vector."""
    done = fn.mul(fn.div(count, lanes), lanes)
    left = fn.sub(count, done)
    if left != 0:
        body(fn.mul(done, dtype.bytes), mask_of(fn, left, 0, lanes))
