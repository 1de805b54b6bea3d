"""Operators that join, cut, repeat and reorder tensors."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton.frontends.onnx import reading
from lepton.frontends.onnx.bounds import certainly, larger, smaller
from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.reading import Element, Known
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim
from lepton.ir.types import DType

_FAR = 2**31 - 1  # exporters write INT32_MAX or INT64_MAX for "to the end"
_LONGEST = 2**47  # no axis has more elements: a longer step reaches one at most


@imports("Concat")
def concat(c: Call) -> Value:
    values = c.all()
    axis = c.axis(1 if c.opset < 4 else None)
    return c(ops.concat, *values, axis=axis) if len(values) > 1 else values[0]


def cut(c: Call, x: Value, spans: Mapping[int, tuple[Known, Known, int]]) -> Value:
    """x with axes cut as numpy's `start:end:step` says."""
    shape = x.tensor.shape
    starts: list[Dim] = [0] * len(shape)
    sizes, steps = list(shape), [1] * len(shape)
    for axis, (start, end, step) in spans.items():
        if step == 0:
            raise LeptonError("a step of 0", where=c.where)
        step = max(-_LONGEST, min(step, _LONGEST))
        if isinstance(start, Element) or isinstance(end, Element):
            starts[axis], sizes[axis] = reading.span(c, shape[axis], start, end, step)
        else:
            starts[axis], sizes[axis] = span(c, shape[axis], start, end, step)
        steps[axis] = step if abs(step) < _LONGEST else 1
    if tuple(sizes) == shape and not any(starts) and set(steps) <= {1}:
        return x
    return c(ops.slice_, x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))


def span(c: Call, size: Dim, start: Dim, end: Dim, step: int) -> tuple[Dim, Dim]:
    """(first element, number of elements) of `start:end:step` on an axis of `size`."""
    high = size if step > 0 else size - 1
    first = _place(start, size, 0, high)  # backwards too, where numpy would find nothing before the first element
    last = _place(end, size, 0 if step > 0 else -1, high)
    reach = last - first if step > 0 else first - last
    if certainly(reach, "<=", 0) is True:
        return 0, 0
    if abs(step) >= _LONGEST:
        return first, dims.dim_min(1, larger(reach, 0))
    return first, larger(dims.ceildiv(reach, abs(step)), 0)


