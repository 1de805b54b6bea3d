"""Compute products of one matrix with several weights as one product."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Op, Trait
from lepton.passes.base import Pass
from lepton.passes.common import array_of, channel_vector, constant_like, elements, graphs, only_reader, substitute

_TAKES_SLICES: frozenset[Op] = frozenset({ops.attention, ops.matmul})


class _Branch(NamedTuple):
    """matmul(x, weight) + bias, and the value that stands for it."""

    weight: Value
    bias: Value | None
    result: Value


@dataclass(frozen=True)
class MergeMatmuls(Pass):
    """matmul(x, q) + a, matmul(x, k) + b, matmul(x, v) + c  ->  slices of matmul(x, [q k v]) + [a b c]

    For constant weights and biases, where only views, products and attention read the results: they take slices as they
    lie. What else reads them would no longer fuse with its product."""

    name: ClassVar[str] = "merge-matmuls"

    def run(self, graph: Graph) -> bool:
        changed = False
        for part in graphs(graph):
            values = [*part.inputs, *(r for n in part.nodes for r in n.results)]
            for value in values:
                branches = [b for user in value.users if (b := _branch(value, user)) is not None]
                if len(branches) > 1:
                    changed |= _merge(part, value, branches)
        return changed


def _branch(x: Value, user: object) -> _Branch | None:
    """The reader as a branch, if it is one."""
    if not isinstance(user, Node) or user.op is not ops.matmul or user.inputs[0] is not x or x.tensor.rank < 2:
        return None
    weight = user.inputs[1]
    if weight is None or weight.tensor.rank != 2 or array_of(weight) is None:
        return None
    result, reader = user.result, only_reader(user.result)
    if reader is not None and reader.op is ops.add:
        bias = next((v for v in reader.inputs if v is not result), None)
        rank = result.tensor.rank
        per_column = bias is not None and channel_vector(bias, rank - 1, rank, weight.tensor.shape[1]) is not None
        if bias is not None and per_column and reader.result.type == result.type:
            return _Branch(weight, bias, reader.result) if _sliceable(reader.result) else None
    return _Branch(weight, None, result) if _sliceable(result) else None


def _sliceable(value: Value) -> bool:
    """Whether all readers take any strides."""
    return all(isinstance(u, Node) and (u.op.has(Trait.VIEW) or u.op in _TAKES_SLICES) for u in value.users)


def _merge(graph: Graph, x: Value, branches: Sequence[_Branch]) -> bool:
    weights = [elements(b.weight) for b in branches]
    merged = ops.matmul(x, constant_like(np.concatenate(weights, axis=1), x))
    if any(b.bias is not None for b in branches):
        biases = [_bias(b, w.shape[1]) for b, w in zip(branches, weights, strict=True)]
        merged = ops.add(merged, constant_like(np.concatenate(biases), x))
    rank, begin = merged.tensor.rank, 0
    for branch, weight in zip(branches, weights, strict=True):
        sizes = (*merged.tensor.shape[:-1], weight.shape[1])
        part = ops.slice_(merged, starts=(*[0] * (rank - 1), begin), sizes=sizes, steps=(1,) * rank)
        substitute(graph, branch.result, part)
        begin += weight.shape[1]
    return True


def _bias(branch: _Branch, columns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if branch.bias is None:
        return np.zeros(columns)
    return np.broadcast_to(elements(branch.bias).astype(np.float64).reshape(-1), (columns,))
