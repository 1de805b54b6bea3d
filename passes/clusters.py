"""Which nodes become one kernel: clusters grow around anchors, then among what is left.

A cluster is one kernel's work: an *anchor* (conv, matmul, reduction …) or none, and elementwise nodes around it.
Growing never makes a cycle between clusters, never computes anything twice, and only compares shapes that are
provably equal.

1. Epilogues, last anchor first, so that a residual sum goes to the later of its two producers. Growth looks past values
   with several readers and goes back to the last point where one value leaves the cluster.
2. Prologues: elementwise producers that only the cluster reads, of reductions and norms or beside any epilogue.
3. Maps: elementwise nodes that found no anchor; several values of one shape may leave.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Graph, Node, User, Value
from lepton.ir.dims import Dim, collect_guards
from lepton.ir.op import Op, Trait
from lepton.ir.rewrite import tensor_of
from lepton.ir.types import DType, TensorType
from lepton.passes.common import array_of
from lepton.passes.float8 import FLOAT8, format_of

# Anchors that compute elementwise producers of their first operand as they read it. Plug-ins add theirs.
PROLOGUE: set[Op] = {
    ops.reduce_sum, ops.reduce_mean, ops.reduce_max, ops.reduce_min, ops.reduce_prod, ops.softmax, ops.log_softmax,
    ops.layer_norm, ops.rms_norm, ops.instance_norm, ops.group_norm,
}
# Anchors that compute elementwise readers before they store their result.
EPILOGUE: set[Op] = PROLOGUE | {
    ops.conv, ops.conv_transpose, ops.matmul, ops.matmul_coded, ops.attention, ops.max_pool, ops.avg_pool, ops.lp_pool,
    ops.resize, ops.gather, ops.gather_elements, ops.gather_nd, ops.pad, ops.matmul_integer, ops.conv_integer,
    ops.random_normal, ops.random_uniform,
}


MOST = 16         # bytes that an element can have


@dataclass(eq=False)
class Cluster:
    """Nodes that become one kernel. `shape` is that of every value after the anchor."""

    members: list[Node]
    anchor: Node | None
    shape: tuple[Dim, ...]

    def inputs(self) -> tuple[Value, ...]:
        """What it reads from outside. Scalar constants move inside, but for the anchor's own operands, which lowerings
        may want to pack."""
        own = set(self.members)
        packed = set(self.anchor.inputs) if self.anchor is not None else set()
        read = (v for node in self.members for v in node.inputs if v is not None and v.producer not in own)
        return tuple(dict.fromkeys(v for v in read if v in packed or not is_scalar_constant(v)))

    def outputs(self) -> tuple[Value, ...]:
        """What others read of it."""
        own = set(self.members)
        return tuple(r for node in self.members for r in node.results if any(u not in own for u in r.users))


@dataclass(frozen=True)
class Limits:
    """What one kernel can hold without running out of registers."""

    ops: int = 24
    operands: int = 8
    outputs: int = 4
    float8: bool = False     # products read 8-bit floats


def clusters(graph: Graph, limits: Limits) -> list[Cluster]:
    """Groups of two or more nodes, and single nodes that have a scalar constant to take in."""
    return _Grower(graph, limits).run()


def is_scalar_constant(value: Value) -> bool:
    tensor = tensor_of(value)
    return tensor is not None and tensor.type.size == 1


class _Grower:
    def __init__(self, graph: Graph, limits: Limits) -> None:
        self.nodes, self.limits = graph.nodes, limits
        self.position: dict[User, int] = {node: i for i, node in enumerate(self.nodes)}
        self.owner: dict[Node, Cluster] = {}
        self.free = {node for node in self.nodes if _is_map(node)}

    def run(self) -> list[Cluster]:
        anchored = [Cluster([n], n, n.result.tensor.shape) for n in self.nodes if n.op in EPILOGUE and _is_proved(n)]
        for cluster in anchored:
            self.own(cluster)
        for cluster in reversed(anchored):
            self.grow_down(cluster, most_outputs=1)
        for cluster in anchored:
            self.grow_up(cluster)
        maps = list(self.maps())
        found = sorted(anchored + maps, key=lambda c: min(self.position[n] for n in c.members))
        return [c for c in found if len(c.members) > 1 or (c.anchor is None and _reads_scalar(c.members[0]))]

    def maps(self) -> Iterator[Cluster]:
        for node in self.nodes:
            if node in self.free and node not in self.owner:
                cluster = Cluster([node], None, node.result.tensor.shape)
                self.own(cluster)
                self.grow_up(cluster)
                self.grow_down(cluster, most_outputs=self.limits.outputs)
                yield cluster

    def own(self, cluster: Cluster) -> None:
        for node in cluster.members:
            self.owner[node] = cluster

    # --- downwards: readers ---

    def grow_down(self, cluster: Cluster, most_outputs: int) -> None:
        """Take in readers of the cluster's shape, as far as at most `most_outputs` values leave it."""
        best, bound = len(cluster.members), self.narrow_bytes(cluster)
        while (reader := self.next_reader(cluster)) is not None:
            cluster.members.append(reader)
            self.owner[reader] = cluster
            if cluster.anchor is None:
                self.grow_up(cluster)
            # What leaves narrow shall not leave wide.
            if self.few_leave(cluster, most_outputs) and bound >= max(v.tensor.dtype.bytes for v in cluster.outputs()):
                best, bound = len(cluster.members), self.narrow_bytes(cluster)
        for node in cluster.members[best:]:
            del self.owner[node]
        del cluster.members[best:]

    def few_leave(self, cluster: Cluster, most: int) -> bool:
        """Whether few enough values leave; a norm may give levels, or halves, beside what they are made of."""
        left = cluster.outputs()
        if cluster.anchor is not None and cluster.anchor.op in PROLOGUE and len(left) == most + 1:
            return sum(map(self.is_narrowed, left)) == 1
        return len(left) <= most

    def is_narrowed(self, value: Value) -> bool:
        """Whether a value was made narrow on purpose: levels, or bf16 or 8-bit floats for products to read."""
        node = value.producer
        if node is None or node.op is not ops.cast:
            picked = node is not None and node.op is ops.max_pool and value.tensor.dtype is DType.BF16   # RaiseCasts
            return picked or (node is not None and node.op is ops.to_level)
        return node.attrs["to"] is DType.BF16 or (self.limits.float8 and node.attrs["to"] in FLOAT8)

    def narrow_bytes(self, cluster: Cluster) -> int:
        """Bytes of an element that leaves the cluster, if all were made narrow; else as many as there can be."""
        left = cluster.outputs()
        narrow = bool(left) and all(map(self.is_narrowed, left))
        return max(v.tensor.dtype.bytes for v in left) if narrow else MOST

    def next_reader(self, cluster: Cluster) -> Node | None:
        """The first free reader that fits."""
        readers = {u for v in cluster.outputs() for u in v.users if isinstance(u, Node) and self.is_free(u)}
        for reader in sorted(readers, key=self.position.__getitem__):
            if reader.result.tensor.shape == cluster.shape and self.fits(cluster, reader):
                return reader
        return None

    def is_free(self, node: Node) -> bool:
        return node in self.free and node not in self.owner

    def fits(self, cluster: Cluster, node: Node) -> bool:
        """Whether the cluster with `node` keeps the limits and does not wait for itself."""
        grown = Cluster([*cluster.members, node], cluster.anchor, cluster.shape)
        if len(grown.members) > self.limits.ops or len(grown.inputs()) > self.limits.operands:
            return False
        own = set(cluster.members)
        outside = [v for v in node.inputs if v is not None and v.producer is not None and v.producer not in own]
        return not any(self.depends(v, own) for v in outside)

    def depends(self, value: Value, members: set[Node]) -> bool:
        """Whether `value` is computed, through whole clusters, from something in `members`."""
        todo, seen = [value.producer], set[Node]()
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            if node in members:
                return True
            whole = self.owner[node].members if node in self.owner else [node]
            seen.update(whole)
            todo += [v.producer for n in whole for v in n.inputs if v is not None]
        return False

    # --- upwards: producers ---

    def grow_up(self, cluster: Cluster) -> None:
        """Take in producers that nobody else reads."""
        while (producer := self.next_producer(cluster)) is not None:
            cluster.members.append(producer)
            self.owner[producer] = cluster

    def next_producer(self, cluster: Cluster) -> Node | None:
        own = set(cluster.members)
        for value in cluster.inputs():
            producer = value.producer
            if producer is not None and self.is_free(producer) and self.joins(producer, cluster.anchor, own):
                grown = Cluster([*cluster.members, producer], cluster.anchor, cluster.shape)
                if len(grown.members) <= self.limits.ops and len(grown.inputs()) <= self.limits.operands:
                    return producer
        return None

    def joins(self, producer: Node, anchor: Node | None, own: set[Node]) -> bool:
        """Whether all readers are in the cluster and go through the producer's elements one by one."""
        value = producer.result
        for user, slot in value.uses:
            if user not in own:
                return False
            if user is anchor:
                if slot != 0 or not (anchor.op in PROLOGUE or _multiplies(producer, anchor, self.limits.float8)):
                    return False
            elif not isinstance(user, Node) or user.result.tensor.shape != value.tensor.shape:
                return False
            elif anchor is not None and anchor.op not in PROLOGUE and anchor in user.result.users:
                return False  # products take in one cast, and read what is cast
        return True


