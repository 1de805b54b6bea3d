"""Element types narrower than f32, over all their values: conversions, bits, movement, quantisation, rounding."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower  # noqa: F401
from lepton.codegen.group import LowerOptions, group_of
from lepton.codegen.kernel import Access, dense_strides
from lepton.codegen.llvm.spell import LoopBody
from lepton.codegen.loops import Load, i64, walk
from lepton.codegen.loops_run import run
from lepton.codegen.loops_text import parse_kernel, print_kernel
from lepton.codegen.loops_verify import verify
from lepton.codegen.lower.scalar import Elements
from lepton.codegen.target import Target
from lepton.ir import ops
from lepton.ir.core import Graph, Node, Value
from lepton.ir.op import Op
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType
from tests.codegen.harness import HERE, lower, meaning, reversed_axes, run_node, value

targets = pytest.mark.parametrize("target", HERE, ids=lambda t: t.name)
SMALL = [DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0, DType.F4E2M1]
PARTS = [DType.I4, DType.U4, DType.I2, DType.U2]
NARROW = [*SMALL, *PARTS]
HALVES = [DType.F16, DType.BF16]
WIDE = [DType.F32, DType.F64, DType.BOOL, *(DType(f"{k}{n}") for k in "iu" for n in (8, 16, 32, 64))]


def codes(dtype: DType) -> Array:
    """Every value of a type of at most 16 bits."""
    if dtype is DType.BOOL:
        return np.array([False, True])
    count = 1 << dtype.bits
    return np.arange(count, dtype=np.uint16 if dtype.bits == 16 else np.uint8).view(dtype.numpy)


def fused(inputs: Sequence[Value], outputs: Sequence[Value], kind: str = "map") -> Node:
    """A fusion of what lies between the inputs and the outputs."""
    body = Graph.of("body", list(inputs), list(outputs))
    return ops.fusion.node(*[Value(v.type) for v in inputs], regions=(body,), kind=kind)


def check(node: Node, arrays: Sequence[Array], target: Target, **more: Any) -> None:
    """Compiled code against the meaning, to the bit; one NaN is as good as another."""
    operands = [v for v in node.inputs if v is not None]
    got = run_node(node, dict(zip(operands, arrays, strict=True)), target, **more)
    with np.errstate(all="ignore"):
        expected = meaning(Graph.of("test", operands, list(node.results)), list(arrays), {})
    for g, e, result in zip(got, expected, node.results, strict=True):
        assert g.dtype == e.dtype
        same_bits(g, e, result.tensor.dtype, arrays)


def same_bits(got: Array, expected: Array, dtype: DType, arrays: Sequence[Array] = ()) -> None:
    bits = np.dtype(f"u{dtype.bytes}")
    differ = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits)
    if dtype.is_float:
        with np.errstate(all="ignore"):
            differ &= ~(np.isnan(got.astype(np.float64)) & np.isnan(expected.astype(np.float64)))
    bad = np.argwhere(differ)[:5]
    assert not differ.any(), [(dtype.value, *(a[tuple(i)] for a in arrays if a.shape == got.shape), got[tuple(i)],
                               expected[tuple(i)]) for i in bad]


def casts_of(x: Value, to: Sequence[DType]) -> Node:
    """One kernel that casts to all of the types, saturating and not."""
    small = [d for d in to if d in SMALL and d is not x.tensor.dtype]
    results = [ops.cast(x, to=d, saturate=True) for d in to if d is not x.tensor.dtype]
    return fused([x], [*results, *(ops.cast(x, to=d, saturate=False) for d in small)])


@targets
@pytest.mark.parametrize("source", [*NARROW, *HALVES, DType.I8, DType.U8, DType.I16, DType.U16, DType.BOOL],
                         ids=lambda d: d.value)
def test_cast_every_value(target: Target, source: DType) -> None:
    """Every value of the narrow types to every type, every value of the types up to 16 bits to the narrow ones."""
    array = codes(source)
    to = [*NARROW, *HALVES, *(WIDE if source in NARROW else ())]
    check(casts_of(value(array.shape, source), to), [array], target)


def borders(dtype: DType) -> Array:
    """f64 numbers at and around all values of a small float, and the middles between them."""
    finite = codes(dtype).astype(np.float64)
    finite = np.unique(finite[np.isfinite(finite)])
    beyond = finite[-1] * np.array([1.01, 1.03125, 1.0625, 1.125, 1.25, 1.5, 2, 1000])
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2, beyond, -beyond])
    return np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf), points * (1 + 1e-12)])


@targets
@pytest.mark.parametrize("source", [DType.F32, DType.F64], ids=lambda d: d.value)
@pytest.mark.parametrize("to", SMALL, ids=lambda d: d.value)
def test_cast_borders(target: Target, source: DType, to: DType) -> None:
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 1e-39, 3.4e38]
    exact = np.concatenate([borders(to), special])
    with np.errstate(over="ignore"):
        array = exact.astype(np.float32)
    if source is DType.F32:
        array = np.concatenate([array, np.nextafter(array, np.float32(np.inf)), np.nextafter(array, np.float32(0))])
    else:
        array = exact
    check(casts_of(value(array.shape, source), [to]), [array], target)


@targets
def test_cast_f64_to_f16_rounds_once(target: Target) -> None:
    finite = codes(DType.F16).astype(np.float64)
    finite = np.unique(finite[np.isfinite(finite)])
    middles = (finite[1:] + finite[:-1]) / 2
    array = np.concatenate([middles, middles * (1 + 1e-13), middles * (1 - 1e-13),
                            [1e300, -1e300, 1e-320, 65519.99999999999, 65520, np.inf, np.nan, -0.0]])
    check(casts_of(value(array.shape, DType.F64), [DType.F16]), [array], target)


@targets
@pytest.mark.parametrize("source", [DType.I32, DType.U32, DType.I64, DType.U64], ids=lambda d: d.value)
def test_cast_large_integers(target: Target, source: DType) -> None:
    powers = [1 << n for n in range(source.bits - 1)]
    array = np.array([0, *(p + d for p in powers for d in (-1, 0, 1))], source.numpy)
    array = np.concatenate([array, -array]) if source.is_signed else array
    check(casts_of(value(array.shape, source), [*NARROW, *HALVES]), [array], target)


@targets
@pytest.mark.parametrize("group", [
    [*SMALL[:5], DType.I8, DType.U8, DType.BOOL], [DType.F4E2M1, DType.I4, DType.U4], [DType.I2, DType.U2],
    [*HALVES, DType.I16, DType.U16]], ids=["8", "4", "2", "16"])
def test_bitcast_every_code(target: Target, group: list[DType]) -> None:
    for source in group:
        array = codes(source)
        if source in HALVES:  # a signalling NaN may become a quiet one
            array = array[~np.isnan(array.astype(np.float32))]
        x = value(array.shape, source)
        to = [d for d in group if d is not source and d.bits == source.bits and d is not DType.BOOL]
        node = fused([x], [ops.bitcast(x, to=d) for d in to])
        got = run_node(node, {node.inputs[0]: array}, target)  # type: ignore[dict-item]
        for g, d in zip(got, to, strict=True):
            want = array.view(d.numpy)
            if d in HALVES:
                same_bits(g, want, d, [array])
            else:
                np.testing.assert_array_equal(g.view(f"u{d.bytes}"), array.view(f"u{d.bytes}"))


@pytest.mark.parametrize("dtype", [*NARROW, *HALVES], ids=lambda d: d.value)
def test_interpreter_agrees(dtype: DType) -> None:
    """Casts and bits of narrow types as loop IR: verified, printed, parsed, and run by its interpreter."""
    array = np.array([0.0, -0.0, 1.25, -3.5, 7.0, 1e9, 0.01, 2.0**-130])
    x = value(array.shape, DType.F64)
    small = ops.cast(x, to=dtype)
    code = DType.U16 if dtype in HALVES else {2: DType.U2, 4: DType.U4}.get(dtype.bits, DType.U8)
    results = [small] if code is dtype else [small, ops.bitcast(ops.bitcast(small, to=code), to=dtype)]
    node = fused([x], results)
    kernel = lower(group_of(node, lambda v: Access(v.tensor, dense_strides(v.tensor.shape))), LowerOptions(HERE[0]))
    assert isinstance(kernel.body, LoopBody)
    loop = kernel.body.kernel
    verify(loop)
    assert parse_kernel(print_kernel(loop)) == loop
    places = {v: array.copy() if i == 0 else np.zeros(8, dtype.numpy) for i, v in enumerate(kernel.operands)}
    with np.errstate(all="ignore"):
        run(loop, list(places.values()), [], 0, 1)
        expected = ops.cast.reference(array, to=dtype)
    for got in list(places.values())[1:]:
        same_bits(got, expected, dtype, [array])


@targets
@pytest.mark.parametrize("dtype", [*NARROW, *HALVES], ids=lambda d: d.value)
def test_movement_keeps_bits(target: Target, dtype: DType) -> None:
    """Copies, choices and gathers do not touch a code, NaN's sign and payload included."""
    everything = codes(dtype)
    if dtype in HALVES:
        everything = everything[::97][~np.isnan(everything[::97].astype(np.float32))]
    array = np.resize(everything, (3, 5, 87))
    x, other, mask = value(array.shape, dtype), value(array.shape, dtype), value(array.shape, DType.BOOL)
    flipped, chosen = array[::-1, ::-1].copy(), np.random.default_rng(0).integers(0, 2, array.shape).astype(bool)
    (got,) = run_node(ops.where.node(mask, x, other), {mask: chosen, x: array, other: flipped}, target)
    raw = np.dtype(f"u{dtype.bytes}")
    np.testing.assert_array_equal(got.view(raw), np.where(chosen, array.view(raw), flipped.view(raw)))
    indices = value((4,), DType.I64)
    places = np.array([4, 0, -1, 2])
    (got,) = run_node(ops.gather.node(x, indices, axis=1), {x: array, indices: places}, target)
    np.testing.assert_array_equal(got.view(raw), array.view(raw)[:, places])
    copy = fused([x], [x])
    (got,) = run_node(copy, {copy.inputs[0]: array}, target, layouts={copy.inputs[0]: reversed_axes})  # type: ignore
    np.testing.assert_array_equal(got.view(raw), array.view(raw))


