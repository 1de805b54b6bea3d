"""Run one lowered group on this machine and compare it with what its ops mean.

Buffers end at a page that must not be touched and have canaries around what a kernel may write, so that reads and
writes out of bounds show. Layouts give the operands strides other than dense ones.
"""
from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton.codegen.group import LOWERINGS, Group, LowerOptions, group_of
from lepton.codegen.kernel import Access, Body, Kernel, Packed, dense_strides
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import Linked, compile_module
from lepton.codegen.target import TARGETS, Target, runs_here
from lepton.ir.core import Graph, Node, Value
from lepton.ir.dims import Dim, Expr, evaluate
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

HERE = [t for t in TARGETS.values() if runs_here(t) and t.name in (
    "x86-sse4", "x86-avx2", "x86-avx512", "aarch64-neon")]
CANARY = 0xA5
_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """`size` writable bytes whose end is followed by a page that faults; what lies before them are canaries."""

    def __init__(self, size: int) -> None:
        pages = -(-max(size, 1) // _PAGE) + 1
        self._map = mmap.mmap(-1, (pages + 1) * _PAGE)
        whole = np.frombuffer(self._map, np.uint8)
        whole[:] = CANARY
        self._end = pages * _PAGE
        address = whole.ctypes.data + self._end
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = whole[self._end - size:self._end]
        self._before = whole[:self._end - size]

    def check(self) -> None:
        assert (self._before == CANARY).all(), "wrote in front of a buffer"


Layout = Callable[[tuple[int, ...]], tuple[int, ...]]  # shape -> strides in elements


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(s) for s in dense_strides(shape))  # type: ignore[arg-type]


def gaps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major with two unused elements after each row."""
    if not shape:
        return ()
    return (*(s for s in dense((*shape[:-1], shape[-1] + 2))[:-1]), 1)


def reversed_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Column-major: the first axis is contiguous."""
    return dense(shape[::-1])[::-1]


