"""Convolutions: each becomes the cheapest of a matrix product, a direct or a depthwise convolution."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, Packed, packed
from lepton.codegen.lower.candidates import conv_choice, depthwise_choice
from lepton.codegen.lower.conv_cost import DEPTHWISE_GRAIN_FLOPS, Shape, blocking, direct_schedule, known
from lepton.codegen.lower.matmul import Made, grain_of, matmul_kernel
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.stored import halved
from lepton.codegen.schedule import Schedule
from lepton.codegen.target import Target
from lepton.codegen.templates.convolution import Convolution, Window, pack_filters
from lepton.codegen.templates.depthwise import Depthwise, channels_of, pack_taps
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.fused import Bindings, Fused, collapse, constant_array, narrow_operand, outer
from lepton.codegen.templates.tiles import Tile
from lepton.codegen.templates.winograd import FILTER_TRANSFORM, OUTPUT, POINTS, Winograd, matrix
from lepton.codegen.templates.winograd_filters import FilterTransform
from lepton.codegen.templates.winograd_filters import pack_taps as pack_winograd
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

FILTER_CHANNELS = 16   # of a task that transforms filters


@lowers(ops.conv)
def lower_conv(group: Group, options: LowerOptions) -> Kernel:
    """One kernel for a convolution, its bias and the elementwise ops behind it."""
    assert group.anchor is not None
    x, w, b = (*group.anchor.inputs, None)[:3]
    assert x is not None
    assert w is not None
    attrs = group.anchor.attrs
    if (halves := narrow_operand(x)) is not None:
        from lepton.codegen.lower import halves as of_halves

        return of_halves.conv(group, options, halves)
    weights = constant_array(group, w)
    known = x.tensor.dtype in (DType.F32, DType.F64) and 3 <= x.tensor.rank <= 5
    counted = isinstance(x.tensor.shape[1 if attrs["layout"] == "nchw" else -1], int)
    if weights is None or not weights.size or not known or not counted:
        from lepton.codegen.lower.products import generic_conv

        return generic_conv(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    shape = shape_of(group, fused, x, weights, attrs)
    from lepton.codegen.lower.sparse import sparse_conv

    if (kernel := sparse_conv(group, options, fused, shape, x)) is not None:
        return kernel
    shape = shape.joined(1)
    if shape.pointwise:
        return pointwise(group, options, fused, shape, (x, w))
    if shape.depthwise:
        return depthwise(group, options, fused, shape, x)
    allowed = options.winograd and options.math != "strict"
    schedule = options.choose(conv_choice(group, options.target, shape, winograd=allowed))
    if schedule.form == "winograd":
        return winograd(group, options, fused, shape, x, schedule)
    return direct(group, options, fused, shape, x, schedule)


def shape_of(group: Group, fused: Fused, x: Value, weights: Array, attrs: Any) -> Shape:
    """The convolution with its missing spatial axes filled in."""
    rank, first = x.tensor.rank - 2, attrs["layout"] == "nchw"

    def three(values: Sequence[Any], missing: Any) -> Any:
        return (*(missing,) * (3 - rank), *values)

    def axes(values: Sequence[Any], missing: Any) -> Any:
        n, *rest = values
        channel, spatial = (rest[0], rest[1:]) if first else (rest[-1], rest[:-1])
        return (n, *three(spatial, missing), channel)

    result = axes(fused.shape, 1)
    into = axes(x.tensor.shape, 1)
    filters, channels, *kernel = weights.shape
    return Shape(
        x.tensor.dtype, result[0], result[1:4], into[1:4], attrs["group"], channels, filters // attrs["group"],
        three(kernel, 1), three(attrs["strides"], 1), three(attrs["dilations"], 1), three(attrs["pads_begin"], 0),
        three(attrs["pads_end"], 0), axes(group.access(x).strides, 0), [axes(v, 0) for v in fused.views],
        weights.reshape(filters, channels, *three(kernel, 1))).trimmed().lying()


def pointwise(group: Group, options: LowerOptions, fused: Fused, shape: Shape, factors: tuple[Value, Value]) -> Kernel:
    """1x1: a matrix product over the pixels."""
    return matmul_kernel(group, options, fused, pixels(shape), factors)


def pixels(shape: Shape) -> Problem:
    """A pointwise convolution as a product: rows are pixels, as far as all operands walk them as one."""
    rows = [shape.x[:-1], *(v[:-1] for v in shape.views)]
    batch, merged = collapse((shape.images, *shape.out), rows)
    if not batch:
        batch, merged = (1,), [(0,)] * len(rows)
    matrix = np.ascontiguousarray(shape.weights.reshape(shape.filters, shape.channels).T)
    return Problem(batch[:-1], batch[-1], shape.filters, shape.channels, (*merged[0], shape.x[-1]),
                   (0,) * (len(batch) + 1),
                   [(*m, v[-1]) for m, v in zip(merged[1:], shape.views, strict=True)], matrix)


def direct(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value, schedule: Schedule) -> Kernel:
    """Any other: the microkernel over windows of pixels."""
    bindings, shape = Bindings(), shape.thinned()
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    made = direct_body(bindings, options.target, shape, view, fused.epilogue(bindings, shape.views), schedule)
    return Kernel(group.name, made.body, tuple(bindings.bound), made.tasks, bindings.table.dims, made.scratch,
                  grain_of(shape.flops, made.tasks), shape.flops, group.outputs)


def direct_body(bindings: Bindings, target: Target, shape: Shape, x: Operand, epilogue: Epilogue,
                schedule: Schedule | None = None) -> Made:
    """The body of a direct convolution: whether the input is copied. Without a schedule the cost model's."""
    cut = blocking(target, shape, schedule or direct_schedule(target, shape))
    planar = shape.x[4] != 1 and shape.channels > 1
    crowded = not planar and cut.crowded
    copied = shape.padded or crowded or not (planar or shape.x[4] == 1 or shape.channels == 1)
    gap = 16 if crowded else 0
    dot, weights = halved(target, shape.weights)
    filters = bindings.buffer(packed(pack_filters(weights, shape.groups, target, cut.vectors, planar, shape.dtype)))
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads, *cut.block))
    out, into, pads, block = rest[:3], rest[3:6], rest[6:9], rest[9:]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    body = Convolution(
        shape.dtype, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, shape.channels,
        shape.filters, window, x, filters, epilogue, cut.tile, cut.vectors, (block[0], block[1]), cut.block_panels,
        copied, planar, gap, dot)
    scratch = product((*cut.spans, (shape.channels + gap) * shape.dtype.bytes)) if copied else 0
    return Made(body, cut.tasks, scratch)


