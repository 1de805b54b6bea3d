"""Cases: elementwise ops, conversion, comparison, logic."""
from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from lepton.ir.types import DType
from tests.ir.ops_cases import F32, HARD, INF, INTEGERS, NAN, TAME, Case, case, normal, whole
from tests.ir.ops_oracle import Onnx

SHAPES = ((), (1,), (0, 3), (2, 3))

UNARY = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sqrt": "Sqrt",
    "reciprocal": "Reciprocal", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh",
    "atanh": "Atanh", "tanh": "Tanh", "erf": "Erf", "sigmoid": "Sigmoid", "relu": "Relu", "softplus": "Softplus",
    "softsign": "Softsign", "mish": "Mish",
}
# ONNX Runtime's vectorised kernels lose these; onnx's evaluator or numpy keeps them.
BY_REFERENCE = {"sign", "relu", "softplus", "softsign", "mish", "sigmoid", "tanh", "erf", "exp", "asinh"}
PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "elu": ("Elu", {"alpha": 0.7}),
    "selu": ("Selu", {"alpha": 1.6732632, "gamma": 1.0507009}),
    "celu": ("Celu", {"alpha": 1.3}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "thresholded_relu": ("ThresholdedRelu", {"alpha": 0.9}),
    "shrink": ("Shrink", {"lambd": 0.8, "bias": 0.3}),
}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
COMPARE = {"equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
           "greater_equal": "GreaterOrEqual"}


def unary() -> list[Case]:
    cases = []
    for op, onnx in UNARY.items():
        opset = 18 if onnx == "Mish" else 17
        node = Onnx(onnx, opset=opset)
        cases += [case(op, normal(*shape), onnx=node) for shape in SHAPES]
        hard = HARD if op not in BY_REFERENCE | {"sin", "cos", "tan"} else TAME
        cases.append(case(op, hard, onnx=node, atol=1e-5 if op == "sinh" else 1e-6, label=" hard"))
        cases.append(case(op, normal(3, 4, dtype=np.float64), rtol=1e-7,
                          onnx=Onnx(onnx, opset=opset, by="reference")))
    for op, (onnx, attrs) in PARAMETERS.items():
        node = Onnx(onnx, attrs if op != "hard_swish" else {})
        cases += [case(op, normal(*shape), onnx=node, **attrs) for shape in SHAPES]
        cases.append(case(op, TAME, onnx=node, label=" tame", **attrs))
    return cases


def special() -> list[Case]:
    """Where NaN and infinity go, written down by hand."""
    x = np.array([NAN, INF, -INF, -0.0], F32)

    def f(*values: float) -> Any:
        return np.array(values, F32)

    table = {
        "relu": f(NAN, INF, 0, 0), "sigmoid": f(NAN, 1, 0, 0.5), "tanh": f(NAN, 1, -1, 0), "erf": f(NAN, 1, -1, 0),
        "exp": f(NAN, INF, 0, 1), "softplus": f(NAN, INF, 0, math.log(2)), "softsign": f(NAN, NAN, NAN, 0),
        "mish": f(NAN, INF, NAN, 0), "sign": f(NAN, 1, -1, 0), "sin": f(NAN, NAN, NAN, 0), "tan": f(NAN, NAN, NAN, 0),
        "cos": f(NAN, NAN, NAN, 1), "rsqrt": f(NAN, 0, NAN, -INF), "log1p": f(NAN, INF, NAN, 0),
        "expm1": f(NAN, INF, -1, 0), "asinh": f(NAN, INF, -INF, 0),
    }
    cases = [case(op, x, expected=y, label=" special") for op, y in table.items()]
    cases += [
        case("gelu", x, approximate="none", expected=f(NAN, INF, NAN, 0), label=" special"),
        case("swish", x, expected=f(NAN, INF, NAN, 0), label=" special"),
        case("hard_swish", x, expected=f(NAN, INF, NAN, 0), label=" special"),
        case("hard_sigmoid", x, alpha=0.2, beta=0.5, expected=f(NAN, 1, 0, 0.5), label=" special"),
        case("leaky_relu", x, alpha=0.5, expected=f(NAN, INF, -INF, 0), label=" special"),
        case("elu", x, alpha=2.0, expected=f(NAN, INF, -2, 0), label=" special"),
        case("celu", x, alpha=2.0, expected=f(NAN, INF, -2, 0), label=" special"),
        case("selu", x, alpha=2.0, gamma=3.0, expected=f(NAN, INF, -6, 0), label=" special"),
        case("thresholded_relu", x, alpha=-0.5, expected=f(0, INF, 0, 0), label=" special"),
        case("shrink", x, lambd=0.5, bias=0.1, expected=f(0, INF, -INF, 0), label=" special"),
        case("shrink", INTEGERS[:7], lambd=1.5, bias=0.5, expected=np.array([0, 0, 0, 1, -1, 6, -6], np.int32)),
        case("prelu", x, f(0.5), expected=f(NAN, INF, -INF, 0), label=" special"),
        case("is_nan", x, expected=np.array([True, False, False, False])),
        case("is_inf", x, expected=np.array([False, True, True, False])),
        case("log1p", f(1e-8, -1, 3), expected=f(1e-8, -INF, math.log(4))),
        case("expm1", f(1e-8, 1), expected=f(1e-8, math.e - 1)),
        case("rsqrt", f(4, 0, 1e-4), expected=f(0.5, INF, 100)),
        case("neg", np.array([5, -128, 0], np.int8), expected=np.array([-5, -128, 0], np.int8)),
        case("abs", np.array([5, -128, 0], np.int8), expected=np.array([5, -128, 0], np.int8)),
        case("floor", INTEGERS, expected=INTEGERS), case("ceil", INTEGERS, expected=INTEGERS),
        case("round", INTEGERS, expected=INTEGERS),
    ]
    return cases


