"""Operators of your own: what an ONNX node of a private domain means, and how it is compiled.

    @custom.traced("acme.ops::SoftClip")                 numpy code, followed: it becomes Lepton's own ops
    @custom.importer("acme.ops::TopMean")                the same by hand, with all that an importer can ask for
    @custom.operator("acme.ops::RunningMax", type_rule)  an op with a meaning in numpy, whose loops
    @custom.lowers(running_max)                          you write
    @custom.host_function("acme.ops::Median", type_rule) an op that the program which runs the model computes

A Python file with such declarations is a plug-in: `leptonc --load-plugin FILE.py`, or import it before compiling.
docs/custom-operators.md shows each of them.
"""
from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lepton.codegen import lower as _lowerings  # noqa: F401  (fills LOWERINGS)
from lepton.codegen.group import LOWERINGS, Lowering
from lepton.codegen.group import lowers as register_lowering
from lepton.codegen.host import HOST_CALLS, host_call, registered
from lepton.driver import compile
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import IMPORTERS, Result, Rule, imports
from lepton.functions import checked_name
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError, UsageError
from lepton.ir.dims import sym
from lepton.ir.op import OPS, Op, Trait
from lepton.ir.traced import trace
from lepton.ir.types import DType, TensorType
from lepton.passes.clusters import EPILOGUE, PROLOGUE

__all__ = ["DECLARED", "Call", "DType", "Op", "TensorType", "Trait", "host_function", "importer", "lowers", "model",
           "operator", "ops", "run", "traced"]

DECLARED: dict[str, Callable[..., Any]] = {}  # what has been declared here, with its meaning where it has one
TypeRule = Callable[..., Any]
F = typing.TypeVar("F", bound=Callable[..., Any])


# --- declaring ------------------------------------------------------------------------------------


def importer(name: str, *, since: int = 1) -> Callable[[F], F]:
    """Declare how nodes "domain::Name" become ops, from version `since` of the domain on. Raises UsageError."""

    def declare(rule: F) -> F:
        _declare(name, since, rule, rule)
        return rule

    return declare


def traced(name: str, *, since: int = 1) -> Callable[[F], F]:
    """Declare an operator by a function in numpy, which is followed once for each node.

    Positional parameters are the inputs (`= None`: optional; `*xs`: any number), keyword-only ones the attributes with
    their defaults, whose annotation (int, float, bool, str, tuple[int, ...]) says of what kind they are."""

    def declare(function: F) -> F:
        def rule(c: Call) -> Result:
            return trace(function, _operands(c, function), _attributes(c, function), (c.where,))

        _declare(name, since, rule, function)
        return function

    return declare


def operator(name: str, infer: TypeRule, *traits: Trait, since: int = 1) -> Callable[[Callable[..., Any]], Op]:
    """Declare an operator that is an op of its own: `infer` takes the operands' types and the attributes and gives the
    results' types, the decorated function is the meaning. `lowers` says how it is compiled."""

    def declare(reference: Callable[..., Any]) -> Op:
        _forget(name)
        op = Op(name.replace("::", "."), infer, reference, inspect.getdoc(reference) or "", frozenset(traits))

        def rule(c: Call) -> Result:
            sizes = {"symbols": tuple(c.fresh(f"{op.name}_{i}") for i in range(reference.sizes))} if hasattr(
                reference, "sizes") else {}
            return c.multi(op, *_operands(c, reference), **_attributes(c, reference), **sizes)

        _declare(name, since, rule, reference)
        return op

    return declare


def lowers(op: Op, *, fused: bool = False) -> Callable[[Lowering], Lowering]:
    """Declare how groups around this op become kernels. `fused`: the lowering computes elementwise ops before the first
    operand and after the result (`Fused` of codegen/lower/fused.py); otherwise it gets the op alone."""

    def declare(lowering: Lowering) -> Lowering:
        for table in (PROLOGUE, EPILOGUE):
            (table.add if fused else table.discard)(op)
        return register_lowering(op)(lowering)

    return declare


def host_function(name: str, infer: TypeRule, *, sizes: int = 0, pure: bool = True, since: int = 1
                  ) -> Callable[[Callable[..., Any]], Op]:
    """Declare an operator that is computed by the function "domain::Name" of the program that runs the model.

    The decorated function is the meaning, for the interpreter and for constants; it is not what runs. `sizes`: how many
    sizes only the function knows; `infer` gets them as the keyword `sizes`, a tuple, and puts each into a shape.
    Without `pure` it is called for equal operands too, and never while compiling."""

    def declare(reference: Callable[..., Any]) -> Op:
        meaning, rule = (_sized(reference, infer, sizes)) if sizes else (reference, infer)
        op = operator(name, rule, *(() if pure else (Trait.IMPURE,)), since=since)(meaning)
        host_call(op)(lambda node: registered(name, node))
        return op

    return declare


