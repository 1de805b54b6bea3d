"""Operators that put pieces back into a larger tensor: MaxUnpool, Col2Im."""
from __future__ import annotations

from math import prod

import numpy as np

from lepton.frontends.onnx.call import REQUIRED, Call
from lepton.frontends.onnx.ops.conv import explicit_pads, sound
from lepton.frontends.onnx.registry import imports
from lepton.ir import dims, ops
from lepton.ir.core import Value
from lepton.ir.diagnostics import LeptonError
from lepton.ir.dims import Dim


@imports("MaxUnpool", since=9)
def max_unpool(c: Call) -> Value:
    """Each element goes to the flat index that pooling noted; zero elsewhere. `output_shape` only makes it larger."""
    x, places = c.x(0), c.x(1)
    kernel = c.ints("kernel_shape", REQUIRED)
    rank = len(kernel)
    strides, (begin, end) = c.ints("strides", (1,) * rank), explicit_pads(c, rank)
    if not len(strides) == x.tensor.rank - 2 == rank or not sound(kernel, strides):
        raise LeptonError(f"kernel {list(kernel)}, strides {list(strides)} for {x.tensor}", where=c.where)
    sizes = [(n - 1) * s - b - e + k
             for n, s, k, b, e in zip(x.tensor.shape[2:], strides, kernel, begin, end, strict=True)]
    inner: tuple[Dim, ...] = (*x.tensor.shape[:2], *sizes)
    shape = c.dims(2, "the output's shape") if c.opt(2) is not None else inner
    zeros = c(ops.broadcast_to, c.like(0, x), shape=(dims.product(inner),))
    count = x.tensor.size
    filled = c(ops.scatter_elements, zeros, c.reshape(places, (count,)), c.reshape(x, (count,)), axis=0)
    result = c.reshape(filled, inner)
    if tuple(shape) == inner:
        return result
    after = tuple(big - small for big, small in zip(shape, inner, strict=True))
    return c(ops.pad, result, before=(0,) * len(inner), after=after)


@imports("Col2Im", since=18)
def col2im(c: Call) -> Value:
    """Columns [N, C*K, L] added back as blocks: a transposed convolution, one unit weight per place in the block."""
    x = c.x()
    image, block = c.ints_in(1, "the image's shape"), c.ints_in(2, "the block's shape")
    rank, cells = len(image), prod(block)
    strides, dilations = c.ints("strides", (1,) * rank), c.ints("dilations", (1,) * rank)
    begin, end = explicit_pads(c, rank)
    fits = len(block) == len(strides) == len(dilations) == rank and x.tensor.rank == 3
    if not fits or not sound(image, block, strides, dilations) or cells > 4096:
        raise LeptonError(f"image {list(image)}, block {list(block)} for {x.tensor}", where=c.where)
    padded = [n + b + e for n, b, e in zip(image, begin, end, strict=True)]
    blocks = [(n - d * (k - 1) - 1) // s + 1
              for n, k, s, d in zip(padded, block, strides, dilations, strict=True)]
    channels = dims.floordiv(x.tensor.shape[1], cells)
    if not isinstance(channels, int) or not isinstance(x.tensor.shape[1], int):
        c.fail(f"an open number of channels: {x.tensor}")
    if channels * cells * cells > 1 << 24:
        c.fail(f"{channels} channels of blocks {list(block)}")
    unit = np.eye(cells).reshape(1, cells, *block)
    weight = c.const(np.repeat(unit, channels, 0).reshape(channels * cells, 1, *block), x.tensor.dtype)
    # What the strides do not reach at the far end is added as output padding.
    reach = [(b - 1) * s + d * (k - 1) + 1 for b, s, d, k in zip(blocks, strides, dilations, block, strict=True)]
    rest = [n - r for n, r in zip(padded, reach, strict=True)]
    spread = c.reshape(x, (x.tensor.shape[0], x.tensor.shape[1], *blocks))
    return c(ops.conv_transpose, spread, weight, strides=strides, pads_begin=begin,
             pads_end=tuple(p - r for p, r in zip(end, rest, strict=True)), dilations=dilations,
             output_padding=(0,) * rank, group=channels)