def activations() -> list[Case]:
    wide = np.linspace(-9, 9, 50, dtype=F32)
    return [
        case("gelu", wide, approximate="none", onnx=Onnx("Gelu", {"approximate": "none"}, opset=20)),
        case("gelu", wide, approximate="tanh", onnx=Onnx("Gelu", {"approximate": "tanh"}, opset=20)),
        case("gelu", normal(0, 2), approximate="tanh", onnx=Onnx("Gelu", {"approximate": "tanh"}, opset=20)),
        case("swish", wide, alpha=1.0, expected=(wide / (1 + np.exp(-wide.astype(np.float64)))).astype(F32)),
        case("swish", wide, alpha=1.7, expected=(wide / (1 + np.exp(-1.7 * wide.astype(np.float64)))).astype(F32)),
        case("prelu", normal(2, 3, 4), normal(3, 1), onnx="PRelu"),
        case("prelu", normal(2, 3, 4), normal(1), onnx="PRelu"),
        case("is_inf", HARD, onnx="IsInf"),
        case("is_inf", HARD, positive=False, onnx=Onnx("IsInf", {"detect_positive": 0})),
        case("is_inf", HARD, negative=False, onnx=Onnx("IsInf", {"detect_negative": 0})),
        case("is_nan", HARD, onnx="IsNaN"),
    ]


def binary() -> list[Case]:
    cases = []
    grid = HARD.reshape(-1, 1)
    for op, onnx in (BINARY | COMPARE).items():
        cases += [case(op, normal(*a), normal(*b), onnx=onnx) for a, b in
                  (((2, 3), (2, 3)), ((2, 1), (3,)), ((), (4,)), ((0, 3), (1, 3)), ((1,), (1, 1)), ((0,), (1,)))]
        cases.append(case(op, grid, HARD, onnx=onnx, label=" hard"))
        cases.append(case(op, normal(3, dtype=np.float64), normal(3, dtype=np.float64), onnx=onnx))
        for dtype in (np.int32, np.int64):
            cases.append(case(op, whole(-9, 9, 4, 5, dtype=dtype), whole(1, 9, 5, dtype=dtype), onnx=onnx))
    big, small = INTEGERS.reshape(-1, 1), INTEGERS
    wide = big.astype(np.int64), small.astype(np.int64)
    for op, exact in (("add", wide[0] + wide[1]), ("sub", wide[0] - wide[1]), ("mul", wide[0] * wide[1])):
        cases.append(case(op, big, small, expected=exact.astype(np.int32), label=" wraps"))
    quotients = [[0 if b == 0 else -(2**31) if (a, b) == (-(2**31), -1) else int(a / b) for b in small.tolist()]
                 for a in small.tolist()]
    cases.append(case("div", big, small, expected=np.array(quotients, np.int32), label=" integers"))
    cases.append(case("div", np.array([7, 0, 255], np.uint8), np.array([0, 3, 2], np.uint8),
                      expected=np.array([0, 0, 127], np.uint8)))
    rests = [[0 if b == 0 else a % b for b in small.tolist()] for a in small.tolist()]
    signed = [[0 if b == 0 else int(math.fmod(a, b)) for b in small.tolist()] for a in small.tolist()]
    cases += [
        case("mod", big, small, expected=np.array(rests, np.int32)),
        case("mod", big, small, fmod=True, expected=np.array(signed, np.int32)),
        case("mod", grid, HARD, fmod=True, onnx=Onnx("Mod", {"fmod": 1}), label=" hard"),
        case("mod", whole(-9, 9, 3, 4), np.array([4, -3, 5, -7]), onnx="Mod"),
        case("mod", np.array([5.5, -5.5, 5.5, -5.5, 3, -3], F32), np.array([3, 3, -3, -3, INF, INF], F32),
             expected=np.array([2.5, 0.5, -0.5, -2.5, 3, INF], F32)),
    ]
    for op, onnx in (("minimum", "Min"), ("maximum", "Max")):
        cases += [case(op, grid, HARD, onnx=Onnx(onnx), label=" hard"), case(op, normal(2, 1), normal(3), onnx=onnx),
                  case(op, whole(-9, 9, 4), whole(-9, 9, 4), onnx=onnx), case(op, normal(0, 1), normal(3), onnx=onnx)]
    return cases


