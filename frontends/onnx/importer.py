"""ONNX graph -> graph IR: nodes in order, names kept, everything that cannot be imported reported at once."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from lepton.frontends.onnx import ops as _importers  # noqa: F401  (fills the table)
from lepton.frontends.onnx.border import Border
from lepton.frontends.onnx.bounds import found_sizes
from lepton.frontends.onnx.call import Call
from lepton.frontends.onnx.check import all_nodes, domain, function_key, location, subgraphs
from lepton.frontends.onnx.contents import Contents, only_dims
from lepton.frontends.onnx.functions import bind, bound_attributes, schema_function, schema_of
from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.model import ModelFile
from lepton.frontends.onnx.problems import Problems
from lepton.frontends.onnx.registry import Result, Rule, find
from lepton.frontends.onnx.scope import Poisoned, Scope
from lepton.frontends.onnx.symbols import Symbols
from lepton.frontends.onnx.tensors import Store
from lepton.ir import ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError, ResourceError, UnsupportedError
from lepton.ir.structure import Spec
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType


def import_model(
    file: ModelFile, dims: Mapping[str, int] | None = None, values: Mapping[str, Any] | None = None,
    structure: Mapping[str, Spec] | None = None,
) -> Graph:
    """The model's graph. Raises LeptonError; UnsupportedError names all nodes that cannot be imported."""
    importer = Importer(file, dims)
    with found_sizes(importer.symbols.found):
        return importer.run(Border(file.proto.graph, values or {}, structure or {}))