def depthwise(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value, zero: int = 0) -> Kernel:
    """One filter for each channel: no microkernel, vectors of channels. x may hold bytes, with a zero point."""
    target, bindings = options.target, Bindings()
    lanes = target.lanes(shape.dtype)
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    filters = bindings.buffer(packed(pack_taps(shape.weights, lanes)))
    epilogue = fused.epilogue(bindings, shape.views)
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads))
    out, into, pads = rest[:3], rest[3:6], rest[6:9]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    schedule = options.choose(depthwise_choice(group, target, shape, x.tensor.dtype))
    (tile,), (block,) = schedule.tile, schedule.block
    assert isinstance(block, int)
    channels = channels_of(target, shape.groups, window, tile, x.tensor.dtype.bytes)
    body = Depthwise(shape.dtype, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, window,
                     view, filters, epilogue, tile, block, channels, zero)
    tasks = product((shape.images, shape.out[0], -(-shape.groups // channels), ceildiv(shape.out[1], block)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, 0,
                  grain_of(shape.flops, tasks, DEPTHWISE_GRAIN_FLOPS), shape.flops, group.outputs)


def winograd(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value, schedule: Schedule) -> Kernel:
    """3x3 with stride 1: F(4x4, 3x3)."""
    target, bindings, lanes = options.target, Bindings(), options.target.lanes(shape.dtype)
    _, high, wide = (known(d) for d in shape.out)
    _, into_high, into_wide = (known(d) for d in shape.into)
    pads = [p for p in shape.pads[1:] if isinstance(p, int)]
    tile = Tile(*schedule.tile)
    rows, panels = schedule.block
    assert isinstance(rows, int)
    assert isinstance(panels, int)
    view = bindings.operand(outer(group, x), x.tensor, shape.x)
    dot, weights = halved(target, shape.weights[:, :, 0])
    taps, before = packed(pack_winograd(weights, target, tile, shape.dtype)), None
    if shape.images != 1 or -(-high // OUTPUT) > rows:   # several tasks use each filter
        before = winograd_filters(target, shape, taps, tile, dot.stored)
    filters = bindings.buffer(before.writes[0] if before else taps)
    epilogue = fused.epilogue(bindings, shape.views)
    (images,) = bindings.sizes((shape.images,))
    body = Winograd(shape.dtype, images, (high, wide), (into_high, into_wide), shape.channels, shape.filters,
                    (pads[0], pads[1]), view, filters, epilogue, tile, rows, panels,
                    None if before else dot.stored, before is not None)
    tasks = product((shape.images, -(-body.grid[0] // rows), -(-shape.filters // (panels * tile.vectors * lanes))))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, body.scratch_bytes(lanes),
                  grain_of(shape.flops, tasks), shape.flops, group.outputs, before)


def winograd_filters(target: Target, shape: Shape, taps: Packed, tile: Tile, stored: DType | None) -> Kernel:
    """The step that transforms all filters, for the tasks of the convolution behind it."""
    lanes = target.lanes(shape.dtype)
    elements = matrix(shape.channels, shape.filters, lanes)
    u = Value(TensorType(shape.dtype, (POINTS * elements,)))
    body = FilterTransform(shape.dtype, shape.channels, shape.filters, tile.vectors, FILTER_CHANNELS, 0, 1, elements,
                           stored)
    tasks = body.tasks(lanes)
    work = 2 * FILTER_TRANSFORM * shape.channels * shape.filters
    return Kernel("winograd_filters", body, (taps, u), tasks, grain=grain_of(work, tasks), writes=(u,))
