"""Cases: recurrent layers and quantization."""
from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.types import DType
from tests.ir.ops_cases import F32, NAN, Case, case, normal, whole
from tests.ir.ops_oracle import Onnx

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
SPELLING = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "hard_sigmoid": "HardSigmoid", "softsign": "Softsign"}
STEPS, BATCH, SIZE, HIDDEN = 4, 3, 5, 2


def recurrent() -> list[Case]:
    cases = []
    for op, direction in product(GATES, ("forward", "reverse", "bidirectional")):
        cases += [layer(op, direction), layer(op, direction, bias=True, states=True),
                  layer(op, direction, bias=True, lens=np.array([4, 1, 2], np.int32), states=True)]
    cases += [layer("gru", "forward", bias=True, linear_before_reset=True),
              layer("gru", "bidirectional", bias=True, states=True, linear_before_reset=True),
              layer("lstm", "bidirectional", bias=True, states=True, peepholes=True),
              layer("lstm", "forward", bias=True, clip=0.3),
              layer("rnn", "forward", bias=True, clip=0.2),
              layer("rnn", "forward", activations=("relu",)),
              layer("gru", "forward", activations=("hard_sigmoid", "softsign")),
              layer("lstm", "reverse", activations=("sigmoid", "relu", "tanh"))]
    return cases + by_hand()


def layer(op: str, direction: str, *, bias: bool = False, lens: Any = None, states: bool = False,
          peepholes: bool = False, **attrs: Any) -> Case:
    d, g = 2 if direction == "bidirectional" else 1, GATES[op]
    operands = [normal(STEPS, BATCH, SIZE), normal(d, g * HIDDEN, SIZE), normal(d, g * HIDDEN, HIDDEN),
                normal(d, 2 * g * HIDDEN) if bias else None, lens, normal(d, BATCH, HIDDEN) if states else None]
    if op == "lstm":
        operands += [normal(d, BATCH, HIDDEN) if states else None, normal(d, 3 * HIDDEN) if peepholes else None]
    onnx: dict[str, Any] = {"hidden_size": HIDDEN, "direction": direction}
    if "clip" in attrs:
        onnx["clip"] = attrs["clip"]
    if "activations" in attrs:
        onnx["activations"] = [SPELLING[a] for a in attrs["activations"]]
    if "linear_before_reset" in attrs:
        onnx["linear_before_reset"] = 1
    node = Onnx(op.upper(), onnx, outputs=3 if op == "lstm" else 2)
    label = f" bias={bias} states={states} lens={lens is not None} peep={peepholes}"
    return case(op, *operands, hidden=HIDDEN, direction=direction, onnx=node, label=label, atol=1e-5, **attrs)


def by_hand() -> list[Case]:
    """What ONNX Runtime does not do: batch-first layout, parameters of activations, nothing to do."""
    one = np.ones((1, 1, 1), F32)
    x = np.array([[[1.0], [2.0], [3.0]]], F32)      # layout 1: one sequence of three steps
    sums = np.array([1, 3, 6], F32)
    empty = np.zeros((0, 2, 1), F32)
    start = np.array([[[3], [4]]], F32)
    return [
        case("rnn", x, one, one, hidden=1, activations=("affine",), layout=1,
             expected=(sums.reshape(1, 3, 1, 1), sums[-1:].reshape(1, 1, 1))),
        case("rnn", x, one, one, hidden=1, activations=("affine",), alphas=(2.0,), betas=(1.0,), layout=1,
             expected=(np.array([3, 11, 29], F32).reshape(1, 3, 1, 1), np.array([[[29]]], F32))),
        case("rnn", empty, one, one, None, None, start, hidden=1, expected=(np.zeros((0, 1, 2, 1), F32), start)),
        case("rnn", x.reshape(3, 1, 1), one, one, None, np.array([0]), np.array([[[9]]], F32), hidden=1,
             expected=(np.zeros((3, 1, 1, 1), F32), np.array([[[9]]], F32))),
        case("lstm", np.zeros((1, 1, 1), F32), np.zeros((1, 4, 1), F32), np.zeros((1, 4, 1), F32), None, None, None,
             np.array([[[8]]], F32), hidden=1, activations=("affine", "affine", "affine"), input_forget=True,
             alphas=(1.0, 1.0, 1.0), betas=(0.25, 2.0, 0.0),   # i=0.25 f=0.75 g=2 o=0.25: c=6.5, h=0.25*6.5
             expected=(np.array([[[[1.625]]]], F32), np.array([[[1.625]]], F32), np.array([[[6.5]]], F32))),
    ]


