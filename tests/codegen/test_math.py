"""The polynomials against f64, over all magnitudes; and what must never become a library call or a spill."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lepton.codegen import loops
from lepton.codegen.llvm import math as polynomials
from lepton.codegen.llvm.builder import Function, Int, Module, Val, vec
from lepton.codegen.llvm.expr import emit_expr
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.llvm.math import LIBM, exp2_negative
from lepton.codegen.target import TARGETS, Target
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.codegen.harness import HERE, Code

F32 = DType.F32
# Worst error in ulp, with and without fused multiply-add, as test_math_exhaustive.py finds it; sigmoid is left out
# where its result is denormal.
ULPS = {"exp": (1.5, 1.5), "expm1": (2, 2), "log": (1.5, 1.5), "log1p": (3, 3), "sigmoid": (3, 3), "tanh": (6, 7),
        "erf": (6, 7.5)}
REFERENCE: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": np.vectorize(math.erf, otypes=[np.float64]),
}
# Where the errors are largest: of tanh, erf, sigmoid, exp, log, expm1, with and without fused multiply-add.
HARD = (7.48284769, 5.02763557, 3.57932115, 3.85836959, -16.6357040, 5.20192909, -71.0455322, 1.41364205, 0.699976802,
        0.363473296, 0.352921635)
INLINE = ("exp", "exp_negative", "expm1", "log", "log1p", "sigmoid", "tanh", "erf", "sqrt", "rsqrt", "floor", "ceil",
          "round", "maximum", "larger", "minimum", "abs", "sign", "round_f16", "round_bf16", "trunc")


class OneOp:
    """y[i] = op(x[i]) for i in [0, hi), whole vectors only."""

    def __init__(self, op: str) -> None:
        self.op = op

    def emit(self, module: Module, symbol: str, target: Target) -> None:
        f, lanes = module.kernel(symbol), target.lanes(F32)
        args = (loops.Ref("x", F32),) * (2 if self.op in ("maximum", "larger", "minimum") else 1)

        def turn(i: Int, _: list[Val]) -> None:
            x = f.load(vec(lanes, "float"), f.buffer(0), f.mul(i, 4))
            if self.op == "exp2_negative":
                y = exp2_negative(polynomials.F32(f, lanes, target.fma), x)
            else:
                y = emit_expr(f, target, loops.Apply(self.op, args, F32), lanes, lambda _: x, _no_load)
            f.store(y, f.buffer(1), f.mul(i, 4))

        f.loop(Val("i64", "%hi"), turn, start=Val("i64", "%lo"), step=lanes)


def _no_load(load: loops.Load) -> Val:
    raise AssertionError(load)


def compute(op: str, x: Array, target: Target) -> Array:
    y = np.empty_like(x)
    Code(OneOp(op), target)([x.ctypes.data, y.ctypes.data], [], 0, [(0, len(x))])
    return y


def samples(step: int) -> Array:
    """Floats of every magnitude and sign, denormals, infinities and NaN among them."""
    bits = np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 88.72284, -103.97, 1e-45, -1e-45, *HARD],
                       np.float32)
    x = np.concatenate([bits.view(np.float32), special])
    return np.resize(x, -(-len(x) // 16) * 16)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("op", ULPS)
def test_accuracy(op: str, target: Target) -> None:
    x = samples(70001 if op == "erf" else 3001)
    y = compute(op, x, target)
    with np.errstate(all="ignore"):
        exact = REFERENCE[op](x.astype(np.float64))
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded) & ~((op == "sigmoid") & (x < -87.3))
    np.testing.assert_array_equal(y[~np.isfinite(rounded)], rounded[~np.isfinite(rounded)])
    ulp = np.spacing(np.abs(rounded[finite])).astype(np.float64)
    error = np.abs(y[finite].astype(np.float64) - exact[finite]) / ulp
    assert error.max() <= ULPS[op][0 if target.fma else 1], f"{error.max()} ulp at {x[finite][error.argmax()]!r}"
    numbers = ~np.isnan(rounded)
    np.testing.assert_array_equal(np.signbit(y[numbers]), np.signbit(rounded[numbers]))


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize(("op", "beyond"), [("tanh", 9.125), ("erf", 4.0)])
def test_odd_functions_end_at_one(op: str, beyond: float, target: Target) -> None:
    """Never more, or a square root of 1 - tanh(x)**2 were NaN; and 1 exactly from there on."""
    x = samples(997)
    y = compute(op, x, target)
    assert (np.abs(y[~np.isnan(x)]) <= 1).all()
    np.testing.assert_array_equal(y[np.abs(x) >= beyond], np.sign(x[np.abs(x) >= beyond]))


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_powers_of_two(target: Target) -> None:
    """Of what is at most 0: denormals are rounded once, what lies below is 0, NaN stays, whatever its bits."""
    x = -np.abs(samples(3001))
    x[:8] = np.array([0x7FC00001, 0x7F800001, 0xFFFFFFFF, 0x7FC12345], np.uint32).view(np.float32).repeat(2)
    y = compute("exp2_negative", x, target)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    assert not y[x < -150].any()
    kept = x >= -149
    exact = np.exp2(x[kept].astype(np.float64))
    assert (np.abs(y[kept] - exact) / np.spacing(exact.astype(np.float32))).max() <= (2.1 if target.fma else 2.5)
    whole = -np.arange(160, dtype=np.float32)
    np.testing.assert_array_equal(compute("exp2_negative", whole, target)[:150], np.exp2(whole[:150]))


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_exp_of_what_is_not_positive_is_exp(target: Target) -> None:
    x = -np.abs(samples(997))
    np.testing.assert_array_equal(compute("exp_negative", x, target), compute("exp", x, target))


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_maximum_keeps_nan(target: Target) -> None:
    f = "maximum"
    x = samples(1_000_003)
    np.testing.assert_array_equal(compute(f, x, target), x)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
def test_halves_round_to_nearest_even(target: Target) -> None:
    x = samples(3001)
    with np.errstate(all="ignore"):
        for op, dtype in (("round_f16", np.dtype(np.float16)), ("round_bf16", DType.BF16.numpy)):
            np.testing.assert_array_equal(compute(op, x, target), x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_no_calls_no_spills(target: Target) -> None:
    """On every row of the table, also those this machine cannot run."""
    module = Module()
    for op in INLINE:
        OneOp(op).emit(module, f"k_{op}", target)
    text = compile_module(module, target, asm=True)
    assert not any(calls(text).values())
    assert not any(count_spills(text).values())


def test_rare_functions_call_libm() -> None:
    module = Module()
    OneOp("asin").emit(module, "k", TARGETS["x86-sse4"])
    assert calls(compile_module(module, TARGETS["x86-sse4"], asm=True))["k"] == [LIBM["asin"] + "f"] * 4


def test_bad_ir_is_refused() -> None:
    f: Function = Module().function("k", [])
    f.emit("store float 0.0, ptr %nowhere")
    with pytest.raises(RuntimeError):
        compile_module(f.module, TARGETS["x86-sse4"])
