"""Sequences and optionals whose members are known while importing: exporters write them for what is a list in Python.

The graph has no such values. Members are ordinary values; operators on sequences pick, add and join them here. At the
model's border a bundle is one port for each member, and its `tree` (lepton.ir.structure) says which.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from lepton.frontends.onnx.problems import DataDependent
from lepton.frontends.onnx.symbols import Symbols
from lepton.frontends.onnx.tensors import dtype_of
from lepton.frontends.onnx.types import tensor_type, type_of
from lepton.ir.core import Value
from lepton.ir.diagnostics import UsageError
from lepton.ir.structure import Spec, Tree
from lepton.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type


@dataclass(eq=False, slots=True)
class Bundle(Value):
    """A sequence of `items`, or an optional with one item or none. It never reaches a graph."""

    items: tuple[Value, ...] = ()


@dataclass(eq=False, slots=True)
class Maps(Bundle):
    """A map, or a sequence of maps with the same keys: one item [keys] or [rows,keys]. `default` stands for keys that
    are missing (None: none may be)."""

    keys: tuple[int | str, ...] = ()
    default: float | str | None = None


def mapped(table: Value, keys: Sequence[int | str], default: float | str | None = None) -> Maps:
    """A map of `keys` to the elements of a vector, or maps to the rows of a matrix."""
    kind = MapType(DType.STRING if keys and isinstance(keys[0], str) else DType.I64, table.tensor)
    return Maps(kind if table.tensor.rank == 1 else SequenceType(kind), items=(table,), keys=tuple(keys),
                default=default)


@dataclass(eq=False, slots=True)
class Stack(Bundle):
    """A sequence of tensors of one type, of which only the running model knows how many there are: one item, with the
    members along its first axis."""


@dataclass(eq=False, slots=True)
class Growing(Bundle):
    """A sequence that goes round a loop, as one round sees it: nothing is known of what it holds (`origin` stands for
    that), but for `items`, which this round has put behind."""

    origin: Growing | None = None


def stack(table: Value) -> Stack:
    """The sequence of the rows of a tensor."""
    return Stack(SequenceType(table.tensor.with_shape(table.tensor.shape[1:])), items=(table,))


class UnknownStructure(DataDependent):
    """How many members some inputs have, or whether there is a value at all, must be known. `inputs` names them."""


def sequence(items: Sequence[Value], element: Type) -> Bundle:
    """A sequence; `element` is what an empty one would hold."""
    return Bundle(SequenceType(items[0].type if items else element), items=tuple(items))


def optional(item: Value | None, element: Type) -> Bundle:
    return Bundle(OptionalType(element if item is None else item.type), items=() if item is None else (item,))


# --- trees ----------------------------------------------------------------------------------------


def leaves(value: Value) -> Iterator[Value]:
    """The tensors of a value."""
    if isinstance(value, Bundle):
        for item in value.items:
            yield from leaves(item)
    else:
        yield value


def rebuilt(value: Value, made: Iterator[Value]) -> Value:
    """The same structure over other tensors."""
    if not isinstance(value, Bundle):
        return next(made)
    if isinstance(value, Maps):
        return mapped(next(made), value.keys, value.default)
    if isinstance(value, Stack):
        return stack(next(made))
    items = [rebuilt(item, made) for item in value.items]
    if isinstance(value, Growing):
        return Growing(value.type, items=tuple(items), origin=value.origin)
    if isinstance(value.type, SequenceType):
        return sequence(items, value.type.element)
    assert isinstance(value.type, OptionalType)
    return optional(items[0] if items else None, value.type.element)


def alike(a: Value, b: Value) -> bool:
    """Whether two values have the same structure, whatever their tensors are."""
    if not isinstance(a, Bundle) or not isinstance(b, Bundle):
        return isinstance(a, Bundle) == isinstance(b, Bundle)
    if type(a) is not type(b):
        return False
    keys = [v.keys if isinstance(v, Maps) else None for v in (a, b)]
    if isinstance(a, Growing) and isinstance(b, Growing) and (a.origin or a) is not (b.origin or b):
        return False
    return (type(a.type) is type(b.type) and len(a.items) == len(b.items) and keys[0] == keys[1]
            and all(map(alike, a.items, b.items)))


def tree_of(value: Value, name: str, port: Callable[[Value, str], str]) -> Tree:
    """The tree of a value at the border; `port` takes a tensor and a proposed name, and gives the port's name."""
    if not isinstance(value, Bundle):
        return port(value, name)
    if isinstance(value, Maps):
        kind, dtype = "map" if isinstance(value.type, MapType) else "maps", value.items[0].tensor.dtype
        default = {} if value.default is None else {"default": value.default}
        return {kind: port(value.items[0], name), "keys": list(value.keys), "dtype": dtype.numpy.name, **default}
    if isinstance(value, Stack):
        return {"stack": port(value.items[0], name)}
    if isinstance(value.type, SequenceType):
        return {"sequence": [tree_of(item, f"{name}.{i}", port) for i, item in enumerate(value.items)]}
    return {"optional": tree_of(value.items[0], name, port) if value.items else None}


