"""Products of any element type and shape as loop kernels: correct everywhere, and what the fast templates fall back on.

    for out element:  acc = 0;  for c, taps:  acc += x[...] * w[...];  epilogue
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import Access, Kernel, packed
from lepton.codegen.llvm.convert import widened
from lepton.codegen.loops import Apply, Cast, Const, Expr, For, LoopKind, Ref, Select, Stmt, Update, Var, add, i64, mul
from lepton.codegen.lower.anchored import Anchored
from lepton.codegen.lower.nest import cut, div, grain_for, least, load, mod, most, nest_loops, offset, sub
from lepton.codegen.templates.fused import narrow_operand
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, product
from lepton.ir.types import DType

TASK_PRODUCTS = 16384     # multiplications of a task, about


def generic_matmul(group: Group, options: LowerOptions) -> Kernel:
    """A matmul of any element type, or a matmul_integer; halves are summed in f32, integers wrap."""
    return _Matmul(group).kernel()


def generic_conv(group: Group, options: LowerOptions) -> Kernel:
    """A convolution of any element type, rank, layout and filters."""
    return _Conv(group).kernel()


def generic_conv_transpose(group: Group, options: LowerOptions) -> Kernel:
    """A transposed convolution: each output gathers the inputs that reach it."""
    return _ConvTranspose(group).kernel()


class _Product(Anchored):
    """Sums of products, one per element of the result."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        x, self.w, *rest = self.node.inputs
        self.x = narrow_operand(x) or x
        self.rest: list[Value | None] = [*rest, None, None]
        self.dtype = widened(self.result.dtype)

    def kernel_over(self, order: Sequence[int], length: Dim, body: Callable[[list[Expr]], list[Stmt]]) -> Kernel:
        """Loops over the result's axes in this order, the last one in vectors."""
        shape = self.result.shape
        sizes = [shape[a] for a in order] or [1]
        each = max(1, length if isinstance(length, int) else 64)
        tasks = cut(sizes, TASK_PRODUCTS, work=each)
        coords, around = nest_loops(sizes, tasks, self.nest)
        point: list[Expr] = [i64(0)] * len(shape)
        for axis, coord in zip(order, coords, strict=False):
            point[axis] = coord
        return self.nest.kernel(around.around(body(point)), tasks.count, grain=grain_for(tasks),
                                writes=self.group.outputs, flops=product([2, *shape, length]))

    def sum(self, loops: Sequence[tuple[Ref, Expr]], term: Expr, point: list[Expr], bias: Expr | None) -> list[Stmt]:
        """acc = Σ term over the loops, then bias, epilogue and stores."""
        zero = Const(0.0 if self.dtype.is_float else 0, self.dtype)
        acc = Ref(self.nest.fresh("acc"), self.dtype)
        body: tuple[Stmt, ...] = (Update(acc.name, "add", term),)
        for var, extent in reversed(loops):
            body = (For(var.name, extent, body, LoopKind.SERIAL),)
        total: Expr = acc if bias is None else Apply("add", (acc, bias), self.dtype)
        return [Var(acc.name, zero), *body, *self.finish({self.node.results[0]: total}, point)]

    def factor(self, value: Expr, zero: Expr | None) -> Expr:
        """An operand as it enters the product: without its zero point, in the type of the sum."""
        wide = value if value.dtype is self.dtype else Cast(value, self.dtype)
        if zero is None:
            return wide
        return Apply("sub", (wide, Cast(zero, self.dtype)), self.dtype)