def _place(v: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A start or end, counted from the beginning and kept within [low, high]."""
    if isinstance(v, int) and abs(v) >= _FAR:
        return high if v > 0 else low
    if v == size:
        return smaller(v, high)
    if (certainly(0, "<=", v)) is True:
        place = v
    elif certainly(v, "<", 0) is True:
        place = v + size
    else:  # N - 5 counts from the end where N is below 5
        place = v + size * dims.dim_min(dims.dim_max(-v, 0), 1)
    return smaller(larger(place, low), high)


@imports("Slice")
def slice_1(c: Call) -> Value:
    starts, ends = c.ints("starts", REQUIRED), c.ints("ends", REQUIRED)
    given = c.ints("axes", None) or tuple(range(len(starts)))
    return _sliced(c, starts, ends, given, (1,) * len(starts))


@imports("Slice", since=10)
def slice_(c: Call) -> Value:
    starts, ends = c.elements(1, "starts"), c.elements(2, "ends")
    given = c.ints_in(3, "the axes") if c.opt(3) is not None else tuple(range(len(starts)))
    steps = c.ints_in(4, "steps") if c.opt(4) is not None else (1,) * len(starts)
    return _sliced(c, starts, ends, given, steps)


def _sliced(c: Call, starts: Sequence[Known], ends: Sequence[Known], given: Sequence[int], steps: Sequence[int]
            ) -> Value:
    if not len(starts) == len(ends) == len(given) == len(steps):
        raise LeptonError("starts, ends, axes and steps differ in length", where=c.where)
    axes = c.axes_of(given, c.x().tensor.rank)
    return cut(c, c.x(), {a: (s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)})


@imports("Split")
def split(c: Call) -> list[Value]:
    axis = c.axis(0)
    size = c.x().tensor.shape[axis]
    count = len(c.node.output)
    sizes: Sequence[Dim] | None = c.ints("split", None) if c.opset < 13 else None
    if c.opset < 13 and sizes is None and c.opt(1) is not None:  # opset 1 had it as an input too
        sizes = c.dims(1, "the sizes")
    if c.opset >= 13 and c.opt(1) is not None:
        sizes = c.dims(1, "the sizes")
    if sizes is None:
        pieces = c.positive("num_outputs", count)
        if pieces != count:
            raise LeptonError(f"num_outputs is {pieces}, but there are {count} outputs", where=c.where)
        each = dims.ceildiv(size, pieces) if c.opset >= 18 else dims.floordiv(size, pieces)
        sizes = [each] * (pieces - 1) + [size - each * (pieces - 1)]
    total: Dim = 0
    for part in sizes:
        total = total + part
    if len(sizes) != count or dims.unify(total, size) is None:
        raise LeptonError(f"parts {list(sizes)} of {size} for {count} outputs", where=c.where)
    # As long as its parts together: the shape that has it checked.
    whole = c.reshape(c.x(), [total if a == axis else d for a, d in enumerate(c.x().tensor.shape)])
    return parts(c, whole, axis, sizes)


def parts(c: Call, x: Value, axis: int, sizes: Sequence[Dim]) -> list[Value]:
    """x cut along the axis into pieces of these sizes."""
    found: list[Value] = []
    at: Dim = 0
    for part in sizes:
        starts = tuple(at if a == axis else 0 for a in range(x.tensor.rank))
        shape = tuple(part if a == axis else d for a, d in enumerate(x.tensor.shape))
        found.append(c(ops.slice_, x, starts=starts, sizes=shape, steps=(1,) * len(shape)))
        at = at + part
    return found


def nth(c: Call, x: Value, index: int) -> Value:
    """x[index]; of a constant, a constant."""
    if x.producer is not None and x.producer.op is ops.constant:
        return c.const(x.producer.attrs["value"].array[index])
    rest = x.tensor.shape[1:]
    row = c(ops.slice_, x, starts=(index, *(0 for _ in rest)), sizes=(1, *rest), steps=(1,) * x.tensor.rank)
    return c.reshape(row, rest)


@imports("Tile")
def tile_1(c: Call) -> Value:
    (axis,) = c.axes_of((c.int_in(2, "the axis"),), c.x().tensor.rank)
    times = c.dim(1, "the tiles")
    return repeat(c, [times if a == axis else 1 for a in range(c.x().tensor.rank)])


@imports("Tile", since=6)
def tile(c: Call) -> Value:
    return repeat(c, c.dims(1, "the repeats"))


def repeat(c: Call, repeats: Sequence[Dim]) -> Value:
    """Each repeated axis gets a new axis before it, along which it is broadcast; an axis of size 1 is its own."""
    x = c.x()
    shape = x.tensor.shape
    if len(repeats) != len(shape):
        raise LeptonError(f"{len(repeats)} repeats for {x.tensor}", where=c.where)
    if all(r == 1 for r in repeats):
        return x
    apart: list[Dim] = []
    wide: list[Dim] = []
    for d, r in zip(shape, repeats, strict=True):
        apart += [d] if r == 1 or d == 1 else [1, d]
        wide += [d] if r == 1 else [r] if d == 1 else [r, d]
    spread = c(ops.broadcast_to, c.reshape(x, apart), shape=tuple(wide))
    return c.reshape(spread, [d * r for d, r in zip(shape, repeats, strict=True)])


@imports("Pad")
def pad_1(c: Call) -> Value:
    amounts = c.ints("paddings" if c.opset < 2 else "pads", REQUIRED)
    value = c.f("value", 0.0)
    return padded(c, c.x(), amounts, c.s("mode", "constant"), c.like(value, c.x()) if value else None)


@imports("Pad", since=11)
def pad(c: Call) -> Value:
    x = c.x()
    rank, amounts = x.tensor.rank, reading.signed(c, c.elements(1, "the pads"))
    axes = c.axes_of(c.ints_in(3, "the axes"), rank) if c.opt(3) is not None else tuple(range(rank))
    if len(amounts) != 2 * len(axes):
        raise LeptonError(f"{len(amounts)} pads for {len(axes)} axes", where=c.where)
    full: list[Dim] = [0] * (2 * rank)
    for k, axis in enumerate(axes):
        full[axis], full[axis + rank] = amounts[k], amounts[k + len(axes)]
    value = None if c.opt(2) is None else c.cast(c.reshape(c.x(2), ()), x.tensor.dtype)
    return padded(c, x, full, c.s("mode", "constant"), value)


def padded(c: Call, x: Value, amounts: Sequence[Dim], mode: str, value: Value | None) -> Value:
    rank = x.tensor.rank
    if len(amounts) != 2 * rank:
        raise LeptonError(f"{len(amounts)} pads for {x.tensor}", where=c.where)
    if far := [a for a in amounts if isinstance(a, int) and abs(a) > _LONGEST]:
        raise LeptonError(f"a pad of {far[0]}: no axis is that long", where=c.where)
    if all(a == 0 for a in amounts):
        return x
    return c(ops.pad, x, value if mode == "constant" else None, before=tuple(amounts[:rank]),
             after=tuple(amounts[rank:]), mode=mode)


@imports("DepthToSpace")
def depth_to_space(c: Call) -> Value:
    b = c.positive("blocksize", REQUIRED)
    n, channels, h, w = _image(c)
    deep = dims.floordiv(channels, b * b)
    apart: tuple[Dim, ...]
    if c.s("mode", "DCR") == "DCR":
        apart, perm = (n, b, b, deep, h, w), (0, 3, 4, 1, 5, 2)
    else:
        apart, perm = (n, deep, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return c.reshape(c(ops.transpose, c.reshape(c.x(), apart), perm=perm), (n, deep, h * b, w * b))


@imports("SpaceToDepth")
def space_to_depth(c: Call) -> Value:
    b = c.positive("blocksize", REQUIRED)
    n, channels, h, w = _image(c)
    down, across = dims.floordiv(h, b), dims.floordiv(w, b)
    apart = c.reshape(c.x(), (n, channels, down, b, across, b))
    perm = (0, 3, 5, 1, 2, 4) if c.s("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return c.reshape(c(ops.transpose, apart, perm=perm), (n, channels * b * b, down, across))


def _image(c: Call) -> tuple[Dim, Dim, Dim, Dim]:
    shape = c.x().tensor.shape
    if len(shape) != 4:
        raise LeptonError(f"{c.x().tensor} is not [N,C,H,W]", where=c.where)
    n, channels, h, w = shape
    return n, channels, h, w


@imports("Trilu", since=14)
def trilu(c: Call) -> Value:
    upper, x = c.flag("upper", True), c.x()
    (k,) = (0,) if c.opt(1) is None else c.elements(1, "the diagonal")
    if isinstance(k, int):
        return c(ops.trilu, x, upper=upper, k=k)
    rows, columns = (c(ops.iota, size=d, dtype=DType.I64) for d in x.tensor.shape[-2:])
    apart = c(ops.sub, columns, c.reshape(rows, (x.tensor.shape[-2], 1)))
    kept = c(ops.greater_equal if upper else ops.less_equal, apart, reading.scalar(c, k))
    return c(ops.where, kept, x, c.like(0, x))


@imports("ReverseSequence", since=10)
def reverse_sequence(c: Call) -> Value:
    """Element t of a sequence of length n comes from n-1-t where t < n, and stays otherwise."""
    x, lens = c.x(), c.x(1)
    batch, time = c.i("batch_axis", 1), c.i("time_axis", 0)
    shape = x.tensor.shape
    if {batch, time} != {0, 1} or len(shape) < 2:
        raise LeptonError(f"batch axis {batch} and time axis {time} of {x.tensor}", where=c.where)
    return mirrored(c, x, lens, time)


def mirrored(c: Call, x: Value, lens: Value, time: int = 0) -> Value:
    """x with each sequence backwards up to its length; `time` is one of the first two axes, the other counts them."""
    shape = x.tensor.shape
    steps = c(ops.iota, size=shape[time], dtype=DType.I64)
    steps = c.reshape(steps, [d if a == time else 1 for a, d in enumerate(shape)])
    ends = c.reshape(c.cast(lens, DType.I64), [d if a == 1 - time else 1 for a, d in enumerate(shape)])
    back = c(ops.sub, c(ops.sub, ends, c.const(1, DType.I64)), steps)
    places = c(ops.where, c(ops.less, steps, ends), back, steps)
    return c(ops.gather_elements, x, c(ops.broadcast_to, places, shape=shape), axis=time)
