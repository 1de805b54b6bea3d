"""Run the first layers of a batch image by image, where the values of all images at once fit in no cache."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.op import Op, Trait
from lepton.ir.rewrite import sweep
from lepton.ir.types import TensorType, Type
from lepton.passes.base import Pass, count
from lepton.passes.common import substitute

# Each image's result depends on that image alone, if the result's type says so: see `_splits`.
_KEEPS_IMAGES_APART: frozenset[Op] = frozenset({
    ops.conv, ops.conv_integer, ops.conv_transpose, ops.max_pool, ops.avg_pool, ops.lp_pool, ops.lrn, ops.concat,
    ops.transpose, ops.cast, ops.to_level, ops.reduce_mean, ops.reduce_max, ops.reduce_sum, ops.matmul, ops.layer_norm,
    ops.rms_norm, ops.softmax, ops.log_softmax,
})
_ALONG_AXIS: frozenset[Op] = frozenset({ops.layer_norm, ops.rms_norm, ops.softmax, ops.log_softmax})
_IN_ONE_PASS: frozenset[Op] = frozenset({ops.concat, ops.transpose, ops.cast, ops.to_level})  # or with what they follow


@dataclass(frozen=True)
class BatchParts(Pass):
    """y = f(x)  ->  y = concat(f(x[0:1]), f(x[1:2]), ...) for the layers from the inputs on that gain by it

    What a layer writes is then read by the next while it lies in a cache, and not from memory. Each part reads the
    layers' weights again: that is why it ends where these outweigh what lies between the layers, and why parts are
    not smaller than they must be. The concatenation is written in place. Where images are many, a part has several."""

    name: ClassVar[str] = "batch-parts"
    cache: int = 8 << 20    # bytes that stay close: what a core has of the last level
    most: int = 16          # parts
    least: int = 64 << 20   # bytes that must be spared: the parts' kernels are shorter, and threads meet more often

    def run(self, graph: Graph) -> bool:
        images = {size for v in graph.inputs if (size := _images(v)) is not None}
        if len(images) != 1:
            return False
        (batch,) = images
        parts = next((n for n in range(min(batch, self.most), 1, -1) if batch % n == 0), 1)
        region = self.region(graph, batch, parts) if parts > 1 else []
        if not region:
            return False
        _take_apart(graph, region, batch, parts)
        sweep(graph)
        count("layers in parts", len(region))
        return True

    def region(self, graph: Graph, batch: int, parts: int) -> list[Node]:
        """The nodes to run in parts: as many of the first as spare the most."""
        batched = {v for v in graph.inputs if _images(v) == batch}
        found: list[Node] = []
        best, most, spared = 0, self.least, 0
        for node in graph.nodes:
            if not any(v in batched for v in node.inputs) or not _splits(node, batched, batch, batch // parts):
                continue
            batched.add(node.result)
            found.append(node)
            spared += self.spared(node, batched, parts)
            if spared >= most:
                best, most = len(found), spared
        return found[:best]

    def spared(self, node: Node, batched: set[Value], parts: int) -> int:
        """Bytes that need not come from memory, and back; less than 0 where weights weigh more."""
        if node.op in _IN_ONE_PASS or node.op.has(Trait.ELEMENTWISE):
            return 0
        moved = sum(_bytes(v) for v in (*node.inputs, node.result) if v in batched)
        weights = sum(_bytes(v) for v in node.inputs if v not in batched)
        return (moved if moved > self.cache >= moved // parts else 0) - (parts - 1) * weights


def _images(value: Value) -> int | None:
    """How many images an input holds, if it holds any: values of three axes and more, of a known number."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.rank < 3 or not isinstance(kind.shape[0], int):
        return None
    return kind.shape[0]


def _bytes(value: Value | None) -> int:
    if value is None or not isinstance(value.type, TensorType):
        return 0
    size = value.type.size
    return size * value.type.dtype.bytes if isinstance(size, int) else 0


def _splits(node: Node, batched: set[Value], batch: int, images: int) -> bool:
    """Whether the node makes of some images what it makes of them among others."""
    if not (node.op in _KEEPS_IMAGES_APART or node.op.has(Trait.ELEMENTWISE)) or len(node.results) != 1:
        return False
    whole = node.result.type
    if not isinstance(whole, TensorType) or not whole.shape or whole.shape[0] != batch:
        return False
    if node.op is ops.concat or node.op.has(Trait.ELEMENTWISE):
        if any(v in batched and v.tensor.rank != whole.rank for v in node.inputs if v is not None):
            return False  # its images stand along another axis here
    elif any(v in batched or (node.op in _ALONG_AXIS and v.tensor.rank >= whole.rank)
             for v in node.inputs[1:] if v is not None):
        return False
    if node.op in _ALONG_AXIS and node.attrs["axis"] == 0:
        return False
    operands = [None if v is None else _of(v.type, images) if v in batched else v.type for v in node.inputs]
    try:
        return node.op.result_types(tuple(operands), node.attrs) == (_of(whole, images),)
    except LeptonError:  # its attributes name the number of images
        return False


def _of(kind: Type, images: int) -> Type:
    assert isinstance(kind, TensorType)
    return replace(kind, shape=(images, *kind.shape[1:]))


def _take_apart(graph: Graph, region: Sequence[Node], batch: int, parts: int) -> None:
    own = set(region)
    given = [v for v in graph.inputs if any(u in own for u in v.users)]
    left = [v for v in (n.result for n in region) if v in graph.outputs or any(u not in own for u in v.users)]
    results = [_part(region, given, left, first, batch // parts) for first in range(0, batch, batch // parts)]
    for value, pieces in zip(left, zip(*results, strict=True), strict=True):
        substitute(graph, value, ops.concat(*pieces, axis=0, loc=value.producer.loc if value.producer else ()))


def _part(region: Sequence[Node], given: Sequence[Value], left: Sequence[Value], first: int,
          images: int) -> list[Value]:
    """What the region makes of some images, for each value that leaves it."""
    here = {v: _slice(v, first, images) for v in given if _images(v) is not None}
    for node in region:
        operands = [here.get(v, v) if v is not None else None for v in node.inputs]
        here[node.result] = node.op(*operands, loc=node.loc, **node.attrs)
    return [here[v] for v in left]


def _slice(value: Value, first: int, images: int) -> Value:
    rank = value.tensor.rank
    return ops.slice_(value, starts=(first, *[0] * (rank - 1)), sizes=(images, *value.tensor.shape[1:]),
                      steps=(1,) * rank)
