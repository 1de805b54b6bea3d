"""Views: how the elements of one value lie in the memory of another.

Reading side: `view(node, place)` says where the result of a reshape, transpose, slice or broadcast already lies, given
where its operand lies. Writing side: `place_operand(node, i, place)` says where operand i of a concat, transpose or
reshape must be written so that the result lies in `place` without a copy. Both give None where only a copy will do.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lepton.codegen.kernel import Access, dense_strides
from lepton.ir import ops
from lepton.ir.core import Node
from lepton.ir.dims import Dim, dim_min, product
from lepton.ir.types import TensorType

if TYPE_CHECKING:
    from lepton.codegen.program import Buffer


@dataclass(frozen=True, slots=True)
class Place:
    """Elements inside a buffer: an offset and one stride per dimension, in elements of the value's type."""

    buffer: Buffer
    offset: Dim
    strides: tuple[Dim, ...]

    def access(self, type: TensorType) -> Access:
        return Access(type, self.strides)

    def is_dense(self, type: TensorType) -> bool:
        """Whether the elements follow each other in row-major order (dimensions of size 1 have no say)."""
        dense = dense_strides(type.shape)
        return all(s == d or n == 1 for s, d, n in zip(self.strides, dense, type.shape, strict=True))


def dense_place(buffer: Buffer, type: TensorType) -> Place:
    return Place(buffer, 0, dense_strides(type.shape))


def view(node: Node, place: Place) -> Place | None:
    """Where the result of a VIEW op lies, if its operand lies in `place`; None: it must be copied."""
    operand, result = node.inputs[0], node.results[0]
    assert operand is not None
    if node.op is ops.reshape:
        if place.is_dense(operand.tensor):
            return replace(place, strides=dense_strides(result.tensor.shape))
        strides = reshape_strides(operand.tensor.shape, place.strides, result.tensor.shape)
        return None if strides is None else replace(place, strides=strides)
    if node.op is ops.transpose:
        return replace(place, strides=tuple(place.strides[p] for p in node.attrs["perm"]))
    if node.op is ops.slice_:
        return _sliced(place, node.attrs["starts"], node.attrs["steps"])
    if node.op is ops.broadcast_to:
        return replace(place, strides=broadcast_strides(operand.tensor.shape, place.strides, result.tensor.shape))
    return None


def _sliced(place: Place, starts: Sequence[Dim], steps: Sequence[int]) -> Place:
    offset = place.offset
    for start, stride in zip(starts, place.strides, strict=True):
        offset = offset + start * stride
    return replace(place, offset=offset, strides=tuple(st * s for st, s in zip(place.strides, steps, strict=True)))


def broadcast_strides(shape: Sequence[Dim], strides: Sequence[Dim], to: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides over `to` of elements that have `shape`: 0 where a dimension is new or is 1, as an open one may be."""
    missing = len(to) - len(shape)
    return (0,) * missing + tuple(map(_broadcast_stride, shape, strides, to[missing:]))


def _broadcast_stride(size: Dim, stride: Dim, to: Dim) -> Dim:
    if size == to or (isinstance(size, int) and size != 1):
        return stride
    return 0 if size == 1 else stride * dim_min(size - 1, 1)


def reshape_strides(shape: Sequence[Dim], strides: Sequence[Dim], to: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """Strides that give the elements of (shape, strides) the shape `to`, in the same order; None if none exist.

    Dimensions are matched in groups with equal products; inside a group the old dimensions must be evenly spaced."""
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result: list[Dim] = []
    i = j = 0
    while j < len(to):
        if to[j] == 1 or i == len(old):
            if to[j] != 1:
                return None
            result.append(old[i][1] if i < len(old) else 1)
            j += 1
            continue
        group = _match(old, to, i, j)
        if group is None:
            return None
        i_end, j_end = group
        if any(old[k][1] != old[k + 1][1] * old[k + 1][0] for k in range(i, i_end - 1)):
            return None
        inner = old[i_end - 1][1]
        result += [inner * d for d in dense_strides(to[j:j_end])]
        i, j = i_end, j_end
    return tuple(result) if i == len(old) else None


def _match(old: Sequence[tuple[Dim, Dim]], to: Sequence[Dim], i: int, j: int) -> tuple[int, int] | None:
    """The smallest ends (i', j') with the product of old[i:i'] equal to that of to[j:j']."""
    for i_end in range(i + 1, len(old) + 1):
        left = product([n for n, _ in old[i:i_end]])
        for j_end in range(j + 1, len(to) + 1):
            if product(list(to[j:j_end])) == left:
                return i_end, j_end
    return None


def place_operand(node: Node, index: int, place: Place) -> Place | None:
    """Where operand `index` must be written so that the node's result lies in `place`; None: no such place."""
    operand, result = node.inputs[index], node.results[0]
    assert operand is not None
    if node.op is ops.concat:
        axis = node.attrs["axis"]
        before: Dim = 0
        for earlier in node.inputs[:index]:
            assert earlier is not None
            before = before + earlier.tensor.shape[axis]
        return replace(place, offset=place.offset + before * place.strides[axis])
    if node.op is ops.reshape:
        if place.is_dense(result.tensor):
            return replace(place, strides=dense_strides(operand.tensor.shape))
        strides = reshape_strides(result.tensor.shape, place.strides, operand.tensor.shape)
        return None if strides is None else replace(place, strides=strides)
    if node.op is ops.transpose:
        perm = node.attrs["perm"]
        strides = tuple(place.strides[perm.index(axis)] for axis in range(len(perm)))
        return replace(place, strides=strides)
    return None


def inner_is_contiguous(type: TensorType, place: Place) -> bool:
    """Whether the last dimension that matters has stride 1 (or there is none): vectors can load it as it lies."""
    for n, s in reversed(list(zip(type.shape, place.strides, strict=True))):
        if n != 1:
            return s in (0, 1)
    return True