def _is_map(node: Node) -> bool:
    """Elementwise on numbers, with operands that provably fit together."""
    if not node.op.has(Trait.ELEMENTWISE) or len(node.results) != 1:
        return False
    types = [v.type for v in (*node.inputs, node.result) if v is not None]
    if any(not isinstance(t, TensorType) or t.dtype is DType.STRING for t in types):
        return False
    return _is_proved(node)


def _is_proved(node: Node) -> bool:
    """Whether nothing about the operands' sizes is left to be checked at run time."""
    with collect_guards() as found:
        node.op.result_types(tuple(None if v is None else v.type for v in node.inputs), node.attrs)
    return not found


def _multiplies(cast: Node, anchor: Node, float8: bool) -> bool:
    """Whether a product reads the f32 of a bf16 value, and its constant weights are such too; or of 8-bit floats."""
    source, weights = cast.inputs[0], array_of(anchor.inputs[1]) if anchor.op in (ops.matmul, ops.conv) else None
    if cast.op is not ops.cast or source is None or weights is None or weights.dtype != np.float32:
        return False
    if anchor.op is ops.matmul and (weights.ndim < 2 or source.tensor.rank < 2):
        return False
    if float8 and source.tensor.dtype in FLOAT8:
        return format_of(weights) is not None
    return source.tensor.dtype is DType.BF16 and not (np.ascontiguousarray(weights).view(np.uint32) & 0xFFFF).any()


def _reads_scalar(node: Node) -> bool:
    return any(v is not None and is_scalar_constant(v) for v in node.inputs)