def powers() -> list[Case]:
    base = np.array([0, 1, -1, 2, -2, 3], np.int32)
    tame = np.array([NAN, INF, -INF, 0, -0.0, 1, -1, 2, -2, 0.5], F32)
    return [
        case("pow", tame.reshape(-1, 1), tame, onnx="Pow", label=" hard"),
        case("pow", np.abs(normal(3, 4)), normal(4), onnx="Pow"),
        case("pow", normal(3), np.array([2, 3, -1], np.int32), onnx="Pow"),
        case("pow", base, np.array(5, np.int32), expected=np.array([0, 1, -1, 32, -32, 243], np.int32)),
        case("pow", base, np.array(-3, np.int32), expected=np.array([0, 1, -1, 0, 0, 0], np.int32)),
        case("pow", base, np.array(-2, np.int64), expected=np.array([0, 1, 1, 0, 0, 0], np.int32)),
        case("pow", np.array([7, 200], np.uint8), np.array(2, np.uint8),
             expected=np.array([49, 40000 % 256], np.uint8)),
        case("pow", np.array([9, 2], np.int64), np.array(0.5, F32), expected=np.array([3, 1], np.int64)),
    ]


def choice() -> list[Case]:
    x = HARD
    return [
        case("where", x > 0, x, normal(len(x)), onnx="Where"),
        case("where", np.array([[True], [False]]), normal(3), normal(2, 1), onnx="Where"),
        case("where", np.zeros((0, 1), bool), normal(1, 3), normal(3), onnx="Where"),
        case("where", np.array(True), whole(0, 9, 3), whole(0, 9, 1), onnx="Where"),
        case("clip", TAME, np.array(-1, F32), np.array(1.5, F32), onnx="Clip"),
        case("clip", TAME, np.array(2, F32), np.array(1, F32), expected=np.ones_like(TAME), label=" lo>hi"),
        case("clip", x, np.array(0, F32), None, expected=np.where(x < 0, 0, x).astype(F32), label=" lo"),
        case("clip", x, None, np.array(0, F32), expected=np.where(x > 0, 0, x).astype(F32), label=" hi"),
        case("clip", whole(-9, 9, 5), np.array(-2), np.array(3), onnx="Clip"),
        case("clip", x, None, None, expected=x),
    ]


def logic() -> list[Case]:
    t, f = np.array([[True], [False]]), np.array([True, False])
    a, b = whole(0, 256, 6, dtype=np.uint8), whole(0, 256, 6, dtype=np.uint8)
    n = np.array([0, 1, 7, 8, 9, 255], np.uint8)
    return [
        case("logical_and", t, f, onnx="And"), case("logical_or", t, f, onnx="Or"),
        case("logical_xor", t, f, onnx="Xor"), case("logical_not", t, onnx="Not"),
        case("equal", t, f, onnx="Equal"),
        case("equal", np.array(["a", "b"], object), np.array(["a", "c"], object), expected=np.array([True, False])),
        case("bit_and", a, b, onnx=Onnx("BitwiseAnd", opset=18)),
        case("bit_or", a, b, onnx=Onnx("BitwiseOr", opset=18)),
        case("bit_xor", a, b, onnx=Onnx("BitwiseXor", opset=18)), case("bit_not", a, onnx=Onnx("BitwiseNot", opset=18)),
        case("shift_left", a, b % 8, onnx=Onnx("BitShift", {"direction": "LEFT"})),
        case("shift_right", a, b % 8, onnx=Onnx("BitShift", {"direction": "RIGHT"})),
        case("shift_left", np.full(6, 255, np.uint8), n, expected=np.array([255, 254, 128, 0, 0, 0], np.uint8)),
        case("shift_right", np.full(6, 255, np.uint8), n, expected=np.array([255, 127, 1, 0, 0, 0], np.uint8)),
        case("shift_right", np.array([-8, -1, 8], np.int32), np.array([1, 40, 40], np.int32),
             expected=np.array([-4, -1, 0], np.int32)),
    ]