# --- inputs ---------------------------------------------------------------------------------------


def given(proto: onnx.TypeProto, name: str, spec: Spec, symbols: Symbols, *, inside: bool = False) -> Value:
    """The input `name`, built as `spec` says. Raises UsageError where that does not fit its type.

    `inside` a sequence a named dimension is each member's own, as members may differ in size."""
    match proto.WhichOneof("value"):
        case "sequence_type":
            specs = _members(spec, name)
            element = proto.sequence_type.elem_type
            items = [given(element, f"{name}.{i}", s, symbols, inside=True) for i, s in enumerate(specs)]
            return sequence(items, items[0].type if items else _element(element, name, symbols))
        case "optional_type":
            element = proto.optional_type.elem_type
            if spec is None:
                return optional(None, _element(element, name, symbols))
            item = given(element, name, spec, symbols, inside=inside)
            return optional(item, item.type)
        case "map_type":
            return _map(proto.map_type, name, spec)
        case other if other != "tensor_type":
            type_of(proto, name, symbols)  # says what is wrong with it
    if spec is None:
        raise UsageError(f"structure of input '{name}': only an optional can be None")
    shape = None if spec is True else spec
    if shape is not None and (not isinstance(shape, (list, tuple)) or not all(_is_size(d) for d in shape)):
        raise UsageError(f"structure of input '{name}': {spec!r} is no shape", help=_FORMS)
    return Value(tensor_type(proto.tensor_type, name, symbols, shape=shape, own=inside), name=name)


def _map(proto: onnx.TypeProto.Map, name: str, spec: Spec) -> Value:
    """A map whose keys are known: from `spec`, or (keys, default) from the operator that reads it."""
    keys, default = spec if isinstance(spec, tuple) and len(spec) == 2 else (spec, None)
    if keys is True:
        raise UnknownStructure(f"input '{name}' is a map: its keys must be known when compiling", [name],
                               help=f"structure={{'{name}': ['a', 'b']}}; leptonc --structure {name}='[\"a\",\"b\"]'")
    key = dtype_of(proto.key_type, f"keys of input '{name}'")
    wanted = str if key is DType.STRING else int
    if not isinstance(keys, (list, tuple)) or not keys or any(type(k) is not wanted for k in keys):
        raise UsageError(f"structure of input '{name}': expected keys of type {wanted.__name__}, got {keys!r}")
    if len(set(keys)) != len(keys):
        raise UsageError(f"structure of input '{name}': a key stands twice in {keys!r}")
    values = dtype_of(proto.value_type.tensor_type.elem_type, f"values of input '{name}'")
    return mapped(Value(TensorType(values, (len(keys),)), name=name), keys, default)


_FORMS = "True for what the type says, a number of members, a list of members, a shape, or None"


def _members(spec: Spec, name: str) -> Sequence[Spec]:
    if spec is True:
        raise UnknownStructure(
            f"input '{name}' is a sequence: how many members it has must be known when compiling", [name],
            help=f"structure={{'{name}': 3}}, or leptonc --structure {name}=3")
    if isinstance(spec, int) and spec >= 0:
        return [True] * spec
    if isinstance(spec, (list, tuple)):
        return spec
    raise UsageError(f"structure of input '{name}': {spec!r} does not describe a sequence", help=_FORMS)


def _is_size(dim: object) -> bool:
    return isinstance(dim, str) or (isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0)


def _element(proto: onnx.TypeProto, name: str, symbols: Symbols) -> Type:
    """The type of what is not there: of rank 0 where the model does not say."""
    match proto.WhichOneof("value"):
        case "sequence_type":
            return SequenceType(_element(proto.sequence_type.elem_type, name, symbols))
        case "optional_type":
            return OptionalType(_element(proto.optional_type.elem_type, name, symbols))
    shape = None if proto.tensor_type.HasField("shape") else ()
    return tensor_type(proto.tensor_type, name, symbols, shape=shape, own=True)
