"""Products in f32 as products of bf16 parts, for machines that multiply bf16 many times faster.

A float is the sum of three bf16 numbers, up to 2**-24 of itself: its rounding, the rounding of what is left, and so on.
Of the nine products of parts, three matter above 2**-17 and six above 2**-25. Parts of a row lie side by side,
so that all products of parts are one product with a longer sum, the small ones first:

    a b  ~  a1 b0 + a0 b1 + a0 b0  =  [a1 a0 a0] · [b0; b1; b0]

Sums stay f32. Infinities become NaN, because nothing is left of them that could be subtracted.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.rewrite import Accuracy
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from lepton.passes.base import Pass, count
from lepton.passes.common import array_of, graphs
from lepton.passes.halves import gains

LEAST_ROWS, LEAST_COLUMNS = 16, 8     # fewer leave tiles empty, or it is memory that counts, which parts need more of
ROOM = 3 << 19                        # bytes of L2 for the parts of x, which all columns of w read again

# Which part of the left factor meets which one of the right, by the number of products; the smallest first.
PAIRS: dict[str, tuple[tuple[int, int], ...]] = {
    "3": ((1, 0), (0, 1), (0, 0)),
    "6": ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)),
}


@dataclass(frozen=True)
class Parts(Pass):
    """matmul(x, w)  ->  matmul(concat(parts of x), concat(parts of w))

    For f32 products with constant weights whose sums are long enough, and that have rows and columns enough for tiles.
    With 3 `products` the error is 4e-6 of the result, with 6 it is that of f32."""

    name: ClassVar[str] = "parts"
    accuracy: ClassVar[Accuracy] = "approximate"
    products: Literal["3", "6"] = "3"
    convolutions: bool = False      # too: what they read is large, and splitting it costs more than is gained

    def run(self, graph: Graph) -> bool:
        which = (ops.matmul, ops.conv) if self.convolutions else (ops.matmul,)
        changed = [self.split(node) for part in graphs(graph) for node in part.nodes if node.op in which]
        return any(changed)

    def split(self, node: Node) -> bool:
        x, weights = node.inputs[0], array_of(node.inputs[1])
        if x is None or weights is None or weights.dtype != np.float32 or x.tensor.rank < 2 or weights.ndim < 2:
            return False
        if x.producer is not None and x.producer.op is ops.cast:    # of halves: one product is exact
            return False
        if not gains(node, weights) or node.attrs.get("group", 1) != 1 or not np.isfinite(weights).all():
            return False
        along, filters_along = _axes(node)
        pairs = PAIRS[self.products]
        size = x.tensor.size
        if not _fills_tiles(node, weights) or (isinstance(size, int) and size * 2 * len(pairs) > ROOM):
            return False
        left = _parts_of_value(x, [a for a, _ in pairs])
        right = _parts_of(weights, 1 + max(b for _, b in pairs))
        joined = ops.concat(*left, axis=along % x.tensor.rank, loc=node.loc)
        node.set_input(0, ops.cast(joined, to=DType.F32, loc=node.loc))
        node.set_input(1, ops.constant(value=Tensor.of(np.concatenate([right[b] for _, b in pairs], filters_along))))
        count(f"products in {self.products} parts")
        return True


def _fills_tiles(node: Node, weights: Array) -> bool:
    """Whether there are rows and columns enough; what is not known is taken to be."""
    shape, matmul = node.results[0].tensor.shape, node.op is ops.matmul
    if matmul and prod(weights.shape[:-2]) != 1:
        return False
    columns = weights.shape[-1 if matmul else 0]
    places = [d for d in shape if isinstance(d, int)]
    return columns >= LEAST_COLUMNS and (len(places) < len(shape) or prod(places) >= LEAST_ROWS * columns)


def _axes(node: Node) -> tuple[int, int]:
    """The axis that is summed over, of the left factor and of the right one."""
    if node.op is ops.matmul:
        return -1, -2
    return (1 if node.attrs["layout"] == "nchw" else -1), 1


def _parts_of_value(x: Value, wanted: Sequence[int]) -> list[Value]:
    """A value of its own for each part that is wanted, though several are equal: so one kernel can write all of them
    where they belong, and none is copied."""
    narrow, wide, rest = [], [], x
    for i in range(1 + max(wanted)):
        narrow.append(ops.cast(rest, to=DType.BF16, denormals=False))
        wide.append(ops.cast(narrow[-1], to=DType.F32))
        rest = ops.sub(rest, wide[-1]) if i < max(wanted) else rest
    seen: set[int] = set()
    found = []
    for part in wanted:
        found.append(ops.cast(wide[part], to=DType.BF16, denormals=False) if part in seen else narrow[part])
        seen.add(part)
    return found


def _parts_of(weights: Array, number: int) -> list[Array]:
    """As f32 numbers."""
    parts, rest = [], weights
    for _ in range(number):
        parts.append(rest.astype(ml_dtypes.bfloat16).astype(np.float32))
        rest = rest - parts[-1]
    return parts