def backwards(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Every stride negative."""
    return tuple(-s for s in dense(shape))


class Placed:
    """An array in guarded memory with the strides a layout gives."""

    def __init__(self, array: Array, layout: Layout) -> None:
        self.strides = layout(array.shape)
        size = array.dtype.itemsize
        reach = [(n - 1) * s for n, s in zip(array.shape, self.strides, strict=True) if n > 0]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        count = 0 if 0 in array.shape else high - low + 1
        self.memory = Guarded(count * size)
        self.address = self.memory.bytes.ctypes.data - low * size
        bits = np.dtype(f"u{size}")  # numpy cannot stride over every element type
        raw = np.frombuffer(self.memory.bytes, bits) if count else np.empty(0, bits)
        base = raw[-low:] if count else raw
        strided = np.lib.stride_tricks.as_strided(base, array.shape, [s * size for s in self.strides])
        self.view: Array = strided.view(array.dtype)
        self.untouched = np.ones(count, bool)
        flags = np.lib.stride_tricks.as_strided(self.untouched[-low:] if count else self.untouched, array.shape,
                                                self.strides)
        flags[...] = False
        self._raw = raw

    def check(self) -> None:
        """Nothing between the elements or in front of them was written."""
        self.memory.check()
        rest = self._raw[self.untouched].tobytes()
        assert rest == bytes([CANARY]) * len(rest), "wrote between the elements of a strided value"


class Code:
    """A compiled kernel body. `rewrite`: what becomes of its LLVM text before that."""

    def __init__(self, body: Body, target: Target, rewrite: Callable[[str], str] = str) -> None:
        module = Module()
        body.emit(module, "kernel", target)
        text = str(module).replace("define hidden", "define")
        self._linked = Linked([compile_module(rewrite(text), target)], target.triple, ["kernel"])
        types = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self.function = ctypes.CFUNCTYPE(None, *types)(self._linked["kernel"])

    def __call__(self, addresses: Sequence[int], dims: Sequence[int], scratch: int,
                 ranges: Sequence[tuple[int, int]]) -> None:
        """Call the kernel on each range [lo, hi) of tasks."""
        bufs = (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
        sizes = (ctypes.c_int64 * max(1, len(dims)))(*dims)
        for lo, hi in ranges:
            self.function(bufs, sizes, scratch, lo, hi)


def ranges(tasks: int) -> list[tuple[int, int]]:
    """[0, tasks) in three uneven parts, the last one first."""
    cuts = sorted({0, tasks // 3, tasks - tasks // 4, tasks})
    return list(itertools.pairwise(cuts))[::-1]


def number(dim: Dim, env: Mapping[str, int]) -> int:
    return evaluate(dim, env)


def room_of(kernel: Kernel, env: Mapping[str, int]) -> dict[Value, Placed]:
    """Where the values go that a kernel writes for the one behind it."""
    return {v: Placed(np.empty([number(d, env) for d in v.tensor.shape], v.tensor.dtype.numpy), dense)
            for v in kernel.writes}


def run_kernel(kernel: Kernel, places: Mapping[Value, Placed], target: Target, env: Mapping[str, int]) -> None:
    """Run all tasks of a kernel, and of the step before it, on placed operands."""
    if kernel.before is not None:
        places = {**places, **room_of(kernel.before, env)}
        run_kernel(kernel.before, places, target, env)
    addresses, keep = [], []
    for operand in kernel.operands:
        if isinstance(operand, Packed):
            placed = Placed(operand.array, dense)
            placed.view[...] = operand.array
            keep.append(placed)
            addresses.append(placed.address)
        else:
            addresses.append(places[operand].address)
    size = number(kernel.scratch, env)
    scratch = Guarded(-(-size // 64) * 64)
    scratch.bytes[:] = 0xFF  # NaN, where it is read before it is written
    code = Code(kernel.body, target)
    start = scratch.bytes.ctypes.data
    assert start % 64 == 0
    code(addresses, [number(d, env) for d in kernel.dims], start, ranges(number(kernel.tasks, env)))
    scratch.check()


def substitute(attr: Any, env: Mapping[str, int]) -> Any:
    if isinstance(attr, Expr):
        return evaluate(attr, env)
    return tuple(substitute(a, env) for a in attr) if isinstance(attr, tuple) else attr


def meaning(graph: Graph, inputs: Sequence[Array | None], env: Mapping[str, int]) -> list[Array]:
    """What a graph computes, by the references of its ops."""
    values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        arguments = [None if v is None else values[v] for v in node.inputs]
        if node.regions:
            results: Any = meaning(node.regions[0], arguments, env)
        else:
            attrs = {k: substitute(a, env) for k, a in node.attrs.items()}
            with np.errstate(all="ignore"):
                results = node.op.reference(*arguments, **attrs)
            results = results if isinstance(results, tuple) else (results,)
        for value, result in zip(node.results, results, strict=True):
            values[value] = np.asarray(result, value.tensor.dtype.numpy)
    return [values[v] for v in graph.outputs]


def run_node(
    node: Node, arrays: Mapping[Value, Array], target: Target, *, env: Mapping[str, int] | None = None,
    layouts: Mapping[Value, Layout] | None = None, options: LowerOptions | None = None,
) -> list[Array]:
    """Lower the node, run it, give its results. `arrays` holds the operands (constants may be left out)."""
    env, layouts = env or {}, layouts or {}
    places: dict[Value, Placed] = {}
    accesses: dict[Value, Access] = {}
    for value in [*(v for v in node.inputs if v is not None), *node.results]:
        shape = tuple(number(d, env) for d in value.tensor.shape)
        array = arrays.get(value)
        if array is None and value.producer is not None and value.producer.op.name == "constant":
            array = value.producer.attrs["value"].array
        layout = layouts.get(value, dense)
        placed = Placed(np.empty(shape, value.tensor.dtype.numpy), layout)
        if array is not None:
            assert array.shape == shape, (array.shape, shape)
            placed.view[...] = array
        places[value] = placed
        static = value.tensor.is_static
        accesses[value] = Access(value.tensor, placed.strides if static or layout is not dense
                                 else dense_strides(value.tensor.shape))
    group = group_of(node, accesses.__getitem__)
    kernel = lower(group, options or LowerOptions(target))
    run_kernel(kernel, places, target, env)
    for value in node.results:
        places[value].check()
    return [places[v].view.copy() for v in node.results]


def lower(group: Group, options: LowerOptions) -> Kernel:
    return LOWERINGS[group.anchor.op if group.anchor is not None else None](group, options)


def check_node(
    node: Node, arrays: Mapping[Value, Array], target: Target, *, env: Mapping[str, int] | None = None,
    layouts: Mapping[Value, Layout] | None = None, rtol: float = 2e-6, atol: float = 1e-6,
) -> None:
    """The compiled node against its meaning."""
    got = run_node(node, arrays, target, env=env, layouts=layouts)
    inputs = tuple(v for v in dict.fromkeys(node.inputs) if v is not None and v in arrays)
    expected = meaning(Graph.of("test", inputs, node.results), [arrays[v] for v in inputs], env or {})
    for g, e, value in zip(got, expected, node.results, strict=True):
        assert_close(g, e, value.tensor, rtol, atol)


def assert_close(got: Array, expected: Array, type: TensorType, rtol: float, atol: float) -> None:
    if not type.dtype.is_float:
        np.testing.assert_array_equal(got, expected)
        return
    if type.dtype.bits == 16:
        rtol, atol = max(rtol, 1e-2 if type.dtype.value == "bf16" else 2e-3), max(atol, 1e-3)
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol)


def value(shape: Sequence[Dim], dtype: Any = None, name: str | None = None) -> Value:
    """A graph input of this shape; f32 unless said."""
    return Value(TensorType(dtype or DType.F32, tuple(shape)), name=name)
