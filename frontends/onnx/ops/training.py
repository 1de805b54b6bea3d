"""ai.onnx.preview.training: gradients, and one step of an optimiser as elementwise ops on each tensor with its gradient
and state."""
from __future__ import annotations

from collections.abc import Sequence

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.gradient import gradients, replayed
from lepton.ir.op import Op

DOMAIN = "ai.onnx.preview.training"


class Step:
    """The operands of an optimiser: a rate, a step count, then equally many tensors of each role."""

    def __init__(self, c: Call, roles: int) -> None:
        self.c = c
        count, rest = divmod(len(c.inputs) - 2, roles)
        if rest or count < 1:
            raise LeptonError(f"{len(c.inputs)} inputs are not a rate, a step count and {roles} for each tensor",
                              where=c.where)
        self.tensors = [tuple(c.x(2 + i + role * count) for role in range(roles)) for i in range(count)]

    def __call__(self, op: Op, *operands: Value | float) -> Value:
        """Apply an op; numbers take the element type of the tensor among the operands."""
        x = next(o for o in operands if isinstance(o, Value))
        return self.c(op, *(o if isinstance(o, Value) else self.c.like(o, x) for o in operands))

    def rate(self, x: Value) -> Value:
        return self.c.cast(self.c.x(0), x.tensor.dtype)

    def count(self, x: Value) -> Value:
        return self.c.cast(self.c.x(1), x.tensor.dtype)

    def regularised(self, x: Value, gradient: Value, coefficient: float) -> Value:
        return self(ops.add, self(ops.mul, coefficient, x), gradient) if coefficient else gradient

    def mixed(self, a: float, x: Value, b: Value | float, y: Value) -> Value:
        """a*x + b*y"""
        return self(ops.add, self(ops.mul, a, x), self(ops.mul, b, y))


def _by_role(results: Sequence[tuple[Value, ...]]) -> list[Value]:
    """All new tensors, then all of each new state."""
    return [value for role in zip(*results, strict=True) for value in role]


@imports("Adagrad", domain=DOMAIN)
def adagrad(c: Call) -> list[Value]:
    """h += g²; x -= rate / (1 + step * decay) * g / (√h + ε)"""
    s = Step(c, 3)
    decay, epsilon, norm = c.f("decay_factor", 0.0), c.f("epsilon", 1e-6), c.f("norm_coefficient", 0.0)
    results = []
    for x, gradient, state in s.tensors:
        rate = s(ops.div, s.rate(x), s(ops.add, 1.0, s(ops.mul, s.count(x), decay)))
        g = s.regularised(x, gradient, norm)
        h = s(ops.add, state, s(ops.mul, g, g))
        step = s(ops.div, s(ops.mul, rate, g), s(ops.add, s(ops.sqrt, h), epsilon))
        results.append((s(ops.sub, x, step), h))
    return _by_role(results)


@imports("Adam", domain=DOMAIN)
def adam(c: Call) -> list[Value]:
    """v = αv + (1-α)g; h = βh + (1-β)g²; x -= rate' * v / (√h + ε), where rate' corrects the first steps."""
    s = Step(c, 4)
    alpha, beta, epsilon = c.f("alpha", 0.9), c.f("beta", 0.999), c.f("epsilon", 1e-6)
    norm, after = c.f("norm_coefficient", 0.0), c.f("norm_coefficient_post", 0.0)
    results = []
    for x, gradient, v, h in s.tensors:
        count, rate = s.count(x), s.rate(x)
        high, low = (s(ops.sub, 1.0, s(ops.pow_, c.like(base, x), count)) for base in (beta, alpha))
        corrected = s(ops.div, s(ops.mul, rate, s(ops.sqrt, high)), low)
        rate = s(ops.where, s(ops.greater, count, 0.0), corrected, rate)
        g = s.regularised(x, gradient, norm)
        v = s.mixed(alpha, v, 1 - alpha, g)
        h = s.mixed(beta, h, 1 - beta, s(ops.mul, g, g))
        moved = s(ops.sub, x, s(ops.div, s(ops.mul, rate, v), s(ops.add, s(ops.sqrt, h), epsilon)))
        results.append((s(ops.mul, 1 - after, moved) if after else moved, v, h))
    return _by_role(results)


@imports("Momentum", domain=DOMAIN)
def momentum(c: Call) -> list[Value]:
    """v = αv + βg (β is 1 at step 0); x -= rate * v, or with Nesterov's rule rate * (g + αv)."""
    s = Step(c, 3)
    alpha, beta, norm = (c.f(name, REQUIRED) for name in ("alpha", "beta", "norm_coefficient"))
    mode = c.s("mode", REQUIRED)
    if mode not in ("standard", "nesterov"):
        raise LeptonError(f"mode {mode!r}", where=c.where)
    results = []
    for x, gradient, state in s.tensors:
        g = s.regularised(x, gradient, norm)
        share = s(ops.where, s(ops.greater, s.count(x), 0.0), c.like(beta, x), c.like(1.0, x))
        v = s.mixed(alpha, state, share, g)
        way = v if mode == "standard" else s(ops.add, g, s(ops.mul, alpha, v))
        results.append((s(ops.sub, x, s(ops.mul, s.rate(x), way)), v))
    return _by_role(results)


@imports("Gradient", domain=DOMAIN)
def gradient(c: Call) -> list[Value]:
    """The gradients of `y`, summed, with respect to the values named `xs`; those named `zs` are held. The inputs are
    what all of them are taken to be, most often the named values themselves."""
    names = [*c.strings("xs", REQUIRED), *c.strings("zs", ())]
    count = len(c.strings("xs", REQUIRED))
    if len(names) != len(c.inputs):
        raise LeptonError(f"{len(c.inputs)} inputs for {len(names)} names in 'xs' and 'zs'", where=c.where)
    named = [c.named(name) for name in names]
    given = [c.x(i) for i in range(len(names))]
    for name, old, new in zip(names, named, given, strict=True):
        if old.type != new.type:
            raise LeptonError(f"the input for '{name}' is {new.type}, not {old.type}", where=c.where)
    y = replayed(c.named(c.s("y", REQUIRED)), dict(zip(named, given, strict=True)))
    return gradients(y, given[:count], fixed=given[count:], loc=(c.where,))
