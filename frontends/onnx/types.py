"""TypeProto -> Type, with open dimensions made symbols."""
from __future__ import annotations

import onnx

from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.symbols import Symbols
from lepton.frontends.onnx.tensors import dtype_of
from lepton.ir.diagnostics import LeptonError, ResourceError, UnsupportedError
from lepton.ir.dims import Dim
from lepton.ir.types import OptionalType, SequenceType, TensorType, Type


def type_of(proto: onnx.TypeProto, name: str, symbols: Symbols) -> Type:
    """The type of the graph input `name`. Raises LeptonError where the rank or the element type is not given."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            return _tensor(proto.tensor_type, name, symbols)
        case "sequence_type":
            return SequenceType(type_of(proto.sequence_type.elem_type, name, symbols))
        case "optional_type":
            return OptionalType(type_of(proto.optional_type.elem_type, name, symbols))
        case None:
            raise LeptonError(f"input '{name}' has no type")
        case other:
            raise UnsupportedError(f"input '{name}' is a {other.removesuffix('_type')}, which is not supported")


def _tensor(proto: onnx.TypeProto.Tensor, name: str, symbols: Symbols) -> TensorType:
    dtype = dtype_of(proto.elem_type, f"input '{name}'")
    if not proto.HasField("shape"):
        raise LeptonError(f"input '{name}' has no shape, so its rank is unknown", help=(
            "write the shape into the model; sizes may stay open, e.g. "
            "onnx.tools.update_model_dims.update_inputs_outputs_dims or a re-export with example inputs"))
    if len(proto.shape.dim) > LIMITS.rank:
        raise ResourceError(f"input '{name}' has rank {len(proto.shape.dim)}, more than {LIMITS.rank}")
    return TensorType(dtype, tuple(_dim(d, name, axis, symbols) for axis, d in enumerate(proto.shape.dim)))


def _dim(proto: onnx.TensorShapeProto.Dimension, name: str, axis: int, symbols: Symbols) -> Dim:
    if proto.HasField("dim_value") and proto.dim_value >= 0:
        return int(proto.dim_value)
    text = proto.dim_param.strip()
    # Exporters write "?" or "-1" for "any": two of those need not be equal.
    if not any(c.isalpha() for c in text):
        return symbols.unnamed(name, axis)
    return symbols.named(text)
