"""`InferenceSession`: ONNX Runtime's names for what Lepton does, so that a program can change its import line."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lepton.artifact import Model
from lepton.ir.diagnostics import UsageError
from lepton.ir.structure import Tree, ports
from lepton.library import load
from lepton.ports import Port

_ONNX_NAMES = {"float32": "float", "float64": "double", "int4": "int4", "uint4": "uint4",
               "object": "string"}


class SessionOptions:
    """What of ONNX Runtime's options has a meaning here. Setting another one is an error, not a shrug."""

    __slots__ = ("intra_op_num_threads",)

    def __init__(self) -> None:
        self.intra_op_num_threads = 0

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__slots__:
            raise UsageError(f"session option {name!r} is not supported", help=f"known: {', '.join(self.__slots__)}")
        object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output, described in ONNX Runtime's words."""

    name: str
    type: str
    shape: list[int | str]


class InferenceSession:
    """A model from a .so (loaded), or from a .onnx file or its bytes (compiled in this process)."""

    def __init__(self, path_or_bytes: str | os.PathLike[str] | bytes, sess_options: SessionOptions | None = None,
                 providers: Sequence[Any] | None = None) -> None:
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise UsageError(f"sess_options must be a lepton.SessionOptions, got {type(sess_options).__name__}")
        _check_providers(providers)
        threads = sess_options.intra_op_num_threads if sess_options else 0
        self._model = _open(path_or_bytes, threads)

    def get_inputs(self) -> list[NodeArg]:
        structure = self._model.structure
        return _node_args(self._model.inputs, None if structure is None else structure.inputs)

    def get_outputs(self) -> list[NodeArg]:
        structure = self._model.structure
        return _node_args(self._model.outputs, None if structure is None else structure.outputs)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any],
            run_options: None = None) -> list[Any]:
        """The outputs asked for, in that order; all of them for None."""
        if run_options is not None:
            raise UsageError("run_options are not supported")
        known = [argument.name for argument in self.get_outputs()]
        wanted = known if output_names is None else list(output_names)
        if unknown := [n for n in wanted if n not in known]:
            raise UsageError(f"unknown output {', '.join(map(repr, unknown))}; "
                             f"the model's outputs are {', '.join(map(repr, known))}")
        results = self._model.run(input_feed)
        return [results[n] for n in wanted]


def _check_providers(providers: Sequence[Any] | None) -> None:
    for provider in providers or ():
        name = provider if isinstance(provider, str) else provider[0]
        if name != "CPUExecutionProvider":
            raise UsageError(f"provider {name!r} is not supported", help="known: CPUExecutionProvider")


def _open(source: str | os.PathLike[str] | bytes, threads: int) -> Model:
    if not isinstance(source, bytes) and os.fspath(source).endswith(".so"):
        return load(source, threads=threads)
    import lepton

    model: Model = lepton.compile(source, threads=threads)
    return model


def _node_args(found: Sequence[Port], trees: Mapping[str, Tree] | None) -> list[NodeArg]:
    by_name = {port.name: _node_arg(port) for port in found}
    if trees is None:
        return list(by_name.values())
    return [by_name[tree] if isinstance(tree, str) else NodeArg(name, _type_words(tree, by_name), [])
            for name, tree in trees.items()]


def _type_words(tree: Tree, found: Mapping[str, NodeArg]) -> str:
    """`seq(tensor(float))`; of what has no member the element's type is not known."""
    first = next(ports(tree), None)
    inside = "tensor" if first is None else found[first].type
    if "map" in tree or "maps" in tree:
        inside = f"map({'string' if isinstance(tree['keys'][0], str) else 'int64'},{inside})"
        return f"seq({inside})" if "maps" in tree else inside
    return f"{'optional' if 'optional' in tree else 'seq'}({inside})"


def _node_arg(port: Port) -> NodeArg:
    name = port.dtype.name
    return NodeArg(port.name, f"tensor({_ONNX_NAMES.get(name, name)})", list(port.shape))
