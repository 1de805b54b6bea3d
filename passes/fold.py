"""Compute at compile time what does not depend on the inputs."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton.ir import ops
from lepton.ir.core import Graph, Node, inline
from lepton.ir.diagnostics import LeptonError
from lepton.ir.evaluate import apply
from lepton.ir.op import Trait
from lepton.ir.rewrite import tensor_of
from lepton.ir.tensor import Tensor
from lepton.ir.types import TensorType
from lepton.passes.base import Pass
from lepton.passes.common import graphs, substitute


@dataclass(frozen=True)
class Fold(Pass):
    """add(constant 1, constant 2)  ->  constant 3;   if(constant, …)  ->  the branch taken

    By the op's own meaning. Bounded: a result has at most `growth` times its operands' elements (and up to `small`
    elements at all events), and no node costs more than `work` multiplications. What fails is left to run time."""

    name: ClassVar[str] = "fold"
    growth: int = 2
    small: int = 4096
    work: int = 2_000_000_000

    def run(self, graph: Graph) -> bool:
        changed = False
        for part in graphs(graph):
            for node in part.nodes:
                changed |= self.branch(part, node) if node.op is ops.if_ else self.fold(part, node)
        return changed

    def fold(self, graph: Graph, node: Node) -> bool:
        if node.op.has(Trait.CONSTANT) or node.op.has(Trait.IMPURE) or node.op.has(Trait.REGIONS):
            return False
        tensors = [None if v is None else tensor_of(v) for v in node.inputs]
        if any(t is None and v is not None for t, v in zip(tensors, node.inputs, strict=True)):
            return False
        known = [t for t in tensors if t is not None]
        if not self.affordable(node, known):
            return False
        try:
            arrays = apply(node, [None if t is None else t.array for t in tensors])
        except (LeptonError, MemoryError):
            return False
        changed = False
        for old, array in zip(node.results, arrays, strict=True):
            if old.uses:
                changed |= substitute(graph, old, ops.constant(value=Tensor.of(array, copy=False), loc=node.loc))
        return changed

    def affordable(self, node: Node, operands: list[Tensor]) -> bool:
        """Whether the sizes are known and within the bounds."""
        read, sizes = 0, []
        for t in operands:
            assert isinstance(t.type.size, int)
            read += t.type.size
        for result in node.results:
            if not isinstance(result.type, TensorType) or not result.type.is_static:
                return False  # not [0,N] either, though it has 0 elements: readers' types mention N
            assert isinstance(result.type.size, int)
            sizes.append(result.type.size)
        return sum(sizes) <= max(self.small, self.growth * read) and _work(node, sizes[0]) <= self.work

    def branch(self, graph: Graph, node: Node) -> bool:
        """Put the region in the place of an `if` whose condition is known."""
        condition, *captures = node.inputs
        tensor = tensor_of(condition)
        if tensor is None:
            return False
        region = node.regions[0 if tensor.array.item() else 1]
        if any(a.type != b.type for a, b in zip(region.outputs, node.results, strict=True)):
            return False
        values = inline(region, [v for v in captures if v is not None], graph)
        done = [substitute(graph, old, new) for old, new in zip(node.results, values, strict=True)]
        return any(done)


def _work(node: Node, result: int) -> int:
    """About how many multiplications the reference makes."""
    inner: object = 1
    if node.op is ops.matmul:
        assert node.inputs[0] is not None
        inner = node.inputs[0].tensor.shape[-1]
    elif node.op in (ops.conv, ops.conv_transpose):
        assert node.inputs[1] is not None
        inner = node.inputs[1].tensor.size
    assert isinstance(inner, int)
    return result * inner
