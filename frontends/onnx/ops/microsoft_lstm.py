"""DynamicQuantizeLSTM: an LSTM whose products are integer products of 8-bit weights and activations rounded on the way.

What ONNX Runtime's kernel does, written with ops of the graph. A layer's input is rounded once, over all steps and
sequences; the state before each step, over all sequences:

    gates = scale(x) * w_scale * matmul_integer(rounded x, W)
    scan:   state, cell = LSTM step of (gates[t] + scale(state) * r_scale * matmul_integer(rounded state, R))

On several threads ONNX Runtime rounds the states of each thread's sequences apart, which moves its answers by about a
rounding step; here the batch is one, as it is there on one thread.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.movement import mirrored, nth, parts
from lepton.frontends.onnx.ops.recurrent import activations
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Graph, Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.ops.recurrent import ACTIVATIONS, DIRECTIONS
from lepton.ir.types import DType

_USUAL = ("sigmoid", "tanh", "tanh")
Function = Callable[[Value], Value]
Step = Callable[[Sequence[Value], Sequence[Value], Sequence[Value]], tuple[list[Value], Value]]


@imports("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_quantize_lstm(c: Call) -> list[Value]:
    """X [T,N,I], W [D,I,4H], R [D,H,4H], B [D,8H], lengths [N], states [D,N,H], P [D,3H] -> Y [T,D,N,H], Y_h, Y_c."""
    _, w, r = (c.ranked(i, 3) for i in range(3))
    direction = c.s("direction", "forward")
    if direction not in DIRECTIONS:
        raise LeptonError(f"direction {direction!r}", where=c.where)
    backwards = DIRECTIONS[direction]
    hidden = c.i("hidden_size", REQUIRED)
    if w.tensor.shape[0] != len(backwards) or r.tensor.shape != (len(backwards), hidden, 4 * hidden):
        raise LeptonError(f"weights {w.tensor} and {r.tensor} for hidden size {hidden}, {direction}", where=c.where)
    steps, batch, inputs = _sizes(c)
    functions = _functions(c, len(backwards))
    variant = _Variant(c.f("clip", 0.0), c.flag("input_forget"))
    rows = c.reshape(_counted(c), (steps * batch, inputs))
    levels = c.multi(ops.dynamic_quantize, rows)
    results = []
    for d, back in enumerate(backwards):
        cell = _Cell(c, hidden, functions[d], variant, _scale(c, d, 10), _at(c, 3, d), _at(c, 7, d))
        gates = _product(c, levels, nth(c, w, d), _scale(c, d, 8))
        results.append(_direction(c, cell, d, back, c.reshape(gates, (steps, batch, 4 * hidden))))
    return [_stacked(c, column) for column in zip(*results, strict=True)]


def _sizes(c: Call) -> tuple[Dim, Dim, Dim]:
    """(T, N, I) with the N that all operands can agree on; what is not proved becomes a guard of the reshapes."""
    steps, batch, inputs = c.x(0).tensor.shape
    for index, axis in ((4, 0), (5, 1), (6, 1)):
        if (value := c.opt(index)) is not None and value.tensor.rank > axis:
            batch = dims.unify(batch, value.tensor.shape[axis]) or batch
    return steps, batch, inputs


@dataclass(frozen=True)
class _Variant:
    """clip > 0 bounds what enters the activations; input_forget: the forget gate is 1 - the input gate."""

    clip: float
    input_forget: bool


@dataclass(frozen=True)
class _Scale:
    """The scale of one direction's weights (a scalar, or one per column) and their zero point."""

    factor: Value
    zero: Value


