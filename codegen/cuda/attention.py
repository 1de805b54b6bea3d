"""Attention on GPUs: halves on tensor cores, floats in plain arithmetic; rows too long for shared memory by loops."""
from __future__ import annotations

from lepton.codegen.cuda.products import KINDS, PLAIN
from lepton.codegen.cuda.templates.attention import Attention
from lepton.codegen.cuda.templates.product import Matrix
from lepton.codegen.group import Group, LowerOptions, lowers
from lepton.codegen.kernel import Kernel
from lepton.codegen.llvm.convert import widened
from lepton.codegen.lower.attention_rows import attention_rows
from lepton.codegen.templates.fused import Bindings, Fused, broadcast_strides, outer
from lepton.ir import ops
from lepton.ir.dims import Dim, ceildiv, product

ENOUGH_BLOCKS = 128
SHARED_LIMIT = 48 * 1024   # what every GPU grants a block without being asked


@lowers(ops.attention, family="cuda")
def lower_attention(group: Group, options: LowerOptions) -> Kernel:
    """One kernel; the operands may be any views."""
    assert group.anchor is not None
    q, k, v, *rest = group.anchor.inputs
    assert q is not None
    assert k is not None
    assert v is not None
    mask = rest[0] if rest else None
    (b, h, s, d), (t, e) = q.tensor.shape, v.tensor.shape[2:]
    dtype = q.tensor.dtype
    kind = KINDS.get(dtype) if options.math != "strict" else None
    if not isinstance(d, int) or not isinstance(e, int) or min(d, e) < 1 or not (kind or dtype in PLAIN):
        return attention_rows(group, options)
    fused, bindings = Fused(group), Bindings()
    factors = [Matrix(bindings.operand(outer(group, x), x.tensor, group.access(x).strides)) for x in (q, k, v)]
    masked = None
    if mask is not None:
        masked = bindings.operand(outer(group, mask), mask.tensor,
                                  broadcast_strides(group.access(mask), (b, h, s, t)))
    epilogue = fused.epilogue(bindings, fused.views)
    batch, heads, rows, length = bindings.sizes((b, h, s, t))
    body = Attention(len(bindings.bound), len(bindings.table.dims), widened(dtype), kind, (batch, heads), rows, length,
                     d, e, factors[0], factors[1], factors[2], masked, float(group.anchor.attrs["scale"]), epilogue, 64,
                     options.math != "fast")
    if kind is None and (body.shared_bytes > SHARED_LIMIT or few_blocks(b, h, s)):
        body = body.with_block(32)
    if body.shared_bytes > SHARED_LIMIT:
        return attention_rows(group, options)
    flops = product((2, b, h, s, t, d + e))
    return Kernel(group.name, body, tuple(bindings.bound), product((b, h, ceildiv(s, body.block))),
                  bindings.table.dims, flops=flops, writes=group.outputs)


def few_blocks(b: Dim, h: Dim, s: Dim) -> bool:
    """Whether blocks of 64 rows would leave multiprocessors idle."""
    count = product((b, h, ceildiv(s, 64)))
    return isinstance(count, int) and count < ENOUGH_BLOCKS
