"""How an operation on a transposed value becomes a transposed operation: f(transpose(y, p)) = transpose(f'(y), p').

`MOVES` holds, for ops with one large operand, the function from (node, y, p) to (f'(y), p'), or None where f' does not
exist. Axis a of the operand is axis p[a] of y.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import Dim, product
from lepton.ir.op import Op
from lepton.passes.common import inverse

Perm = tuple[int, ...]
Moved = tuple[Value, Perm]
Move = Callable[[Node, Value, Perm], Moved | None]


def permuted(entries: Sequence[Any], perm: Perm) -> tuple[Any, ...]:
    """Per-axis entries of the operand as entries of y."""
    return tuple(entries[a] for a in inverse(perm))


def _again(node: Node, y: Value, **changed: Any) -> Value:
    """The node's op on y (and its other operands) with some attributes changed."""
    return node.op(y, *node.inputs[1:], loc=node.loc, **{**node.attrs, **changed})


def _per_axis(*names: str) -> Move:
    """For ops whose attributes `names` have one entry per axis (or none at all)."""

    def move(node: Node, y: Value, perm: Perm) -> Moved | None:
        changed = {n: permuted(node.attrs[n], perm) if node.attrs[n] else () for n in names}
        return _again(node, y, **changed), perm

    return move


def _one_axis(node: Node, y: Value, perm: Perm) -> Moved | None:
    """For ops with an attribute `axis` that keep the shape."""
    return _again(node, y, axis=perm[node.attrs["axis"]]), perm


def _levels(node: Node, y: Value, perm: Perm) -> Moved | None:
    """For quantize and dequantize: scales have one entry per place along an axis; blocks have the operand's shape."""
    return None if node.attrs["block"] else _one_axis(node, y, perm)


def _reduction(node: Node, y: Value, perm: Perm) -> Moved | None:
    """For reductions over `axes` or `axis`: what remains keeps its order in y."""
    one = "axis" in node.attrs
    axes = {perm[a] for a in ((node.attrs["axis"],) if one else node.attrs["axes"])}
    changed: dict[str, Any] = {"axis": min(axes)} if one else {"axes": tuple(sorted(axes))}
    result = _again(node, y, **changed)
    if node.attrs["keepdims"]:
        return result, perm
    left = [a for a in range(len(perm)) if a not in axes]
    return result, tuple(left.index(a) for a in perm if a not in axes)


def _resize(node: Node, y: Value, perm: Perm) -> Moved | None:
    roi, rank = node.attrs["roi"], len(perm)
    both = (*permuted(roi[:rank], perm), *permuted(roi[rank:], perm)) if roi else ()
    scales = permuted(node.attrs["scales"], perm) if node.attrs["scales"] else ()
    return _again(node, y, sizes=permuted(node.attrs["sizes"], perm), scales=scales, roi=both), perm


def _gather(node: Node, y: Value, perm: Perm) -> Moved | None:
    indices = node.inputs[1]
    if indices is None or indices.tensor.rank != 1:
        return None
    return _one_axis(node, y, perm)


def _broadcast(node: Node, y: Value, perm: Perm) -> Moved | None:
    shape = node.attrs["shape"]
    return None if len(shape) != len(perm) else (_again(node, y, shape=permuted(shape, perm)), perm)


def _transpose(node: Node, y: Value, perm: Perm) -> Moved | None:
    return y, tuple(perm[a] for a in node.attrs["perm"])


def _reshape(node: Node, y: Value, perm: Perm) -> Moved | None:
    """Split axes and merge neighbours that are neighbours in y too, in the same order; nothing moves in memory."""
    blocks = matching_blocks([y.tensor.shape[p] for p in perm], node.attrs["shape"])
    if blocks is None:
        return None
    places: list[tuple[int, range]] = []
    for old, new in blocks:
        axes = [perm[a] for a in old if y.tensor.shape[perm[a]] != 1]
        if axes != list(range(axes[0], axes[0] + len(axes))) if axes else False:
            return None
        places.append((axes[0] if axes else (perm[old[0]] if old else len(perm)), new))
    return _rearranged(y, node, [new for _, new in sorted(places, key=lambda place: place[0])])


def _rearranged(y: Value, node: Node, order: Sequence[range]) -> Moved:
    """Reshape y to the node's shape with its axes in the given order, and the permutation that puts them right."""
    shape = node.attrs["shape"]
    axes = [a for block in order for a in block]
    return ops.reshape(y, shape=tuple(shape[a] for a in axes), loc=node.loc), inverse(tuple(axes))


def gathering_reshape(node: Node, y: Value, perm: Perm) -> Moved | None:
    """A reshape that merges axes which lie apart in y, as channel shuffles do: transpose y first, channels last."""
    shape = node.attrs["shape"]
    blocks = matching_blocks([y.tensor.shape[p] for p in perm], shape)
    if blocks is None or any(len(new) != 1 for _, new in blocks) or len(shape) < 3:
        return None
    order = [blocks[0], *blocks[2:], blocks[1]]
    first = ops.transpose(y, perm=tuple(perm[a] for old, _ in order for a in old), loc=node.loc)
    return _rearranged(first, node, [new for _, new in order])


def matching_blocks(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[range, range]] | None:
    """Ranges of axes of two shapes with equal products, as small as can be; None if the ends do not meet."""
    blocks: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        found = next(((a, b) for total in range(2, len(old) + len(new) - i - j + 1)
                      for a in range(i + 1, min(i + total, len(old) + 1))
                      if (b := j + total - (a - i)) <= len(new)
                      and product(list(old[i:a])) == product(list(new[j:b]))), None)
        if found is None:
            return None
        blocks.append((range(i, found[0]), range(j, found[1])))
        i, j = found
    if any(n != 1 for n in (*old[i:], *new[j:])):
        return None
    if (i < len(old) or j < len(new)) and blocks:
        last_old, last_new = blocks[-1]
        blocks[-1] = range(last_old.start, len(old)), range(last_new.start, len(new))
    return blocks


MOVES: dict[Op, Move] = {
    ops.slice_: _per_axis("starts", "sizes", "steps"), ops.pad: _per_axis("before", "after"), ops.resize: _resize,
    ops.softmax: _one_axis, ops.log_softmax: _one_axis, ops.cumsum: _one_axis, ops.gather: _gather,
    ops.reduce_sum: _reduction, ops.reduce_mean: _reduction, ops.reduce_max: _reduction, ops.reduce_min: _reduction,
    ops.reduce_prod: _reduction, ops.arg_max: _reduction, ops.arg_min: _reduction, ops.broadcast_to: _broadcast,
    ops.transpose: _transpose, ops.reshape: _reshape, ops.quantize: _levels, ops.dequantize: _levels,
}
