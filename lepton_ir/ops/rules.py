"""Parts that type rules and references share: what is accepted, how shapes combine, how narrow floats are computed."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from lepton.ir import dims
from lepton.ir.diagnostics import TypeRuleError
from lepton.ir.dims import Dim
from lepton.ir.op import Op, Trait, op
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType, Type

Kind = Callable[[DType], bool]
Rule = Callable[..., Type | tuple[Type, ...]]

NARROW = (DType.F16, DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0,
          DType.F4E2M1)
_NARROW_NUMPY = frozenset(d.numpy for d in NARROW)


# --- kinds of element types -----------------------------------------------------------------------


def anything(dtype: DType) -> bool:
    """any element type"""
    return True


def number(dtype: DType) -> bool:
    """floats or integers"""
    return dtype.is_float or dtype.is_integer


def floating(dtype: DType) -> bool:
    """floats"""
    return dtype.is_float


def integer(dtype: DType) -> bool:
    """integers"""
    return dtype.is_integer


def boolean(dtype: DType) -> bool:
    """bool"""
    return dtype is DType.BOOL


def index_type(dtype: DType) -> bool:
    """i32 or i64"""
    return dtype in (DType.I32, DType.I64)


# --- checks ---------------------------------------------------------------------------------------


def fail(message: str, *operands: Type | None) -> TypeRuleError:
    """The error to raise: what is wrong, and the operands' types."""
    shown = ", ".join("_" if t is None else str(t) for t in operands)
    return TypeRuleError(f"{message}; operands: {shown}" if operands else message)


def tensor(operand: Type | None, kind: Kind = anything, *, rank: int | None = None, least: int = 0) -> TensorType:
    """The operand as a tensor type of that kind and rank. Raises TypeRuleError."""
    if not isinstance(operand, TensorType):
        raise fail("expected a tensor", operand)
    if not kind(operand.dtype):
        raise fail(f"expected {kind.__doc__}", operand)
    if rank is not None and operand.rank != rank:
        raise fail(f"expected rank {rank}", operand)
    if operand.rank < least:
        raise fail(f"expected rank {least} or more", operand)
    return operand


def one_dtype(*operands: TensorType) -> DType:
    """The element type all operands share. Raises TypeRuleError."""
    if any(t.dtype is not operands[0].dtype for t in operands):
        raise fail("element types differ", *operands)
    return operands[0].dtype


def check_axis(axis: int, x: TensorType) -> int:
    """The axis, if x has it. Frontends have made it non-negative."""
    if not 0 <= axis < x.rank:
        raise fail(f"axis {axis} does not exist", x)
    return axis


def check_axes(axes: Sequence[int], x: TensorType) -> tuple[int, ...]:
    """The axes, if they are sorted, distinct and exist."""
    if tuple(axes) != tuple(sorted(set(axes))) or any(not 0 <= a < x.rank for a in axes):
        raise fail(f"axes {tuple(axes)} are not sorted, distinct and below the rank", x)
    return tuple(axes)


def same_dim(a: Dim, b: Dim, what: str, *operands: Type | None) -> Dim:
    """The value of two dims that must agree (a guard where that is not proved). Raises TypeRuleError."""
    value = dims.unify(a, b)
    if value is None:
        raise fail(f"{what} differ: {a} and {b}", *operands)
    return value


