"""Recurrent layers, in ONNX's shapes: x [T,N,I], w [D,G*H,I], r [D,G*H,H], b [D,2*G*H], states [D,N,H].

D is the number of directions (2: bidirectional), G the number of gates, H = `hidden`. `layout` 1 puts the batch first:
x [N,T,I], states [N,D,H], y [N,T,D,H]. `seq_lens` (i32[N], absent: T) says how many steps of each sequence count: later
states stay, later rows of y are 0, and the reverse direction begins at a sequence's own end. An empty sequence keeps
its initial state (absent: 0). Each direction has its own `activations`, one name for each of the layer's functions
(none at all: the usual ones), with `alphas` and `betas` beside them (none: their defaults). `clip` > 0 bounds what goes
into them. With `w_scale` and `r_scale` [D,G*H], x is f32, w and r are i8: w[d,g,i] stands for itself times
w_scale[d,g]."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from lepton.ir.dims import Dim
from lepton.ir.ops.rules import fail, floating, integer, one_dtype, same_shape, tensor, wide_op
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
Function = Callable[[Array], Array]
States = tuple[Array, ...]
Step = Callable[[Array, States], States]   # (what the input gives the gates [N,G*H], states) -> states


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


# name -> function of x, alpha, beta; and the defaults of the two.
ACTIVATIONS: dict[str, tuple[Callable[[Array, float, float], Array], float, float]] = {
    "sigmoid": (lambda x, a, b: _logistic(x), 0.0, 0.0),
    "tanh": (lambda x, a, b: np.tanh(x), 0.0, 0.0),
    "relu": (lambda x, a, b: np.maximum(x, 0), 0.0, 0.0),
    "affine": (lambda x, a, b: np.asarray(a * x + b), 1.0, 0.0),
    "leaky_relu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, 0.0),
    "thresholded_relu": (lambda x, a, b: np.where(x > a, x, np.zeros_like(x)), 1.0, 0.0),
    "scaled_tanh": (lambda x, a, b: np.asarray(a * np.tanh(b * x)), 1.0, 1.0),
    "hard_sigmoid": (lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, 0.0),
    "softsign": (lambda x, a, b: np.asarray(x / (1 + np.abs(x))), 0.0, 0.0),
    "softplus": (lambda x, a, b: np.logaddexp(np.zeros_like(x), x), 0.0, 0.0),
}


# --- types ----------------------------------------------------------------------------------------


def _check(
    gates: int, functions: int, operands: Sequence[Type | None], *, hidden: int, direction: str,
    activations: Sequence[str], layout: int, alphas: Sequence[float], betas: Sequence[float],
) -> tuple[Dim, Dim, int]:
    """(T, N, D) after checking x, w, r, b, seq_lens, w_scale, r_scale and the attributes. Raises TypeRuleError."""
    x, w, r = tensor(operands[0], floating, rank=3), *_weights(*operands[:3], *operands[5:])
    if direction not in DIRECTIONS or layout not in (0, 1):
        raise fail(f"direction {direction!r} or layout {layout} is unknown", *operands)
    d = len(DIRECTIONS[direction])
    for scale in operands[5:]:
        if scale is not None:
            same_shape(tensor(scale).shape, (d, gates * hidden), "sizes of a scale", *operands)
    steps, batch = (x.shape[0], x.shape[1]) if layout == 0 else (x.shape[1], x.shape[0])
    same_shape(w.shape, (d, gates * hidden, x.shape[2]), "sizes of w", *operands)
    same_shape(r.shape, (d, gates * hidden, hidden), "sizes of r", *operands)
    if operands[3] is not None:
        same_shape(tensor(operands[3], floating).shape, (d, 2 * gates * hidden), "sizes of b", *operands)
    if operands[4] is not None:
        same_shape(tensor(operands[4], integer).shape, (batch,), "sizes of seq_lens", *operands)
    if len(activations) not in (0, d * functions) or any(a not in ACTIVATIONS for a in activations):
        raise fail(f"activations {tuple(activations)} are not {d * functions} of {', '.join(ACTIVATIONS)}", *operands)
    if any(len(values) not in (0, len(activations)) for values in (alphas, betas)):
        raise fail("alphas and betas need one entry per activation, or none", *operands)
    return steps, batch, d


def _weights(x: Type | None, w: Type | None, r: Type | None, w_scale: Type | None,
             r_scale: Type | None) -> tuple[TensorType, TensorType]:
    """w and r: of x's type, or levels, each with its scale."""
    if w_scale is None and r_scale is None:
        one_dtype(tensor(x), *(kept := (tensor(w, floating, rank=3), tensor(r, floating, rank=3))))
        return kept
    if w_scale is None or r_scale is None:
        raise fail("one scale without the other", x, w, r, w_scale, r_scale)
    one_dtype(tensor(x, _single), tensor(w_scale, floating, rank=2), tensor(r_scale, floating, rank=2))
    return tensor(w, _levels, rank=3), tensor(r, _levels, rank=3)


