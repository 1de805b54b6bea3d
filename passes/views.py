"""Rules for reshapes, transposes, slices and other moves of data: fewer, simpler, none."""
from __future__ import annotations

from itertools import pairwise

from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, collect_guards
from lepton.ir.op import Trait
from lepton.ir.rewrite import Rule, capture, const, opt, pat, rest, rule, var
from lepton.passes.common import elements, node_of

Dims = tuple[Dim, ...]
x, y = var("x y")
shape, perm = capture("shape"), capture("perm")


# --- nothing to do --------------------------------------------------------------------------------


@rule(pat(ops.reshape, ops.broadcast_to, shape=shape)(x))
def same_shape(x: Value, shape: Dims) -> Value | None:
    """reshape(x), broadcast_to(x)  ->  x, for x of that shape"""
    return x if x.tensor.shape == shape else None


@rule(pat(ops.transpose, perm=perm)(x))
def transpose_nothing(x: Value, perm: tuple[int, ...]) -> Value | None:
    """transpose(x, perm=(0,1,2))  ->  x"""
    return x if perm == tuple(range(len(perm))) else None


@rule(pat(ops.slice_, starts=capture("starts"), steps=capture("steps"))(x).named("r"))
def slice_all(x: Value, starts: Dims, steps: tuple[int, ...], r: Value) -> Value | None:
    """slice(x) of everything  ->  x"""
    whole = x.type == r.type and not any(starts) and all(s == 1 for s in steps)
    return x if whole else None


@rule(pat(ops.pad, before=capture("before"), after=capture("after"))(x, opt("fill")))
def pad_nothing(x: Value, fill: Value | None, before: Dims, after: Dims) -> Value | None:
    """pad(x, before=(0,…), after=(0,…))  ->  x"""
    return None if any(b != 0 for b in (*before, *after)) else x


@rule(pat(ops.concat, axis=capture("axis"))(rest("xs")))
def concat_parts(xs: tuple[Value, ...], axis: int) -> Value | None:
    """concat(x), concat(x, empty)  ->  x;   concat(concat(x, y), z)  ->  concat(x, y, z)"""
    parts: list[Value] = []
    for value in xs:
        node = value.producer
        nested = node is not None and node.op is ops.concat and node.attrs["axis"] == axis and len(value.uses) == 1
        parts += [v for v in node.inputs if v is not None] if node is not None and nested else [value]
    parts = [v for v in parts if v.tensor.shape[axis] != 0] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return None if parts == list(xs) else ops.concat(*parts, axis=axis)


# --- one instead of two ---------------------------------------------------------------------------


@rule(pat(ops.reshape, shape=shape)(pat(ops.reshape)(x)))
def reshape_of_reshape(x: Value, shape: Dims) -> Value:
    """reshape(reshape(x), shape)  ->  reshape(x, shape)"""
    return ops.reshape(x, shape=shape)


@rule(pat(ops.transpose, perm=perm)(pat(ops.transpose, perm=capture("first"))(x)))
def transpose_of_transpose(x: Value, first: tuple[int, ...], perm: tuple[int, ...]) -> Value:
    """transpose(transpose(x, p), q)  ->  transpose(x, q after p)"""
    return ops.transpose(x, perm=tuple(first[p] for p in perm))


@rule(pat(ops.broadcast_to, shape=shape)(pat(ops.broadcast_to)(x)))
def broadcast_of_broadcast(x: Value, shape: Dims) -> Value:
    """broadcast_to(broadcast_to(x), shape)  ->  broadcast_to(x, shape)"""
    return ops.broadcast_to(x, shape=shape)


@rule(pat(ops.slice_, starts=capture("outer"), sizes=capture("sizes"), steps=capture("strides"))
      (pat(ops.slice_, starts=capture("starts"), steps=capture("steps"))(x)))
def slice_of_slice(x: Value, starts: Dims, steps: tuple[int, ...], outer: Dims, sizes: Dims, strides: tuple[int, ...]
                   ) -> Value:
    """slice(slice(x))  ->  slice(x)"""
    begins = tuple(a + b * s for a, b, s in zip(starts, outer, steps, strict=True))
    return ops.slice_(x, starts=begins, sizes=sizes, steps=tuple(a * b for a, b in zip(steps, strides, strict=True)))


@rule(pat(ops.transpose, perm=perm)(x).named("r"))
def transpose_of_ones(x: Value, perm: tuple[int, ...], r: Value) -> Value | None:
    """transpose(x: [N,C,1,1], perm=(0,2,3,1))  ->  reshape(x, shape=(N,1,1,C)), where only axes of size 1 move"""
    moved = [p for p in perm if x.tensor.shape[p] != 1]
    if perm == tuple(range(len(perm))) or moved != sorted(moved):
        return None
    return ops.reshape(x, shape=r.tensor.shape)


