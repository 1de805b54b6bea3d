"""Convolutions and pools; `auto_pad` becomes numbers, or expressions where sizes are open."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lepton.frontends.onnx.bounds import larger
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel moves over the spatial axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Dim, ...]
    end: tuple[Dim, ...]

    @property
    def attrs(self) -> dict[str, Any]:
        """What conv takes."""
        return {"strides": self.strides, "pads_begin": self.begin, "pads_end": self.end, "dilations": self.dilations}


def window(c: Call, kernel: tuple[int, ...] | None = None, *, channels_last: bool = False) -> Window:
    """The attributes kernel_shape, strides, dilations, pads and auto_pad. Raises LeptonError where they do not fit."""
    sizes = c.x().tensor.shape[1:-1] if channels_last else c.x().tensor.shape[2:]
    kernel = c.ints("kernel_shape", kernel if kernel is not None else REQUIRED)
    strides, dilations = c.ints("strides", (1,) * len(kernel)), c.ints("dilations", (1,) * len(kernel))
    fits = len(sizes) == len(kernel) == len(strides) == len(dilations)
    if not fits or not sound(kernel, strides, dilations):
        raise LeptonError(f"kernel {list(kernel)}, strides {list(strides)} and dilations {list(dilations)} for "
                          f"{c.x().tensor}", where=c.where)
    begin, end = padding(c, sizes, kernel, strides, dilations)
    return Window(kernel, strides, dilations, begin, end)


def sound(*steps: Sequence[int]) -> bool:
    """Whether kernels can be so large, or move so: more than 31 bits would leave 64 where sizes are multiplied."""
    return all(1 <= step < 2**31 for group in steps for step in group)


def explicit_pads(c: Call, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attribute pads: amounts before and after each spatial axis. Raises LeptonError."""
    pads = c.ints("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        raise LeptonError(f"{len(pads)} pads for {rank} spatial axes", where=c.where)
    if far := [p for p in pads if abs(p) >= 2**31]:
        raise LeptonError(f"pads of {far[0]}: no axis can be padded by 2**31 or more", where=c.where)
    return pads[:rank], pads[rank:]


def padding(c: Call, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int],
            dilations: Sequence[int]) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Amounts before and after each spatial axis."""
    rank = len(sizes)
    mode = c.s("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return explicit_pads(c, rank)
    c.ignore("pads")
    if mode == "VALID":
        return (0,) * rank, (0,) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise LeptonError(f"auto_pad {mode!r}", where=c.where)
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = larger((dims.ceildiv(size, s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less = dims.floordiv(total, 2)
        begin.append(less if mode == "SAME_UPPER" else total - less)
        end.append(total - less if mode == "SAME_UPPER" else less)
    return tuple(begin), tuple(end)


def kernel_of(c: Call, w: Value) -> tuple[int, ...]:
    """The spatial sizes of a weight. Raises UnsupportedError where they are open."""
    sizes = w.tensor.shape[2:]
    if any(not isinstance(d, int) for d in sizes):
        c.fail(f"a kernel of open size: {w.tensor}")
    return tuple(d for d in sizes if isinstance(d, int))


def checked_weight(c: Call, index: int = 1) -> Value:
    """The weight, if its rank fits and `kernel_shape` (if given) agrees with it."""
    w = c.x(index)
    kernel = c.ints("kernel_shape", None)
    if w.tensor.rank != c.x().tensor.rank or w.tensor.rank < 3 or kernel not in (None, kernel_of(c, w)):
        raise LeptonError(f"weight {w.tensor} for {c.x().tensor} (kernel_shape {kernel})", where=c.where)
    return w


@imports("Conv")
def conv(c: Call) -> Value:
    w = checked_weight(c)
    return c(ops.conv, c.x(), w, c.opt(2), **window(c, kernel_of(c, w)).attrs, group=c.positive("group", 1))


@imports("ConvTranspose")
def conv_transpose(c: Call) -> Value:
    w = checked_weight(c)
    kernel, sizes = kernel_of(c, w), c.x().tensor.shape[2:]
    rank = len(kernel)
    strides, dilations = c.ints("strides", (1,) * rank), c.ints("dilations", (1,) * rank)
    extra = c.ints("output_padding", (0,) * rank)
    fits = len(strides) == len(dilations) == len(extra) == rank
    if not fits or not sound(strides, dilations) or any(abs(e) >= 2**31 for e in extra):
        raise LeptonError(f"strides {list(strides)}, dilations {list(dilations)} and output_padding {list(extra)} for "
                          f"{c.x().tensor}", where=c.where)
    begin, end = _transposed_padding(c, sizes, kernel, strides, dilations, extra)
    return c(ops.conv_transpose, c.x(), w, c.opt(2), strides=strides, pads_begin=begin, pads_end=end,
             dilations=dilations, output_padding=extra, group=c.positive("group", 1))


def _transposed_padding(c: Call, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int],
                        dilations: Sequence[int], extra: Sequence[int]) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """What to cut from the result: given, or so that it gets the size that `output_shape` or SAME ask for."""
    wanted, mode = c.ints("output_shape", None), c.s("auto_pad", "NOTSET")
    rank = len(sizes)
    if wanted is None and mode in ("NOTSET", "VALID"):
        c.ignore("pads")
        return explicit_pads(c, rank) if mode == "NOTSET" else ((0,) * rank, (0,) * rank)
    c.ignore("pads")
    outputs: Sequence[Dim] = [n * s for n, s in zip(sizes, strides, strict=True)] if wanted is None else wanted[-rank:]
    if len(outputs) != rank or any(isinstance(n, int) and abs(n) >= 2**40 for n in outputs):
        raise LeptonError(f"output_shape {list(outputs)} for {rank} spatial axes", where=c.where)
    begin, end = [], []
    for n, s, k, d, e, out in zip(sizes, strides, kernel, dilations, extra, outputs, strict=True):
        total = s * (n - 1) + e + (k - 1) * d + 1 - out
        total = larger(total, 0) if wanted is None else total
        less = dims.floordiv(total, 2)
        begin.append(less if mode == "SAME_UPPER" else total - less)
        end.append(total - less if mode == "SAME_UPPER" else less)
    return tuple(begin), tuple(end)


# --- pools ----------------------------------------------------------------------------------------


def pool_attrs(c: Call, *, channels_last: bool = False) -> dict[str, Any]:
    """What pools take."""
    w = window(c, channels_last=channels_last)
    if cut := [p for p in (*w.begin, *w.end) if isinstance(p, int) and p < 0]:
        raise LeptonError(f"pads of {cut[0]}: a pool cannot be padded by less than 0", where=c.where)
    return {"kernel": w.kernel, **w.attrs, "ceil_mode": c.flag("ceil_mode")}


@imports("MaxPool")
def max_pool(c: Call) -> Value | tuple[Value, ...]:
    attrs, order = pool_attrs(c), c.i("storage_order", 0)
    if c.wants(1):
        return c.multi(ops.max_pool_indices, c.x(), **attrs, storage_order=order)
    return c(ops.max_pool, c.x(), **attrs)


@imports("AveragePool")
def average_pool(c: Call) -> Value:
    return c(ops.avg_pool, c.x(), **pool_attrs(c), count_include_pad=c.flag("count_include_pad"))


@imports("LpPool")
def lp_pool(c: Call) -> Value:
    p = int(c.f("p", 2.0)) if c.opset < 2 else c.positive("p", 2)
    return c(ops.lp_pool, c.x(), p=p, **pool_attrs(c))


@imports("GlobalAveragePool")
def global_average_pool(c: Call) -> Value:
    return c(ops.reduce_mean, c.x(), axes=_spatial(c), keepdims=True)


@imports("GlobalMaxPool")
def global_max_pool(c: Call) -> Value:
    return c(ops.reduce_max, c.x(), axes=_spatial(c), keepdims=True)


@imports("GlobalLpPool")
def global_lp_pool(c: Call) -> Value:
    p = c.f("p", 2.0) if c.opset < 2 else c.positive("p", 2)
    x = c(ops.abs_, c.x())
    powers = c(ops.pow_, x, c.like(p, x))
    total = c(ops.reduce_sum, powers, axes=_spatial(c), keepdims=True)
    return c(ops.pow_, total, c.like(1 / p, x))


def _spatial(c: Call) -> tuple[int, ...]:
    return tuple(range(2, c.x().tensor.rank))
