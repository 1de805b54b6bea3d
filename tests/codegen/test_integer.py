"""Products and convolutions of bytes are exact: on every machine here, all signs, any zero points, odd sizes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton.codegen.lower
from lepton.codegen.group import LowerOptions
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import calls, compile_module, count_spills
from lepton.codegen.target import TARGETS, Target, runs_here
from lepton.codegen.templates.dots import bytes_dot
from lepton.codegen.templates.epilogue import Operand, plain
from lepton.codegen.templates.gemm import Gemm
from lepton.codegen.templates.microkernel import Micro
from lepton.codegen.templates.tiles import WIDTHS, most_rows
from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.dims import sym
from lepton.ir.tensor import Array, Tensor
from lepton.ir.types import DType, TensorType
from tests.codegen.running import Layout, inside, lower, run_node

assert lepton.codegen.lower

# One of each kind of products: AVX-512 BF16 changes nothing for bytes.
HERE = [t.name for t in TARGETS.values() if runs_here(t) and t.is_x86 and t.name != "x86-avx512bf16"]
SIGNS = [(a, b) for a in (DType.U8, DType.I8) for b in (DType.U8, DType.I8)]


def constant(array: Array) -> Value:
    return ops.constant(value=Tensor.of(array))


class Draw:
    """Random bytes, with many at the ends of their range."""

    def __init__(self, *seed: object) -> None:
        self.rng = np.random.default_rng([ord(c) for c in repr(seed)])

    def bytes(self, dtype: DType, *shape: int) -> Array:
        least = -128 if dtype.is_signed else 0
        found = self.rng.integers(least, least + 256, shape)
        ends = self.rng.integers(0, 2, shape) * 255 + least
        return np.where(self.rng.random(shape) < 0.3, ends, found).astype(dtype.numpy)

    def zero(self, kind: str, dtype: DType, *shape: int) -> tuple[Value | None, dict[Value, Array], Array | None]:
        """(operand, feeds, its elements): absent, a constant, or known only at run time."""
        if kind == "none":
            return None, {}, None
        array = self.bytes(dtype, *shape)
        if kind == "constant":
            return constant(array), {}, array
        value = Value(TensorType(dtype, shape))
        return value, {value: array}, array


def check(node: Node, feeds: dict[Value, Array], want: Array, target: str | Target, **options: Any) -> None:
    (got,) = run_node(node, feeds, target, **options)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 7, 33), (30, 68, 96)])
def test_constant_weights(target: str, signs: tuple[DType, DType], shape: tuple[int, int, int]) -> None:
    (m, k, n), draw = shape, Draw(target, signs, shape)
    x, w = draw.bytes(signs[0], m, k), draw.bytes(signs[1], k, n)
    a = Value(TensorType(signs[0], (m, k)))
    za, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
    zb, _, right = draw.zero(draw.rng.choice(["none", "constant"]), signs[1], *[n][:draw.rng.integers(2)])
    node = ops.matmul_integer.node(a, constant(w), za, zb)
    check(node, {a: x, **feeds}, ops.matmul_integer.reference(x, w, left, right), target, shares=3)


@pytest.mark.parametrize("target", HERE)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_two_values(target: str, signs: tuple[DType, DType], transposed: bool) -> None:
    """The right operand is packed when it runs, from rows or from columns."""
    draw = Draw(target, signs, transposed)
    for m, k, n in ((9, 16, 40), (5, 7, 17), (33, 64, 1)):
        x, w = draw.bytes(signs[0], 2, m, k), draw.bytes(signs[1], 2, k, n)
        a, b = Value(TensorType(signs[0], x.shape)), Value(TensorType(signs[1], w.shape))
        za, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
        zb = None if signs[1].is_signed else constant(np.array(128, np.uint8))
        layouts = {b: inside(w.shape, w.shape, (0, 0, 0), (0, 2, 1))} if transposed else {}
        want = ops.matmul_integer.reference(x, w, left, None if zb is None else np.array(128))
        check(ops.matmul_integer.node(a, b, za, zb), {a: x, b: w, **feeds}, want, target, layouts=layouts, shares=3)


def test_zero_point_of_a_value() -> None:
    """What the panels cannot take in is still exact."""
    draw = Draw(0)
    x, w, z = (draw.bytes(DType.U8, *s) for s in ((3, 5), (5, 4), (4,)))
    a, b, zb = (Value(TensorType(DType.U8, v.shape)) for v in (x, w, z))
    check(ops.matmul_integer.node(a, b, None, zb), {a: x, b: w, zb: z},
          ops.matmul_integer.reference(x, w, None, z), HERE[-1])


@pytest.mark.parametrize("target", HERE)
def test_run_time_rows_and_strides(target: str) -> None:
    draw = Draw(target)
    x, w = draw.bytes(DType.U8, 19, 24), draw.bytes(DType.I8, 24, 40)
    a = Value(TensorType(DType.U8, (sym("M"), 24)))
    check(ops.matmul_integer.node(a, constant(w)), {a: x}, ops.matmul_integer.reference(x, w), target, env={"M": 19})
    b = Value(TensorType(DType.U8, (19, 24)))
    wide = {b: Layout((31, 1), 2, 19 * 31)}
    check(ops.matmul_integer.node(b, constant(w)), {b: x}, ops.matmul_integer.reference(x, w), target, layouts=wide)


# x (nhwc), w, stride, dilation, groups, pads
CONVS: list[tuple[tuple[int, ...], tuple[int, ...], int, int, int, tuple[int, int], tuple[int, int]]] = [
    ((1, 9, 7, 3), (5, 3, 3, 3), 2, 1, 1, (1, 1), (1, 1)), ((2, 8, 8, 16), (33, 16, 3, 3), 1, 1, 1, (1, 1), (1, 1)),
    ((1, 6, 5, 8), (40, 8, 1, 1), 1, 1, 1, (0, 0), (0, 0)), ((1, 6, 5, 7), (4, 7, 1, 1), 1, 1, 1, (0, 0), (0, 0)),
    ((1, 9, 9, 12), (18, 6, 3, 3), 1, 1, 2, (1, 2), (0, 1)), ((1, 9, 9, 8), (16, 4, 3, 3), 1, 2, 2, (2, 2), (2, 2)),
    ((1, 10, 9, 20), (20, 1, 3, 3), 1, 1, 20, (1, 1), (1, 1)), ((1, 9, 9, 35), (35, 1, 5, 5), 2, 1, 35, (2, 2), (2, 1)),
    ((1, 5, 5, 4), (6, 4, 1, 1), 2, 1, 1, (0, 0), (0, 0)), ((1, 7, 7, 512), (20, 512, 3, 3), 1, 1, 1, (1, 1), (1, 1)),
]


@pytest.mark.parametrize(("target", "layout"), [*((t, "nhwc") for t in HERE), (HERE[-1], "nchw")])
@pytest.mark.parametrize("case", CONVS, ids=lambda c: f"{c[0]}-{c[1]}")
def test_convolutions(target: str, case: Any, layout: str) -> None:
    """Borders count as the zero point, whether it is known or not."""
    draw = Draw(target, case, layout)
    shape, filters, stride, dilation, group, begin, end = case
    signs = SIGNS[draw.rng.integers(4)]
    x, w = draw.bytes(signs[0], *shape), draw.bytes(signs[1], *filters)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "nchw" else x
    a = Value(TensorType(signs[0], x.shape))
    zx, feeds, left = draw.zero(draw.rng.choice(["none", "constant", "value"]), signs[0])
    zw, _, right = draw.zero(draw.rng.choice(["none", "constant"]), signs[1], filters[0])
    attrs: dict[str, Any] = {"strides": (stride,) * 2, "pads_begin": begin, "pads_end": end,
                             "dilations": (dilation,) * 2, "group": group, "layout": layout}
    node = ops.conv_integer.node(a, constant(w), zx, zw, **attrs)
    check(node, {a: x, **feeds}, ops.conv_integer.reference(x, w, left, right, **attrs), target, shares=3)


def test_sums_wrap_like_i32() -> None:
    """140000 products of 255 * 127 leave the range of i32: every machine wraps."""
    k = 140_000
    x, w = np.full((1, k), 255, np.uint8), np.full((k, 1), 127, np.int8)
    a = Value(TensorType(DType.U8, (1, k)))
    want = np.array([[255 * 127 * k]], np.int64).astype(np.int32)
    for target in HERE:
        check(ops.matmul_integer.node(a, constant(w)), {a: x}, want, target)


@pytest.mark.parametrize("target", [*TARGETS])
@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_no_spills_and_no_calls(target: str, dtype: DType) -> None:
    machine = TARGETS[target]
    dot = bytes_dot(machine, dtype)
    for vectors in WIDTHS:
        rows = most_rows(machine, vectors, dot)
        if rows < 1:
            continue
        micro = Micro(DType.I32, (1, rows), vectors, tuple(256 * r for r in range(rows)), 4, True, 0,
                      plain(Operand(0, DType.I32, (-1, -1, 1))), vectors * machine.lanes(DType.I32),
                      vectors * machine.vector_bytes, ahead=1, dot=dot)
        module = Module()
        micro.function(module, machine)
        text = compile_module(str(module).replace("define internal", "define"), machine, asm=True)
        assert count_spills(text)[micro.name] == 0, (rows, vectors)
        assert calls(text)[micro.name] == [], (rows, vectors)


def test_machines_with_dot_products_use_them() -> None:
    a = Value(TensorType(DType.U8, (8, 64)))
    node = ops.matmul_integer.node(a, constant(np.ones((64, 32), np.int8)))
    for name, instruction in (("x86-avx512vnni", "vpdpbusd"), ("x86-avx2", "vpmaddwd"), ("x86-avx512", "vpmaddwd")):
        kernel = lower(node, LowerOptions(TARGETS[name]), {}, {})
        assert isinstance(kernel.body, Gemm)
        module = Module()
        kernel.body.emit(module, "kernel", TARGETS[name])
        assert instruction in compile_module(str(module), TARGETS[name], asm=True)
