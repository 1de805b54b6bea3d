"""The interpreter: what a graph means, by each op's numpy reference.

Folding, tests and self-checks use it. It follows every promise of the types: input shapes bind symbols, guards are
checked, and every result must have the type its node promises."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.core import Graph, Node, Value
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.draws import drawing
from lepton.ir.op import Trait
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

Observer = Callable[[Node, list[Array]], None]
Alter = Callable[[Node, list[Array | None], dict[str, Any], list[Array]], list[Array]]
Env = dict[str, int]
_WIDE = {DType.F16: DType.F64, DType.BF16: DType.F64, DType.F32: DType.F64}


def evaluate(
    graph: Graph, *inputs: Any, float64: bool = False, observe: Observer | None = None, alter: Alter | None = None,
    seed: int = 0,
) -> list[Array]:
    """The graph's outputs for these inputs.

    `float64` computes every f16, bf16 and f32 as f64. `observe` sees each node, those in regions too, with its results.
    `alter` gives what goes on in place of a node's results, of the same types, from its operands, attributes (sizes are
    numbers) and results: rounding errors, say.
    Random draws are those of a new session with `seed`.
    Raises UsageError for inputs that do not fit, LeptonError with the node's location where an op fails."""
    if len(inputs) != len(graph.inputs):
        raise UsageError(f"graph '{graph.name}' has {len(graph.inputs)} inputs, got {len(inputs)}")
    run = _Run(float64, observe, alter)
    env: Env = {}
    pairs = enumerate(zip(graph.inputs, inputs, strict=True))
    arrays = [_input(value, array, i, run, env) for i, (value, array) in pairs]
    with np.errstate(all="ignore"), drawing(seed):
        return run.graph(graph, arrays, env)


def apply(node: Node, operands: Sequence[Array | None], env: Mapping[str, int] | None = None) -> list[Array]:
    """One node's results for these operands, under these sizes of symbols. What constant folding calls."""
    with np.errstate(all="ignore"):
        return _Run(False, None).node(node, list(operands), dict(env or {}))


def _input(value: Value, array: Any, position: int, run: _Run, env: Env) -> Array:
    """The array as the graph wants it, its shape bound to symbols. Raises UsageError."""
    label = f"input '{value.name}'" if value.name else f"input {position}"
    wanted = run.type(value.type)
    got = np.asarray(array, dtype=object if wanted.dtype is DType.STRING else None)
    if run.float64 and wanted.dtype is DType.F64:
        got = got.astype(np.float64)
    if got.dtype != wanted.dtype.numpy:
        raise UsageError(f"{label}: expected {wanted}, got {got.dtype}{list(got.shape)}")
    if problem := bind(wanted, got.shape, env):
        raise UsageError(f"{label}: expected {wanted}, got {TensorType(wanted.dtype, got.shape)}: {problem}")
    return got


def bind(type: TensorType, shape: Sequence[int], env: Env) -> str:
    """Bind the unbound symbols of `type` to a shape's sizes; what does not fit, in words, or "".

    Bare symbols bind first, on whatever axis they stand, then expressions are checked against them."""
    if len(shape) != type.rank:
        return f"rank {len(shape)}, not {type.rank}"
    for dim, size in zip(type.shape, shape, strict=True):
        name = symbol_name(dim)
        if name is not None:
            env.setdefault(name, size)
    for axis, (dim, size) in enumerate(zip(type.shape, shape, strict=True)):
        try:
            wanted = dims.evaluate(dim, env)
        except KeyError as error:
            return f"axis {axis} is {dim}, and nothing says what {error.args[0]} is"
        if wanted != size:
            return f"axis {axis} is {size}, not {wanted}" + (f" ({dim})" if str(dim) != str(wanted) else "")
    return ""


def symbol_name(dim: dims.Dim) -> str | None:
    """The name, if `dim` is one symbol and nothing else."""
    names = dims.symbols(dim)
    if len(names) != 1:
        return None
    (name,) = names
    return name if dim == dims.sym(name) else None


