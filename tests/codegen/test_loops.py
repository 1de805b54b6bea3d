"""The loop IR: text and back, interpreter, verifier; and the emitter against the interpreter on random kernels."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton.codegen import loops
from lepton.codegen.llvm.convert import widened
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.loops import (
    Apply,
    Buffer,
    Cast,
    Const,
    Dim,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    LoopKind,
    Ref,
    Select,
    Stmt,
    Store,
    Update,
    Var,
    i64,
    neutral,
)
from lepton.codegen.loops_run import run
from lepton.codegen.loops_text import parse_kernel, print_kernel
from lepton.codegen.loops_verify import verify
from lepton.codegen.target import Target
from lepton.ir.diagnostics import ParseError
from lepton.ir.tensor import Array
from lepton.ir.types import DType
from tests.codegen.harness import HERE, Code, Placed, dense

SOFTMAX = """kernel softmax(x: f32, y: f16 written, tmp: f32 scratch 0) dims 1
  tasks t
    let row = mul(t, d0)
    var m = -inf:f32
    vector i < d0
      m maximum= x[add(row, i)]
    var s = 0.0:f32
    vector j < d0
      let e = exp(sub(x[add(row, j)], m))
      tmp[j] = e
      s add= e
    let inv = reciprocal(s)
    if greater(d0, 2)
      vector k < d0
        y[add(row, k)] = mul(tmp[k], inv)
    else
      unroll q < 2
        y[add(row, q)] = select(less(q, d0), 1.0:f32, f32(True:bool))