class _Matmul(_Product):
    def kernel(self) -> Kernel:
        assert self.x is not None
        assert self.w is not None
        rank = len(self.result.shape)
        return self.kernel_over(range(rank), self.x.tensor.shape[-1], self.element_at)

    def element_at(self, point: list[Expr]) -> list[Stmt]:
        assert self.x is not None
        assert self.w is not None
        columns = self.w.tensor.rank > 1
        k = self.nest.var("k")
        batch = point[:len(point) - columns - (self.x.tensor.rank > 1)]
        row = [point[-1 - columns]] if self.x.tensor.rank > 1 else []
        column = [point[-1]] if columns else []
        left = self.factor(self.read(self.x, [*batch, *row, k]), self.zero(0, self.x, [*batch, *row, k], -2))
        right = self.factor(self.read(self.w, [*batch, k, *column]), self.zero(1, self.w, [*batch, k, *column], -1))
        extent = self.nest.size(self.x.tensor.shape[-1])
        return self.sum([(k, extent)], Apply("mul", (left, right), self.dtype), point, None)

    def read(self, value: Value, coords: list[Expr]) -> Expr:
        """An element of an operand whose batch axes broadcast."""
        access = self.group.access(value)
        own = coords[len(coords) - value.tensor.rank:]
        fixed = [i64(0) if n == 1 else c for n, c in zip(access.shape, own, strict=True)]
        return self.element(value, fixed)

    def zero(self, index: int, operand: Value, coords: list[Expr], axis: int) -> Expr | None:
        """The zero point of an operand's element: one for all, one per row or column, or one per batch entry too."""
        zero = self.rest[index] if self.node.op is ops.matmul_integer else None
        if zero is None:
            return None
        rank = zero.tensor.rank
        if rank == 0:
            return self.element(zero, [])
        own = coords[len(coords) - operand.tensor.rank:]
        if rank == 1:
            place = own[axis] if operand.tensor.rank > 1 else i64(0)
            return self.element(zero, [place if zero.tensor.shape[0] != 1 else i64(0)])
        coords = [i64(0) if n == 1 else c for n, c in zip(zero.tensor.shape, own[-rank:], strict=True)]
        return self.element(zero, coords)


@dataclass(frozen=True, slots=True)
class _Tap:
    """An input position along one axis: clamped, and whether it is inside."""

    at: Expr
    inside: Expr