@dataclass
class _Run:
    """One evaluation: its options, and the guards already seen for each node."""

    float64: bool
    observe: Observer | None
    alter: Alter | None = None
    guards: dict[Node, list[dims.Guard]] = field(default_factory=dict)

    def type(self, type: Type) -> TensorType:
        """The type to expect of a value of this type."""
        if not isinstance(type, TensorType):
            raise LeptonError(f"the interpreter does not know values of type {type}")
        return type.with_dtype(_WIDE.get(type.dtype, type.dtype)) if self.float64 else type

    def graph(self, graph: Graph, inputs: Sequence[Array], env: Env) -> list[Array]:
        """The outputs; `env` gains the sizes that arise on the way. Values go when nobody reads them any more."""
        values: dict[Value, Array] = dict(zip(graph.inputs, inputs, strict=True))
        nodes = graph.nodes
        left = Counter(v for user in (*nodes, graph.ret) for v in user.inputs if v is not None)
        for node in nodes:
            operands = [None if v is None else values[v] for v in node.inputs]
            for value, array in zip(node.results, self.node(node, operands, env), strict=True):
                values[value] = array
            del operands
            for operand in node.inputs:
                if operand is not None:
                    left[operand] -= 1
                    if not left[operand]:
                        del values[operand]
        return [values[v] for v in graph.outputs]

    def node(self, node: Node, operands: list[Array | None], env: Env) -> list[Array]:
        try:
            self._check_guards(node, env)
            results = self._compute(node, operands, env)
        except LeptonError as error:
            raise self._located(error, node) from error
        except (IndexError, ValueError, TypeError, ZeroDivisionError, AssertionError, KeyError) as error:
            shown = ", ".join("_" if x is None else f"{x.dtype}{list(x.shape)}" for x in operands)
            failed = LeptonError(f"{node.op.name}: {error}; operands: {shown}")
            raise self._located(failed, node) from error
        if self.observe is not None:
            self.observe(node, results)
        return results

    def _located(self, error: LeptonError, node: Node) -> LeptonError:
        if error.where is not None or not node.loc:
            return error
        return type(error)(error.message, where=node.loc[0], help=error.help)

    def _compute(self, node: Node, operands: list[Array | None], env: Env) -> list[Array]:
        attrs = {name: _concrete(value, env, self.float64) for name, value in node.attrs.items()}
        if node.op.has(Trait.REGIONS):
            attrs["regions"] = tuple(_Region(self, region, env) for region in node.regions)
        outcome = node.op.reference(*operands, **attrs)
        outcome = outcome if isinstance(outcome, tuple) else (outcome,)
        if len(outcome) != len(node.results):
            raise LeptonError(f"{node.op.name} gave {len(outcome)} results, its type rule {len(node.results)}")
        if node.op.has(Trait.SIZES):
            env.update(zip(node.attrs["symbols"], map(int, outcome[0]), strict=True))
        results = [self._result(node, i, array, env) for i, array in enumerate(outcome)]
        return results if self.alter is None else self.alter(node, operands, attrs, results)

    def _result(self, node: Node, index: int, array: Any, env: Env) -> Array:
        promised = self.type(node.results[index].type)
        array = np.asarray(array)
        if self.float64 and node.op.has(Trait.CONSTANT) and promised.dtype is DType.F64:
            array = array.astype(np.float64)
        if array.dtype != promised.dtype.numpy:
            raise LeptonError(f"{node.op.name} gave {array.dtype}, its type rule promised {promised}")
        if problem := bind(promised, array.shape, env):
            shown = f"{array.dtype}{list(array.shape)}"
            raise LeptonError(f"{node.op.name} gave {shown}, its type rule promised {promised}: {problem}")
        return np.asarray(array)

    def known_types(self, region: Graph, env: Env) -> tuple[TensorType, ...]:
        """Types of the region's outputs, with sizes nobody knows yet as 0."""
        sizes = [{name: env.get(name, 0) for d in v.tensor.shape for name in dims.symbols(d)} for v in region.outputs]
        return tuple(self.type(v.type).with_shape([dims.substitute(d, known) for d in v.tensor.shape])
                     for v, known in zip(region.outputs, sizes, strict=True))

    def _check_guards(self, node: Node, env: Env) -> None:
        """What the type rule took for granted must hold now."""
        if node not in self.guards:
            with dims.collect_guards() as found:
                types = tuple(None if v is None else v.type for v in node.inputs)
                node.op.result_types(types, node.attrs, node.regions)
            self.guards[node] = found
        for a, b in self.guards[node]:
            x, y = dims.evaluate(a, env), dims.evaluate(b, env)
            if x != y:
                raise LeptonError(f"{node.op.name} needs {a} = {b}, got {x} and {y}")


class _Region:
    """A region as a function. Symbols that only the region knows are bound anew in each call."""

    def __init__(self, run: _Run, graph: Graph, env: Env) -> None:
        self.run, self.graph, self.env = run, graph, env
        self.types = run.known_types(graph, env)

    def __call__(self, *inputs: Array) -> list[Array]:
        env = dict(self.env)
        for value, array in zip(self.graph.inputs, inputs, strict=True):
            if problem := bind(self.run.type(value.type), array.shape, env):
                raise LeptonError(f"region '{self.graph.name}': {value.type} got {list(array.shape)}: {problem}")
        return self.run.graph(self.graph, inputs, env)


def _concrete(value: Any, env: Env, float64: bool) -> Any:
    """An attribute with its dims as numbers (in tuples too) and, under `float64`, its float types as f64."""
    match value:
        case dims.Expr():
            return dims.evaluate(value, env)
        case tuple():
            return tuple(_concrete(v, env, float64) for v in value)
        case DType() if float64:
            return _WIDE.get(value, value)
    return value
