"""The elementwise part of recurrent layers: from gate sums to the next state, one vector of hidden units at a time."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton.codegen.llvm.arith import Arith
from lepton.codegen.llvm.builder import Val, literal
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True)
class Activation:
    """One of lepton.ir.ops.recurrent.ACTIVATIONS with its parameters; `clip` > 0 bounds its argument."""

    name: str
    alpha: float
    beta: float
    clip: float


class Cell:
    """Spells the formulas of lstm, gru and rnn on vectors."""

    def __init__(self, arith: Arith, type: str, dtype: DType) -> None:
        self.arith, self.type, self.dtype = arith, type, dtype

    def number(self, value: float) -> Val:
        return literal(self.type, value)

    def op(self, name: str, *args: Val) -> Val:
        return self.arith.apply(name, list(args), self.dtype)

    def total(self, *terms: Val | None) -> Val:
        kept = [t for t in terms if t is not None]
        result = kept[0]
        for term in kept[1:]:
            result = self.op("add", result, term)
        return result

    def activate(self, activation: Activation, x: Val) -> Val:
        if activation.clip > 0:
            x = self.op("minimum", self.op("maximum", x, self.number(-activation.clip)), self.number(activation.clip))
        return _SPELL[activation.name](self, x, self.number(activation.alpha), self.number(activation.beta))

    def choose(self, test: str, x: Val, limit: Val, yes: Val, no: Val) -> Val:
        return self.arith.f.select(self.op(test, x, limit), yes, no)

    def lstm(self, gates: Sequence[Val], c: Val, peepholes: Sequence[Val] | None, functions: Sequence[Activation],
             input_forget: bool) -> tuple[Val, Val]:
        """(h, c) from the sums of the gates i, o, f, c."""
        f, g, out = functions

        def peep(i: int, state: Val) -> Val | None:
            return None if peepholes is None else self.op("mul", peepholes[i], state)

        i = self.activate(f, self.total(gates[0], peep(0, c)))
        one = self.number(1.0)
        forget = self.op("sub", one, i) if input_forget else self.activate(f, self.total(gates[2], peep(2, c)))
        kept = self.op("mul", forget, c)
        c = self.op("add", kept, self.op("mul", i, self.activate(g, gates[3])))
        return self.op("mul", self.activate(f, self.total(gates[1], peep(1, c))), self.activate(out, c)), c

    def gru(self, z: Val, candidate: Val, h: Val) -> Val:
        """(1 - z) * candidate + z * h"""
        rest = self.op("mul", self.op("sub", self.number(1.0), z), candidate)
        return self.op("add", rest, self.op("mul", z, h))


def _elu(s: Cell, x: Val, a: Val, b: Val) -> Val:
    below = s.op("mul", a, s.op("expm1", s.op("minimum", x, s.number(0))))
    return s.choose("greater_equal", x, s.number(0), x, below)


def _softplus(s: Cell, x: Val, a: Val, b: Val) -> Val:
    rest = s.op("log1p", s.op("exp", s.op("neg", s.op("abs", x))))
    return s.op("add", s.op("maximum", x, s.number(0)), rest)


def _hard_sigmoid(s: Cell, x: Val, a: Val, b: Val) -> Val:
    line = s.op("add", s.op("mul", a, x), b)
    return s.op("minimum", s.op("maximum", line, s.number(0)), s.number(1))


_SPELL: dict[str, Callable[[Cell, Val, Val, Val], Val]] = {
    "sigmoid": lambda s, x, a, b: s.op("sigmoid", x),
    "tanh": lambda s, x, a, b: s.op("tanh", x),
    "relu": lambda s, x, a, b: s.op("maximum", x, s.number(0)),
    "affine": lambda s, x, a, b: s.op("add", s.op("mul", a, x), b),
    "leaky_relu": lambda s, x, a, b: s.choose("greater_equal", x, s.number(0), x, s.op("mul", a, x)),
    "thresholded_relu": lambda s, x, a, b: s.choose("greater", x, a, x, s.number(0)),
    "scaled_tanh": lambda s, x, a, b: s.op("mul", a, s.op("tanh", s.op("mul", b, x))),
    "hard_sigmoid": _hard_sigmoid,
    "elu": _elu,
    "softsign": lambda s, x, a, b: s.op("div", x, s.op("add", s.number(1), s.op("abs", x))),
    "softplus": _softplus,
}
NAMES = frozenset(_SPELL)
