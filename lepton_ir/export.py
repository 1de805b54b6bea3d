"""A graph for other tools' eyes: Graphviz's dot, networkx."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lepton.ir.core import Graph, Node, Value
from lepton.ir.literals import spell
from lepton.ir.op import Trait
from lepton.ir.printer import same_attribute, value_names

if TYPE_CHECKING:
    import networkx as nx


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language: ops as boxes, inputs and outputs as ellipses, types on the edges."""
    lines = [f"digraph {json.dumps(graph.name)} {{", '  node [shape=box, fontname="monospace"]',
             '  edge [fontname="monospace", fontsize=10]']
    _Dot(lines).graph(graph, "", "  ")
    return "\n".join([*lines, "}", ""])


class _Dot:
    """Writes one graph, and regions as clusters; `prefix` keeps the ids of different graphs apart."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def graph(self, graph: Graph, prefix: str, indent: str) -> None:
        names, ids = value_names(graph), dict[Value, str]()
        for i, value in enumerate(graph.inputs):
            ids[value] = f"{prefix}in{i}"
            self.add(indent, ids[value], f"%{names[value]}\n{value.type}", "ellipse")
        for i, node in enumerate(graph.nodes):
            here = f"{prefix}n{i}"
            ids.update(dict.fromkeys(node.results, here))
            self.add(indent, here, _label(node))
            self.edges(indent, node.inputs, here, ids)
            for j, region in enumerate(node.regions):
                inner = f"{here}r{j}"
                self.lines.append(f"{indent}subgraph cluster_{inner} {{ label={json.dumps(region.name)}")
                self.graph(region, f"{inner}_", indent + "  ")
                self.lines.append(f"{indent}}}")
        for i, value in enumerate(graph.outputs):
            self.add(indent, f"{prefix}out{i}", f"%{names[value]}", "ellipse")
            self.edges(indent, (value,), f"{prefix}out{i}", ids)

    def add(self, indent: str, id: str, label: str, shape: str = "") -> None:
        text = json.dumps(label, ensure_ascii=False)
        self.lines.append(f"{indent}{id} [label={text}{f', shape={shape}' if shape else ''}]")

    def edges(self, indent: str, inputs: tuple[Value | None, ...], to: str, ids: dict[Value, str]) -> None:
        for value in inputs:
            if value is not None:
                self.lines.append(f"{indent}{ids[value]} -> {to} [label={json.dumps(str(value.type))}]")


def to_networkx(graph: Graph) -> nx.DiGraph:
    """The graph as a networkx.DiGraph.

    Keys are the values' names in text IR ("%x"; a node's is that of its first result), those of the graph's outputs
    "return 0" and so on. A key has `kind` ("input", "node", "output") and, for nodes, `op`, `attrs`, `types`, `loc`
    (texts) and `regions` (more DiGraphs). An edge has `slots`: (index of the result, slot of the reader) pairs."""
    import networkx as nx  # artifacts and compiles do without it

    result: Any = nx.DiGraph(name=graph.name)
    names, keys = value_names(graph), dict[Value, str]()
    for value in graph.inputs:
        keys[value] = f"%{names[value]}"
        result.add_node(keys[value], kind="input", types=(str(value.type),))
    for node in graph.nodes:
        key = f"%{names[node.results[0]]}"
        keys.update(dict.fromkeys(node.results, key))
        result.add_node(key, kind="node", op=node.op.name, attrs=dict(node.attrs), loc=tuple(map(str, node.loc)),
                        types=tuple(str(r.type) for r in node.results), regions=tuple(map(to_networkx, node.regions)))
        for slot, operand in enumerate(node.inputs):
            if operand is not None:
                _connect(result, keys[operand], key, (operand.index, slot))
    for i, value in enumerate(graph.outputs):
        result.add_node(f"return {i}", kind="output", types=(str(value.type),))
        _connect(result, keys[value], f"return {i}", (value.index, 0))
    return result


def _connect(graph: Any, source: str, target: str, slots: tuple[int, int]) -> None:
    if graph.has_edge(source, target):
        graph.edges[source, target]["slots"] += (slots,)
    else:
        graph.add_edge(source, target, slots=(slots,))


def _label(node: Node) -> str:
    if node.op.has(Trait.CONSTANT):
        return f"{node.op.name}\n{node.results[0].type}"
    told = [f"{key}={spell(value)}" for key, value in node.attrs.items()
            if not same_attribute(value, node.op.attributes.get(key))]
    place = [node.loc[0].name] if node.loc else []
    return "\n".join([node.op.name, *told, *place])