class _Conv(_Product):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        first = self.node.attrs["layout"] == "nchw"
        rank = len(self.result.shape)
        self.channel = 1 if first else rank - 1
        self.spatial = tuple(range(2, rank)) if first else tuple(range(1, rank - 1))
        assert self.w is not None
        self.kernel_sizes = [d for d in self.w.tensor.shape[2:] if isinstance(d, int)]
        self.packed_weights()

    def packed_weights(self) -> None:
        """Constant filters with the output channel innermost, so that vectors of it can be read."""
        assert self.w is not None
        array = self.constant(self.w)
        self.weights = self.buffers[self.w]
        self.weight_access = self.group.access(self.w)
        if array is not None:
            moved = np.ascontiguousarray(np.moveaxis(array, self.filter_axis, -1))
            self.weights = self.nest.constant(packed(moved), self.w.tensor.dtype)
            steps = [s // moved.itemsize for s in moved.strides]
            steps.insert(self.filter_axis, steps.pop())
            self.weight_access = Access(self.w.tensor, tuple(steps))

    filter_axis = 0

    def kernel(self) -> Kernel:
        assert self.w is not None
        axes = range(len(self.result.shape))
        return self.kernel_over(axes, product([*self.kernel_sizes, self.w.tensor.shape[1 - self.filter_axis]]),
                                self.element_at)

    def element_at(self, point: list[Expr]) -> list[Stmt]:
        assert self.x is not None
        assert self.w is not None
        attrs, nest = self.node.attrs, self.nest
        per_group = self.w.tensor.shape[1 - self.filter_axis]
        if self.filter_axis == 1 and attrs["group"] > 1:
            per_group = self.x.tensor.shape[self.channel] // attrs["group"]
        c = nest.var("c")
        steps = [nest.var("k") for _ in self.spatial]
        taps = [self.tap(i, point[a], k) for i, (a, k) in enumerate(zip(self.spatial, steps, strict=True))]
        coords = list(point)
        inside: Expr | None = None
        for axis, tap in zip(self.spatial, taps, strict=True):
            coords[axis] = tap.at
            inside = tap.inside if inside is None else Apply("logical_and", (inside, tap.inside), DType.BOOL)
        channel, place = self.channels(point[self.channel], c)
        coords[self.channel] = channel
        left = self.factor(self.element(self.x, coords), self.zero_point(0, point))
        if inside is not None:
            left = Select(inside, left, Const(0.0 if self.dtype.is_float else 0, self.dtype))
        value = load(self.weights, self.w.tensor.dtype, offset([*place, *steps], self.weight_access.strides, nest))
        right = self.factor(value, self.zero_point(1, point))
        extents = [(c, nest.size(per_group)), *((k, i64(n)) for k, n in zip(steps, self.kernel_sizes, strict=True))]
        return self.sum(extents, Apply("mul", (left, right), self.dtype), point, self.bias(point))

    def channels(self, filters: Expr, c: Expr) -> tuple[Expr, list[Expr]]:
        """(input channel, [filter, c] in the weights) for the c-th channel that an output channel reads."""
        assert self.w is not None
        groups = self.node.attrs["group"]
        if groups == 1:
            return c, [filters, c]
        each = self.result.shape[self.channel] // groups
        group = div(filters, self.nest.size(each))
        return add(mul(group, self.nest.size(self.w.tensor.shape[1])), c), [filters, c]

    def tap(self, i: int, at: Expr, k: Expr) -> _Tap:
        attrs = self.node.attrs
        start = sub(mul(at, i64(attrs["strides"][i])), self.nest.size(attrs["pads_begin"][i]))
        return self.clamped(add(start, mul(k, i64(attrs["dilations"][i]))), i, None)

    def clamped(self, position: Expr, i: int, also: Expr | None) -> _Tap:
        assert self.x is not None
        size = self.nest.size(self.x.tensor.shape[self.spatial[i]])
        inside: Expr = Apply("logical_and", (Apply("less_equal", (i64(0), position), DType.BOOL),
                                             Apply("less", (position, size), DType.BOOL)), DType.BOOL)
        if also is not None:
            inside = Apply("logical_and", (inside, also), DType.BOOL)
        return _Tap(most(least(position, sub(size, i64(1))), i64(0)), inside)

    def zero_point(self, index: int, point: list[Expr]) -> Expr | None:
        zero = self.rest[index] if self.node.op is ops.conv_integer else None
        if zero is None:
            return None
        if zero.tensor.rank == 0:
            return self.element(zero, [])
        return self.element(zero, [i64(0) if zero.tensor.shape[0] == 1 else point[self.channel]])

    def bias(self, point: list[Expr]) -> Expr | None:
        bias = None if self.node.op is ops.conv_integer else self.rest[0]
        return None if bias is None else self.element(bias, [point[self.channel]])


class _ConvTranspose(_Conv):
    """out[q] = Σ x[(q + pad - k*dilation) / stride] w[k], over the taps where that is an input position."""

    filter_axis = 1

    def channels(self, filters: Expr, c: Expr) -> tuple[Expr, list[Expr]]:
        assert self.w is not None
        groups = self.node.attrs["group"]
        if groups == 1:
            return c, [c, filters]
        assert self.x is not None
        each = self.w.tensor.shape[1]
        group = div(filters, self.nest.size(each))
        channel = add(mul(group, self.nest.size(self.x.tensor.shape[self.channel] // groups)), c)
        return channel, [channel, mod(filters, self.nest.size(each))]

    def tap(self, i: int, at: Expr, k: Expr) -> _Tap:
        attrs = self.node.attrs
        reach = sub(add(at, self.nest.size(attrs["pads_begin"][i])), mul(k, i64(attrs["dilations"][i])))
        stride = i64(attrs["strides"][i])
        known = most(reach, i64(0))
        meets: Expr = Apply("equal", (mod(known, stride), i64(0)), DType.BOOL)
        meets = Apply("logical_and", (meets, Apply("less_equal", (i64(0), reach), DType.BOOL)), DType.BOOL)
        return self.clamped(div(known, stride), i, meets)