PARAMETERS: list[tuple[tuple[int, ...], int, int]] = [((), 0, 0), ((5,), 1, 0), ((7, 5, 10), 2, 2)]


@targets
@pytest.mark.parametrize("case", PARAMETERS, ids=["tensor", "axis", "block"])
@pytest.mark.parametrize("to", [d for d in NARROW if d is not DType.F8E8M0], ids=lambda d: d.value)
def test_quantize(target: Target, case: Any, to: DType) -> None:
    parameter, axis, block = case
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((7, 5, 19)) * 10.0 ** rng.integers(-3, 4, (7, 5, 19))).astype(np.float32)
    x.reshape(-1)[:5] = np.nan, -np.inf, np.inf, 2.5, 3.5
    scale = (np.abs(rng.standard_normal(parameter)) + 0.5).astype(np.float32)
    zero = np.asarray(rng.integers(0, 2, parameter), np.int8).astype(to.numpy)
    v, s, z = value(x.shape), value(parameter), value(parameter, to)
    check(ops.quantize.node(v, s, z, axis=axis, to=to, block=block), [x, scale, zero], target)
    check(ops.quantize.node(v, s, axis=axis, to=to, block=block), [x, scale], target)
    levels = np.resize(codes(to), x.shape)
    for kind in (DType.F32, DType.F16):
        q, factor = value(x.shape, to), value(parameter, kind)
        factors = scale.astype(kind.numpy)
        check(ops.dequantize.node(q, factor, z, axis=axis, block=block), [levels, factors, zero], target)
        check(ops.dequantize.node(q, factor, axis=axis, block=block), [levels, factors], target)