class Importer:
    """One model while it is imported."""

    def __init__(self, file: ModelFile, dims: Mapping[str, int] | None = None) -> None:
        self.file, self.symbols, self.contents, self.problems = file, Symbols(dims), Contents(), Problems()
        self.functions = {function_key(f): f for f in file.proto.functions}
        self.read_from: dict[str, list[str]] = {}  # sizes that are data -> the inputs whose contents they come of
        self._inlined = 0
        self.input_names: set[str] = set()  # of the ports whose contents may be asked for
        self.streams = 0  # of random draws: how many nodes draw so far

    def run(self, border: Border) -> Graph:
        proto = self.file.proto.graph
        scope = Scope(self.file.store, opsets(self.file.proto.opset_import))
        self.declare_constants(proto, scope)
        scope.values.update(border.inputs(self.symbols, scope.constants.keys()))
        self.input_names = set(border.port_names)
        self.symbols.check_pins()
        self.nodes(proto.node, [o.name for o in proto.output], scope)
        self.problems.check(self.file.name)
        outputs = border.outputs([scope.lookup(o.name, self.contents) for o in proto.output])
        graph = Graph.of(proto.name or "model", border.ports, outputs, **border.metadata(), **self._metadata(scope))
        graph.define(scope.definers)
        return graph

    def _metadata(self, scope: Scope) -> dict[str, str]:
        proto = self.file.proto
        producer = f"{proto.producer_name} {proto.producer_version}".strip()
        found = {
            "dims": json.dumps(self.symbols.originals(), sort_keys=True),
            "producer": producer,
            "opset": ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in sorted(scope.opsets.items())),
        }
        return {key: text for key, text in found.items() if text not in ("", "{}")}

    # --- nodes ------------------------------------------------------------------------------------

    def declare_constants(self, graph: onnx.GraphProto, scope: Scope) -> None:
        scope.constants.update({t.name: t for t in graph.initializer})
        scope.constants.update({s.values.name: s for s in graph.sparse_initializer})

    def nodes(self, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str], scope: Scope) -> None:
        """Import the nodes that `wanted` depends on into the scope."""
        if scope.depth > LIMITS.depth:
            raise ResourceError(f"graphs and functions are nested more than {LIMITS.depth} deep")
        for node in needed(nodes, wanted):
            self._inlined += 1
            if self._inlined > LIMITS.inlined_nodes:
                raise ResourceError(f"more than {LIMITS.inlined_nodes} nodes once functions are expanded")
            self._node(node, scope)

    def _node(self, node: onnx.NodeProto, scope: Scope) -> None:
        where = location(node, self.file.name, scope.prefix)
        try:
            inputs = tuple(scope.lookup(n, self.contents) if n else None for n in node.input)
            results = self._results(node, inputs, scope)
        except Poisoned:
            self._survey(node, scope)
            results = []
        except UnsupportedError as error:
            self.problems.add(node, error.where or where, error)
            results = []
        except LeptonError as error:
            if error.where is None:
                raise type(error)(error.message, where=where, help=error.help) from error
            raise
        for i, name in enumerate(node.output):
            if name:
                scope.values[name] = value = results[i] if i < len(results) else None
                if value is not None and value.name is None:
                    value.name = scope.prefix + name

    def _results(self, node: onnx.NodeProto, inputs: tuple[Value | None, ...], scope: Scope) -> list[Value | None]:
        if (function := self.functions.get(function_key(node))) is not None:
            return self._call(function, node, inputs, scope, opsets(function.opset_import), scope.store)
        rule, opset = self._rule(node, scope)
        if rule is None:
            body = schema_function(node, domain(node.domain), opset, inputs)
            if body is None:
                raise _unknown(node, opset)
            around = {"": scope.opsets.get("", LIMITS.opset), domain(node.domain): opset}
            imported = around | opsets(body.opset_import)
            return self._call(body, node, inputs, scope, imported, Store(inline_raw=True))
        call = Call(self, scope, node, inputs, opset, location(node, self.file.name, scope.prefix))
        results = _as_list(rule(call))
        if unread := call.unread():
            raise UnsupportedError(f"attribute '{unread[0]}' of {node.op_type} (opset {opset}) is not supported")
        if len(results) < len([o for o in node.output if o]):
            raise UnsupportedError(f"output {len(results)} of {node.op_type} is not supported")
        return [None if v is None else self.settled(v) for v in results]

    def _rule(self, node: onnx.NodeProto, scope: Scope) -> tuple[Rule | None, int]:
        name = domain(node.domain)
        if name not in scope.opsets:
            known = ", ".join(d or "ai.onnx" for d in scope.opsets)
            raise LeptonError(f"the model imports no opset of domain '{name or 'ai.onnx'}' (it has: {known})")
        return find(name, node.op_type, scope.opsets[name]), scope.opsets[name]

    def settled(self, value: Value) -> Value:
        """The value; where it is small and all it holds is known, as a constant or `shape_values`."""
        kind, node = value.type, value.producer
        if not isinstance(kind, TensorType) or node is None or not (kind.dtype.is_integer or kind.dtype is DType.BOOL):
            return value
        if node.op in (ops.constant, ops.shape_values) or (known := self.contents.of(value)) is None:
            return value
        if all(isinstance(v, int) for v in known.reshape(-1)):
            new = ops.constant(value=Tensor.of(known.astype(kind.dtype.numpy)), loc=node.loc)
        elif (dims := only_dims(known)) is not None:
            new = ops.shape_values(dims=dims, scalar=kind.rank == 0, loc=node.loc)
            if kind.rank > 1:
                new = ops.reshape(new, shape=kind.shape, loc=node.loc)
            if kind.dtype is not DType.I64:
                new = ops.cast(new, to=kind.dtype, loc=node.loc)
        else:
            return value
        new.name = value.name
        return new

    # --- functions and sub-graphs -----------------------------------------------------------------

    def _call(self, function: onnx.FunctionProto, node: onnx.NodeProto, inputs: tuple[Value | None, ...], scope: Scope,
              imported: dict[str, int], store: Store) -> list[Value | None]:
        """Expand a function at this node."""
        if len(inputs) > len(function.input):
            raise LeptonError(f"{len(inputs)} inputs for function '{function.name}' of {len(function.input)}")
        prefix = f"{scope.prefix}{node.name or node.output[0]}/"
        inner = Scope(store, imported, prefix=prefix, depth=scope.depth + 1, definers=scope.definers, read=scope.read)
        given = {name: v for name, v in zip(function.input, inputs, strict=False) if v is not None}
        inner.values.update(given)
        absent = set(function.input) - given.keys()
        attributes = bound_attributes(function, node)
        body = [without(bind(n, attributes), absent) for n in function.node]
        self.nodes(body, [name for name, wanted in zip(function.output, node.output, strict=False) if wanted], inner)
        return [inner.lookup(name, self.contents) if wanted else None
                for name, wanted in zip(function.output, node.output, strict=False)]

    def region(self, graph: onnx.GraphProto, scope: Scope, inputs: Sequence[Value]) -> tuple[Scope, list[Value]]:
        """Import a sub-graph as an isolated region whose own inputs are `inputs`; its outputs. Raises Poisoned."""
        inner = Scope(scope.store, scope.opsets, parent=scope, captures={}, prefix=scope.prefix, depth=scope.depth + 1)
        return inner, self._body(graph, inner, inputs)

    def branch(self, graph: onnx.GraphProto, scope: Scope, inputs: Sequence[Value]) -> list[Value]:
        """Import a sub-graph in place of its node; its outputs. Raises Poisoned."""
        inner = Scope(scope.store, scope.opsets, parent=scope, prefix=scope.prefix, depth=scope.depth + 1,
                      definers=scope.definers, read=scope.read)
        return self._body(graph, inner, inputs)

    def _body(self, graph: onnx.GraphProto, inner: Scope, inputs: Sequence[Value]) -> list[Value]:
        if len(inputs) != len(graph.input):
            raise LeptonError(f"{len(inputs)} values for graph '{graph.name}' of {len(graph.input)} inputs")
        self.declare_constants(graph, inner)
        inner.values.update({info.name: v for info, v in zip(graph.input, inputs, strict=True)})
        self.nodes(graph.node, [o.name for o in graph.output], inner)
        return [inner.lookup(o.name, self.contents) for o in graph.output]

    # --- what cannot be imported ------------------------------------------------------------------

    def _survey(self, node: onnx.NodeProto, scope: Scope) -> None:
        """Report what is certainly unsupported at or in a node whose operands are not known."""
        for inner in all_nodes([node]):
            if function_key(inner) in self.functions or domain(inner.domain) not in scope.opsets:
                continue
            rule, opset = self._rule(inner, scope)
            if rule is None and not _has_body(inner, opset):
                self.problems.add(inner, location(inner, self.file.name, scope.prefix), _unknown(inner, opset))