def _single(dtype: DType) -> bool:
    """f32"""
    return dtype is DType.F32


def _levels(dtype: DType) -> bool:
    """i8"""
    return dtype is DType.I8


def _state(t: Type | None, batch: Dim, d: int, hidden: int, layout: int, *operands: Type | None) -> tuple[Dim, ...]:
    """The shape of a state, which `t` must have if it is there."""
    shape: tuple[Dim, ...] = (d, batch, hidden) if layout == 0 else (batch, d, hidden)
    return shape if t is None else same_shape(tensor(t, floating).shape, shape, "sizes of a state", *operands)


def _one_state_type(gates: int, x: Type, w: Type, r: Type, b: Type | None = None, seq_lens: Type | None = None,
                    h0: Type | None = None, w_scale: Type | None = None, r_scale: Type | None = None, *, hidden: int,
                    direction: str, activations: Sequence[str], clip: float, layout: int, alphas: Sequence[float],
                    betas: Sequence[float], linear_before_reset: bool = False) -> tuple[TensorType, ...]:
    operands = (x, w, r, b, seq_lens, w_scale, r_scale)
    steps, batch, d = _check(gates, 1 if gates == 1 else 2, operands, hidden=hidden, direction=direction,
                             activations=activations, layout=layout, alphas=alphas, betas=betas)
    state = tensor(x).with_shape(_state(h0, batch, d, hidden, layout, *operands, h0))
    return state.with_shape((steps, d, batch, hidden) if layout == 0 else (batch, steps, d, hidden)), state


def _lstm_type(x: Type, w: Type, r: Type, b: Type | None = None, seq_lens: Type | None = None, h0: Type | None = None,
               c0: Type | None = None, p: Type | None = None, w_scale: Type | None = None, r_scale: Type | None = None,
               *, hidden: int, direction: str, activations: Sequence[str], clip: float, input_forget: bool, layout: int,
               alphas: Sequence[float], betas: Sequence[float]) -> tuple[TensorType, ...]:
    operands = (x, w, r, b, seq_lens, w_scale, r_scale)
    steps, batch, d = _check(4, 3, operands, hidden=hidden, direction=direction, activations=activations, layout=layout,
                             alphas=alphas, betas=betas)
    if p is not None:
        same_shape(tensor(p, floating).shape, (d, 3 * hidden), "sizes of p", *operands, h0, c0, p)
    for initial in (h0, c0):
        state = tensor(x).with_shape(_state(initial, batch, d, hidden, layout, *operands, h0, c0))
    return state.with_shape((steps, d, batch, hidden) if layout == 0 else (batch, steps, d, hidden)), state, state


# --- what all three share -------------------------------------------------------------------------


def _functions(direction: int, count: int, names: Sequence[str], alphas: Sequence[float], betas: Sequence[float],
               usual: Sequence[str], clip: float) -> list[Function]:
    """The activations of one direction, clipped where the layer says so."""
    made: list[Function] = []
    for k in range(count):
        slot = direction * count + k
        apply, alpha, beta = ACTIVATIONS[names[slot] if names else usual[k]]
        alpha, beta = (alphas[slot] if alphas else alpha), (betas[slot] if betas else beta)
        made.append(partial(_activate, apply, alpha, beta, clip))
    return made


def _activate(
    apply: Callable[[Array, float, float], Array], alpha: float, beta: float, clip: float, x: Array
) -> Array:
    return apply(np.clip(x, -clip, clip) if clip > 0 else x, alpha, beta)


