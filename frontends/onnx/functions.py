"""Functions: the model's own and the bodies that onnx's schemas give, as nodes with their attributes bound."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import defs

from lepton.frontends.onnx.tensors import DTYPES
from lepton.ir.core import Value
from lepton.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

Attributes = Mapping[str, onnx.AttributeProto]


def bound_attributes(function: onnx.FunctionProto, node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    """The attributes of the function's body: the defaults, and what the calling node gives."""
    given = {a.name: a for a in function.attribute_proto}
    return given | {a.name: a for a in node.attribute}


def bind(node: onnx.NodeProto, attributes: Attributes) -> onnx.NodeProto:
    """The node with references to the function's attributes replaced; those that were not given are dropped."""
    if not _refers(node):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    _bind(out, attributes)
    return out


def _refers(node: onnx.NodeProto) -> bool:
    return any(a.ref_attr_name or any(_refers(n) for g in (a.g, *a.graphs) for n in g.node) for a in node.attribute)


def _bind(node: onnx.NodeProto, attributes: Attributes) -> None:
    kept = []
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            found = attributes.get(attribute.ref_attr_name)
            if found is None:
                continue
            copy = onnx.AttributeProto()
            copy.CopyFrom(found)
            copy.name = attribute.name
            attribute = copy
        else:
            for graph in (attribute.g, *attribute.graphs):
                for inner in graph.node:
                    _bind(inner, attributes)
        kept.append(attribute)
    new = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(new)


def schema_function(
    node: onnx.NodeProto, domain: str, opset: int, inputs: tuple[Value | None, ...]
) -> onnx.FunctionProto | None:
    """The body that the operator's schema gives, for these input types."""
    schema = schema_of(node, domain, opset)
    if schema is None:
        return None
    if schema.has_function:
        body = onnx.FunctionProto()
        body.CopyFrom(schema.function_body)
        known = {a.name for a in body.attribute_proto}
        body.attribute_proto.extend(a.default_value for name, a in schema.attributes.items()
                                    if name not in known and a.default_value.name)
        return body
    if schema.has_context_dependent_function and all(v is not None or not n for v, n in zip(inputs, node.input,
                                                                                            strict=True)):
        types = [_type_proto(v.type).SerializeToString() if v is not None else b"" for v in inputs]
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        data = schema.get_context_dependent_function(plain.SerializeToString(), types)
        return onnx.FunctionProto.FromString(data) if data else None
    return None


def schema_of(node: onnx.NodeProto, domain: str, opset: int) -> Any:
    """onnx's record of the operator at this opset, or None. (Its type stubs lack the fields for functions.)"""
    try:
        return defs.get_schema(node.op_type, opset, domain)
    except defs.SchemaError:
        return None


def _type_proto(kind: Type) -> onnx.TypeProto:
    match kind:
        case TensorType(dtype, shape):
            return onnx.helper.make_tensor_type_proto(_code(dtype), [d if isinstance(d, int) else str(d)
                                                                     for d in shape])
        case SequenceType(element):
            return onnx.helper.make_sequence_type_proto(_type_proto(element))
        case OptionalType(element):
            return onnx.helper.make_optional_type_proto(_type_proto(element))
        case MapType(key, values):
            element = onnx.helper.make_tensor_type_proto(_code(values.dtype), None)
            return onnx.helper.make_map_type_proto(_code(key), element)


def _code(dtype: DType) -> int:
    return next(code for code, d in DTYPES.items() if d is dtype)
