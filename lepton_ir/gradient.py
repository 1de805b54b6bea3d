"""Reverse-mode differentiation on the graph: the gradient of a value is more graph.

    dx, dw = gradients(loss, [x, w])

`RULES` has an entry for each op that can be passed backwards: from a `Step` (a node, and the gradient of its result)
and the number of an operand to the gradient of that operand. Where a function has a kink the rules take a value between
the two slopes; what is piecewise constant (floor, comparisons, integers) passes nothing on. Other ops are refused.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.diagnostics import Location, UnsupportedError
from lepton.ir.dims import Dim
from lepton.ir.op import Op
from lepton.ir.tensor import Tensor
from lepton.ir.types import DType, TensorType

Loc = tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class F:
    """A value with Python's operators; numbers beside it are scalars of its type. What is built keeps the location."""

    v: Value
    loc: Loc = ()

    def of(self, op: Op, *others: F | float, **attrs: Any) -> F:
        return F(op(self.v, *(self.like(o) for o in others), loc=self.loc, **attrs), self.loc)

    def like(self, other: F | float) -> Value:
        return other.v if isinstance(other, F) else scalar(other, self.v.tensor.dtype)

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.v.tensor.shape

    def __add__(self, other: F | float) -> F:
        return self.of(ops.add, other)

    def __sub__(self, other: F | float) -> F:
        return self.of(ops.sub, other)

    def __rsub__(self, other: float) -> F:
        return F(ops.sub(self.like(other), self.v, loc=self.loc), self.loc)

    def __mul__(self, other: F | float) -> F:
        return self.of(ops.mul, other)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: F | float) -> F:
        return self.of(ops.div, other)

    def __rtruediv__(self, other: float) -> F:
        return F(ops.div(self.like(other), self.v, loc=self.loc), self.loc)

    def __neg__(self) -> F:
        return self.of(ops.neg)

    def __gt__(self, other: F | float) -> F:
        return self.of(ops.greater, other)

    def __lt__(self, other: F | float) -> F:
        return self.of(ops.less, other)

    def where(self, then: F | float, otherwise: F | float, dtype: DType) -> F:
        """By this condition."""
        a, b = (o.v if isinstance(o, F) else scalar(o, dtype) for o in (then, otherwise))
        return F(ops.where(self.v, a, b, loc=self.loc), self.loc)

    def reshape(self, shape: Sequence[Dim]) -> F:
        return self if self.shape == tuple(shape) else self.of(ops.reshape, shape=tuple(shape))

    def sum(self, axes: Sequence[int], keepdims: bool = True) -> F:
        return self.of(ops.reduce_sum, axes=tuple(axes), keepdims=keepdims) if axes else self

    def summed_to(self, shape: Sequence[Dim]) -> F:
        """The sum over what broadcasting `shape` to this shape has repeated."""
        extra = len(self.shape) - len(shape)
        ones = [a + extra for a, d in enumerate(shape) if d == 1 and self.shape[a + extra] != 1]
        return self.sum([*range(extra), *ones]).reshape(shape)


def scalar(number: float, dtype: DType) -> Value:
    return ops.constant(value=Tensor.of(np.array(number, np.float64).astype(dtype.numpy)))


def filled(number: float, type: TensorType) -> Value:
    return ops.broadcast_to(scalar(number, type.dtype), shape=type.shape)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """A node on the way back: its operands and result, and `g`, the gradient of the result."""

    node: Node
    g: F

    def x(self, index: int = 0) -> F:
        value = self.node.inputs[index]
        assert value is not None
        return F(value, self.g.loc)

    @property
    def y(self) -> F:
        return F(self.node.result, self.g.loc)

    @property
    def dtype(self) -> DType:
        return self.y.v.tensor.dtype


Rule = Callable[[Step, int], F]
RULES: dict[Op, Rule] = {}


def gradients(y: Value, xs: Sequence[Value], *, fixed: Sequence[Value] = (), seed: Value | None = None,
              loc: Loc = ()) -> list[Value]:
    """The gradients of the sum of y's elements (weighted by `seed`, of y's type) with respect to each of `xs`.

    `xs` count as independent, and so do the `fixed` values, which nothing is passed through. What y does not depend on
    gets zeros. Raises UnsupportedError with the place of a node that cannot be differentiated."""
    import lepton.ir.gradient_tensors  # noqa: F401  (fills RULES, as does what it imports)

    leaves = {*xs, *fixed}
    collected: dict[Value, F] = {y: F(seed if seed is not None else filled(1.0, y.tensor), loc)}
    order, wanted = _way_back(y, leaves, set(xs))
    for node in order:
        if not any(r in collected for r in node.results):
            continue
        for i, operand in enumerate(node.inputs):
            if operand is not None and operand in wanted:
                g = _rule(node)(Step(node, collected[node.result]), i)
                collected[operand] = collected[operand] + g if operand in collected else g
    return [collected[x].v if x in collected else filled(0.0, x.tensor) for x in xs]


def _rule(node: Node) -> Rule:
    if node.op not in RULES or len(node.results) != 1:
        raise UnsupportedError(f"{node.op.name} cannot be differentiated",
                               where=node.loc[0] if node.loc else None)
    return RULES[node.op]


def _way_back(y: Value, leaves: set[Value], xs: set[Value]) -> tuple[list[Node], set[Value]]:
    """The nodes between the leaves and y, later ones first, and the float values among them that depend on `xs`."""
    order: dict[Node, None] = {}
    seen: set[Node] = set()
    todo: list[tuple[Value, bool]] = [(y, False)]
    wanted = {x for x in xs if x.tensor.dtype.is_float}
    while todo:
        value, ready = todo.pop()
        node = value.producer
        if node is None or value in leaves:
            continue
        if ready:
            if any(v in wanted for v in node.inputs) and node.op not in FLAT:
                wanted.update(r for r in node.results if isinstance(r.type, TensorType) and r.tensor.dtype.is_float)
            order[node] = None
        elif node not in seen:
            seen.add(node)
            todo.append((value, True))
            todo += [(v, False) for v in node.inputs if v is not None]
    return list(order)[::-1], wanted


# Piecewise constant: the gradient is 0 wherever there is one.
FLAT = frozenset({ops.floor, ops.ceil, ops.round_, ops.sign, ops.equal, ops.less, ops.less_equal, ops.greater,
                  ops.greater_equal, ops.is_nan, ops.is_inf, ops.arg_max, ops.arg_min, ops.hardmax})


def replayed(y: Value, given: Mapping[Value, Value]) -> Value:
    """y computed again with other values in the place of some that it depends on; what does not depend on them is
    shared."""
    env: dict[Value, Value] = dict(given)
    todo: list[tuple[Value, bool]] = [(y, False)]
    while todo:
        value, ready = todo.pop()
        node = value.producer
        if value in env:
            continue
        if node is None:
            env[value] = value
        elif not ready:
            todo.append((value, True))
            todo += [(v, False) for v in node.inputs if v is not None]
        elif all(v is None or env[v] is v for v in node.inputs):
            env.update((r, r) for r in node.results if r not in env)
        else:
            copied = Node(node.op, [None if v is None else env[v] for v in node.inputs], node.attrs,
                          regions=node.regions, loc=node.loc)
            env.update((old, new) for old, new in zip(node.results, copied.results, strict=True) if old not in env)
    return env[y]