def same_shape(a: Sequence[Dim], b: Sequence[Dim], what: str, *operands: Type | None) -> tuple[Dim, ...]:
    """`same_dim` for each axis; the ranks must agree."""
    if len(a) != len(b):
        raise fail(f"{what} differ in rank", *operands)
    return tuple(same_dim(x, y, f"{what} (axis {i})", *operands) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def size_is(dim: Dim, what: str) -> Dim:
    """The dim, if it can be a size."""
    if isinstance(dim, int) and dim < 0:
        raise fail(f"{what} would have the negative size {dim}")
    return dim


# --- shapes ---------------------------------------------------------------------------------------


def broadcast_dim(a: Dim, b: Dim) -> Dim | None:
    """1 gives way to anything; otherwise both must be equal. None: they cannot be."""
    if a == 1:
        return b
    return a if b == 1 else dims.unify(a, b)


def broadcast_shapes(*shapes: Sequence[Dim], operands: Sequence[Type | None] = ()) -> tuple[Dim, ...]:
    """numpy's broadcasting, aligned at the last axis. Raises TypeRuleError naming the axis."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            common = broadcast_dim(result[axis], dim)
            if common is None:
                raise fail(f"shapes do not broadcast: {result[axis]} against {dim} on axis {axis}", *operands)
            result[axis] = common
    return tuple(result)


def fits_into(small: Sequence[Dim], shape: Sequence[Dim], what: str, *operands: Type | None) -> None:
    """Check that `small` broadcasts to `shape` without changing it."""
    if len(small) > len(shape):
        raise fail(f"{what} has too high a rank", *operands)
    for a, b in zip(reversed(small), reversed(shape), strict=False):
        if a != 1:
            same_dim(a, b, f"{what}: sizes", *operands)


def windows(size: Dim, kernel: int, stride: int, dilation: int, pads: Dim) -> Dim:
    """How many windows fit: (size + pads - reach) // stride + 1, where reach = dilation * (kernel - 1) + 1."""
    return dims.floordiv(size + pads - dilation * (kernel - 1) - 1, stride) + 1


# --- families of type rules -----------------------------------------------------------------------


def same(kind: Kind = anything) -> Callable[..., TensorType]:
    """Rule: the result has the type of the only operand, which is of that kind."""

    def rule(x: Type, **_attrs: Any) -> TensorType:
        return tensor(x, kind)

    return rule


def broadcasting(kind: Kind = anything, result: DType | None = None) -> Callable[..., TensorType]:
    """Rule: operands of one element type broadcast; the result's element type is theirs, or `result`."""

    def rule(*operands: Type, **_attrs: Any) -> TensorType:
        tensors = [tensor(t, kind) for t in operands]
        dtype = one_dtype(*tensors)
        return TensorType(result or dtype, broadcast_shapes(*(t.shape for t in tensors), operands=operands))

    return rule


# --- references -----------------------------------------------------------------------------------


def widened(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Compute narrow floats (f16, bf16, f8, f4) in f32 and round the float results once to the first operand's type."""

    @wraps(reference)
    def run(*operands: Array | None, **attrs: Any) -> Any:
        narrow = next((x.dtype for x in operands if x is not None and x.dtype in _NARROW_NUMPY), None)
        if narrow is None:
            return reference(*operands, **attrs)
        wide = [x.astype(np.float32) if x is not None and x.dtype in _NARROW_NUMPY else x for x in operands]
        result = reference(*wide, **attrs)
        if isinstance(result, tuple):
            return tuple(_narrowed(np.asarray(r), narrow) for r in result)
        return _narrowed(np.asarray(result), narrow)

    return run


def _narrowed(x: Array, dtype: np.dtype[Any]) -> Array:
    return x.astype(dtype) if x.dtype == np.float32 else x


def wide_op(infer: Rule, *traits: Trait, name: str = "") -> Callable[[Callable[..., Any]], Op]:
    """`op` whose reference is `widened`: narrow floats are computed in f32 and rounded once at the end."""

    def declare(reference: Callable[..., Any]) -> Op:
        return op(infer, *traits, name=name)(widened(reference))

    return declare


def not_empty(size: Dim, reads: Dim, what: str, *operands: Type | None) -> None:
    """An axis of `size` elements, read whenever `reads` is not 0, must have one (a guard, unless that is sure)."""
    if isinstance(size, int) and (size > 0 or reads == 0):
        return
    if size == 0 and isinstance(reads, int) and reads > 0:
        raise fail(f"nothing to {what} on an empty axis", *operands)
    if not dims.symbols(size) or any(_reads_of_nothing(size, reads, name) for name in sorted(dims.symbols(size))):
        dims.unify(size, dims.dim_max(size, dims.dim_min(reads, 1)))


def _reads_of_nothing(size: Dim, reads: Dim, name: str) -> bool:
    """Whether something may be read where the symbol is 0 and the size with it."""
    left, count = dims.substitute(size, {name: 0}), dims.substitute(reads, {name: 0})
    return not (isinstance(left, int) and left > 0) and not (isinstance(count, int) and count <= 0)


def no_longer(size: Dim, limit: Dim, what: str, *operands: Type | None) -> None:
    """size <= limit (a guard, unless that is sure). Raises TypeRuleError."""
    if dims.unify(dims.dim_min(size, limit), size) is None:
        raise fail(f"{what}: {size} of {limit}", *operands)
