"""Attention: one kernel for the scores, their softmax and the product with the values."""
from __future__ import annotations

from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.lower.matmul import grain_of
from lepton.codegen.target import Target
from lepton.codegen.templates.attention import PAD, Attention
from lepton.codegen.templates.fused import Bindings, Fused, broadcast_strides, outer
from lepton.codegen.templates.tiles import Tile, choose
from lepton.ir import ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import UnsupportedError
from lepton.ir.dims import Dim, ceildiv, product
from lepton.ir.types import DType

UNKNOWN_LENGTH = 256      # of sequences whose length is known only at run time
TASK_FLOPS = 3_000_000
MOST_TASKS = 64


@lowers(ops.attention)
def lower_attention(group: Group, options: LowerOptions) -> Kernel:
    """One kernel; the operands may be any views."""
    assert group.anchor is not None
    q, k, v, *rest = group.anchor.inputs
    assert q is not None
    assert k is not None
    assert v is not None
    mask = rest[0] if rest else None
    dtype = q.tensor.dtype
    if dtype not in (DType.F32, DType.F64):
        raise UnsupportedError(f"attention on {dtype.value} is not supported",
                               where=group.anchor.loc[0] if group.anchor.loc else None)
    fused, bindings = Fused(group), Bindings()
    (b, h, s, d), (t, e) = q.tensor.shape, v.tensor.shape[2:]

    def view(value: Value, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return broadcast_strides(group.access(value), shape)

    operands = [bindings.operand(outer(group, x), x.tensor, group.access(x).strides) for x in (q, k, v)]
    masked = None
    if mask is not None:
        masked = bindings.operand(outer(group, mask), mask.tensor, view(mask, (b, h, s, t)))
    epilogue = fused.epilogue(bindings, fused.views)
    scores, output = tiles_of(options.target, dtype, (s, t, d, e), operands[0].strides[2])
    block = block_of(options.target, dtype, (b, h, s, t, d), max(scores.rows, output.rows))
    batch, heads, *sizes = bindings.sizes((b, h, s, t, d, e))
    body = Attention(dtype, (batch, heads), sizes[0], sizes[1], sizes[2], sizes[3], operands[0], operands[1],
                     operands[2], masked, float(group.anchor.attrs["scale"]), epilogue, scores, output, block)
    tasks = product((b, h, ceildiv(s, block)))
    flops = product((2, b, h, s, t, d + e))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims,
                  scratch_bytes(options.target, body, t, d, e), grain_of(flops, tasks), flops, group.outputs)


def scratch_bytes(target: Target, body: Attention, t: Dim, d: Dim, e: Dim) -> Dim:
    """Scores of a block, K's panels, V's panels, a number for each row."""
    lanes, size = target.lanes(body.dtype), body.dtype.bytes
    wide, out_wide = body.scores.vectors * lanes, body.output.vectors * lanes
    columns = ceildiv(t, wide) * (wide * size)
    panels = columns * d + ceildiv(e, out_wide) * (out_wide * size) * t
    return (columns + PAD) * body.block + panels + body.block * size


def known(dim: Dim) -> int:
    return max(dim, 1) if isinstance(dim, int) else UNKNOWN_LENGTH


def tiles_of(target: Target, dtype: DType, sizes: tuple[Dim, Dim, Dim, Dim], row: object) -> tuple[Tile, Tile]:
    """The tiles of the product with K and of that with V."""
    s, t, d, e = map(known, sizes)
    first = choose(target, s, t, d, dtype, row_stride=row * dtype.bytes if isinstance(row, int) else None)
    pitch = t * dtype.bytes + PAD if isinstance(sizes[1], int) else None
    return first, choose(target, s, e, t, dtype, row_stride=pitch)


def block_of(target: Target, dtype: DType, sizes: tuple[Dim, Dim, Dim, Dim, Dim], rows: int) -> int:
    """Rows of a task: all of a head's, unless there are few heads or the scores would leave L2."""
    b, h, s, t, d = map(known, sizes)
    heads = (b if isinstance(sizes[0], int) else 1) * h
    wanted = max(1, min(MOST_TASKS, 4 * heads * s * t * d // TASK_FLOPS))
    split = max(1, wanted // heads)
    fits = max(1, target.l2_bytes // 3 // (t * dtype.bytes))
    block = min(-(-s // split), fits)
    return max(rows, -(-block // rows) * rows) if block < s else s
