"""Vectors in and out of memory: element types as LLVM stores them, masks for the last columns, strided lanes."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from lepton.codegen.kernel import DimRef, Size
from lepton.codegen.llvm.builder import Function, Int, Val, element_of, lanes_of, literal, vec
from lepton.codegen.llvm.convert import from_memory, memory_type, to_memory
from lepton.codegen.target import Target
from lepton.ir.types import DType

Mask: TypeAlias = "Val | None"   # None: every lane


def size(fn: Function, value: Size) -> Int:
    """A size of a body: the number, or its place in `dims` read."""
    return fn.dim(value.index) if isinstance(value, DimRef) else value


def vector_constant(element: str, values: Sequence[int]) -> Val:
    """An integer vector constant, e.g. the lane numbers."""
    if len(values) == 1:
        return Val(element, str(values[0]))
    return Val(vec(len(values), element), "<" + ", ".join(f"{element} {v}" for v in values) + ">")


def mask_of(fn: Function, columns: Int, vector: int, lanes: int) -> Mask:
    """The lanes of the `vector`-th vector that lie before `columns`; None where all do."""
    first = vector * lanes
    if isinstance(columns, int):
        if columns >= first + lanes:
            return None
        return vector_constant("i1", [int(first + i < columns) for i in range(lanes)])
    numbers = vector_constant("i64", range(first, first + lanes))
    return fn.compare("icmp slt", numbers, fn.splat(columns, lanes))


def load_raw(fn: Function, element: str, pointer: Val, lanes: int, offset: Int = 0, mask: Mask = None,
             align: int = 1) -> Val:
    """`lanes` adjacent elements; those outside the mask are zero and not read."""
    type = vec(lanes, element)
    if mask is None:
        return fn.load(type, pointer, offset, align)
    if lanes == 1:
        return fn.when(mask, lambda: [fn.load(type, pointer, offset)], [literal(type, 0)])[0]
    return fn.masked_load(type, fn.gep(pointer, offset), mask)


def store_raw(fn: Function, value: Val, pointer: Val, offset: Int = 0, mask: Mask = None, align: int = 1) -> None:
    """Store adjacent lanes; those outside the mask are not touched."""
    if mask is None:
        fn.store(value, pointer, offset, align)
    elif lanes_of(value.type) == 1:
        def write() -> list[Val]:
            fn.store(value, pointer, offset)
            return []

        fn.when(mask, write)
    else:
        fn.masked_store(value, fn.gep(pointer, offset), mask)


def load_lanes(fn: Function, target: Target, dtype: DType, pointer: Val, lanes: int, stride: Int = 1,
               mask: Mask = None) -> Val:
    """`lanes` elements `stride` apart, as register values. Stride 0 reads one element for all lanes."""
    element = memory_type(dtype)
    if stride == 0:
        return fn.splat(from_memory(fn, target, fn.load(element, pointer), dtype), lanes)
    if stride == 1:
        return from_memory(fn, target, load_raw(fn, element, pointer, lanes, 0, mask), dtype)
    type = vec(lanes, element)
    result = Val(type, "zeroinitializer") if mask is not None else Val(type, "poison")
    for lane in range(lanes):
        place = fn.mul(fn.mul(stride, lane), dtype.bytes)

        def read(place: Int = place, lane: int = lane, into: Val = result) -> list[Val]:
            return [insert(fn, into, fn.load(element, pointer, place), lane)]

        result = read()[0] if mask is None else fn.when(extract(fn, mask, lane), read, [result])[0]
    return from_memory(fn, target, result, dtype)


def store_lanes(fn: Function, target: Target, value: Val, dtype: DType, pointer: Val, stride: Int = 1,
                mask: Mask = None) -> None:
    """Store a vector of computed values to elements `stride` apart."""
    raw = to_memory(fn, target, value, dtype)
    if stride == 1:
        store_raw(fn, raw, pointer, 0, mask)
        return
    for lane in range(lanes_of(raw.type)):
        place = fn.mul(fn.mul(stride, lane), dtype.bytes)

        def write(place: Int = place, lane: int = lane) -> list[Val]:
            fn.store(extract(fn, raw, lane), pointer, place)
            return []

        if mask is None:
            write()
        else:
            fn.when(extract(fn, mask, lane), write)


def join(fn: Function, parts: Sequence[Val]) -> Val:
    """Vectors of one type, a power of two of them, as one."""
    while len(parts) > 1:
        lanes = 2 * lanes_of(parts[0].type)
        type, order = vec(lanes, element_of(parts[0].type)), ", ".join(f"i32 {i}" for i in range(lanes))
        parts = [fn.value(type, f"shufflevector {a}, {b}, <{lanes} x i32> <{order}>")
                 for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def slice_of(fn: Function, vector: Val, start: int, lanes: int) -> Val:
    """`lanes` lanes of a vector from lane `start` on."""
    if lanes == lanes_of(vector.type):
        return vector
    order = ", ".join(f"i32 {i}" for i in range(start, start + lanes))
    type = vec(lanes, element_of(vector.type))
    return fn.value(type, f"shufflevector {vector}, {vector.type} poison, <{lanes} x i32> <{order}>")


def extract(fn: Function, vector: Val, lane: int) -> Val:
    if lanes_of(vector.type) == 1:
        return vector
    element = element_of(vector.type)
    return fn.value(element, f"extractelement {vector}, i64 {lane}")


def insert(fn: Function, vector: Val, scalar: Val, lane: int) -> Val:
    if lanes_of(vector.type) == 1:
        return scalar
    return fn.value(vector.type, f"insertelement {vector}, {scalar}, i64 {lane}")


def shuffle(fn: Function, a: Val, b: Val, lanes: Sequence[int]) -> Val:
    """Lanes of a (0 …) and b (len(a) …) in a new order."""
    element = element_of(a.type)
    mask = "<" + ", ".join(f"i32 {i}" for i in lanes) + ">"
    return fn.value(vec(len(lanes), element), f"shufflevector {a}, {b}, <{len(lanes)} x i32> {mask}")


def fma(fn: Function, fused: bool, a: Val, b: Val, c: Val) -> Val:
    """a*b + c: one instruction where the machine has it, two roundings elsewhere (llvm.fma would call libm)."""
    if fused:
        return fn.intrinsic("llvm.fma", a, b, c)
    return fn.op("fadd", fn.op("fmul", a, b), c)


def prefetch(fn: Function, place: Val) -> None:
    """Ask for a cache line, into L2."""
    fn.module.declarations["llvm.prefetch.p0"] = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"
    fn.emit(f"call void @llvm.prefetch.p0({place}, i32 0, i32 2, i32 1)")


def zeros(type: str) -> Val:
    return literal(type, 0)


def transpose(fn: Function, rows: list[Val]) -> list[Val]:
    """Square transpose in registers: n vectors of n lanes (a power of two), log2(n) rounds of shuffles."""
    n = len(rows)
    half = 1
    while half < n:
        # Swap the off-diagonal blocks of size `half` of each pair of rows that are `half` apart.
        keep = [i if i & half == 0 else n + i - half for i in range(n)]
        swap = [i + half if i & half == 0 else n + i for i in range(n)]
        result = list(rows)
        for i in range(n):
            if i & half == 0:
                result[i] = shuffle(fn, rows[i], rows[i + half], keep)
                result[i + half] = shuffle(fn, rows[i], rows[i + half], swap)
        rows = result
        half *= 2
    return rows