def _run(x: Array, w: Array, seq_lens: Array | None, initial: Sequence[Array | None], steps_of: Sequence[Step],
         bias: Sequence[Array], *, hidden: int, direction: str, layout: int) -> tuple[Array, ...]:
    """(y, final states…) of all directions. `steps_of` and `bias` (of the input's part) have one entry each."""
    x = x if layout == 0 else x.swapaxes(0, 1)
    steps, batch = x.shape[:2]
    lens = np.full(batch, steps) if seq_lens is None else seq_lens.astype(np.int64)
    rows, finals = [], []
    for d, backwards in enumerate(DIRECTIONS[direction]):
        order = _order(steps, lens, backwards)
        gates = np.take_along_axis(x, order[..., None], 0) @ w[d].T + bias[d]
        states = tuple(np.zeros((batch, hidden), x.dtype) if s is None else (s[d] if layout == 0 else s[:, d])
                       for s in initial)
        y = np.zeros((steps, batch, hidden), x.dtype)
        for t in range(steps):
            alive = (t < lens)[:, None]
            new = steps_of[d](gates[t], states)
            states = tuple(np.where(alive, n, s) for n, s in zip(new, states, strict=True))
            y[t] = np.where(alive, states[0], 0)
        rows.append(np.take_along_axis(y, order[..., None], 0))
        finals.append(states)
    y = np.stack(rows, axis=1)  # [T,D,N,H]
    ends = [np.stack(s) for s in zip(*finals, strict=True)]
    if layout == 0:
        return (y, *ends)
    return (np.ascontiguousarray(y.transpose(2, 0, 1, 3)), *(np.ascontiguousarray(e.swapaxes(0, 1)) for e in ends))


def _order(steps: int, lens: Array, backwards: bool) -> Array:
    """[T,N]: which step of each sequence comes t-th. It is its own inverse."""
    t = np.arange(steps)[:, None]
    return np.where(t < lens, lens - 1 - t, t) if backwards else np.broadcast_to(t, (steps, len(lens)))


def _decoded(x: Array, weights: Array, scale: Array | None) -> Array:
    return weights if scale is None else np.asarray(weights.astype(x.dtype) * scale[..., None])


def _biases(b: Array | None, w: Array, d: int) -> tuple[Array, Array]:
    """The biases of the input's and of the state's part, [G*H] each."""
    gates = w.shape[1]
    both = np.zeros(2 * gates, w.dtype) if b is None else b[d]
    return both[:gates], both[gates:]


# --- the layers -----------------------------------------------------------------------------------


@wide_op(_lstm_type)
def lstm(
    x: Array, w: Array, r: Array, b: Array | None = None, seq_lens: Array | None = None, h0: Array | None = None,
    c0: Array | None = None, p: Array | None = None, w_scale: Array | None = None, r_scale: Array | None = None, *,
    hidden: int, direction: str = "forward", activations: tuple[str, ...] = (), clip: float = 0.0,
    input_forget: bool = False, layout: int = 0, alphas: tuple[float, ...] = (), betas: tuple[float, ...] = (),
) -> tuple[Array, Array, Array]:
    """Long short-term memory -> (y [T,D,N,H], y_h, y_c). Gates in w, r, b: i, o, f, c; peepholes p [D,3*H]: i, o, f.

    i = f(x·Wi + h·Ri + pi∘c + bi)    f = f(… + pf∘c …), or 1 - i if `input_forget`    c' = f∘c + i∘g(x·Wc + h·Rc + bc)
    o = f(x·Wo + h·Ro + po∘c' + bo)    h' = o∘h(c')    Usual activations f, g, h: sigmoid, tanh, tanh."""
    w, r = _decoded(x, w, w_scale), _decoded(x, r, r_scale)
    cells, bias = [], []
    for d in range(w.shape[0]):
        own, other = _biases(b, w, d)
        peep = np.zeros(3 * hidden, w.dtype) if p is None else p[d]
        functions = _functions(d, 3, activations, alphas, betas, ("sigmoid", "tanh", "tanh"), clip)
        cells.append(partial(_lstm_step, r[d], np.split(peep, 3), functions, input_forget))
        bias.append(own + other)
    y, h, c = _run(x, w, seq_lens, (h0, c0), cells, bias, hidden=hidden, direction=direction, layout=layout)
    return y, h, c