def quantization() -> list[Case]:
    x = np.concatenate([normal(20) * 3, np.array([0.05, 0.15, 0.25, 1e9, -1e9], F32)]).reshape(5, 5)
    scale = np.array(0.1, F32)
    cases = []
    for dtype, to in ((np.uint8, DType.U8), (np.int8, DType.I8)):
        zero = np.array(7, dtype)
        cases += [
            case("quantize", x, scale, zero, axis=1, to=to, onnx="QuantizeLinear"),
            case("quantize", x, np.abs(normal(5)), np.arange(5).astype(dtype), axis=0, to=to,
                 onnx=Onnx("QuantizeLinear", {"axis": 0})),
            case("dequantize", whole(-99, 99, 5, 3).astype(dtype), scale, zero, axis=1, onnx="DequantizeLinear"),
            case("dequantize", whole(-99, 99, 5, 3).astype(dtype), normal(3), np.arange(3).astype(dtype), axis=1,
                 onnx=Onnx("DequantizeLinear", {"axis": 1})),
        ]
    blocks, bases = np.abs(normal(2, 3)) + 0.1, np.arange(6).reshape(2, 3).astype(np.uint8)
    y = whole(0, 256, 2, 5, dtype=np.uint8)
    factors, repeated = np.repeat(blocks, 2, axis=1)[:, :5], np.repeat(bases, 2, axis=1)[:, :5].astype(F32)
    nibbles = whole(-8, 8, 4).astype(np.int8)
    cases += [
        case("quantize", np.array([0.5, 1.5, -0.5, NAN], F32), np.array(1, F32), axis=0, to=DType.I8,
             expected=np.array([0, 2, 0, -128], np.int8)),
        case("to_level", np.array([0.5, 1.5, -3.5, 300, -np.inf, NAN], F32), to=DType.U8, zero=3,
             expected=np.array([3, 5, 0, 255, 0, 0], np.uint8)),
        case("to_level", np.array([-130.0, 2.5], F32), to=DType.I8, expected=np.array([-128, 2], np.int8)),
        case("quantize", normal(0, 3), scale, axis=0, to=DType.U8, expected=np.zeros((0, 3), np.uint8)),
        case("dequantize", y, blocks, bases, axis=1, block=2,
             expected=((y.astype(F32) - repeated) * factors).astype(F32)),
        case("quantize", (y * factors).astype(F32), blocks, None, axis=1, block=2, to=DType.U8, expected=y),
        case("dequantize", nibbles.astype(ml_dtypes.int4), scale, axis=0, expected=(nibbles * scale).astype(F32)),
        case("quantize", np.array([-9, 3.4, 99], F32), np.array(1, F32), axis=0, to=DType.I4,
             expected=np.array([-8, 3, 7], np.int8).astype(ml_dtypes.int4)),
        case("dequantize", np.array([10, -(2**31)], np.int32), scale, axis=0, onnx="DequantizeLinear"),
        case("dequantize", np.array([1.5, -448], F32).astype(ml_dtypes.float8_e4m3fn), np.array(2, np.float16), axis=0,
             expected=np.array([3, -896], np.float16)),
        case("quantize", np.array([1e6, -0.3], F32), np.array(1, F32), axis=0, to=DType.F8E4M3FN,
             expected=np.array([448, -0.3], F32).astype(ml_dtypes.float8_e4m3fn)),
    ]
    for z in (normal(4, 5), np.abs(normal(7)) + 1, -np.abs(normal(7)) - 1):
        cases.append(case("dynamic_quantize", z, onnx=Onnx("DynamicQuantizeLinear", outputs=3)))
    for z in (np.zeros(3, F32), np.zeros(0, F32)):
        cases.append(case("dynamic_quantize", z,
                          expected=(np.zeros(z.shape, np.uint8), np.array(1, F32), np.array(0, np.uint8))))
    return cases


CASES = [*recurrent(), *quantization()]