@dataclass(frozen=True)
class _Cell:
    """One step of one direction. bias [8H]: the input's and the state's; peep [3H]: of the gates i, o, f."""

    c: Call
    hidden: int
    functions: Sequence[Function]
    variant: _Variant
    scale: _Scale
    bias: Value | None
    peep: Value | None

    def weights(self, r: Value) -> list[Value]:
        """What every step reads."""
        bias = [] if self.bias is None else parts(self.c, self.bias, 0, (4 * self.hidden,) * 2)
        added = [self.c(ops.add, *bias)] if bias else []
        return [r, self.scale.factor, self.scale.zero, *added, *([] if self.peep is None else [self.peep])]

    def step(self, gates: Value, h: Value, cell: Value, weights: Sequence[Value]) -> tuple[Value, Value]:
        """(next state, next cell); the sums in ONNX Runtime's order."""
        c, (f, g, out) = self.c, self.functions
        r, factor, zero, *rest = weights
        recurrent = _product(c, c.multi(ops.dynamic_quantize, h), r, _Scale(factor, zero))
        i_, o_, f_, c_ = parts(c, c(ops.add, gates, recurrent), 1, (self.hidden,) * 4)
        bias = parts(c, rest.pop(0), 0, (self.hidden,) * 4) if self.bias is not None else [None] * 4
        peep = parts(c, rest.pop(0), 0, (self.hidden,) * 3) if self.peep is not None else [None] * 3
        i = f(self.bounded(self.peeped(i_, peep[0], cell), bias[0]))
        forget = c(ops.sub, c.like(1.0, i), i) if self.variant.input_forget else f(
            self.bounded(self.peeped(f_, peep[2], cell), bias[2]))
        fresh = c(ops.mul, i, g(self.bounded(c_, bias[3])))
        cell = c(ops.add, c(ops.mul, forget, cell), fresh)
        o = f(self.bounded(self.peeped(o_, peep[1], cell), bias[1]))
        return c(ops.mul, o, out(cell)), cell

    def peeped(self, gate: Value, weights: Value | None, cell: Value) -> Value:
        return gate if weights is None else self.c(ops.add, gate, self.c(ops.mul, cell, weights))

    def bounded(self, gate: Value, bias: Value | None) -> Value:
        c, clip = self.c, self.variant.clip
        gate = gate if bias is None else c(ops.add, gate, bias)
        return c(ops.clip, gate, c.like(-clip, gate), c.like(clip, gate)) if clip > 0 else gate


def _direction(c: Call, cell: _Cell, d: int, back: bool, gates: Value) -> tuple[Value, Value, Value]:
    """(y [T,N,H], y_h [N,H], y_c [N,H]); the reverse direction begins at each sequence's own end."""
    steps, batch, _ = gates.tensor.shape
    zeros = c(ops.broadcast_to, c.const(0.0, DType.F32), shape=(batch, cell.hidden))
    h, memory = (zeros if (v := _at(c, i, d)) is None else c.reshape(v, zeros.tensor.shape) for i in (5, 6))
    weights = cell.weights(nth(c, c.x(2), d))
    lens = c.opt(4)
    if lens is None:
        def step(states: Sequence[Value], slices: Sequence[Value], held: Sequence[Value]) -> tuple[list[Value], Value]:
            after = cell.step(slices[0], states[0], states[1], held)
            return list(after), after[0]

        h, memory, y = _scan(c, [h, memory], [gates], weights, step, reverse=back)
        return y, h, memory

    def counted(states: Sequence[Value], slices: Sequence[Value], held: Sequence[Value]) -> tuple[list[Value], Value]:
        """A sequence that has ended gives zeros, to the next rounding too, and keeps its last state and cell."""
        alive = slices[1]
        state, after = cell.step(slices[0], states[0], states[1], held)
        y = c(ops.where, alive, state, c.like(0.0, state))
        return [y, c(ops.where, alive, after, states[1]), c(ops.where, alive, state, states[2])], y

    ends = c.reshape(c.cast(lens, DType.I64), (batch,))
    count = c.reshape(c(ops.iota, size=steps, dtype=DType.I64), (steps, 1, 1))
    alive = c(ops.less, count, c.reshape(ends, (1, batch, 1)))
    gates = mirrored(c, gates, ends) if back else gates
    _, memory, h, y = _scan(c, [h, memory, zeros], [gates, alive], weights, counted, reverse=False)
    some = c(ops.greater, c.reshape(ends, (batch, 1)), c.const(0, DType.I64))
    return mirrored(c, y, ends) if back else y, h, c(ops.where, some, memory, zeros)


