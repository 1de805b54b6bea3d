"""Products of bytes and of bf16 in whole tiles: which ones, and in what pieces (templates/tiled.py, blocks.py)."""
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lepton.codegen.kernel import packed
from lepton.codegen.lower.conv_cost import Blocking, Shape, blocking, with_direct_blocks
from lepton.codegen.lower.matmul import Made
from lepton.codegen.lower.matmul_cost import Problem, blocks
from lepton.codegen.target import Target
from lepton.codegen.templates.blocks import HIGH, WIDE
from lepton.codegen.templates.convolution import Window
from lepton.codegen.templates.dots import Dot, tiles_dot
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.fused import Bindings
from lepton.codegen.templates.gemm import frozen, pack_constant
from lepton.codegen.templates.quads import Zero
from lepton.codegen.templates.tiled import TiledConvolution, TiledGemm, even_height
from lepton.codegen.templates.tiles import Tile
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType

if TYPE_CHECKING:
    from lepton.codegen.lower.grouped import Factor

LEAST_ROWS, LEAST_COLUMNS, LEAST_CHUNK = 4, 8, 4   # below which vectors do as well
UNEVEN = 2.0                                       # chunks that the copy of a row's rest costs
WIDEST = 4                                         # tiles of columns beside one tile of rows; beside two, half of it


# --- matrix products ------------------------------------------------------------------------------


def product_dot(target: Target, problem: Problem, dtype: DType, passes: int = 1) -> Dot | None:
    """What multiplies tiles of A's type, where that is worth it."""
    if not target.tiles or not isinstance(problem.k, int):
        return None
    dot = tiles_dot(dtype)
    few = [isinstance(d, int) and d < least for d, least in ((problem.m, LEAST_ROWS), (problem.n, LEAST_COLUMNS))]
    uneven = problem.k % (dot.group * chunk_of(problem.k, dot.group))
    if any(few) or problem.k < LEAST_CHUNK * dot.group or (passes > 1 and uneven):
        return None
    return dot


def chunk_of(k: int, group: int) -> int:
    """Groups of a chunk: as many as there may be, or fewer where that leaves no rest."""
    def cost(chunk: int) -> tuple[float, int]:
        whole, rest = divmod(k, chunk * group)
        return whole + (UNEVEN if rest else 0), -chunk

    return min(range(1, HIGH + 1), key=cost)


