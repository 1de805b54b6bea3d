"""One ONNX node while it is imported: its operands, what is known of their contents, attributes, how to emit ops."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnx
from onnx import AttributeProto as A

from lepton.frontends.onnx.broadcasting import aligned
from lepton.frontends.onnx.contents import only_dims
from lepton.frontends.onnx.numbers import Number
from lepton.frontends.onnx.problems import DataDependent
from lepton.frontends.onnx.reading import Known, elements, read_all
from lepton.frontends.onnx.tensors import dtype_of
from lepton.ir import ops
from lepton.ir.core import Value, defined
from lepton.ir.diagnostics import LeptonError, Location, UnsupportedError
from lepton.ir.dims import Dim, symbols
from lepton.ir.op import Op, Trait
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

if TYPE_CHECKING:
    from lepton.frontends.onnx.importer import Importer
    from lepton.frontends.onnx.scope import Scope

_TYPE_NAMES: dict[int, str] = {A.INT: "int", A.FLOAT: "float", A.STRING: "string", A.INTS: "ints", A.FLOATS: "floats",
               A.STRINGS: "strings", A.TENSOR: "tensor", A.GRAPH: "graph", A.TYPE_PROTO: "type"}


@dataclass(slots=True)
class Call:
    """A node applied to values. Calling it applies an op of the graph, at the node's place in the model."""

    importer: Importer
    scope: Scope
    node: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    opset: int
    where: Location
    attributes: dict[str, onnx.AttributeProto] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.attributes = {a.name: a for a in self.node.attribute}

    # --- emitting ---------------------------------------------------------------------------------

    def __call__(self, op: Op, *operands: Value | None, **attrs: Any) -> Value:
        """Apply an op with one result."""
        return self.multi(op, *operands, **attrs)[0]

    def multi(self, op: Op, *operands: Value | None, **attrs: Any) -> tuple[Value, ...]:
        """Apply an op with several results. Operands that are broadcast together are, where their sizes are open."""
        if op.has(Trait.ELEMENTWISE) or op is ops.matmul:
            operands = tuple(aligned(operands, self._spread, keep=2 if op is ops.matmul else 0))
        node = op.node(*operands, loc=(self.where,), **attrs)
        if defined(node):
            self.scope.definers.append(node.results[0])
        return node.results

    def _spread(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        return self(ops.broadcast_to, x, shape=shape)

    def const(self, value: Any, dtype: DType | None = None) -> Value:
        """A constant with these elements. Raises LeptonError where the type cannot hold them."""
        try:
            with np.errstate(over="ignore"):
                array = np.asarray(value, dtype.numpy if dtype else None)
        except (OverflowError, ValueError) as error:
            kind = dtype.value if dtype else "a tensor"
            raise LeptonError(f"{value} does not fit {kind}", where=self.where) from error
        return self(ops.constant, value=Tensor.of(array))

    def like(self, value: float, x: Value) -> Value:
        """A scalar of x's element type."""
        return self.const(value, x.tensor.dtype)

    def sizes(self, dims: Sequence[Dim], *, scalar: bool = False) -> Value:
        """Dimensions as data: i64[n], or i64[]."""
        if all(isinstance(d, int) for d in dims):
            return self.const(dims[0] if scalar else tuple(dims), DType.I64)
        return self(ops.shape_values, dims=tuple(dims), scalar=scalar)

    def size(self, dim: Dim, dtype: DType = DType.I64) -> Value:
        """One dimension as a scalar of that type."""
        return self.const(dim, dtype) if isinstance(dim, int) else self.cast(self.sizes((dim,), scalar=True), dtype)

    def cast(self, x: Value, to: DType) -> Value:
        return x if x.tensor.dtype is to else self(ops.cast, x, to=to)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        return x if x.tensor.shape == tuple(shape) else self(ops.reshape, x, shape=tuple(shape))

    def fresh(self, hint: str) -> str:
        """A new symbol, for a size that only the running model knows."""
        return self.importer.symbols.fresh(hint)

    # --- operands ---------------------------------------------------------------------------------

    def opt(self, index: int) -> Value | None:
        """Operand `index`, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def x(self, index: int = 0) -> Value:
        """Operand `index`. Raises LeptonError where it is left out."""
        value = self.opt(index)
        if value is None:
            raise LeptonError(f"input {index} is missing", where=self.where)
        if not isinstance(value.type, TensorType):
            raise LeptonError(f"input {index} is {value.type}, expected a tensor", where=self.where)
        return value

    def named(self, name: str) -> Value:
        """The value that the model calls `name`, for operators that name values beside their inputs."""
        return self.scope.lookup(name, self.importer.contents)

    def ranked(self, index: int, rank: int) -> Value:
        """Operand `index`, which must have this rank."""
        value = self.x(index)
        if value.tensor.rank != rank:
            raise LeptonError(f"input {index} is {value.type}, expected rank {rank}", where=self.where)
        return value

    def all(self) -> list[Value]:
        """All operands of a node that takes any number of them."""
        if not self.inputs:
            raise LeptonError("no inputs", where=self.where)
        return [self.x(i) for i in range(len(self.inputs))]

    def wants(self, index: int) -> bool:
        """Whether the node has an output `index`."""
        return index < len(self.node.output) and bool(self.node.output[index])

    # --- contents ---------------------------------------------------------------------------------

    def known(self, index: int) -> tuple[Dim, ...] | None:
        """What operand `index` holds, in row-major order; None where that depends on data."""
        value = self.opt(index)
        return None if value is None else only_dims(self.importer.contents.of(value))

    def numbers(self, index: int) -> tuple[Number, ...] | None:
        """The same for floats that come of sizes."""
        value = self.opt(index)
        contents = None if value is None else self.importer.contents.of(value)
        return None if contents is None else tuple(contents.reshape(-1))

    def dims(self, index: int, what: str) -> tuple[Dim, ...]:
        """What operand `index` holds: sizes. Those that depend on data are read when the model runs."""
        return read_all(self, self.elements(index, what), what.rsplit(maxsplit=1)[-1])

    def elements(self, index: int, what: str) -> list[Known]:
        """What operand `index` holds, as far as it is known. Raises UnsupportedError where not even their number is."""
        if (found := elements(self, self.x(index))) is None:
            self.depends(index, what)
        return found

    def dim(self, index: int, what: str) -> Dim:
        """The one number that operand `index` holds."""
        dims = self.dims(index, what)
        if len(dims) != 1:
            raise LeptonError(f"{what} (input {index}, {self.x(index).type}) is not one number", where=self.where)
        return dims[0]

    def int_in(self, index: int, what: str) -> int:
        """The one number that operand `index` holds, a constant."""
        numbers = self.ints_in(index, what)
        if len(numbers) != 1:
            raise LeptonError(f"{what} (input {index}, {self.x(index).type}) is not one number", where=self.where)
        return numbers[0]

    def number(self, index: int, what: str) -> float:
        """The one float that operand `index`, a constant, holds."""
        array = self.constant(index, what).array
        if array.size != 1 or array.dtype.kind not in "fiu":
            raise LeptonError(f"{what} (input {index}, {self.x(index).type}) is not one number", where=self.where)
        return float(array.reshape(-1)[0])

    def ints_in(self, index: int, what: str) -> tuple[int, ...]:
        """What operand `index` holds. Raises UnsupportedError unless it is constant."""
        if (known := self.known(index)) is None:
            self.depends(index, what)
        if not all(isinstance(d, int) for d in known):
            self.fail(f"{what} (input {index}) is not constant: {', '.join(map(str, known))}")
        return tuple(d for d in known if isinstance(d, int))

    def constant(self, index: int, what: str) -> Tensor:
        """The constant that operand `index` is. Raises UnsupportedError."""
        node = self.x(index).producer
        if node is None or node.op is not ops.constant:
            self.depends(index, what)
        tensor = node.attrs["value"]
        assert isinstance(tensor, Tensor)
        return tensor

    # --- attributes -------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.attributes

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing here."""
        self.read.update(names)

    def _get(self, name: str, kind: int, default: Any) -> Any:
        self.read.add(name)
        attribute = self.attributes.get(name)
        if attribute is None:
            if default is REQUIRED:
                raise LeptonError(f"attribute '{name}' is missing", where=self.where)
            return default
        if attribute.type != kind:
            got = _TYPE_NAMES.get(attribute.type, f"kind {attribute.type}")
            raise LeptonError(f"attribute '{name}' is of type {got}, expected {_TYPE_NAMES[kind]}", where=self.where)
        return onnx.helper.get_attribute_value(attribute)

    # These have the names of AttributeProto's fields. `ints` and `floats` give a tuple, or the default as it is.

    def i(self, name: str, default: Any = None) -> int:
        return self._get(name, A.INT, default)  # type: ignore[no-any-return]

    def positive(self, name: str, default: Any = None) -> int:
        """An integer attribute that must be 1 or more."""
        value = self.i(name, default)
        if value < 1:
            raise LeptonError(f"attribute '{name}' is {value}, expected 1 or more", where=self.where)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self._get(name, A.INT, default))

    def f(self, name: str, default: Any = None) -> float:
        return self._get(name, A.FLOAT, default)  # type: ignore[no-any-return]

    def s(self, name: str, default: Any = None) -> str:
        value = self._get(name, A.STRING, default)
        return value.decode() if isinstance(value, bytes) else value

    def ints(self, name: str, default: Any = None) -> Any:
        return _as_tuple(self._get(name, A.INTS, default), default)

    def floats(self, name: str, default: Any = None) -> Any:
        return _as_tuple(self._get(name, A.FLOATS, default), default)

    def strings(self, name: str, default: Any = None) -> tuple[str, ...]:
        value = _as_tuple(self._get(name, A.STRINGS, default), default)
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)

    def t(self, name: str, default: Any = None) -> Tensor | None:
        proto = self._get(name, A.TENSOR, default)
        return None if proto is None else self.scope.store.tensor(proto, f"attribute '{name}' of {self.where}")

    def g(self, name: str) -> onnx.GraphProto:
        return self._get(name, A.GRAPH, REQUIRED)  # type: ignore[no-any-return]

    def type(self, name: str) -> onnx.TypeProto:
        return self._get(name, A.TYPE_PROTO, REQUIRED)  # type: ignore[no-any-return]

    def dtype(self, name: str, default: DType | _Required) -> DType:
        """An attribute that is the number of an element type."""
        code = self._get(name, A.INT, default)
        return code if isinstance(code, DType) else dtype_of(code, f"attribute '{name}'")

    def axis(self, default: int | None = None, *, name: str = "axis", rank: int | None = None) -> int:
        """An axis of the first operand (or of `rank`), made non-negative. Raises LeptonError outside the rank."""
        value = self.i(name, REQUIRED if default is None else default)
        return self.axes_of((value,), self.x(0).tensor.rank if rank is None else rank)[0]

    def axes_of(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes made non-negative, in the given order. Raises LeptonError outside the rank or for doubles."""
        fixed = tuple(a + rank if a < 0 else a for a in axes)
        if any(not 0 <= a < rank for a in fixed) or len(set(fixed)) != len(fixed):
            raise LeptonError(f"axes {list(axes)} for rank {rank}", where=self.where)
        return fixed

    # --- errors -----------------------------------------------------------------------------------

    def fail(self, message: str, *, help: str = "") -> NoReturn:
        """This form of the operator cannot be imported."""
        raise UnsupportedError(message, where=self.where, help=help)

    def depends(self, index: int, what: str) -> NoReturn:
        """Operand `index` would have to be known. Names the inputs it comes of."""
        self.must_know(self.x(index), f"{what} (input {index}, {self.x(index).type})")

    def must_know(self, value: Value, what: str) -> NoReturn:
        """`value` would have to be known. Names the inputs it comes of."""
        inputs = self.inputs_of(value)
        names = ", ".join(f"'{name}'" for name in inputs)
        raise DataDependent(f"{what} must be known when compiling", inputs, where=self.where,
                            help=f"give a value to input {names} (--value, values=)" if names else
                            "sizes must follow from the inputs' shapes")

    def open_sizes(self, sizes: Sequence[Dim], message: str, *, help: str = "") -> NoReturn:
        """This cannot be imported while these sizes are open. Names the inputs whose contents they are."""
        known = self.importer.read_from
        inputs = dict.fromkeys(n for d in sizes for name in sorted(symbols(d)) for n in known.get(name, ()))
        if inputs:
            raise DataDependent(message, inputs, where=self.where, help="give a value to input "
                                + ", ".join(f"'{name}'" for name in inputs) + " (--value, values=)")
        self.fail(message, help=help)

    def inputs_of(self, value: Value) -> list[str]:
        """The model's inputs whose contents `value` depends on."""
        return [name for name in sources(value) if name in self.importer.input_names]

    def unread(self) -> list[str]:
        """Attributes that nothing looked at."""
        return sorted(self.attributes.keys() - self.read)


def _as_tuple(value: Any, default: Any) -> Any:
    return value if value is default else tuple(value)


def sources(value: Value) -> tuple[str, ...]:
    """The graph inputs whose contents `value` depends on."""
    found: dict[str, None] = {}
    seen: set[Value] = set()
    todo = [value]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if at.producer is None:
            found[at.name or "?"] = None
        else:
            todo += [v for v in at.producer.inputs if v is not None]
    return tuple(found)


class _Required:
    """The default of an attribute that has none."""


REQUIRED = _Required()
