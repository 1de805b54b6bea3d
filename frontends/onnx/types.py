"""TypeProto -> Type, with open dimensions made symbols."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import onnx

from lepton.frontends.onnx.limits import LIMITS
from lepton.frontends.onnx.symbols import Symbols
from lepton.frontends.onnx.tensors import dtype_of
from lepton.ir.diagnostics import LeptonError, ResourceError, UnsupportedError, UsageError
from lepton.ir.dims import Dim
from lepton.ir.types import OptionalType, SequenceType, TensorType, Type

D = TypeVar("D")


def type_of(proto: onnx.TypeProto, name: str, symbols: Symbols) -> Type:
    """The type of the graph input `name`. Raises LeptonError where the rank or the element type is not given."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            return tensor_type(proto.tensor_type, name, symbols)
        case "sequence_type":
            return SequenceType(type_of(proto.sequence_type.elem_type, name, symbols))
        case "optional_type":
            return OptionalType(type_of(proto.optional_type.elem_type, name, symbols))
        case None:
            raise LeptonError(f"input '{name}' has no type")
        case other:
            raise UnsupportedError(f"input '{name}' is a {other.removesuffix('_type')}, which is not supported")


def tensor_type(proto: onnx.TypeProto.Tensor, name: str, symbols: Symbols, *, shape: Sequence[int | str] | None = None,
                own: bool = False) -> TensorType:
    """The type of a tensor; `shape` gives sizes or names to what the model leaves open, its rank too. `own`: a named
    dimension is not the one that others of that name are (unless that name is pinned). Raises LeptonError."""
    dtype = dtype_of(proto.elem_type, f"input '{name}'")
    if not proto.HasField("shape"):
        if shape is None:
            raise LeptonError(f"input '{name}' has no shape, so its rank is unknown", help=(
                "write the shape into the model; sizes may stay open, e.g. "
                "onnx.tools.update_model_dims.update_inputs_outputs_dims or a re-export with example inputs"))
        return TensorType(dtype, tuple(_given(d, name, axis, symbols) for axis, d in enumerate(_checked(shape, name))))
    if len(_checked(proto.shape.dim, name)) != len(proto.shape.dim if shape is None else shape):
        raise UsageError(f"structure of input '{name}': shape {list(shape or ())} for rank {len(proto.shape.dim)}")
    stated = [_dim(d, name, axis, symbols, own) for axis, d in enumerate(proto.shape.dim)]
    return TensorType(dtype, tuple(stated if shape is None else _merged(stated, shape, name, symbols)))


def _checked(dims: Sequence[D], name: str) -> Sequence[D]:
    if len(dims) > LIMITS.rank:
        raise ResourceError(f"input '{name}' has rank {len(dims)}, more than {LIMITS.rank}")
    return dims


def _merged(stated: Sequence[Dim], shape: Sequence[int | str], name: str, symbols: Symbols) -> Iterator[Dim]:
    """Open dimensions as given; the others must be what is given."""
    for axis, (dim, wanted) in enumerate(zip(stated, shape, strict=True)):
        if isinstance(dim, int) and isinstance(wanted, int) and dim != wanted:
            raise UsageError(f"structure of input '{name}': size {wanted} of axis {axis}, where the model has {dim}")
        yield dim if isinstance(dim, int) else _given(wanted, name, axis, symbols)


def _given(dim: int | str, name: str, axis: int, symbols: Symbols) -> Dim:
    if isinstance(dim, int):
        return dim
    return symbols.named(dim) if any(c.isalpha() for c in dim) else symbols.unnamed(name, axis)


def _dim(proto: onnx.TensorShapeProto.Dimension, name: str, axis: int, symbols: Symbols, own: bool) -> Dim:
    if proto.HasField("dim_value") and proto.dim_value >= 0:
        return int(proto.dim_value)
    text = proto.dim_param.strip()
    # Exporters write "?" or "-1" for "any": two of those need not be equal.
    if not any(c.isalpha() for c in text) or (own and not symbols.is_pinned(text)):
        return symbols.unnamed(name, axis)
    return symbols.named(text)
