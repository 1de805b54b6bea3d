"""Small questions and moves that many passes share."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.rewrite import tensor_of
from lepton.ir.tensor import Array, Tensor


def graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and all regions inside it, innermost first; bodies of fusions are left alone."""
    for node in graph.nodes:
        if node.op is not ops.fusion:
            for region in node.regions:
                yield from graphs(region)
    yield graph


def substitute(graph: Graph, old: Value, new: Value) -> bool:
    """Let all readers of `old` read `new`; False, and nothing done, where callers could tell.

    Callers know the graph's inputs and outputs by name: an output keeps its name, and so never becomes another port."""
    if old is new:
        return False
    if old in graph.outputs:
        if new in graph.inputs or new in graph.outputs:
            return False
        new.name = old.name
    old.replace_with(new)
    return True


def array_of(value: Value | None) -> Array | None:
    """The elements of a constant, else None."""
    tensor = tensor_of(value)
    return None if tensor is None else tensor.array


def elements(constant: Value) -> Array:
    """The elements of a value that is known to be a constant."""
    array = array_of(constant)
    assert array is not None, constant
    return array


def node_of(value: Value) -> Node:
    """The node that makes a value that is known to be no input."""
    assert value.producer is not None, value
    return value.producer


def scalar_of(value: Value | None) -> float | None:
    """The number, if `value` is a float or integer constant of one element."""
    tensor = tensor_of(value)
    if tensor is None or tensor.type.size != 1 or not (tensor.type.dtype.is_float or tensor.type.dtype.is_integer):
        return None
    return float(tensor.array.reshape(-1)[0])


def constant(array: Array | np.generic) -> Value:
    """A constant with these elements."""
    return ops.constant(value=Tensor.of(np.asarray(array)))


def constant_like(array: Any, model: Value) -> Value:
    """A constant of `model`'s element type, which takes the array over."""
    return ops.constant(value=Tensor.of(np.asarray(array).astype(model.tensor.dtype.numpy, copy=False), copy=False))


def channel_vector(value: Value | None, axis: int, rank: int, channels: object) -> Array | None:
    """The [channels] elements of a constant that, broadcast to `rank` dimensions, varies along `axis` only.

    A constant of one element counts: it is repeated. None for anything else."""
    array = array_of(value)
    if array is None or array.ndim > rank or not isinstance(channels, int):
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(n != 1 for a, n in enumerate(shape) if a != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)) if array.size in (1, channels) else None


def only_reader(value: Value) -> Node | None:
    """The node that alone reads `value`, once or more; None if there are others or the graph returns it."""
    users = value.users
    return users[0] if len(users) == 1 and isinstance(users[0], Node) else None


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(perm.index(i) for i in range(len(perm)))


def is_one_element(value: Value) -> bool:
    return value.tensor.size == 1
