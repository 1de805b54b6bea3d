"""Other ways to compile and run the same tests: levels, targets, threads, open sizes, constant inputs, artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from tests.conformance.adapters import Run

Make = Callable[[onnx.ModelProto], "Run"]


def compiled(**options: Any) -> Make:
    """`lepton.backend` with these options of `lepton.compile`."""

    def make(model: onnx.ModelProto) -> Run:
        import lepton.backend

        run: Run = lepton.backend.prepare(model, **options).run
        return run

    return make


# Operands whose sizes must be known when compiling: kernels of convolutions, weights of recurrent layers.
WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "ConvInteger": (1,), "DeformConv": (1,), "QLinearConv": (3,),
           "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}


def open_sizes(model: onnx.ModelProto) -> Run:
    """Every size of every input that is not 1 is a symbol; a size of 1 may broadcast, which a symbol never does."""
    return compiled()(opened(model))


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the sizes of its tensor inputs left open, weights excepted, and nothing said of other shapes."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    weights = {t.name for t in made.graph.initializer}
    weights |= {n.input[i] for n in made.graph.node for i in WEIGHTS.get(n.op_type, ()) if i < len(n.input)}
    for value in made.graph.input:
        if value.name not in weights and value.type.WhichOneof("value") == "tensor_type":
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.HasField("dim_value") and dim.dim_value != 1:
                    dim.dim_param = f"{value.name}_{axis}"
    del made.graph.value_info[:]
    for value in made.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    return made


def constant_inputs(model: onnx.ModelProto) -> Run:
    """Every input's contents are compiled in; nothing is left to compute but what no constant folds to."""
    from lepton.backend import SpecialisedRep

    run: Run = SpecialisedRep(model, [v.name for v in model.graph.input], {}).run
    return run


def linked(model: onnx.ModelProto) -> Run:
    """A shared library on disk in place of this process' memory."""
    from lepton.artifact import Model
    from lepton.backend import SpecialisedRep
    from lepton.driver import compile_to
    from lepton.library import load

    class Linked(SpecialisedRep):
        def compiled(self, values: dict[str, Any], structure: dict[str, Any]) -> Model:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.so"
                compile_to(self.model, path, values=values, structure=structure, **self.options)
                return load(path)

    run: Run = Linked(model, [], {}).run
    return run


MODES: Mapping[str, Make] = {
    "O0": compiled(level=0), "O3": compiled(level=3), "avx2": compiled(target="x86-avx2"),
    "avx512": compiled(target="x86-avx512"), "threads1": compiled(threads=1), "threads2": compiled(threads=2),
    "dynamic": open_sizes, "constant": constant_inputs, "so": linked,
}
