"""Views against numpy: the strides that views.py computes must show the elements that the ops mean."""
from __future__ import annotations

import random
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lepton.codegen.program import Buffer, Storage
from lepton.codegen.views import Place, dense_place, place_operand, reshape_strides, view
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, sym
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

Shape = tuple[int, ...]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def number(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def looked_at(memory: Array, place: Place | None, shape: Shape) -> Array:
    assert place is not None
    strides = [number(s) * memory.itemsize for s in place.strides]
    return np.lib.stride_tricks.as_strided(memory[number(place.offset):], shape, strides)


def operand(shape: Shape) -> tuple[Value, Place, Array]:
    type = TensorType(DType.I32, shape)
    return Value(type), dense_place(Buffer(Storage.WORKSPACE), type), np.arange(prod(shape), dtype=np.int32)


def producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def shuffled(count: int, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.sample(range(count), count))


@given(SHAPES, st.randoms())
def test_transpose_then_slice(shape: Shape, rng: random.Random) -> None:
    x, start, memory = operand(shape)
    perm = shuffled(len(shape), rng)
    turned = ops.transpose(x, perm=perm)
    place = view(producer(turned), start)
    expected = memory.reshape(shape).transpose(perm)
    assert np.array_equal(looked_at(memory, place, expected.shape), expected)
    starts = [rng.randrange(n) for n in expected.shape]
    steps = [rng.choice([1, 2, -1]) for _ in starts]
    cut = expected[tuple(slice(a, None, s) for a, s in zip(starts, steps, strict=True))]
    part = ops.slice_(turned, starts=tuple(starts), sizes=cut.shape, steps=tuple(steps))
    assert place is not None
    assert np.array_equal(looked_at(memory, view(producer(part), place), cut.shape), cut)


@given(SHAPES, st.booleans(), st.booleans(), st.randoms())
def test_reshape_of_anything_is_right_or_refused(shape: Shape, turn: bool, flat: bool, rng: random.Random) -> None:
    """numpy decides in the same way: a view where it can, else a copy."""
    memory = np.arange(prod(shape) * 2, dtype=np.int32)
    array = memory[:prod(shape)].reshape(shape)
    if turn:
        array = array.transpose(shuffled(len(shape), rng))
    to = (prod(array.shape),) if flat else (array.shape[0], prod(array.shape[1:]))
    found = reshape_strides(array.shape, tuple(s // 4 for s in array.strides), to)
    expected = array.reshape(to)
    if found is None:
        assert not np.shares_memory(expected, memory)
    else:
        got = np.lib.stride_tricks.as_strided(array, to, [number(s) * 4 for s in found])
        assert np.array_equal(got, expected)


def test_reshape_with_symbols() -> None:
    n, s = sym("N"), sym("S")
    assert reshape_strides((n, s, 768), (768 * s, 768, 1), (n, s, 12, 64)) == (768 * s, 768, 64, 1)
    assert reshape_strides((n, s, 768), (768 * s, 768, 1), (n * s, 768)) == (768, 1)
    assert reshape_strides((n, 12, s, 64), (768 * s, 64, 768, 1), (n, 12 * s, 64)) is None


@given(SHAPES)
def test_concat_places_its_operands(shape: Shape) -> None:
    axis = len(shape) - 1
    whole = ops.concat(*(operand(shape)[0] for _ in range(3)), axis=axis)
    target = dense_place(Buffer(Storage.WORKSPACE), whole.tensor)
    memory = np.zeros(number(whole.tensor.size), np.int32)
    for i in range(3):
        looked_at(memory, place_operand(producer(whole), i, target), shape)[...] = i + 1
    expected = np.concatenate([np.full(shape, i + 1) for i in range(3)], axis)
    assert np.array_equal(memory.reshape(expected.shape), expected)


@given(SHAPES, st.randoms())
def test_placing_a_transposed_operand_inverts_the_view(shape: Shape, rng: random.Random) -> None:
    x, _, _ = operand(shape)
    node = producer(ops.transpose(x, perm=shuffled(len(shape), rng)))
    target = dense_place(Buffer(Storage.WORKSPACE), node.result.tensor)
    inner = place_operand(node, 0, target)
    assert inner is not None
    assert view(node, inner) == target