def _scan(c: Call, states: Sequence[Value], slices: Sequence[Value], held: Sequence[Value], step: Step, *,
          reverse: bool) -> tuple[Value, ...]:
    """(last states…, collected) of a step run over the slices' first axis. Constants are made inside: a kernel may then
    arrange them as it likes."""
    inner_states = [Value(v.type) for v in states]
    inner_slices = [Value(v.tensor.with_shape(v.tensor.shape[1:])) for v in slices]
    outside = [v for v in held if not _is_constant(v)]
    passed = {v: Value(v.type) for v in outside}
    inside = [passed[v] if v in passed else c(ops.constant, value=v.producer.attrs["value"])  # type: ignore[union-attr]
              for v in held]
    after, collected = step(inner_states, inner_slices, inside)
    region = Graph.of("step", [*inner_states, *inner_slices, *passed.values()], [*after, collected])
    return c.multi(
        ops.scan, *states, *slices, *outside, carried=len(states), input_axes=(0,) * len(slices), output_axes=(0,),
        input_reverse=(reverse,) * len(slices), output_reverse=(reverse,), regions=[region])


def _is_constant(v: Value) -> bool:
    return v.producer is not None and v.producer.op is ops.constant


def _at(c: Call, operand: int, d: int) -> Value | None:
    """What an operand has for the direction, if it is there."""
    value = c.opt(operand)
    return None if value is None else nth(c, value, d)


def _scale(c: Call, d: int, operand: int) -> _Scale:
    """The operands `operand` (scale) and the next (zero point), [D] or [D, 4H]."""
    return _Scale(nth(c, c.x(operand), d), nth(c, c.x(operand + 1), d))


def _product(c: Call, levels: Sequence[Value], weights: Value, scale: _Scale) -> Value:
    """Rounded rows (u8, their scale and zero point) times weights: f32[rows, 4H]."""
    rows, factor, zero = levels
    total = c(ops.matmul_integer, rows, weights, zero, scale.zero)
    return c(ops.mul, c.cast(total, DType.F32), c(ops.mul, factor, scale.factor))


def _counted(c: Call) -> Value:
    """X with the steps that no sequence reaches set to 0, which leaves them out of the range that is rounded."""
    x, lens = c.x(0), c.opt(4)
    if lens is None:
        return x
    longest = c(ops.reduce_max, c.cast(lens, DType.I64), axes=(0,), keepdims=False)
    steps = c(ops.iota, size=x.tensor.shape[0], dtype=DType.I64)
    reached = c.reshape(c(ops.less, steps, longest), (x.tensor.shape[0], 1, 1))
    return c(ops.where, reached, x, c.like(0.0, x))


def _stacked(c: Call, directions: Sequence[Value]) -> Value:
    """[…,N,H] of each direction -> […,D,N,H]"""
    rows = []
    for v in directions:
        *lead, batch, hidden = v.tensor.shape
        shape: list[Dim] = [*lead, 1, batch, hidden]
        rows.append(c.reshape(v, shape))
    return rows[0] if len(rows) == 1 else c(ops.concat, *rows, axis=len(shape) - 3)


# --- activations ----------------------------------------------------------------------------------


def _functions(c: Call, directions: int) -> list[list[Function]]:
    """f, g, h of each direction."""
    names, alphas, betas = activations(c)
    if len(names) not in (0, 3 * directions):
        raise LeptonError(f"{len(names)} activations for {directions} directions", where=c.where)
    found = []
    for d in range(directions):
        row: list[Function] = []
        for k, usual in enumerate(_USUAL):
            slot = 3 * d + k
            name = names[slot] if names else usual
            _, alpha, beta = ACTIVATIONS[name] if name in ACTIVATIONS else c.fail(f"activation {name!r}")
            row.append(_applied(c, name, alphas[slot] if alphas else alpha, betas[slot] if betas else beta))
        found.append(row)
    return found


def _applied(c: Call, name: str, alpha: float, beta: float) -> Function:
    plain = {"sigmoid": ops.sigmoid, "tanh": ops.tanh, "relu": ops.relu, "softsign": ops.softsign,
             "softplus": ops.softplus}
    sloped = {"leaky_relu": ops.leaky_relu, "elu": ops.elu, "thresholded_relu": ops.thresholded_relu}

    def affine(x: Value) -> Value:
        return c(ops.add, c(ops.mul, x, c.like(alpha, x)), c.like(beta, x))

    if name in plain:
        return lambda x: c(plain[name], x)
    if name in sloped:
        return lambda x: c(sloped[name], x, alpha=alpha)
    if name == "affine":
        return affine
    if name == "hard_sigmoid":
        return lambda x: c(ops.hard_sigmoid, x, alpha=alpha, beta=beta)
    return lambda x: c(ops.mul, c(ops.tanh, c(ops.mul, x, c.like(beta, x))), c.like(alpha, x))
