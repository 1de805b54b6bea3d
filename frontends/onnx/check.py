"""The structure of a model, checked before anything is built from it: names, order, cycles, nesting, counts."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from lepton.frontends.onnx.limits import LIMITS
from lepton.ir.diagnostics import LeptonError, Location, ResourceError

FunctionKey = tuple[str, str, str]  # domain, name, overload


def domain(name: str) -> str:
    """ONNX's own domain has two spellings."""
    return "" if name == "ai.onnx" else name


def location(node: onnx.NodeProto, file: str = "", prefix: str = "") -> Location:
    """Where `node` is: its name, or what it computes, after the names of the calls around it."""
    name = prefix + (node.name or next((o for o in node.output if o), ""))
    kind = f"{node.domain}::{node.op_type}" if domain(node.domain) else node.op_type
    return Location(name, kind, file)


def check_model(model: onnx.ModelProto, file: str = "") -> None:
    """Raises LeptonError naming the node that is wrong."""
    if not model.HasField("graph"):
        raise LeptonError(f"{file or 'the model'} holds no graph", help="is it an ONNX model?")
    functions = {function_key(f): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise LeptonError("two functions of the model have the same domain, name and overload")
    total = sum(1 for _ in all_nodes(model.graph.node)) + sum(1 for f in model.functions for _ in all_nodes(f.node))
    if total > LIMITS.nodes:
        raise ResourceError(f"the model has {total} nodes, more than {LIMITS.nodes}")
    _check_recursion(functions)
    check_graph(model.graph, frozenset(), file)
    for function in model.functions:
        _check_nodes(function.node, set(function.input), frozenset(), file)
        _check_outputs(function.output, _defined(function.node) | set(function.input), f"function '{function.name}'")


def check_graph(graph: onnx.GraphProto, outer: frozenset[str], file: str = "") -> None:
    """One graph; `outer` are the names it may capture."""
    names: set[str] = set()
    for value in graph.input:
        _define(value.name, names, "input of the graph")
    initial = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    seen: set[str] = set()
    for name in initial:  # an initialiser may give an input its default
        _define(name, seen, "initialiser")
    _check_nodes(graph.node, names | seen, outer, file)
    _check_outputs([o.name for o in graph.output], names | seen | _defined(graph.node) | outer, f"graph '{graph.name}'")


def all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their sub-graphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def function_key(function: onnx.FunctionProto | onnx.NodeProto) -> FunctionKey:
    """What a function is found by; for a node, the function it would call."""
    name = function.name if isinstance(function, onnx.FunctionProto) else function.op_type
    return domain(function.domain), name, function.overload


def _define(name: str, names: set[str], what: str, where: object = None) -> None:
    if not name:
        raise LeptonError(f"an {what} without a name", where=where)
    if name in names:
        raise LeptonError(f"'{name}' is defined twice: {what}", where=where,
                          help="every value of a model has one name of its own")
    names.add(name)


def _defined(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _check_nodes(nodes: Sequence[onnx.NodeProto], names: set[str], outer: frozenset[str], file: str) -> None:
    later = _defined(nodes)
    for node in nodes:
        where = location(node, file)
        if not node.op_type:
            raise LeptonError("a node without an operator", where=where)
        for name in node.input:
            if name and name not in names and name not in outer:
                raise _undefined(name, node, nodes, where) if name in later else LeptonError(
                    f"'{name}' is read but nothing computes it", where=where)
        attributes = [a.name for a in node.attribute]
        if len(set(attributes)) != len(attributes):
            raise LeptonError("an attribute is given twice", where=where)
        for graph in subgraphs(node):
            check_graph(graph, outer | names, file)
        for name in node.output:
            if name:
                _define(name, names, "result of a node", where)


def _undefined(name: str, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], where: Location) -> LeptonError:
    """`name` is computed later: because the nodes are out of order, or because there is a cycle."""
    producer = {out: n for n in nodes for out in n.output if out}
    todo, seen = [name], set()
    while todo:
        at = producer.get(todo.pop())
        if at is None or id(at) in seen:
            continue
        if at is node or any(out in node.output for out in at.output if out):
            return LeptonError(f"the graph has a cycle through '{name}'", where=where)
        seen.add(id(at))
        todo += at.input
    return LeptonError(f"'{name}' is read before {location(producer[name])} computes it", where=where,
                       help="an ONNX model lists its nodes in the order of computation")


def _check_outputs(outputs: Sequence[str], names: set[str], what: str) -> None:
    if missing := [name for name in outputs if name not in names]:
        raise LeptonError(f"{what} gives '{missing[0]}', which nothing computes")


def _check_recursion(functions: dict[FunctionKey, onnx.FunctionProto]) -> None:
    """Functions must not call themselves, directly or not, nor nest too deeply."""
    depth: dict[FunctionKey, int] = {}

    def visit(key: FunctionKey, path: tuple[FunctionKey, ...]) -> int:
        if key in path:
            raise LeptonError(f"function '{key[1]}' calls itself: {' -> '.join(k[1] for k in (*path, key))}")
        if len(path) > LIMITS.depth:
            raise ResourceError(f"functions call each other more than {LIMITS.depth} deep")
        if key not in depth:
            calls = {function_key(n) for n in all_nodes(functions[key].node)} & functions.keys()
            depth[key] = 1 + max((visit(k, (*path, key)) for k in sorted(calls)), default=0)
        return depth[key]

    for key in functions:
        visit(key, ())
