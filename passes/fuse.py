"""Form `fusion` nodes: each becomes one kernel."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.passes.base import Pass
from lepton.passes.clusters import Cluster, Limits, clusters, is_scalar_constant


@dataclass(frozen=True)
class Fuse(Pass):
    """relu(conv(x, w) + b)  ->  fusion(x, w, b) { conv, add, relu }

    The body holds at most one anchor; all else in it is elementwise, or a constant of one element. Views, and constants
    with more elements, stay outside. A body's inputs are its operands in order of first use."""

    name: ClassVar[str] = "fuse"
    max_ops: int = 24
    max_operands: int = 8
    max_outputs: int = 4
    float8: bool = False

    def run(self, graph: Graph) -> bool:
        changed = [self.run(region) for node in graph.nodes if node.op is not ops.fusion for region in node.regions]
        order = {node: i for i, node in enumerate(graph.nodes)}
        found = clusters(graph, Limits(self.max_ops, self.max_operands, self.max_outputs, self.float8))
        for cluster in found:
            cluster.members.sort(key=order.__getitem__)
            _replace(cluster)
        return bool(found) or any(changed)


def _replace(cluster: Cluster) -> None:
    """Put one fusion in the place of the members."""
    outputs, inputs = cluster.outputs(), cluster.inputs()
    loc = tuple(dict.fromkeys(place for node in cluster.members for place in node.loc))
    kind = cluster.anchor.op.name if cluster.anchor is not None else "map"
    fused = ops.fusion.node(*inputs, regions=(_body(cluster.members, inputs, outputs),), loc=loc, kind=kind)
    for old, new in zip(outputs, fused.results, strict=True):
        old.replace_with(new)


def _body(members: Iterable[Node], inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Graph:
    """The members as a function of `inputs`, with copies of the scalar constants they read."""
    env = {v: Value(v.type, name=v.name) for v in inputs}
    stand_ins = tuple(env.values())
    for node in members:
        for value in node.inputs:
            if value is not None and value not in env and is_scalar_constant(value):
                assert value.producer is not None
                env[value] = ops.constant(value=value.producer.attrs["value"])
        copied = Node(node.op, [None if v is None else env[v] for v in node.inputs], node.attrs, loc=node.loc)
        for old, new in zip(node.results, copied.results, strict=True):
            env[old] = new
    return Graph.of("body", stand_ins, [env[v] for v in outputs])