def _unknown(node: onnx.NodeProto, opset: int) -> UnsupportedError:
    return UnsupportedError(f"operator {location(node).op} (opset {opset}) is not supported", help=(
        "operators of your own: --load-plugin FILE.py (docs/custom-operators.md)" if domain(node.domain) else ""))


def _has_body(node: onnx.NodeProto, opset: int) -> bool:
    schema = schema_of(node, domain(node.domain), opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def opsets(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Versions by domain. Raises UnsupportedError for an opset of ONNX's own that is newer than Lepton."""
    found: dict[str, int] = {}
    for entry in imports:
        name = domain(entry.domain)
        found[name] = max(entry.version, found.get(name, 0))
    if not 1 <= found.get("", 1) <= LIMITS.opset:
        raise UnsupportedError(f"the model needs opset {found['']} of ai.onnx; supported: 1 to {LIMITS.opset}")
    return found


def needed(nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that `wanted` depends on, in their order."""
    names, kept = set(wanted), []
    for node in reversed(nodes):
        if any(o in names for o in node.output if o):
            kept.append(node)
            names.update((*node.input, *_named(node)))
            for graph in subgraphs(node):
                names.update(o.name for o in graph.output)
                names.update(name for inner in all_nodes(graph.node) for name in inner.input)
                names.update(o.name for inner in all_nodes(graph.node) for g in subgraphs(inner) for o in g.output)
    return kept[::-1]


def _named(node: onnx.NodeProto) -> list[str]:
    """The values that a Gradient names beside its inputs."""
    if node.op_type != "Gradient":
        return []
    return [text.decode() for a in node.attribute for text in ([a.s] if a.name == "y" else a.strings)]


def without(node: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """The node with the inputs in `absent` left out."""
    if absent.isdisjoint(node.input):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    del out.input[:]
    out.input.extend("" if name in absent else name for name in node.input)
    return out


def _as_list(result: Result) -> list[Value | None]:
    return [result] if isinstance(result, Value) else list(result)
