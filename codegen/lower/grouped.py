"""Products whose elements go in groups of narrow ones: the bodies that bytes and halves share.

Sizes are chosen as for floats, with a group in the place of each.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.codegen.group import Group, LowerOptions
from lepton.codegen.kernel import packed
from lepton.codegen.lower import tiled
from lepton.codegen.lower.candidates import conv_choice, gemm_choice
from lepton.codegen.lower.conv_cost import Shape, blocking
from lepton.codegen.lower.matmul import Made
from lepton.codegen.lower.matmul_cost import Problem
from lepton.codegen.templates.convolution import Convolution, Window
from lepton.codegen.templates.dots import Dot
from lepton.codegen.templates.epilogue import Epilogue, Operand
from lepton.codegen.templates.fused import Bindings
from lepton.codegen.templates.gemm import Gemm, frozen, pack_constant
from lepton.codegen.templates.quads import Quads, Zero
from lepton.codegen.templates.tiles import Tile
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """The right factor: constant rows as panels hold them (per group of filters), or how to make them."""

    dot: Dot
    rows: tuple[Array, ...] = ()      # each i32 [rows of a panel, columns]
    passes: int = 1
    quads: Quads | None = None


def groups(matrix: Array, dtype: Any) -> Array:
    """[K, N] -> i32 [groups, N]: what lies together in 32 bits are neighbours in a column; 0 beyond the last."""
    (k, n), many = matrix.shape, 4 // np.dtype(dtype).itemsize
    padded = np.zeros((-(-k // many) * many, n), dtype)
    padded[:k] = matrix
    return np.ascontiguousarray(padded.reshape(len(padded) // many, many, n).transpose(0, 2, 1)).view(np.int32)[:, :, 0]


def product_body(bindings: Bindings, group: Group, options: LowerOptions, problem: Problem, left: Operand,
                 right: Operand | None, epilogue: Epilogue, factor: Factor) -> Made:
    """A matrix product; k is known and adjacent in A."""
    if factor.dot.matrix:
        return tiled.product_body(bindings, options.target, problem, left, right, epilogue, factor)
    dot, k, target = factor.dot, problem.k, options.target
    assert isinstance(k, int)
    whole, tail = divmod(k, dot.group)
    schedule = options.choose(gemm_choice(group, target, problem.in_groups(dot.group), DType.F32, dot))
    tile, (rows, panels) = Tile(*schedule.tile), schedule.block
    assert isinstance(rows, int)
    assert isinstance(panels, int)
    if right is None:
        source: int | Operand = bindings.buffer(packed(pack_constant(factor.rows[0], target, tile, DType.I32)))
    else:
        source = right
    *batch, m, n = bindings.sizes((*problem.batch, problem.m, problem.n))
    body = Gemm(dot.sums, tuple(batch), m, n, whole, left, source, epilogue, tile, rows, panels,
                schedule.order == "rows", dot=dot,
                tail=tail, passes=factor.passes, quads=factor.quads)
    width = tile.vectors * target.lanes(DType.I32)
    scratch = 0 if right is None else (1 + -(-k // dot.group)) * width * 4
    return Made(body, product((*problem.batch, ceildiv(problem.m, rows), ceildiv(ceildiv(problem.n, width), panels))),
                scratch)


def direct_body(bindings: Bindings, group: Group, options: LowerOptions, shape: Shape, x: Operand, epilogue: Epilogue,
                factor: Factor, fill: Zero | None) -> Made:
    """A direct convolution: tile, blocks, whether the input is copied."""
    if factor.dot.matrix:
        return tiled.direct_body(bindings, options.target, shape, x, epilogue, factor, fill)
    dot, target = factor.dot, options.target
    like = shape.in_groups(dot.group)
    cut = blocking(target, like, options.choose(conv_choice(group, target, like, dot)))
    copied = shape.padded or cut.crowded or shape.x[4] != 1 or shape.channels % dot.group != 0
    gap = 64 // x.dtype.bytes if cut.crowded else 0
    rows = [pack_constant(r, target, Tile(1, cut.vectors), DType.I32) for r in factor.rows]
    filters = bindings.buffer(packed(frozen(np.concatenate(rows))))
    images, *rest = bindings.sizes((shape.images, *shape.out, *shape.into, *shape.pads, *cut.block))
    out, into, pads, block = rest[:3], rest[3:6], rest[6:9], rest[9:]
    window = Window(shape.kernel, shape.strides, shape.dilations, (pads[0], pads[1], pads[2]))
    body = Convolution(
        dot.sums, images, (out[0], out[1], out[2]), (into[0], into[1], into[2]), shape.groups, shape.channels,
        shape.filters, window, x, filters, epilogue, cut.tile, cut.vectors, (block[0], block[1]), cut.block_panels,
        copied, False, gap, dot, factor.passes, fill)
    pixel = (like.channels * dot.group + gap) * x.dtype.bytes
    scratch: Dim = product((*cut.spans, pixel)) if copied else 0
    return Made(body, cut.tasks, scratch)