def casts() -> list[Case]:
    pairs: list[tuple[Any, Any]] = [(np.float32, target) for target in (
        np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.bool_)]
    pairs += [(np.int64, np.int32), (np.int32, np.uint8), (np.float64, np.float32), (np.bool_, np.float32),
              (np.int32, np.float32), (np.uint8, np.int8), (np.float16, np.float32)]
    cases = []
    for source, target in pairs:
        x = np.array([0, 1, -1, 2.5, -2.5, 100.7, -0.3], np.float64).astype(source)
        to = DType.of(np.dtype(target))
        cases.append(case("cast", x, to=to, onnx=Onnx(
            "Cast", {"to": _onnx(target)}, by="reference" if to is DType.BF16 else "ort")))
    return cases


def casts_by_hand() -> list[Case]:
    """What does not fit, and types that ONNX Runtime does not have."""
    least32, least64 = -(2**31), -(2**63)
    x = np.array([NAN, INF, -INF, 3e9, -3e9, 1e19, -1e19, 300.9, -300.9], np.float32)
    low = x[3:7].astype(np.float64).astype(object)
    exact = [int(v) for v in low]
    return [
        case("cast", x, to=DType.I32, expected=np.array([least32] * 7 + [300, -300], np.int32)),
        case("cast", x, to=DType.I64, expected=np.array([least64] * 3 + [3 * 10**9, -3 * 10**9] + [least64] * 2
                                                        + [300, -300], np.int64)),
        case("cast", x, to=DType.U8, expected=np.array([0] * 7 + [300 % 256, -300 % 256], np.uint8)),
        case("cast", x, to=DType.U32, expected=np.array(
            [0, 0, 0, 3 * 10**9, -3 * 10**9 % 2**32, 0, 0, 300, -300 % 2**32], np.uint32)),
        case("cast", x, to=DType.U64, expected=np.array(
            [2**63, 2**63, 2**63, exact[0], exact[1] % 2**64, exact[2], 2**63, 300, -300 % 2**64], np.uint64)),
        case("cast", x, to=DType.BOOL, expected=np.ones(9, bool)),
        case("cast", np.array([NAN, 1e6, -1e6, 448, 1.06], F32), to=DType.F8E4M3FN,
             expected=np.array([NAN, 448, -448, 448, 1.0], F32).astype(ml_dtypes.float8_e4m3fn)),
        case("cast", np.array([1e6, INF, -1e9], F32), to=DType.F8E5M2, saturate=False,
             expected=np.array([INF, INF, -INF], F32).astype(ml_dtypes.float8_e5m2)),
        case("cast", np.array([1, 1.1, -3, 0, INF, NAN, 3.4e38], F32), to=DType.F8E8M0,
             expected=np.array([127, 128, 129, 0, 255, 255, 254], np.uint8).view(ml_dtypes.float8_e8m0fnu)),
        case("cast", np.array([2, 3.4e38], F32), to=DType.F8E8M0, saturate=False,
             expected=np.array([128, 255], np.uint8).view(ml_dtypes.float8_e8m0fnu)),
        case("cast", np.array([7, 8, -8, -9, 15, 16], np.int32), to=DType.I4,
             expected=np.array([7, -8, -8, 7, -1, 0], np.int8).astype(ml_dtypes.int4)),
        case("cast", np.array([15, 16, -1], np.int32), to=DType.U4,
             expected=np.array([15, 0, 15], np.uint8).astype(ml_dtypes.uint4)),
        case("cast", np.array([70000, 1e-9, 65504], F32), to=DType.F16, expected=np.array([INF, 0, 65504], np.float16)),
        case("bitcast", np.array([1.0, -0.0, NAN], F32), to=DType.I32,
             expected=np.array([0x3F800000, least32, 0x7FC00000], np.int32)),
        case("bitcast", np.array(-1, np.int8), to=DType.U8, expected=np.array(255, np.uint8)),
    ]


def _onnx(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def narrow() -> list[Case]:
    """f16 and bf16: computed in f32, rounded once."""
    cases = []
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x, y = normal(5, dtype=dtype), normal(5, dtype=dtype)
        a, b = x.astype(F32), y.astype(F32)
        cases += [
            case("add", x, y, expected=(a + b).astype(dtype), label=" narrow"),
            case("mul", x, y, expected=(a * b).astype(dtype), label=" narrow"),
            case("exp", x, expected=np.exp(a).astype(dtype), label=" narrow"),
            case("less", x, y, expected=a < b, label=" narrow"),
            case("gelu", x, approximate="none", expected=np.array(
                [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in a.tolist()], F32).astype(dtype), label=" narrow"),
        ]
    cases.append(case("mul", np.array([6e4], np.float16), np.array([2], np.float16),
                      expected=np.array([INF], np.float16), label=" narrow"))
    return cases


CASES = [*unary(), *special(), *activations(), *binary(), *powers(), *choice(), *logic(), *casts(),
         *casts_by_hand(), *narrow()]