@rule(pat(ops.reshape, shape=shape)(pat(ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min)(x, ...).once
                                    .named("y")))
def reshape_of_reduction(x: Value, y: Value, shape: Dims) -> Value | None:
    """reshape(reduce(x, keepdims=true))  ->  reduce(x, keepdims=false), and the other way, where it gives that shape"""
    node = node_of(y)
    other = node.op(x, axes=node.attrs["axes"], keepdims=not node.attrs["keepdims"])
    return other if other.tensor.shape == shape else None


# --- something plainer ----------------------------------------------------------------------------


@rule(pat(Trait.ELEMENTWISE)(rest("xs")).named("r"))
def broadcast_operand(xs: tuple[Value | None, ...], r: Value) -> Value | None:
    """broadcast_to(x, shape) + y  ->  x + y, where y has that shape already"""
    node = node_of(r)
    for slot, value in enumerate(xs):
        producer = value.producer if value is not None else None
        if producer is None or producer.op is not ops.broadcast_to or len(xs) == 1:
            continue
        with collect_guards() as found:  # where sizes are open, the broadcast may be what makes them equal
            changed = node.op(*xs[:slot], producer.inputs[0], *xs[slot + 1:], **node.attrs)
        if changed.type == r.type and not found:
            return changed
    return None


@rule(pat(ops.gather, axis=capture("axis"))(x, const("i", lambda t: t.type.size == 1)).named("r"))
def gather_one(x: Value, i: Value, axis: int, r: Value) -> Value | None:
    """gather(x, constant 3)  ->  reshape(slice(x)), a view"""
    index, size = int(elements(i).reshape(-1)[0]), x.tensor.shape[axis]
    if (index < 0 and not isinstance(size, int)) or (isinstance(size, int) and not -size <= index < size):
        return None
    if not isinstance(size, int) and index > 0:
        return None  # whether that exists is for the gather to say
    start = index if index >= 0 else size + index
    rank = x.tensor.rank
    part = ops.slice_(x, starts=tuple(start if a == axis else 0 for a in range(rank)), steps=(1,) * rank,
                      sizes=tuple(1 if a == axis else n for a, n in enumerate(x.tensor.shape)))
    return ops.reshape(part, shape=r.tensor.shape)


@rule(pat(ops.gather, axis=capture("axis"))(x, const("i", lambda t: t.type.rank == 1 and t.type.size != 0)))
def gather_range(x: Value, i: Value, axis: int) -> Value | None:
    """gather(x, constant [2,3,4])  ->  slice(x), for evenly spaced indices"""
    index, size = [int(n) for n in elements(i)], x.tensor.shape[axis]
    step = index[1] - index[0] if len(index) > 1 else 1
    if not isinstance(size, int) or step == 0 or min(index) < 0 or max(index) >= size:
        return None
    if any(b - a != step for a, b in pairwise(index)):
        return None
    rank = x.tensor.rank
    return ops.slice_(x, starts=tuple(index[0] if a == axis else 0 for a in range(rank)),
                      sizes=tuple(len(index) if a == axis else n for a, n in enumerate(x.tensor.shape)),
                      steps=tuple(step if a == axis else 1 for a in range(rank)))


@rule(pat(ops.slice_, starts=capture("starts"), sizes=capture("sizes"), steps=capture("steps"))
      (pat(ops.concat, axis=capture("axis"))(rest("xs"))))
def slice_of_concat(xs: tuple[Value, ...], axis: int, starts: Dims, sizes: Dims, steps: tuple[int, ...]
                    ) -> Value | None:
    """slice(concat(x, y))  ->  slice(y), where it lies within one operand"""
    begin: Dim = 0
    for value in xs:
        size = value.tensor.shape[axis]
        inside = [starts[axis] - begin, begin + size - starts[axis] - (sizes[axis] - 1) * steps[axis] - 1]
        if steps[axis] > 0 and all(isinstance(n, int) and n >= 0 for n in inside):
            return ops.slice_(value, starts=tuple(s - begin if a == axis else s for a, s in enumerate(starts)),
                              sizes=sizes, steps=steps)
        begin = begin + size
    return None


VIEWS: tuple[Rule, ...] = (
    same_shape, transpose_nothing, slice_all, pad_nothing, concat_parts, reshape_of_reshape, transpose_of_transpose,
    broadcast_of_broadcast, slice_of_slice, transpose_of_ones, reshape_of_reduction, broadcast_operand, gather_one,
    gather_range, slice_of_concat,
)