def _sized(reference: Callable[..., Any], infer: TypeRule, sizes: int) -> tuple[Callable[..., Any], TypeRule]:
    """Meaning and type rule with the attribute `symbols`, the names of the sizes."""
    @functools.wraps(reference)
    def meaning(*operands: Any, symbols: tuple[str, ...], **attributes: Any) -> Any:
        return reference(*operands, **attributes)

    def rule(*operands: Any, symbols: tuple[str, ...], **attributes: Any) -> Any:
        return infer(*operands, sizes=tuple(map(sym, symbols)), **attributes)

    plain = inspect.signature(reference)
    symbols = inspect.Parameter("symbols", inspect.Parameter.KEYWORD_ONLY)
    meaning.__signature__ = plain.replace(parameters=[*plain.parameters.values(), symbols])  # type: ignore[attr-defined]
    meaning.sizes = sizes  # type: ignore[attr-defined]
    return meaning, rule


def _declare(name: str, since: int, rule: Rule, meaning: Callable[..., Any]) -> None:
    domain, _, operator = checked_name(name).partition("::")
    if domain in ("ai.onnx", "ai.onnx.ml"):
        raise UsageError(f"{name}: the operators of {domain} are ONNX's own", help="use a domain of yours")
    entries = IMPORTERS.get((domain, operator), [])
    if name in DECLARED:  # declared again, as in a notebook
        entries[:] = [entry for entry in entries if entry[0] != since]
    imports(operator, since=since, domain=domain)(rule)
    DECLARED[name] = meaning


def _forget(name: str) -> None:
    """Make room for a second declaration of an op."""
    if name in DECLARED and (old := OPS.pop(name.replace("::", "."), None)) is not None:
        LOWERINGS.pop(old, None)
        HOST_CALLS.pop(old, None)
        PROLOGUE.discard(old)
        EPILOGUE.discard(old)


# --- importing ------------------------------------------------------------------------------------


def _operands(c: Call, function: Callable[..., Any]) -> list[Value | None]:
    """The node's inputs as the function's positional parameters. Raises LeptonError where they do not fit."""
    kinds = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    fixed = [p for p in kinds if p.kind is not p.VAR_POSITIONAL]
    if len(c.inputs) > len(fixed) and len(kinds) == len(fixed):
        raise LeptonError(f"{len(c.inputs)} inputs, expected at most {len(fixed)}", where=c.where)
    count = max(len(c.inputs), len(fixed))
    needed = sum(p.default is p.empty for p in fixed)
    return [c.x(i) if i < needed else c.opt(i) for i in range(count)]


_READERS: dict[Any, Callable[[Call], Callable[[str, Any], Any]]] = {
    int: lambda c: c.i, float: lambda c: c.f, bool: lambda c: c.flag, str: lambda c: c.s,
    tuple[int, ...]: lambda c: c.ints, tuple[float, ...]: lambda c: c.floats, tuple[str, ...]: lambda c: c.strings,
}


def _attributes(c: Call, function: Callable[..., Any]) -> dict[str, Any]:
    """The node's attributes as the function's keyword-only parameters."""
    hints = typing.get_type_hints(inspect.unwrap(function))
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name != "symbols":
            kind = hints.get(name, type(parameter.default))
            if kind not in _READERS:
                raise UsageError(f"parameter '{name}' of {function.__name__}: no attribute is a {kind}",
                                 help="int, float, bool, str, or tuple[int, ...] and the like")
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            found[name] = _READERS[kind](c)(name, default)
    return found


# --- trying out -----------------------------------------------------------------------------------


def model(name: str, arrays: Sequence[np.ndarray[Any, Any] | None], attributes: Mapping[str, Any], outputs: int = 1,
          since: int = 1) -> onnx.ModelProto:
    """A model of one node of this operator, with inputs like these arrays (None: absent), open in all sizes."""
    domain, _, op = checked_name(name).partition("::")
    made = onnx.helper
    given = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    node = made.make_node(op, names, [f"y{i}" for i in range(outputs)], domain=domain)
    node.attribute.extend(made.make_attribute(key, value) for key, value in attributes.items())
    inputs = [made.make_tensor_value_info(key, made.np_dtype_to_tensor_dtype(array.dtype),
                                          [f"{key}_{axis}" for axis in range(array.ndim)])
              for key, array in given.items()]
    graph = made.make_graph([node], op, inputs, [onnx.ValueInfoProto(name=n) for n in node.output])
    opsets = [made.make_opsetid("", 20), made.make_opsetid(domain, since)]
    return made.make_model(graph, opset_imports=opsets, ir_version=10)


def run(name: str, *arrays: np.ndarray[Any, Any] | None, outputs: int = 1, pinned: bool = True,
        **attributes: Any) -> Any:
    """What the compiled operator gives for these arrays: to compare with its meaning in a test of yours.

    `pinned`: compiled for just these sizes; otherwise for any."""
    proto = model(name, arrays, attributes, outputs)
    given = [array for array in arrays if array is not None]
    sizes = {f"x{i}_{axis}": size for i, array in enumerate(arrays) if array is not None
             for axis, size in enumerate(array.shape) if size}
    return compile(proto, dims=sizes if pinned else {})(*given)
