"""Matrix products and convolutions on GPUs: tiles that keep every multiprocessor busy, on tensor cores where the
numbers allow: halves always (their sums are f32, as they are meant), f32 as tf32 where math is fast, as two
tf32 numbers each where that is faster than plain arithmetic and math is not strict."""
from __future__ import annotations

import numpy as np

from lepton.codegen.cuda.depthwise import depthwise_kernel, is_depthwise
from lepton.codegen.cuda.split import along, in_parts, made_of, parts_of, parts_of_windows, stored, sum_of_parts
from lepton.codegen.cuda.templates.product import (
    Columns,
    Factor,
    Matrix,
    PlainTile,
    Product,
    TensorTile,
    Tile,
    Windows,
    Zeros,
)
from lepton.codegen.cuda.templates.warpgroup import Tiles, WarpgroupProduct, WarpgroupTile
from lepton.codegen.cuda.warpgroups import tiles_of, warpgroup_tile
from lepton.codegen.cuda.words import words
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel, dense_strides, packed
from lepton.codegen.llvm.convert import widened
from lepton.codegen.lower.conv import pixels, shape_of
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.lower.matmul import problem_of
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.lower.products import generic_conv, generic_matmul
from lepton.codegen.templates.epilogue import Epilogue
from lepton.codegen.templates.fused import Bindings, Fused, Strides, collapse, constant_array, narrow_operand, outer
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType
from lepton.passes.float8 import FLOAT8

UNKNOWN_ROWS, UNKNOWN_COLUMNS = 256, 512   # what is taken for run-time sizes
ENOUGH_TILES = 128                         # about the multiprocessors of a large GPU
TILED_FILTERS = 8                          # of a group: with fewer most of a tile would be empty
MOST_ROWS_OF_COLUMNS = 8                   # products of so few rows read the right factor once, column by column
PLAIN_TILES = (PlainTile(2, 2, 16, 16, 8), PlainTile(1, 1, 16, 16, 16), PlainTile(1, 1, 8, 8, 16))
SHAPES = ((128, 128, 64, 32, 3), (64, 64, 32, 32, 4), (32, 32, 16, 16, 4))  # of tensor tiles
TRIPLE_SHAPES = ((128, 64, 32, 32, 4), *SHAPES[1:])  # where fragments are split into two, which takes registers
KINDS = {DType.F16: "f16", DType.BF16: "bf16"}
PLAIN = (DType.F32, DType.F64)


