"""The meaning of loop kernels: an interpreter over numpy scalars. Slow, and the judge of every emitter.

Out-of-bounds indices, unbound names and bad dtypes raise; VECTOR loops run as serial ones.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton.codegen.loops import (
    Apply,
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
)
from lepton.ir.op import OPS
from lepton.ir.ops.elementwise import convert, without_denormals
from lepton.ir.tensor import Array
from lepton.ir.types import DType


def run(kernel: Kernel, buffers: Sequence[Array], dims: Sequence[int], lo: int, hi: int) -> None:
    """Call the kernel on tasks [lo, hi). `buffers` are the operands as flat arrays (written ones change in place).

    Raises IndexError for an access outside a buffer."""
    _Run(kernel, buffers, dims, lo, hi).block(kernel.body, {})


class _Run:
    def __init__(self, kernel: Kernel, buffers: Sequence[Array], dims: Sequence[int], lo: int, hi: int) -> None:
        operands = iter(buffers)
        self.dims, self.lo, self.hi = dims, lo, hi
        self.buffers: dict[str, Any] = {}
        self.dtypes = {b.name: b.dtype for b in kernel.buffers}
        self.written = {b.name for b in kernel.buffers if b.written or b.scratch is not None}
        for b in kernel.buffers:
            self.buffers[b.name] = dict[int, Any]() if b.scratch is not None else next(operands)

    def block(self, body: Sequence[Stmt], outer: dict[str, Any]) -> None:
        env = outer
        for s in body:
            match s:
                case Let(name, value) | Var(name, value):
                    env[name] = self.expr(value, env)
                case Update(name, op, value):
                    new = self.expr(value, env)
                    env[name] = new if op == "set" else apply(op, [env[name], new])
                case Store():
                    self.store(s, env)
                case If(condition, then, otherwise):
                    self.block(then if self.expr(condition, env) else otherwise, env)
                case For(name, extent, inner, kind):
                    tasks = kind is LoopKind.TASKS
                    count = range(self.lo, self.hi) if tasks else range(int(self.expr(extent, env)))
                    for i in count:
                        env[name] = np.int64(i)
                        self.block(inner, env)

    def store(self, s: Store, env: dict[str, Any]) -> None:
        index, value, buffer = int(self.expr(s.index, env)), self.expr(s.value, env), self.buffers[s.buffer]
        if s.buffer not in self.written:
            raise TypeError(f"{s.buffer!r} is not written by this kernel")
        dtype = self.dtypes[s.buffer]
        if isinstance(buffer, dict):
            buffer[index] = value
            return
        self.check(s.buffer, index)
        buffer[index] = np.asarray(value).astype(dtype.numpy)

    def check(self, name: str, index: int) -> None:
        if not 0 <= index < len(self.buffers[name]):
            raise IndexError(f"{name}[{index}] of {len(self.buffers[name])}")

    def expr(self, e: Expr, env: dict[str, Any]) -> Any:
        match e:
            case Const(value, dtype):
                return dtype.numpy.type(value)
            case Ref(name):
                return env[name]
            case Dim(index):
                return np.int64(self.dims[index])
            case Load(name, index, dtype):
                at = int(self.expr(index, env))
                if not isinstance(self.buffers[name], dict):
                    self.check(name, at)
                return np.asarray(self.buffers[name][at]).astype(dtype.numpy)[()]
            case Apply(op, args, _):
                return apply(op, [self.expr(a, env) for a in args])
            case Select(condition, then, otherwise):
                return self.expr(then if self.expr(condition, env) else otherwise, env)
            case Cast(value, dtype):
                return convert(np.asarray(self.expr(value, env)), dtype)[()]
        raise TypeError(e)


def odd_f32(x: Array) -> Array:
    """An f64 as an f32's value, cut off, the last bit set if anything was lost (see llvm.arith)."""
    near = x.astype(np.float32)
    bits = near.view(np.uint32) - (np.abs(near.astype(np.float64)) > np.abs(x)).astype(np.uint32)
    lost = (near.astype(np.float64) != x) & ~np.isnan(x)
    return np.asarray(bits | lost.astype(np.uint32)).view(np.float32).astype(np.float64)


EXTRA: dict[str, Callable[..., Any]] = {
    "floordiv": np.floor_divide, "floormod": np.mod, "fmod": lambda a, b: OPS["mod"].reference(a, b, fmod=True),
    "trunc": np.trunc, "odd_f32": odd_f32, "exp_negative": np.exp, "larger": np.fmax,
    "flush_bf16": lambda x: convert(without_denormals(x), DType.BF16).astype(np.float32),
    "nearest_i32": lambda x: np.rint(x).astype(np.int32),
}


def apply(op: str, args: list[Any]) -> Any:
    """One op on numpy scalars."""
    arrays = [np.asarray(a) for a in args]
    how, _, name = op.partition("_")
    if how in ("round", "loose") and name:
        return convert(arrays[0], DType(name), saturate=how == "round").astype(arrays[0].dtype)[()]
    if how == "bitcast":
        return arrays[0].view(DType(name).numpy)[()]
    if how == "bits":
        return arrays[0].astype(DType(name).numpy).view(f"u{DType(name).bytes}")[()]
    if how == "value":
        return arrays[0].view(DType(name).numpy).astype(np.float32)[()]
    with np.errstate(all="ignore"):
        if op in ("maximum", "minimum") and arrays[0].dtype == np.bool_:
            return (arrays[0] | arrays[1] if op == "maximum" else arrays[0] & arrays[1])[()]
        function = EXTRA.get(op) or OPS[op].reference
        return np.asarray(function(*arrays))[()]
