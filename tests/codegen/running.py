"""Lower one node (or fusion), compile it for one target and run it between guard pages."""
from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lepton.codegen.group import LOWERINGS, Group, LowerOptions, group_of
from lepton.codegen.kernel import Access, Kernel, Packed, dense_strides
from lepton.codegen.llvm.builder import Module
from lepton.codegen.llvm.machine import compile_module
from lepton.codegen.target import TARGETS, Target, runs_here
from lepton.ir import dims
from lepton.ir.core import Node, Value
from lepton.ir.tensor import Array
from tests.codegen import emulated, tiles
from tests.codegen.harness import Code

HERE = [t for t in ("x86-sse4", "x86-avx2", "x86-avx512") if runs_here(TARGETS[t])]
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[Any] = []


class Guarded:
    """Memory between two pages that may not be touched; `at_end`: it ends where the second one starts."""

    def __init__(self, size: int, at_end: bool = True) -> None:
        pages = -(-max(size, 1) // PAGE)
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (0, pages + 1):
            assert _libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0) == 0
        self.address = base + PAGE + (pages * PAGE - size if at_end else 0)
        self.bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address)) if size else None
        _kept.append(self)

    def array(self, dtype: Any) -> Array:
        return np.zeros(0, dtype) if self.bytes is None else self.bytes.view(dtype)


@dataclass(frozen=True)
class Layout:
    """Where a value's elements lie inside its storage of `size` elements."""

    strides: tuple[int, ...]
    offset: int
    size: int


def dense(shape: Sequence[int]) -> Layout:
    return Layout(tuple(int(s) for s in dense_strides(shape) if isinstance(s, int)), 0, int(np.prod(shape)))


def inside(shape: Sequence[int], outer: Sequence[int], at: Sequence[int], perm: Sequence[int] | None = None) -> Layout:
    """A box of a larger dense array at `at`; `perm`: whose axes lie in this order in memory."""
    perm = tuple(perm or range(len(shape)))
    steps = dense([outer[p] for p in perm]).strides
    strides = tuple(steps[perm.index(i)] for i in range(len(shape)))
    return Layout(strides, sum(a * s for a, s in zip(at, strides, strict=True)), int(np.prod(outer)))


def compile_kernel(kernel: Kernel, target: Target) -> Code:
    if not tiles.is_emulated(target):
        return Code(kernel.body, target)
    tiles.library()
    return Code(kernel.body, target, tiles.with_calls)


def assembly(kernel: Kernel, target: Target) -> str:
    module = Module()
    kernel.body.emit(module, "kernel", target)
    return compile_module(module, target, asm=True)


def lower(node: Node, options: LowerOptions, layouts: Mapping[Value, Layout], env: Mapping[str, int]) -> Kernel:
    def access(value: Value) -> Access:
        type = value.tensor
        if value in layouts:
            return Access(type, layouts[value].strides)
        return Access(type, dense_strides(type.shape))

    group: Group = group_of(node, access)
    return LOWERINGS[group.anchor.op if group.anchor else None](group, options)


def run_node(node: Node, inputs: Mapping[Value, Array], target: str | Target, *,
             layouts: Mapping[Value, Layout] | None = None, env: Mapping[str, int] | None = None, shares: int = 2,
             at_end: bool = True, **options: Any) -> list[Array]:
    """The node's results, computed by its kernel in `shares` calls. Inputs that are constants need no array."""
    layouts, env = layouts or {}, env or {}
    target = TARGETS[target] if isinstance(target, str) else target
    kernel = lower(node, LowerOptions(target, **options), layouts, env)
    storage: dict[Value, Array] = {}
    for step in (kernel.before, kernel):
        for operand in step.operands if step else ():
            if isinstance(operand, Value) and operand not in storage:
                storage[operand] = _place(operand, inputs, layouts, env, at_end)
        if step is not None:
            _run(step, target, storage, layouts, env, shares)
    return [_view(storage[r], r, layouts, env).copy() for r in node.results if r in storage]


def _run(kernel: Kernel, target: Target, storage: Mapping[Value, Array], layouts: Mapping[Value, Layout],
         env: Mapping[str, int], shares: int) -> None:
    arrays = [_packed(o) if isinstance(o, Packed) else storage[o] for o in kernel.operands]
    starts = [_start(o, layouts) for o in kernel.operands]
    if runs_here(target):
        _call(compile_kernel(kernel, target), kernel, arrays, starts, env, shares)
    else:
        emulated.run(kernel, target, arrays, starts, [dims.evaluate(d, env) for d in kernel.dims],
                     dims.evaluate(kernel.scratch, env), dims.evaluate(kernel.tasks, env), shares)


def _shape(value: Value, env: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dims.evaluate(d, env) for d in value.tensor.shape)


def _layout(value: Value, layouts: Mapping[Value, Layout], env: Mapping[str, int]) -> Layout:
    return layouts.get(value) or dense(_shape(value, env))


def _place(value: Value, inputs: Mapping[Value, Array], layouts: Mapping[Value, Layout], env: Mapping[str, int],
           at_end: bool) -> Array:
    layout, dtype = _layout(value, layouts, env), value.tensor.dtype.numpy
    array = Guarded(layout.size * dtype.itemsize, at_end).array(dtype)
    array[...] = np.nan if dtype.kind == "f" else 77
    if value in inputs:
        _view(array, value, layouts, env)[...] = inputs[value]
    elif value.producer is not None and "value" in value.producer.attrs:
        _view(array, value, layouts, env)[...] = value.producer.attrs["value"].array
    return array


def _view(array: Array, value: Value, layouts: Mapping[Value, Layout], env: Mapping[str, int]) -> Array:
    layout = _layout(value, layouts, env)
    strides = [s * array.itemsize for s in layout.strides]
    return np.lib.stride_tricks.as_strided(array[layout.offset:], _shape(value, env), strides)


def _start(operand: Value | Packed, layouts: Mapping[Value, Layout]) -> int:
    if isinstance(operand, Packed) or operand not in layouts:
        return 0
    return layouts[operand].offset * operand.tensor.dtype.bytes


def _packed(operand: Packed) -> Array:
    size = operand.array.nbytes
    memory = Guarded(-(-size // 64) * 64, True).array(np.uint8)[:size]
    memory[...] = operand.array.reshape(-1).view(np.uint8)
    return memory


def _call(code: Code, kernel: Kernel, arrays: Sequence[Array], starts: Sequence[int], env: Mapping[str, int],
          shares: int) -> None:
    pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data + s for a, s in zip(arrays, starts, strict=True)])
    sizes = [dims.evaluate(d, env) for d in kernel.dims]
    table = (ctypes.c_int64 * max(1, len(sizes)))(*sizes)
    need = -(-dims.evaluate(kernel.scratch, env) // 64) * 64
    scratch = Guarded(need, True)
    if scratch.bytes is not None:
        scratch.bytes[:] = 0xFF
    tasks = dims.evaluate(kernel.tasks, env)
    bounds = np.linspace(0, tasks, shares + 1).astype(int)
    for low, high in pairwise(bounds):
        code.function(ctypes.addressof(pointers), ctypes.addressof(table), scratch.address, int(low), int(high))


__all__ = ["HERE", "Layout", "assembly", "dense", "inside", "lower", "run_node"]
