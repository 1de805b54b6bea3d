"""Choose the layout of images: channels last."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Op, Trait
from lepton.ir.rewrite import sweep, tensor_of
from lepton.ir.tensor import Tensor
from lepton.passes.base import Pass
from lepton.passes.common import graphs, inverse, substitute
from lepton.passes.sinking import MOVES, Moved, Perm, gathering_reshape

CONVOLUTIONS: frozenset[Op] = frozenset({ops.conv, ops.conv_transpose, ops.conv_integer})
FOLLOWERS: frozenset[Op] = frozenset({ops.max_pool, ops.avg_pool, ops.lp_pool, ops.batch_norm, ops.lrn})


@dataclass(frozen=True)
class Layout(Pass):
    """conv(x)  ->  transpose(conv(transpose(x), layout="nhwc"))

    Every convolution computes channels last, between transposes; the transposes of results then sink through whatever
    can as well be computed channels last, until they meet the next convolution's and both vanish. Where operands of
    both layouts meet, the result is channels last if a convolution will read it or most operands are. Weights keep
    their layout. `canonicalise` afterwards drops transposes of single channels or pixels."""

    name: ClassVar[str] = "layout"

    def run(self, graph: Graph) -> bool:
        changed = any([_Sinker(part).run() for part in graphs(graph)])
        sweep(graph)
        return changed


def channels_first(rank: int) -> Perm:
    """The permutation that takes [N,spatial…,C] to [N,C,spatial…]."""
    return (0, rank - 1, *range(1, rank - 1))


class _Sinker:
    """One graph: `sunk` maps a value to what it is the transpose of."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes
        self.sunk: dict[Value, Moved] = {}
        self.entered: dict[tuple[Value, Perm], Value] = {}
        self.wanted = _read_by_convolutions(self.nodes)

    def run(self) -> bool:
        changed = False
        for node in self.nodes:
            if len(node.results) != 1 or not node.result.uses:
                continue
            moved = self.move(node)
            if moved is not None:
                changed |= self.put(node, moved)
        return changed

    def put(self, node: Node, moved: Moved) -> bool:
        """Let readers of the node read the transpose of what it moved to."""
        value, perm = moved
        old = node.result
        if perm == tuple(range(len(perm))):
            return value.type == old.type and substitute(self.graph, old, value)
        new = ops.transpose(value, perm=perm, loc=node.loc)
        self.sunk[new] = moved
        return new.type == old.type and substitute(self.graph, old, new)

    def move(self, node: Node) -> Moved | None:
        """The node computed in another layout, if that is of use."""
        if node.op in CONVOLUTIONS or node.op in FOLLOWERS:
            return self.image_op(node)
        if node.op is ops.concat:
            return self.joined(node, [v for v in node.inputs if v is not None])
        if node.op.has(Trait.ELEMENTWISE):
            return self.joined(node, [v for v in node.inputs if v is not None])
        first = node.inputs[0] if node.inputs else None
        self.adopt(node)
        if node.op not in MOVES or first not in self.sunk:
            return None
        y, perm = self.sunk[first]
        moved = MOVES[node.op](node, y, perm)
        if moved is None and node.op is ops.reshape and node.result in self.wanted:
            return gathering_reshape(node, y, perm)
        return moved

    def adopt(self, node: Node) -> None:
        """A transpose to channels first that the model makes itself, on the way to a convolution, may sink too."""
        x, result = node.inputs[0] if node.inputs else None, node.results[0]
        if node.op is ops.transpose and x is not None and x not in self.sunk and result in self.wanted:
            if node.attrs["perm"] == channels_first(x.tensor.rank):
                self.sunk[result] = x, node.attrs["perm"]

    def image_op(self, node: Node) -> Moved | None:
        """Convolutions always compute channels last; followers where the operand is so, or a convolution reads them."""
        x = node.inputs[0]
        assert x is not None
        if node.attrs["layout"] != "nchw" or x.tensor.rank < 3:
            return None
        perm = channels_first(x.tensor.rank)
        native = self.sunk.get(x, (x, ()))[1] == perm
        if node.op in FOLLOWERS and not native and node.result not in self.wanted:
            return None
        operands = (self.enter(x, perm), *node.inputs[1:])
        return node.op(*operands, loc=node.loc, **{**node.attrs, "layout": "nhwc"}), perm

    def joined(self, node: Node, operands: Sequence[Value]) -> Moved | None:
        """Elementwise nodes and concats: all operands go to the layout of those that were moved."""
        rank = node.result.tensor.rank
        perms = [self.sunk[v][1] for v in operands if v in self.sunk and v.tensor.rank == rank]
        if not perms:
            return None
        perm = max(perms, key=perms.count)
        costly = [v for v in operands if not self.is_free(v, perm)]
        if costly and node.result not in self.wanted and len(costly) >= len(operands) - len(costly):
            return None
        changed = {"axis": perm[node.attrs["axis"]]} if node.op is ops.concat else {}
        inputs = [None if v is None else self.enter(v, perm) for v in node.inputs]
        return node.op(*inputs, loc=node.loc, **{**node.attrs, **changed}), perm

    def is_free(self, value: Value, perm: Perm) -> bool:
        """Whether the value is at hand under the permutation, or as good as."""
        if value in self.sunk and self.sunk[value][1] == perm:
            return True
        if tensor_of(value) is not None:
            return True
        shape = (1,) * (len(perm) - value.tensor.rank) + value.tensor.shape
        order = [a for a in inverse(perm) if shape[a] != 1]
        return order == sorted(order)

    def enter(self, value: Value, perm: Perm) -> Value:
        """The value whose transpose under `perm` is `value` (with ones in front where its rank is lower)."""
        if value in self.sunk and self.sunk[value][1] == perm:
            return self.sunk[value][0]
        if value.tensor.size == 1 and value.tensor.rank < len(perm):
            return value
        if (value, perm) not in self.entered:
            self.entered[value, perm] = _entered(value, inverse(perm))
        return self.entered[value, perm]


def _entered(value: Value, perm: Perm) -> Value:
    shape = (1,) * (len(perm) - value.tensor.rank) + value.tensor.shape
    tensor = tensor_of(value)
    if tensor is not None:
        array = tensor.array.reshape([n for n in shape if isinstance(n, int)]).transpose(perm)
        while value.tensor.rank < len(perm) and array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        return ops.constant(value=Tensor.of(np.ascontiguousarray(array)))
    wide = value if shape == value.tensor.shape else ops.reshape(value, shape=shape)
    order = [a for a in perm if shape[a] != 1]
    if order == sorted(order):
        return ops.reshape(wide, shape=tuple(shape[a] for a in perm))
    return ops.transpose(wide, perm=perm)


def _read_by_convolutions(nodes: Sequence[Node]) -> set[Value]:
    """Values that convolutions read, or the model itself transposes to channels last, directly or through operations
    that take any layout."""
    wanted: set[Value] = set()
    for node in reversed(nodes):
        passes_on = node.op.has(Trait.ELEMENTWISE) or node.op is ops.concat or node.op in MOVES or node.op in FOLLOWERS
        perm = node.attrs["perm"] if node.op is ops.transpose else ()
        if node.op in CONVOLUTIONS or (len(perm) > 3 and perm == inverse(channels_first(len(perm)))):
            wanted |= {v for v in node.inputs[:1] if v is not None}
        elif passes_on and any(r in wanted for r in node.results):
            wanted |= {v for v in node.inputs if v is not None}
    return wanted
