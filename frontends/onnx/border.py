"""A model's border: inputs and outputs as the graph's ports, one tensor each, and which of them make up a sequence."""
from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lepton.frontends.onnx.bundles import Bundle, UnknownStructure, given, leaves, rebuilt, tree_of
from lepton.frontends.onnx.symbols import Symbols
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError, UsageError
from lepton.ir.structure import Spec, Tree
from lepton.ir.tensor import Tensor


class Border:
    """The ports of one model. `pins` give contents to ports, `structure` says what sequences and optionals hold."""

    def __init__(self, graph: onnx.GraphProto, pins: Mapping[str, Any], structure: Mapping[str, Spec]) -> None:
        self._graph, self._pins, self._structure = graph, pins, structure
        self.ports: list[Value] = []           # the graph's inputs
        self.port_names: list[str] = []        # the same, with those that were pinned
        self._trees: dict[str, dict[str, Tree]] = {"inputs": {}, "outputs": {}}
        self._output_names: list[str] = []
        self._bundled = False

    def inputs(self, symbols: Symbols, constants: Collection[str]) -> dict[str, Value]:
        """The inputs that are no initialisers, by name. Raises LeptonError."""
        infos = [info for info in self._graph.input if info.name not in constants]
        if unknown := self._structure.keys() - {info.name for info in infos}:
            raise UsageError(f"no input '{min(unknown)}' to give a structure to", help=_listed(infos))
        taken = {info.name for info in infos}
        found = {info.name: self._input(info, symbols, taken) for info in infos}
        if unknown := self._pins.keys() - set(self.port_names):
            raise UsageError(f"no input '{min(unknown)}' to give a value to", help=", ".join(self.port_names))
        return found

    def _input(self, info: onnx.ValueInfoProto, symbols: Symbols, taken: set[str]) -> Value:
        if info.name not in self._structure and info.type.WhichOneof("value") == "optional_type":
            raise UnknownStructure(
                f"input '{info.name}' is optional: whether it has a value must be known when compiling", [info.name],
                help=f"structure={{'{info.name}': None}} or leptonc --structure {info.name}=null; true if it has")
        spec = self._structure.get(info.name, True)
        if spec is True and info.type.WhichOneof("value") == "map_type":
            spec = keys_read(self._graph, info.name)
        value = given(info.type, info.name, spec, symbols)

        def made() -> Iterator[Value]:
            for leaf in leaves(value):
                if leaf.name != info.name and leaf.name in taken:
                    raise UnsupportedError(f"input '{leaf.name}' is called like a member of input '{info.name}'")
                yield self._port(leaf)

        result = rebuilt(value, made())
        if tree := tree_of(result, info.name, self._port_name):  # "": a tensor that left the signature
            self._trees["inputs"][info.name] = tree
        self._bundled |= isinstance(value, Bundle)
        return result

    def _port(self, value: Value) -> Value:
        """The input itself, or the constant in its place."""
        name = value.name or ""
        self.port_names.append(name)
        if name in self._pins:
            return pinned(value, self._pins[name])
        self.ports.append(value)
        return value

    @staticmethod
    def _port_name(value: Value, _name: str) -> str:
        return value.name or "" if value.producer is None else ""

    def outputs(self, values: Sequence[Value]) -> list[Value]:
        """The outputs as the graph's, named."""
        named = [(info.name, value) for info, value in zip(self._graph.output, values, strict=True)]
        taken = {name for name, _ in named}
        found: list[Value] = []

        def port(value: Value, name: str) -> str:
            chosen = name if name in dict(named) else _free(name, taken)
            taken.add(chosen)
            self._output_names.append(chosen)
            found.append(value)
            return chosen

        self._trees["outputs"] = {name: tree_of(value, name, port) for name, value in named}
        self._bundled |= any(isinstance(value, Bundle) for value in values)
        for value, name in reversed(list(zip(found, self._output_names, strict=True))):
            if value.producer is not None:  # an input that is an output too keeps its own name
                value.name = name
        return found

    def metadata(self) -> dict[str, str]:
        """What callers must know of the graph's ports."""
        names = {"output_names": json.dumps(self._output_names)} if self._output_names else {}
        return {**names, "structure": json.dumps(self._trees)} if self._bundled else names


def keys_read(graph: onnx.GraphProto, name: str) -> Spec:
    """The keys that the operators on map `name` look at, and what stands for one that is missing; True: not said."""
    found: set[tuple[int | str, ...]] = set()
    for node in (n for n in graph.node if name in n.input):
        a = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "DictVectorizer":
            found |= {tuple(k.decode() for k in a[n].strings) or tuple(a[n].ints)
                      for n in ("string_vocabulary", "int64_vocabulary") if n in a}
        elif node.op_type == "CastMap" and "map_form" in a and a["map_form"].s == b"SPARSE" and "max_map" in a:
            found.add(tuple(range(a["max_map"].i)))
    info = next(i for i in graph.input if i.name == name)
    text = info.type.map_type.value_type.tensor_type.elem_type == onnx.TensorProto.STRING
    return (found.pop(), "" if text else 0) if len(found) == 1 else True


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _listed(infos: Sequence[onnx.ValueInfoProto]) -> str:
    return "inputs: " + ", ".join(info.name for info in infos)


def pinned(value: Value, contents: Any) -> Value:
    """A constant in place of an input. Raises UsageError where it does not fit the input's type."""
    wanted = value.tensor
    try:
        array = np.asarray(contents, wanted.dtype.numpy)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"value of input '{value.name}': expected {wanted}: {error}") from error
    fits = array.ndim == wanted.rank and all(
        d == n for d, n in zip(wanted.shape, array.shape, strict=True) if isinstance(d, int))
    if not fits:
        raise UsageError(f"value of input '{value.name}': expected {wanted}, got shape {list(array.shape)}")
    constant = ops.constant(value=Tensor.of(array))
    constant.name = value.name
    return constant
