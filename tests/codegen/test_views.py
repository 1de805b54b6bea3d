"""Views against numpy: the strides that views.py computes must show the elements that the ops mean."""
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lepton.codegen.program import Buffer, Storage
from lepton.codegen.views import Place, dense_place, place_operand, reshape_strides, view
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import sym
from lepton.ir.types import DType, TensorType

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def looked_at(memory: np.ndarray, place: Place, shape: tuple[int, ...]) -> np.ndarray:
    strides = [s * memory.itemsize for s in place.strides]
    return np.lib.stride_tricks.as_strided(memory[place.offset:], shape, strides)


def operand(shape: tuple[int, ...]) -> tuple[Value, Place, np.ndarray]:
    type = TensorType(DType.I32, shape)
    memory = np.arange(int(np.prod(shape)), dtype=np.int32)
    return Value(type), dense_place(Buffer(Storage.WORKSPACE), type), memory


@given(SHAPES, st.randoms())
def test_transpose_then_slice(shape, random):
    x, place, memory = operand(shape)
    perm = list(range(len(shape)))
    random.shuffle(perm)
    turned = ops.transpose(x, perm=tuple(perm))
    place = view(turned.producer, place)
    expected = memory.reshape(shape).transpose(perm)
    assert np.array_equal(looked_at(memory, place, expected.shape), expected)
    starts = [random.randrange(n) for n in expected.shape]
    steps = [random.choice([1, 2, -1]) for _ in starts]
    cut = expected[tuple(slice(a, None if s > 0 else None, s) for a, s in zip(starts, steps, strict=True))]
    part = ops.slice_(turned, starts=tuple(starts), sizes=cut.shape, steps=tuple(steps))
    assert np.array_equal(looked_at(memory, view(part.producer, place), cut.shape), cut)


@given(SHAPES, st.randoms())
def test_reshape_of_anything_is_right_or_refused(shape, random):
    """numpy decides in the same way: a view where it can, else a copy."""
    memory = np.arange(int(np.prod(shape)) * 2, dtype=np.int32)
    array = memory[: int(np.prod(shape))].reshape(shape)
    if random.random() < 0.5:
        perm = list(range(len(shape)))
        random.shuffle(perm)
        array = array.transpose(perm)
    flat = list(array.shape)
    to = tuple(flat[:1] + [int(np.prod(flat[1:]))]) if random.random() < 0.5 else (int(np.prod(flat)),)
    strides = tuple(s // 4 for s in array.strides)
    found = reshape_strides(array.shape, strides, to)
    expected = array.reshape(to)
    if found is None:
        assert not np.shares_memory(expected, memory)
    else:
        got = np.lib.stride_tricks.as_strided(array, to, [s * 4 for s in found])
        assert np.array_equal(got, expected)


def test_reshape_with_symbols():
    n, s = sym("N"), sym("S")
    assert reshape_strides((n, s, 768), (768 * s, 768, 1), (n, s, 12, 64)) == (768 * s, 768, 64, 1)
    assert reshape_strides((n, s, 768), (768 * s, 768, 1), (n * s, 768)) == (768, 1)
    assert reshape_strides((n, 12, s, 64), (768 * s, 64, 768, 1), (n, 12 * s, 64)) is None


@given(SHAPES, SHAPES)
def test_concat_places_its_operands(shape, _other):
    axis = len(shape) - 1
    parts = [operand(shape)[0] for _ in range(3)]
    whole = ops.concat(*parts, axis=axis)
    target = dense_place(Buffer(Storage.WORKSPACE), whole.tensor)
    memory = np.zeros(whole.tensor.size, np.int32)
    for i in range(3):
        looked_at(memory, place_operand(whole.producer, i, target), shape)[...] = i + 1
    expected = np.concatenate([np.full(shape, i + 1) for i in range(3)], axis)
    assert np.array_equal(memory.reshape(expected.shape), expected)


@given(SHAPES, st.randoms())
def test_placing_a_transposed_operand_inverts_the_view(shape, random):
    x, _, _ = operand(shape)
    perm = list(range(len(shape)))
    random.shuffle(perm)
    node = ops.transpose(x, perm=tuple(perm)).producer
    target = dense_place(Buffer(Storage.WORKSPACE), node.result.tensor)
    assert view(node, place_operand(node, 0, target)).strides == target.strides
