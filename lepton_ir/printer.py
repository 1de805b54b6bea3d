"""Graph to text. The parser reads it back: `parse(show(g))` shows the same.

    graph @mlp(%x: f32[N,3], %w: f32[3,4]) {
      %0 = matmul(%x, %w) : f32[N,4]  // node 'MatMul_3' (MatMul)
      %y, %1 = top_k(%0, k=2, axis=1) : f32[N,2], i64[N,2]
      %2 = if(%c, %y) : f32[N,2] {
        graph @then(%y: f32[N,2]) {
          return %y
        }
        …
      }
      return %2
    }

Attributes that have their default are left out. Values keep the model's names where those are identifiers; inputs and
outputs keep theirs always (`%"input:0"`), since callers bind by them. Everything else is made an identifier.
"""
from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lepton.ir.core import Graph, Node, Value
from lepton.ir.literals import IDENTIFIER, spell, spell_location


class Line(NamedTuple):
    """One line of a dump and the node it begins, if any."""

    text: str
    node: Node | None = None


def show(graph: Graph, *, full_constants: bool = False) -> str:
    """The graph as text IR. Large constants are elided to their hash unless `full_constants` is set."""
    return "".join(line.text + "\n" for line in lines(graph, full_constants=full_constants))


def lines(graph: Graph, *, full_constants: bool = False) -> Iterator[Line]:
    """The lines of `show`, each with its node; tolerates broken graphs, so that errors can quote them."""
    nodes = graph.nodes
    names = value_names(graph, nodes)
    params = ", ".join(f"{_name(names, v)}: {v.type}" for v in graph.inputs)
    meta = ", ".join(f"{_quoted(k)}={_quoted(v)}" for k, v in graph.metadata.items())
    yield Line(f"graph {graph_name(graph)}({params}){f' meta({meta})' if meta else ''} {{")
    for node in nodes:
        loc = f"  // {'; '.join(map(spell_location, node.loc))}" if node.loc else ""
        brace = " {" if node.regions else ""
        yield Line(f"  {_statement(node, names, full_constants)}{brace}{loc}", node)
        for region in node.regions:
            for text, inner in lines(region, full_constants=full_constants):
                yield Line("    " + text, inner)
        if node.regions:
            yield Line("  }")
    outputs = ", ".join(_name(names, v) for v in graph.outputs)
    yield Line(f"  return {outputs}".rstrip())
    yield Line("}")


def graph_name(graph: Graph) -> str:
    return f"@{graph.name if IDENTIFIER.fullmatch(graph.name) else _quoted(graph.name)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def value_names(graph: Graph, nodes: tuple[Node, ...] | None = None) -> dict[Value, str]:
    """The unique name, without its `%`, that each value of the graph has in text."""
    nodes = graph.nodes if nodes is None else nodes
    ports = dict.fromkeys((*graph.inputs, *graph.outputs))
    values = dict.fromkeys((*graph.inputs, *(r for n in nodes for r in n.results)))
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for value in (*(v for v in ports if v in values), *(v for v in values if v not in ports)):
        if not value.name:
            continue
        wanted = name = _identifier(value.name, exact=value in ports)
        suffix = 0
        while name in taken:
            suffix += 1
            name = f'{wanted[:-1]}_{suffix}"' if wanted.endswith('"') else f"{wanted}_{suffix}"
        taken.add(name)
        names[value] = name
    for number, value in enumerate(v for v in values if v not in names):
        names[value] = str(number)
    return names


def _identifier(name: str, *, exact: bool) -> str:
    if IDENTIFIER.fullmatch(name):
        return name
    if exact:
        return _quoted(name)
    plain = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_") or "v"
    return plain if IDENTIFIER.fullmatch(plain) else f"v{plain}"


def _name(names: dict[Value, str], value: Value | None) -> str:
    return "_" if value is None else f"%{names.get(value, '<foreign>')}"


def _statement(node: Node, names: dict[Value, str], full_constants: bool) -> str:
    arguments = [_name(names, v) for v in node.inputs]
    for key, value in node.attrs.items():
        default = node.op.attributes.get(key, inspect.Parameter.empty)
        if not same_attribute(value, default):
            arguments.append(f"{key}={_spell(value, full_constants)}")
    results = ", ".join(_name(names, r) for r in node.results)
    types = ", ".join(str(r.type) for r in node.results)
    return f"{results} = {node.op.name}({', '.join(arguments)}) : {types}"


def _spell(value: object, full_constants: bool) -> str:
    try:
        return spell(value, full_constants=full_constants)
    except TypeError as error:
        return f"<{error}>"


def same_attribute(a: Any, b: Any) -> bool:
    """Whether two attribute values are the same data: 1, 1.0 and True differ, as do 0.0 and -0.0; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return float.hex(a) == float.hex(b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_attribute, a, b))
    return bool(a == b)
