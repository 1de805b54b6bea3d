"""ONNX's own backend interface, so that its test suite and other tools can drive Lepton.

    import lepton.backend
    outputs = lepton.backend.prepare(model_proto).run([x, y])

What Lepton cannot compile raises LeptonError: nothing is answered by another engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from lepton.artifact import Model
from lepton.driver import Options, compile, load_graph
from lepton.frontends.onnx.bundles import UnknownStructure
from lepton.frontends.onnx.problems import DataDependent
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.structure import Spec, named, spec_of


class LeptonRep(BackendRep):
    """A compiled model; inputs are positional over the graph's inputs that are not initializers."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """All outputs, in the model's order. Raises LeptonError for inputs that do not fit."""
        _refuse(kwargs)
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        result = self.model(*(np.asarray(value) if isinstance(value, np.generic) else value for value in inputs))
        return result if isinstance(result, tuple) else (result,)


class SpecialisedRep(BackendRep):
    """A model whose shapes depend on what some inputs hold (axes, sizes, pads), or that takes sequences or optionals:
    compiled anew for each content and structure."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], options: dict[str, Any]) -> None:
        self.model, self.options = model, options
        self.inputs = [v.name for v in model.graph.input if v.name not in _initializers(model)]
        self.structured = bundled_inputs(model)
        self.pinned = list(dict.fromkeys(names))
        self._made: dict[str, LeptonRep] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """All outputs, in the model's order. The first run with new contents compiles. Raises LeptonError."""
        _refuse(kwargs)
        given = dict(zip(self.inputs, [inputs] if isinstance(inputs, np.ndarray) else inputs, strict=True))
        specs = {name: spec_of(given[name]) for name in self.structured}
        feeds = {port: np.asarray(array) for name, value in given.items()
                 for port, array in named(name, value).items()}
        while (key := self._key(specs, feeds)) not in self._made:
            values = {name: feeds[name] for name in self.pinned if name in feeds}
            try:
                self._made[key] = LeptonRep(self.compiled(values, specs))
            except DataDependent as error:  # what was hidden behind the first ones
                if not (more := [name for name in error.inputs if name in feeds and name not in self.pinned]):
                    raise
                self.pinned += more
        model = self._made[key].model
        return tuple(model.run({port.name: feeds[port.name] for port in model.inputs}).values())

    def compiled(self, values: dict[str, Any], structure: dict[str, Spec]) -> Model:
        """The model for these contents. Raises LeptonError."""
        return compile(self.model, values=values, structure=structure, **self.options)

    def _key(self, specs: dict[str, Spec], feeds: dict[str, np.ndarray[Any, Any]]) -> str:
        contents = [(name, feeds[name].shape, feeds[name].tobytes()) for name in self.pinned if name in feeds]
        return repr((specs, contents))


def bundled_inputs(model: onnx.ModelProto) -> list[str]:
    """The inputs that are sequences or optionals."""
    return [v.name for v in model.graph.input if v.type.WhichOneof("value") in ("sequence_type", "optional_type")]


def _specialises(error: LeptonError, model: onnx.ModelProto) -> bool:
    """Whether the model would compile if what some inputs hold were known."""
    known = {v.name for v in model.graph.input}
    return isinstance(error, DataDependent) and bool(error.inputs) and set(error.inputs) <= known


def _initializers(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


class LeptonBackend(Backend):
    """Lepton as an ONNX backend. Keyword arguments of `prepare` are those of `lepton.compile`."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the frontend takes the model; compiling it may still find something it cannot do."""
        _refuse(kwargs)
        if not cls.supports_device(device):
            return False
        try:
            load_graph(model, Options())
        except LeptonError as error:
            return _specialises(error, model)
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> LeptonRep | SpecialisedRep:
        """Compile for this machine, in process. Raises LeptonError."""
        if not cls.supports_device(device):
            raise UsageError(f"device {device!r}: this backend runs on the CPU")
        try:
            return LeptonRep(compile(model, **kwargs))
        except DataDependent as error:
            if not _specialises(error, model):
                raise
            return SpecialisedRep(model, [] if isinstance(error, UnknownStructure) else error.inputs, kwargs)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile and run one node on arrays, one for each input that is not absent (`""`).

        `opset_version` picks the op's version (default: the newest that onnx knows); `outputs_info` is not needed.
        """
        newest = onnx.defs.get_schema(node.op_type, domain=node.domain).since_version
        opset = kwargs.pop("opset_version", newest if node.domain else onnx.defs.onnx_opset_version())
        values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        names = [name for name in node.input if name]
        if len(names) != len(values):
            raise UsageError(f"{node.op_type} reads {len(names)} inputs, got {len(values)} arrays")
        feeds = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
        return cls.run_model(_model_of(node, feeds, opset), list(feeds.values()), device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return device.partition(":")[0] == "CPU"


def _model_of(node: onnx.NodeProto, feeds: dict[str, np.ndarray[Any, Any]], opset: int) -> onnx.ModelProto:
    """A model of just this node, with the arrays' types as its inputs' and the outputs' types inferred."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], node.op_type, inputs, outputs)
    domains = [onnx.helper.make_opsetid(node.domain, opset)]
    return onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=domains))


def _refuse(options: dict[str, Any]) -> None:
    """Options that would be ignored are refused instead."""
    if options:
        raise UsageError(f"unknown options: {', '.join(sorted(options))}")


is_compatible = LeptonBackend.is_compatible
prepare = LeptonBackend.prepare
run_model = LeptonBackend.run_model
run_node = LeptonBackend.run_node
supports_device = LeptonBackend.supports_device