def tile_of(m: Dim, n: Dim, k: Dim, entries: Dim, dtype: DType, kind: str | None) -> Tile:
    """The largest tile that still gives enough of them; `kind` of tensor cores, if any."""
    rows, columns = (d if isinstance(d, int) else u for d, u in ((m, UNKNOWN_ROWS), (n, UNKNOWN_COLUMNS)))
    many = entries if isinstance(entries, int) else 4
    shapes = TRIPLE_SHAPES if kind == "tf32x3" else SHAPES
    tiles: list[Tile] = [TensorTile(kind, *s) for s in shapes] if kind else list(PLAIN_TILES)
    for tile in tiles[:-1]:
        full = rows > tile.rows // 2 and columns > tile.columns // 2
        if full and -(-rows // tile.rows) * -(-columns // tile.columns) * many >= ENOUGH_TILES:
            return tile
    least = tiles[-1]
    count = -(-rows // least.rows) * -(-columns // least.columns) * many
    if isinstance(least, PlainTile) and count < 2 * ENOUGH_TILES and not (isinstance(k, int) and k < 128):
        return PlainTile(1, 1, 8, 8, 16, 4 if dtype.bytes == 4 else 2)
    return least


def kind_of(dtype: DType, options: LowerOptions, m: Dim, n: Dim, k: Dim, entries: Dim) -> str | None:
    """The tensor cores' numbers for factors of this type in a product of this size."""
    if dtype is not DType.F32 or options.math == "strict":
        return KINDS.get(dtype)
    if options.math == "fast":
        return "tf32"
    rows, columns, depth, many = (d if isinstance(d, int) else u for d, u in zip(
        (m, n, k, entries), (UNKNOWN_ROWS, UNKNOWN_COLUMNS, UNKNOWN_COLUMNS, 4), strict=True))
    busy = min(rows, columns) >= 48 and depth >= 64 and many * rows * columns >= ENOUGH_TILES * 32 * 64
    return "tf32x3" if busy and options.target.tf32 else None


@lowers(ops.matmul, family="cuda")
def lower_matmul(group: Group, options: LowerOptions) -> Kernel:
    """A product of floats and the elementwise ops behind it; other types by loops."""
    assert group.anchor is not None
    a, b = group.anchor.inputs
    assert a is not None
    assert b is not None
    narrow = narrow_operand(a)
    if narrow is not None and narrow.tensor.dtype in FLOAT8:
        from lepton.codegen.cuda import float8

        return float8.matmul(group, options, narrow, b)
    a = narrow or a
    if a.tensor.dtype not in (*PLAIN, *KINDS):
        return generic_matmul(group, options)
    fused = Fused(group)
    problem = problem_of(group, fused, a, b)
    if narrow is not None and problem.weights is None:
        return generic_matmul(group, options)
    return matmul_kernel(group, options, fused, problem, (a, b))


def matmul_kernel(group: Group, options: LowerOptions, fused: Fused, problem: Problem,
                  factors: tuple[Value, Value]) -> Kernel:
    """The kernel of a product in matrix form."""
    sums, dtype, entries = widened(fused.result.tensor.dtype), factors[0].tensor.dtype, product(problem.batch)
    kind = kind_of(dtype, options, problem.m, problem.n, problem.k, entries)
    few = isinstance(problem.m, int) and problem.m <= MOST_ROWS_OF_COLUMNS and dtype in PLAIN
    few = few and (problem.weights is not None or problem.b[-2] == 1)
    tile: Tile | WarpgroupTile = tile_of(problem.m, problem.n, problem.k, entries, dtype, kind)
    if problem.weights is not None:
        weights = words(problem.weights.T[None], dtype)
        tile = warpgroup_tile(options.target, kind, weights, problem.m, entries) or tile
    parts = 1 if few or isinstance(tile, WarpgroupTile) else parts_of(problem, tile.rows, tile.columns, dtype)
    bindings, turned = Bindings(), few or kind is not None
    if parts == 1:
        left, right = _factors(bindings, group, problem, factors, tile, turned=turned)
        return kernel_of(group, bindings, sums, problem.batch, (problem.m,), problem.n, problem.k, left, right,
                         fused.epilogue(bindings, problem.views), tile, few=few)
    each, made = in_parts(problem, parts, sums)
    left, right = _factors(bindings, group, each, factors, tile, turned=turned)
    before = kernel_of(group, bindings, sums, each.batch, (each.m,), each.n, each.k, left, right,
                       stored(bindings, made), tile)
    return sum_of_parts(group, fused, len(problem.batch), problem.views, made, before)


def _factors(bindings: Bindings, group: Group, problem: Problem, factors: tuple[Value, Value],
             tile: Tile | WarpgroupTile, *, turned: bool) -> tuple[Matrix, Matrix | Tiles]:
    """The factors of a product; constant right ones packed as the tile reads them, or `turned`: with k innermost."""
    a, b = factors
    left = Matrix(bindings.operand(outer(group, a), a.tensor, problem.a))
    if problem.weights is None:
        *batch, k_step, n_step = problem.b
        return left, Matrix(bindings.operand(outer(group, b), b.tensor, (*batch, n_step, k_step)))
    dtype, entries = a.tensor.dtype, len(problem.batch)
    if isinstance(tile, WarpgroupTile):
        return left, tiles_of(bindings, tile, words(problem.weights.T[None], dtype), dtype, (0,) * entries)
    return left, weights_of(bindings, problem.weights, dtype, entries, problem.k, turned=turned)


def kernel_of(group: Group, bindings: Bindings, sums: DType, batch: tuple[Dim, ...], rows: tuple[Dim, ...], n: Dim,
              k: Dim, left: Factor, right: Matrix | Tiles, epilogue: Epilogue, tile: Tile | WarpgroupTile,
              zeros: Zeros | None = None, *, few: bool = False) -> Kernel:
    """The kernel of a product [*batch, *rows, n] whose operands are bound."""
    m, sizes = product(rows), bindings.sizes
    (columns, depth), entries, places = sizes((n, k)), sizes(batch), sizes(rows)
    counts = len(bindings.bound), len(bindings.table.dims)
    body: Product
    if isinstance(tile, WarpgroupTile):
        assert isinstance(right, Tiles)
        body = WarpgroupProduct(*counts, sums, entries, places, columns, depth, left, right, epilogue, tile)
    else:
        assert isinstance(right, Matrix)
        make = Columns if few else Product
        body = make(*counts, sums, entries, places, columns, depth, left, right, epilogue, tile, zeros)
    tasks = product((*batch, n)) if few else product((*batch, ceildiv(m, tile.rows), ceildiv(n, tile.columns)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims,
                  flops=product((*batch, 2, m, n, k)), writes=group.outputs)


def weights_of(bindings: Bindings, weights: Array, dtype: DType, batch: int, depth: Dim, *, turned: bool) -> Matrix:
    """A constant right factor [k, n]; `turned`: with k innermost. Where `depth` is less than k, the last axis of the
    batch counts parts along k."""
    array = words(np.ascontiguousarray(weights.T if turned else weights), dtype)
    steps = (array.shape[1], 1) if turned else (1, array.shape[1])
    whole = (*(0,) * batch, *steps)
    in_parts = isinstance(depth, int) and depth < len(weights)  # an open k is the whole of it
    strides = along(whole[1:], depth) if in_parts else whole
    return Matrix(bindings.operand(packed(array), TensorType(dtype, array.shape), strides))


@lowers(ops.conv, family="cuda")
def lower_conv(group: Group, options: LowerOptions) -> Kernel:
    """A convolution with constant filters as a product over its windows; others by loops."""
    assert group.anchor is not None
    x, w, b = (*group.anchor.inputs, None)[:3]
    assert x is not None
    assert w is not None
    attrs, weights = group.anchor.attrs, constant_array(group, w)
    narrow = narrow_operand(x)
    if narrow is not None and narrow.tensor.dtype in FLOAT8:
        from lepton.codegen.cuda import float8

        return float8.conv(group, options, narrow)
    x = narrow or x
    channels = x.tensor.shape[1 if attrs["layout"] == "nchw" else -1]
    known = x.tensor.dtype in (*PLAIN, *KINDS) and 3 <= x.tensor.rank <= 5 and isinstance(channels, int)
    if weights is None or not known or weights.size == 0:
        return generic_conv(group, options)
    fused = Fused(group, b, 1 if attrs["layout"] == "nchw" else -1)
    shape = shape_of(group, fused, x, weights, attrs)
    if is_depthwise(shape) and shape.filters < TILED_FILTERS:
        return depthwise_kernel(group, fused, shape, x)
    if shape.groups > 1 and (shape.filters < TILED_FILTERS or shape.depth < 8):
        return generic_conv(group, options)  # a tile would be mostly empty
    if shape.pointwise:
        return matmul_kernel(group, options, fused, pixels(shape), (x, w))
    return conv_kernel(group, options, fused, shape, x)


def conv_kernel(group: Group, options: LowerOptions, fused: Fused, shape: Shape, x: Value) -> Kernel:
    """Rows are output places, columns a group's filters."""
    bindings, dtype, (rows, steps) = Bindings(), x.tensor.dtype, places(shape)
    m, k = product(rows), shape.depth
    kind, weights = kind_of(dtype, options, m, shape.filters, k, shape.groups), filters(shape, dtype)
    found = warpgroup_tile(options.target, kind, weights, m, shape.groups)
    tile = found or tile_of(m, shape.filters, k, shape.groups, dtype, kind)
    parts = 1 if found else parts_of_windows(shape, m, tile.rows, tile.columns, dtype)
    if parts > 1:
        return _conv_in_parts(group, fused, shape, x, tile, parts)
    epilogue = fused.epilogue(bindings, steps)
    left = windows(bindings, group, shape, x)
    right: Matrix | Tiles
    if found:
        right = tiles_of(bindings, found, weights, dtype, (-(-shape.filters // found.columns),))
    else:
        steps_of = (shape.filters * k, k, 1)
        right = Matrix(bindings.operand(packed(weights), TensorType(dtype, weights.shape), steps_of))
    return kernel_of(group, bindings, widened(fused.result.tensor.dtype), (shape.groups,), rows, shape.filters, k, left,
                     right, epilogue, tile)


def _conv_in_parts(group: Group, fused: Fused, shape: Shape, x: Value, tile: Tile | WarpgroupTile, parts: int
                   ) -> Kernel:
    bindings, dtype, (rows, steps) = Bindings(), x.tensor.dtype, places(shape)
    batch, sums, n, k = (shape.groups, parts), widened(fused.result.tensor.dtype), shape.filters, shape.depth // parts
    made = made_of(batch[:1], parts, rows, n, sums)
    weights = filters(shape, dtype, parts)
    right = Matrix(bindings.operand(packed(weights), TensorType(dtype, weights.shape), dense_strides(weights.shape)))
    before = kernel_of(group, bindings, sums, batch, rows, n, k, windows(bindings, group, shape, x, parts), right,
                       stored(bindings, made), tile)
    return sum_of_parts(group, fused, 1, steps, made, before)


def places(shape: Shape) -> tuple[tuple[Dim, ...], list[Strides]]:
    """The output places as rows, and the epilogue's views over (group, *rows, filter)."""
    rows, views = collapse((shape.images, *shape.out), [v[:-1] for v in shape.views])
    steps = [(v[-1] * shape.filters, *(row or (0,)), v[-1]) for row, v in zip(views, shape.views, strict=True)]
    return rows or (1,), steps


def windows(bindings: Bindings, group: Group, shape: Shape, x: Value, parts: int = 1) -> Windows:
    """Over (group, …), or over (group, part, …): each part has its share of the channels."""
    step, channels = shape.x[-1], shape.channels // parts
    steps: Strides = (step * shape.channels, *((step * channels,) if parts > 1 else ()), *shape.x)
    operand = bindings.operand(outer(group, x), x.tensor, steps)
    return Windows(operand, bindings.sizes(shape.into), bindings.sizes(shape.out), shape.kernel, shape.strides,
                   shape.dilations, bindings.sizes(shape.pads), channels)


def filters(shape: Shape, dtype: DType, parts: int = 1) -> Array:
    """[group, filter, (d, h, w, channel)], or [group, part, filter, (d, h, w, channel)], as it lies in memory."""
    array = words(np.ascontiguousarray(shape.weights.transpose(0, 2, 3, 4, 1)), dtype)
    if parts == 1:
        return array.reshape(shape.groups, shape.filters, shape.depth)
    split = array.reshape(shape.groups, shape.filters, -1, parts, shape.channels // parts)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2, 4)).reshape(shape.groups, parts, shape.filters, -1)