def product_tile(problem: Problem) -> Tile:
    """Two tiles of rows and two of columns; one of rows and four of columns where all rows fit into one."""
    columns = -(-problem.n // HIGH) if isinstance(problem.n, int) else WIDEST
    if isinstance(problem.m, int) and problem.m <= HIGH:
        return Tile(problem.m, max(1, min(WIDEST, columns)))
    rows = 2 * (even_height(problem.m) if isinstance(problem.m, int) else HIGH)
    return Tile(rows, max(1, min(WIDEST // 2, columns)))


def product_body(bindings: Bindings, target: Target, problem: Problem, left: Operand, right: Operand | None,
                 epilogue: Epilogue, factor: Factor) -> Made:
    """A matrix product; k is known and adjacent in A. Without `right`, of constant weights."""
    dot, k, tile = factor.dot, problem.k, product_tile(problem)
    assert isinstance(k, int)
    chunk = chunk_of(k, dot.group)
    chunks, rest = divmod(k, chunk * dot.group)
    depth = (chunks + (rest > 0)) * chunk
    like = replace(problem, k=-(-k // dot.group))
    rows, panels, rows_fastest = blocks(target, like, tile, DType.F32)
    if right is None:
        whole = _padded(factor.rows[0], int(dot.starts), factor.passes, depth)
        source: int | Operand = bindings.buffer(packed(pack_constant(whole, target, tile, DType.I32)))
    else:
        source = right
    *batch, m, n = bindings.sizes((*problem.batch, problem.m, problem.n))
    body = TiledGemm(dot.sums, tuple(batch), m, n, chunks * chunk, left, source, epilogue, tile, rows, panels,
                     rows_fastest, dot=dot, tail=rest * left.dtype.bytes, passes=factor.passes, quads=factor.quads,
                     chunk=chunk)
    width = tile.vectors * target.lanes(DType.I32)
    scratch = 0 if right is None else (1 + depth) * width * 4
    tasks = product((*problem.batch, ceildiv(problem.m, rows), ceildiv(ceildiv(problem.n, width), panels)))
    return Made(body, tasks, scratch)


def _padded(rows: Array, head: int, passes: int, depth: int) -> Array:
    """Panel rows with zeros behind those of each pass, to `depth` of them."""
    parts = [np.pad(p, ((0, depth - len(p)), (0, 0))) for p in np.split(rows[head:], passes)]
    return np.concatenate([rows[:head], *parts])


# --- convolutions ---------------------------------------------------------------------------------


def direct_dot(target: Target, shape: Shape, dtype: DType) -> Dot | None:
    """What multiplies tiles of the input's type, where that is worth it."""
    if not target.tiles or shape.filters < LEAST_COLUMNS:
        return None
    dot = tiles_dot(dtype)
    return dot if direct_chunk(shape, dot, cut_of(target, shape, dot), dtype) >= LEAST_CHUNK else None


def cut_of(target: Target, shape: Shape, dot: Dot) -> Blocking:
    """Tiles of pixels of one line, two lines at once; blocks as for floats, with a group in the place of each."""
    wide = even_height(shape.out[2]) if isinstance(shape.out[2], int) else HIGH
    high = 1 if shape.out[1] == 1 else 2
    single = high == 1 and wide == shape.out[2]
    vectors = min(WIDEST if single else WIDEST // 2, -(-shape.filters // HIGH))
    like = shape.in_groups(dot.group)
    return blocking(target, like, with_direct_blocks(target, like, (high, wide, vectors)))


def is_copied(shape: Shape, dot: Dot, cut: Blocking) -> bool:
    return shape.padded or cut.crowded or shape.x[4] != 1 or shape.channels % dot.group != 0


def direct_chunk(shape: Shape, dot: Dot, cut: Blocking, dtype: DType) -> int:
    """The most groups that divide a run of adjacent ones: of a pixel, or of pixels beside each other."""
    channels = -(-shape.channels // dot.group)
    pixel: Dim = shape.x[3]
    if is_copied(shape, dot, cut):
        pixel = channels * dot.group + _gap(cut, dtype)
    beside = shape.dilations[2] == 1 and pixel == channels * dot.group
    run = channels * shape.kernel[2] if beside else channels
    return max(c for c in range(1, HIGH + 1) if run % c == 0)


def _gap(cut: Blocking, dtype: DType) -> int:
    return WIDE // dtype.bytes if cut.crowded else 0


def direct_body(bindings: Bindings, target: Target, shape: Shape, x: Operand, epilogue: Epilogue, factor: Factor,
                fill: Zero | None) -> Made:
    """A direct convolution: tile, blocks, whether the input is copied."""
    dot = factor.dot
    cut = cut_of(target, shape, dot)
    copied, gap = is_copied(shape, dot, cut), _gap(cut, x.dtype)
    rows = [pack_constant(r, target, Tile(1, cut.vectors), DType.I32) for r in factor.rows]
    filters = bindings.buffer(packed(frozen(np.concatenate(rows))))
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads, *cut.block))
    out, into, pads, block = rest[:3], rest[3:6], rest[6:9], rest[9:]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    body = TiledConvolution(
        dot.sums, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, shape.channels,
        shape.filters, window, x, filters, epilogue, cut.tile, cut.vectors, (block[0], block[1]), cut.block_panels,
        copied, False, gap, dot, factor.passes, fill, direct_chunk(shape, dot, cut, x.dtype))
    pixel = (-(-shape.channels // dot.group) * dot.group + gap) * x.dtype.bytes
    room = HIGH * shape.strides[2] * pixel      # tiles go on behind the last pixel
    scratch: Dim = product((*cut.spans, pixel)) + room if copied else 0
    return Made(body, cut.tasks, scratch)
