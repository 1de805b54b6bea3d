"""LSTM, GRU, RNN."""
from __future__ import annotations

import re
from typing import Any

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.op import Op

# How many leading entries of activation_alpha and _beta each function takes, by onnx/defs/rnn.
_ALPHA = {"affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu"}
_BETA = {"affine", "scaled_tanh", "hard_sigmoid"}
_DEFAULT_ALPHA = {"affine": 1.0, "leaky_relu": 0.01, "thresholded_relu": 1.0, "scaled_tanh": 1.0, "hard_sigmoid": 0.2,
                  "elu": 1.0}
_DEFAULT_BETA = {"affine": 0.0, "scaled_tanh": 1.0, "hard_sigmoid": 0.5}


@imports("LSTM")
def lstm(c: Call) -> tuple[Value, ...]:
    return layer(c, ops.lstm, 8, input_forget=c.flag("input_forget"))


@imports("GRU")
def gru(c: Call) -> tuple[Value, ...]:
    return layer(c, ops.gru, 6, linear_before_reset=c.flag("linear_before_reset"))


@imports("RNN")
def rnn(c: Call) -> tuple[Value, ...]:
    return layer(c, ops.rnn, 6)


def layer(c: Call, op: Op, operands: int, **attrs: Any) -> tuple[Value, ...]:
    """A recurrent layer with the node's attributes."""
    c.ignore("output_sequence")  # opset 1: whether Y is given, which the outputs say anyway
    recurrence = c.x(2).tensor.shape[-1]
    hidden = c.i("hidden_size", recurrence if isinstance(recurrence, int) else REQUIRED)
    names, alphas, betas = activations(c)
    given = [c.opt(i) for i in range(operands)]
    return c.multi(
        op, *given, hidden=hidden, direction=c.s("direction", "forward"),
        activations=names, alphas=alphas, betas=betas, clip=c.f("clip", 0.0), layout=c.i("layout", 0), **attrs)


def activations(c: Call) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    """The names of the activations, an alpha and a beta for each; empty where the node has none."""
    names = tuple(_snake(name) for name in c.strings("activations", ()))
    return names, *_parameters(names, c.floats("activation_alpha", ()), c.floats("activation_beta", ()))


def _snake(name: str) -> str:
    """HardSigmoid -> hard_sigmoid. ONNX compares the names without case."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    known = {n.replace("_", ""): n for n in _ALPHA}
    return known.get(plain.replace("_", ""), plain)


def _parameters(names: tuple[str, ...], alphas: tuple[float, ...],
                betas: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One alpha and beta per activation: ONNX lists them only for the functions that take one."""
    if not alphas and not betas:
        return (), ()
    given_a, given_b = iter(alphas), iter(betas)
    full_a = [next(given_a, _DEFAULT_ALPHA[n]) if n in _ALPHA else 0.0 for n in names]
    full_b = [next(given_b, _DEFAULT_BETA[n]) if n in _BETA else 0.0 for n in names]
    return tuple(full_a), tuple(full_b)
