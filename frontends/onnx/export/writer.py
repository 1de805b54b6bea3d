"""Writing one graph: names, constants, sizes that are known only at run time, and the rule of each op."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lepton.frontends.onnx.tensors import DTYPES
from lepton.ir import dims
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import ResourceError, UnsupportedError
from lepton.ir.dims import Apply, Atom, Dim, Expr, Symbol
from lepton.ir.op import Op, Trait
from lepton.ir.printer import value_names
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType

OPSET, IR_VERSION = 21, 10
MOST = 2**31 - 1                     # bytes of one protobuf message
CODES = {dtype: code for code, dtype in DTYPES.items()}
Emit = Callable[["Writer", Node], "str | Sequence[str]"]
EMITTERS: dict[Op, Emit] = {}


def emits(*known: Op) -> Callable[[Emit], Emit]:
    """Declare how nodes of these ops are written: a function that adds ONNX nodes and gives the results' names."""
    def declare(emit: Emit) -> Emit:
        EMITTERS.update(dict.fromkeys(known, emit))
        return emit

    return declare


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The graph as an ONNX model of opset 21, checked by onnx. Its inputs and outputs keep their names.

    Raises UnsupportedError for ops that are never written (regions, draws, strings), naming op and place."""
    model = Writer(graph).model()
    if model.ByteSize() > MOST:
        raise ResourceError(f"the model is {model.ByteSize()} bytes, more than one ONNX file holds (2 GB)")
    onnx.checker.check_model(model)
    return model


class Writer:
    """An ONNX graph under construction."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = value_names(graph)
        ports = dict(zip(graph.outputs, graph.output_names, strict=True))
        taken = {*graph.output_names, *(str(v.name) for v in graph.inputs)}
        for value, name in self.names.items():
            if value not in graph.inputs and name in taken and ports.get(value) != name:
                self.names[value] = f"_v_{name}"
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.shared: dict[tuple[DType, tuple[object, ...], str], str] = {}
        self.sizes: dict[Dim, str] = {}
        self.count = 0

    def model(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            self.node(node)
        inputs = [_info(v, str(v.name)) for v in self.graph.inputs]
        outputs = []
        for value, name in zip(self.graph.outputs, self.graph.output_names, strict=True):
            if self.names[value] != name or value in self.graph.inputs or self._is_constant(value):
                self.nodes.append(helper.make_node("Identity", [self.name(value)], [name]))
            outputs.append(_info(value, name))
        made = helper.make_graph(self.nodes, self.graph.name, inputs, outputs, list(self.tensors.values()))
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                                 producer_name="lepton")

    @staticmethod
    def _is_constant(value: Value) -> bool:
        return value.producer is not None and value.producer.op.has(Trait.CONSTANT)

    def node(self, node: Node) -> None:
        if node.op.has(Trait.CONSTANT):
            return  # written where it is read
        if node.op not in EMITTERS:
            self.refuse(node, f"the op {node.op.name} cannot be written to ONNX")
        emit = EMITTERS[node.op]
        before = len(self.nodes)
        found = emit(self, node)
        results = [found] if isinstance(found, str) else list(found)
        for value, name in zip(node.results, results, strict=False):
            self._rename(name, self.names[value], before)

    def _rename(self, old: str, new: str, since: int) -> None:
        """Give what a rule made the value's name; other names of the same result stay aliases by Identity."""
        for proto in self.nodes[since:]:
            for i, output in enumerate(proto.output):
                if output == old:
                    proto.output[i] = new
            for i, given in enumerate(proto.input):
                if given == old and old.startswith("_t"):
                    proto.input[i] = new
        if not any(new in p.output for p in self.nodes[since:]):
            self.nodes.append(helper.make_node("Identity", [old], [new]))

    # --- what rules use ---------------------------------------------------------------------------

    def refuse(self, node: Node, why: str) -> NoReturn:
        raise UnsupportedError(why, where=node.loc[0] if node.loc else None,
                               help="--emit graph writes any model as text")

    def name(self, value: Value | None) -> str:
        """What ONNX nodes call a value; "" for an absent one. Constants become initializers."""
        if value is None:
            return ""
        if self._is_constant(value):
            assert value.producer is not None
            return self.tensor(value.producer.attrs["value"])
        return str(value.name) if value in self.graph.inputs else self.names[value]

    def tensor(self, tensor: Tensor) -> str:
        key = tensor.type.dtype, tensor.type.shape, tensor.digest
        if key not in self.shared:
            self.shared[key] = self._initializer(tensor.array)
        return self.shared[key]

    def constant(self, array: Any, dtype: DType = DType.I64) -> str:
        return self.tensor(Tensor.of(np.asarray(array, dtype.numpy)))

    def _initializer(self, array: Array) -> str:
        name = f"_c{len(self.tensors)}"
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def op(self, kind: str, *inputs: str | Value | None, outputs: int = 0, **attrs: Any) -> Any:
        """Add a node: the name of its result, or with `outputs` > 0 a list of names. Attributes that are None are left
        out."""
        names = [x if isinstance(x, str) else self.name(x) for x in inputs]
        while names and not names[-1]:
            names.pop()
        made = [f"_t{self.count + i}" for i in range(outputs or 1)]
        self.count += len(made)
        given = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(helper.make_node(kind, names, made, name=f"{kind}_{self.count}", **given))
        return made if outputs else made[0]

    def numbers(self, node: Node, sizes: Sequence[Dim], what: str) -> list[int]:
        """Sizes that ONNX wants as attributes. Raises UnsupportedError where they depend on the input."""
        if not all(isinstance(d, (int, np.integer)) for d in sizes):
            self.refuse(node, f"{what} {tuple(map(str, sizes))} of {node.op.name} depend on the input's size")
        return [int(d) for d in sizes if not isinstance(d, Expr)]

    def vector(self, sizes: Sequence[Dim]) -> str:
        """An i64 tensor of sizes."""
        if all(isinstance(d, int) for d in sizes):
            return self.constant(np.array(list(sizes), np.int64))
        parts = [self.constant([d]) if isinstance(d, int) else self.size(d) for d in sizes]
        return str(self.op("Concat", *parts, axis=0)) if len(parts) > 1 else parts[0]

    def size(self, dim: Dim) -> str:
        """An i64 tensor [1] with one size, computed from the inputs' shapes."""
        if isinstance(dim, int):
            return self.constant([dim])
        if dim not in self.sizes:
            self.sizes[dim] = self._sum(dim)
        return self.sizes[dim]

    def _sum(self, expr: Expr) -> str:
        total = ""
        for monomial, factor in expr.terms:
            part = self.constant([factor]) if factor != 1 or not monomial else ""
            for atom, power in monomial:
                for _ in range(power):
                    one = self._atom(atom)
                    part = self.op("Mul", part, one) if part else one
            total = self.op("Add", total, part) if total else part
        return total

    def _atom(self, atom: Atom) -> str:
        match atom:
            case Symbol(name):
                return self._symbol(name)
            case Apply("//", left, right):
                a, b = self.size(left), self.size(right)  # ONNX's Div rounds towards 0, its Mod has the divisor's sign
                return str(self.op("Div", self.op("Sub", a, self.op("Mod", a, b)), b))
            case Apply("%", left, right):
                return str(self.op("Mod", self.size(left), self.size(right)))
            case Apply("min" | "max" as which, left, right):
                return str(self.op(which.capitalize(), self.size(left), self.size(right)))
        raise UnsupportedError(f"the size {atom} cannot be written to ONNX",
                               help="give the open dimensions sizes: --dim")

    def _symbol(self, name: str) -> str:
        for value in self.graph.inputs:
            for axis, dim in enumerate(value.tensor.shape):
                if dim == dims.sym(name):
                    return str(self.op("Shape", self.name(value), start=axis, end=axis + 1))
        raise UnsupportedError(f"the size {name} depends on data, which is not written to ONNX")

    def cast(self, name: str, to: DType) -> str:
        return str(self.op("Cast", name, to=CODES[to]))


def _info(value: Value, name: str) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in value.tensor.shape]
    return helper.make_tensor_value_info(name, CODES[value.tensor.dtype], shape)


def plain(attrs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some attributes under their own names, tuples as lists, bools as ints."""
    found = {name: attrs[name] for name in names}
    return {k: list(v) if isinstance(v, tuple) else int(v) if isinstance(v, bool) else v for k, v in found.items()}