def _lstm_step(r: Array, peep: list[Array], functions: list[Function], input_forget: bool, gates: Array,
               states: States) -> States:
    h, c = states
    f, g, out = functions
    i_, o_, f_, c_ = np.split(gates + h @ r.T, 4, axis=1)
    i = f(i_ + peep[0] * c)
    forget = 1 - i if input_forget else f(f_ + peep[2] * c)
    c = forget * c + i * g(c_)
    return f(o_ + peep[1] * c) * out(c), c


@wide_op(partial(_one_state_type, 3))
def gru(
    x: Array, w: Array, r: Array, b: Array | None = None, seq_lens: Array | None = None, h0: Array | None = None,
    w_scale: Array | None = None, r_scale: Array | None = None, *, hidden: int, direction: str = "forward",
    activations: tuple[str, ...] = (), clip: float = 0.0, layout: int = 0,
    alphas: tuple[float, ...] = (), betas: tuple[float, ...] = (), linear_before_reset: bool = False,
) -> tuple[Array, Array]:
    """Gated recurrent unit -> (y [T,D,N,H], y_h). Gates in w, r, b: z, r, h.

    z = f(x·Wz + h·Rz + bz)    r = f(x·Wr + h·Rr + br)    h' = (1 - z)∘n + z∘h, where n = g(x·Wh + (r∘h)·Rh + bh), or
    with `linear_before_reset` g(x·Wh + r∘(h·Rh + rbh) + wbh). Usual activations f, g: sigmoid, tanh."""
    w, r = _decoded(x, w, w_scale), _decoded(x, r, r_scale)
    cells, bias = [], []
    for d in range(w.shape[0]):
        own, other = _biases(b, w, d)
        functions = _functions(d, 2, activations, alphas, betas, ("sigmoid", "tanh"), clip)
        late = np.array(other)
        late[:2 * hidden] = 0  # the candidate's bias may stand inside the reset
        bias.append(own + other - late)
        cells.append(partial(_gru_step, r[d], late[2 * hidden:], functions, linear_before_reset))
    y, h = _run(x, w, seq_lens, (h0,), cells, bias, hidden=hidden, direction=direction, layout=layout)
    return y, h


def _gru_step(r: Array, bias: Array, functions: list[Function], linear_before_reset: bool, gates: Array,
              states: States) -> States:
    (h,) = states
    f, g = functions
    hidden = h.shape[1]
    z, reset = np.split(f(gates[:, :2 * hidden] + h @ r[:2 * hidden].T), 2, axis=1)
    candidate = r[2 * hidden:].T
    inner = reset * (h @ candidate + bias) if linear_before_reset else (reset * h) @ candidate + bias
    return ((1 - z) * g(gates[:, 2 * hidden:] + inner) + z * h,)


@wide_op(partial(_one_state_type, 1))
def rnn(
    x: Array, w: Array, r: Array, b: Array | None = None, seq_lens: Array | None = None, h0: Array | None = None,
    w_scale: Array | None = None, r_scale: Array | None = None, *, hidden: int, direction: str = "forward",
    activations: tuple[str, ...] = (), clip: float = 0.0, layout: int = 0,
    alphas: tuple[float, ...] = (), betas: tuple[float, ...] = (),
) -> tuple[Array, Array]:
    """The simple recurrent layer -> (y [T,D,N,H], y_h): h' = f(x·W + h·R + b), usually with tanh."""
    w, r = _decoded(x, w, w_scale), _decoded(x, r, r_scale)
    cells, bias = [], []
    for d in range(w.shape[0]):
        own, other = _biases(b, w, d)
        (function,) = _functions(d, 1, activations, alphas, betas, ("tanh",), clip)
        bias.append(own + other)
        cells.append(partial(_rnn_step, r[d], function))
    y, h = _run(x, w, seq_lens, (h0,), cells, bias, hidden=hidden, direction=direction, layout=layout)
    return y, h


def _rnn_step(r: Array, function: Function, gates: Array, states: States) -> States:
    return (function(gates + states[0] @ r.T),)