@targets
@pytest.mark.parametrize("dtype", [*HALVES, *SMALL[:4]], ids=lambda d: d.value)
def test_fused_ops_round_one_by_one(target: Target, dtype: DType) -> None:
    """A chain of ops in one kernel gives what the ops give one after another."""
    rng = np.random.default_rng(0)
    x, y, z = (value((9, 67), dtype) for _ in range(3))
    half = ops.constant(value=Tensor.of(np.asarray(0.3, dtype.numpy)))
    chain = ops.add(ops.mul(ops.sub(x, y), half), ops.neg(ops.mul(y, z)))
    arrays = [rng.standard_normal((9, 67)).astype(dtype.numpy) for _ in range(3)]
    check(fused([x, y, z], [ops.relu(chain), ops.mul(chain, x)]), arrays, target)


@targets
@pytest.mark.parametrize("op", [ops.add, ops.sub, ops.mul, ops.neg], ids=lambda o: o.name)
@pytest.mark.parametrize("dtype", PARTS, ids=lambda d: d.value)
def test_small_integers_wrap(target: Target, op: Op, dtype: DType) -> None:
    every = codes(dtype)
    a, b = (g.reshape(-1) for g in np.meshgrid(every.astype(np.int8), every.astype(np.int8)))
    x, y = value(a.shape, dtype), value(a.shape, dtype)
    operands = [x, y] if op is not ops.neg else [x]
    arrays = [a.astype(dtype.numpy), b.astype(dtype.numpy)][:len(operands)]
    node = fused(operands, [ops.cast(op(*operands), to=DType.I32)])
    (got,) = run_node(node, dict(zip(node.inputs, arrays, strict=True)), target)  # type: ignore[arg-type]
    exact = op.reference(*(x.astype(np.int64) for x in arrays))
    np.testing.assert_array_equal(got, ops.cast.reference(exact, to=dtype).astype(np.int32))


def test_products_round_before_their_epilogue() -> None:
    """matmul in f16 plus a number: the product is rounded first."""
    rng = np.random.default_rng(0)
    a, b, c = value((17, 24), DType.F16), value((24, 33), DType.F16), value((17, 33), DType.F16)
    node = fused([a, b, c], [ops.add(ops.matmul(a, b), c)], kind="matmul")
    # Products and sums of these are exact in f32; in f16 the products lose bits that the addend would bring back.
    arrays = [(rng.integers(-60, 60, shape) / 32).astype(np.float16) for shape in ((17, 24), (24, 33))]
    product = (arrays[0].astype(np.float32) @ arrays[1].astype(np.float32)).astype(np.float16)
    arrays.append(-product)
    for target in HERE:
        (got,) = run_node(node, dict(zip(node.inputs, arrays, strict=True)), target)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got, np.zeros_like(got))


def test_rounding_can_be_left_out() -> None:
    """Under math "fast" halves are rounded only where they are stored."""
    x = value((8,), DType.F16)
    chain = ops.add(ops.mul(x, x), x)
    found = []
    for rounded in (True, False):
        e = Elements(lambda v: Load("x", i64(0), DType.F32), rounded=rounded).expr(chain)
        found.append(any(getattr(part, "op", "") == "round_f16" for part in walk(e)))
    assert found == [True, False]