"""


def compare(
    kernel: Kernel, arrays: list[Array], dims: list[int], tasks: int, target: Target, rtol: float = 2e-5
) -> None:
    """The spelled kernel against the interpreter on copies of the arrays."""
    expected = [a.copy() for a in arrays]
    run(kernel, expected, dims, 0, tasks)
    places = [Placed(a, dense) for a in arrays]
    for p, a in zip(places, arrays, strict=True):
        p.view[...] = a
    scratch = np.zeros(1 << 16, np.uint8)
    cut = tasks // 2
    Code(LoopBody(kernel), target)([p.address for p in places], dims, scratch.ctypes.data, [(cut, tasks), (0, cut)])
    for p, e in zip(places, expected, strict=True):
        p.check()
        np.testing.assert_allclose(p.view.astype(np.float64), e.astype(np.float64), rtol=rtol, atol=1e-6)


def test_text_round_trip() -> None:
    kernel = parse_kernel(SOFTMAX)
    assert print_kernel(kernel) == SOFTMAX
    assert parse_kernel(print_kernel(kernel)) == kernel
    verify(kernel)


@pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
@pytest.mark.parametrize("n", [2, 3, 16, 17, 100])
def test_softmax(target: Target, n: int) -> None:
    x = np.random.default_rng(0).standard_normal(6 * n).astype(np.float32)
    compare(parse_kernel(SOFTMAX), [x, np.zeros(6 * n, np.float16)], [n], 6, target, rtol=2e-3)


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("var s = 0.0:f32", "var s = 0.0:f32\n    let m = 1.0:f32", "bound twice"),
    ("m maximum= x[add(row, i)]", "row add= i", "cannot update"),
    ("tmp[j] = e", "x[j] = e", "not written"),
    ("tmp[j] = e", "tmp[j] = j", "stored in"),
    ("if greater(d0, 2)", "if add(d0, 2)", "not bool"),
    ("      m maximum= x[add(row, i)]", "      vector z < 3\n        m maximum= x[z]", "inside a vector loop"),
    ("exp(sub(x[add(row, j)], m))", "exp(sub(x[add(row, j)], row))", "bad expression"),
    ("unroll q < 2", "unroll q < d0", "unknown extent"),
    ("reciprocal(s)", "frobnicate(s)", "bad expression"),
])
def test_verifier(old: str, new: str, complaint: str) -> None:
    assert old in SOFTMAX
    with pytest.raises(ValueError, match=complaint):
        verify(parse_kernel(SOFTMAX.replace(old, new)))


@pytest.mark.parametrize("text", ["kernel k", "kernel k() dims 0\n  var x = nope", "kernel k() dims 0\n  hello",
                                  "kernel k() dims 0\n  tasks t\n       var x = 1"])
def test_parser_refuses(text: str) -> None:
    with pytest.raises(ParseError, match="<loops>"):
        parse_kernel(text)


def test_interpreter_checks_bounds() -> None:
    kernel = parse_kernel("kernel k(x: f32, y: f32 written) dims 0\n  tasks t\n    y[t] = x[add(t, 1)]\n")
    with pytest.raises(IndexError, match="x"):
        run(kernel, [np.zeros(3, np.float32), np.zeros(3, np.float32)], [], 0, 3)


def test_vector_loop_must_not_race() -> None:
    kernel = parse_kernel("kernel k(y: f32 written) dims 0\n  tasks t\n    vector i < 64\n      y[t] = f32(i)\n")
    with pytest.raises(ValueError, match="one place"):
        Code(LoopBody(kernel), HERE[0])


# --- random kernels -------------------------------------------------------------------------------

DTYPES = [DType.F32, DType.F32, DType.I64, DType.I32, DType.U8, DType.BOOL, DType.F16, DType.BF16, DType.F64]
FLOAT1 = ["neg", "abs", "exp", "tanh", "sqrt", "floor", "round", "sign", "sigmoid"]
FLOAT2 = ["add", "sub", "mul", "maximum", "minimum"]
INT2 = ["add", "sub", "mul", "div", "mod", "maximum", "minimum", "bit_and", "floordiv"]


@st.composite
def expressions(draw: st.DrawFn, dtype: DType, leaves: list[Expr], depth: int) -> Expr:
    """An expression of `dtype` from the leaves."""
    fitting = [e for e in leaves if e.dtype is dtype]
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        small = Const(True if dtype is DType.BOOL else draw(st.integers(0, 3)), dtype)
        return draw(st.sampled_from(fitting)) if fitting else small
    sub = lambda d: draw(expressions(d, leaves, depth - 1))  # noqa: E731
    if dtype is DType.BOOL:
        kind = draw(st.sampled_from([DType.F32, DType.I64]))
        return Apply(draw(st.sampled_from(["less", "equal", "greater_equal"])), (sub(kind), sub(kind)), dtype)
    match draw(st.integers(0, 4)):
        case 0:
            return Select(sub(DType.BOOL), sub(dtype), sub(dtype))
        case 1:
            other = draw(st.sampled_from([d for d in (DType.F32, DType.I64, DType.I32, DType.BOOL) if d is not dtype]))
            return Cast(sub(other), dtype)
        case 2 if dtype.is_float:
            return Apply(draw(st.sampled_from(FLOAT1)), (sub(dtype),), dtype)
    if dtype.is_float:
        return Apply(draw(st.sampled_from(FLOAT2)), (sub(dtype), sub(dtype)), dtype)
    name = draw(st.sampled_from([o for o in INT2 if o != "floordiv"]))
    return Apply(name, (sub(dtype), sub(dtype)), dtype)


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Kernel, list[Array], list[int], int]:
    """A kernel of tasks, perhaps a serial loop, and a vector loop with a store and a sum; and operands that fit it."""
    tasks, serial = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    n = draw(st.sampled_from([0, 1, 2, 5, 16, 19, 70, 131]))
    known = draw(st.booleans())
    extent: Expr = i64(n) if known else Dim(0)
    stride = draw(st.sampled_from([1, 1, 1, 2, -1, 0]))
    kinds = [draw(st.sampled_from(DTYPES)) for _ in range(draw(st.integers(1, 3)))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    t, s, i = (Ref(name, DType.I64) for name in "tsi")
    row = loops.add(loops.mul(t, i64(serial or 1)), s if serial else i64(0))
    at = loops.add(loops.mul(row, extent), i)
    reading = Apply("add", (loops.mul(i, i64(stride)), i64(n if stride < 0 else 0)), DType.I64)
    buffers = [Buffer(f"x{k}", d) for k, d in enumerate(kinds)]
    leaves: list[Expr] = [Load(b.name, reading, widened(b.dtype)) for b in buffers]
    leaves += [i, t, Load("x0", i64(0), widened(kinds[0]))]
    if serial:
        leaves.append(s)
    out = draw(st.sampled_from(DTYPES))
    value = draw(expressions(widened(out), leaves, 3))
    named = Ref("v", value.dtype)
    total = draw(st.sampled_from(["add", "maximum", "minimum"]))
    sum_type = DType.I64 if value.dtype is DType.BOOL else value.dtype
    summed: Expr = Cast(named, sum_type) if value.dtype is DType.BOOL else named
    body: list[Stmt] = [Let("v", value), Store("y", at, named)]
    accumulate = draw(st.booleans()) and not (sum_type.is_float and total == "add")
    if accumulate:
        body.append(Update("acc", total, summed))
    inner: list[Stmt] = [For("i", extent, tuple(body), LoopKind.VECTOR)]
    if accumulate:
        inner = [Var("acc", neutral(total, sum_type)), *inner,
                 If(Apply("less", (t, i64(2)), DType.BOOL), (Store("z", row, Ref("acc", sum_type)),),
                    (Store("z", row, Const(1, sum_type)),))]
    if serial:
        inner = [For("s", i64(serial), tuple(inner))]
    buffers += [Buffer("y", out, True), Buffer("z", sum_type, True)]
    kernel = Kernel("k", tuple(buffers), 1, (For("t", i64(0), tuple(inner), LoopKind.TASKS),))
    arrays = [_array(rng, d, 2 * max(n, 1) + 1) for d in kinds]
    rows = tasks * (serial or 1)
    return kernel, [*arrays, _array(rng, out, rows * n), _array(rng, sum_type, rows)], [n], tasks


def _array(rng: Any, dtype: DType, count: int) -> Array:
    if dtype is DType.BOOL:
        return np.asarray(rng.integers(0, 2, count).astype(bool))
    if dtype.is_integer:
        return np.asarray(rng.integers(0, 50, count).astype(dtype.numpy))
    return np.asarray((rng.standard_normal(count) * 2).astype(dtype.numpy))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=kernels(), which=st.integers(0, len(HERE) - 1))
def test_spelled_kernels_agree(case: tuple[Kernel, list[Array], list[int], int], which: int) -> None:
    kernel, arrays, dims, tasks = case
    verify(kernel)
    assert parse_kernel(print_kernel(kernel)) == kernel
    with np.errstate(all="ignore"):
        compare(kernel, arrays, dims, tasks, HERE[which], rtol=1e-2)
