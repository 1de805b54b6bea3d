"""Ops that are calls of C functions instead of kernels: the runtime's own, and those that a host registers.

    @host_call(ops.string_concat)
    def string_concat(node: Node) -> HostCall:
        return HostCall("string_concat")

The rule names the function, the constant bytes it is handed and the symbols whose sizes it gives (`bound`); the plan
fills in the tensors. Operands are dense, as C wants them. A result whose size the call gives starts to live at the call
itself: the runtime plans its memory in the middle of it (docs/architecture.md §4.3).
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lepton.codegen.control import known_from_here
from lepton.codegen.program import HostCall, Step, StepKind
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, sym
from lepton.ir.op import Op

if TYPE_CHECKING:
    from lepton.codegen.plan import Planner

HostRule = Callable[[Node], HostCall]
HOST_CALLS: dict[Op, HostRule] = {}


def host_call(op: Op) -> Callable[[HostRule], HostRule]:
    """Register the function that computes an op."""

    def register(rule: HostRule) -> HostRule:
        if op in HOST_CALLS:
            raise ValueError(f"{op} is called twice")
        HOST_CALLS[op] = rule
        return rule

    return register


def registered(name: str, node: Node) -> HostCall:
    """A call of the host's function "domain::Name", which gets the node's attributes as JSON.

    Its `symbols`, if it has any, are the sizes that the function gives; "sizes" in the JSON says where each of them
    stands, as [output, axis]. Raises UnsupportedError for attributes that JSON cannot hold."""
    attributes = {key: value for key, value in node.attrs.items() if key != "symbols"}
    symbols = [sym(s) for s in node.attrs.get("symbols", ())]
    try:
        if symbols and "sizes" in attributes:
            raise TypeError("'sizes' says where the sizes stand that the function gives")
        if symbols:
            attributes["sizes"] = [_stands(s, node) for s in symbols]
        text = json.dumps(attributes, sort_keys=True)
    except TypeError as error:
        raise UnsupportedError(f"an attribute of {name} cannot be handed to a function: {error}",
                               where=node.loc[0] if node.loc else None) from error
    return HostCall(name, text.encode() + b"\0", tuple(symbols))  # a zero behind it: C reads it as a string


def _stands(symbol: Dim, node: Node) -> tuple[int, int]:
    """(output, axis) of a size that the call gives. Raises UnsupportedError where no output has it as it is."""
    found = ((i, axis) for i, result in enumerate(node.results)
             for axis, dim in enumerate(result.tensor.shape) if dim == symbol)
    place = next(found, None)
    if place is None:
        raise UnsupportedError(f"no output of {node.op.name} has the size {symbol} that the function gives",
                               where=node.loc[0] if node.loc else None)
    return place


def emit_host_call(p: Planner, node: Node) -> None:
    call = HOST_CALLS[node.op](node)
    operands = tuple(None if v is None else _dense(p, v) for v in node.inputs)
    for result in node.results:
        place = p.wanted.get(result)
        if place is None or not place.is_dense(result.tensor):
            place = p.workspace(result.tensor)
        p.places[result] = place
    values = [v for v in (*operands, *node.results) if v is not None]
    types = (*(None if v is None else v.tensor for v in operands), *(r.tensor for r in node.results))
    call = replace(call, tensors=types, n_inputs=len(operands))
    p.step(Step(StepKind.HOST_CALL, tuple(p.operand(v) for v in values), call=call, loc=node.loc))
    if call.bound:
        known_from_here(p, *map(str, call.bound))


def _dense(p: Planner, value: Value) -> Value:
    """The value, or a copy of it in row-major order."""
    if p.place(value).is_dense(value.tensor):
        return value
    mine = p.value(value.tensor)
    p.copy_value(value, mine)
    return mine
