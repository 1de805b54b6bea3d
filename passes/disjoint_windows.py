"""Transposed convolutions whose windows lie side by side are products, and their results in another order."""
from __future__ import annotations

from math import prod
from typing import ClassVar

import numpy as np

from lepton.ir import ops
from lepton.ir.core import Node, Value
from lepton.ir.rewrite import const, opt, pat, rule, var
from lepton.passes.base import RewritePass
from lepton.passes.common import array_of, constant, elements, node_of

MOST_COLUMNS = 16    # of the product: with more, each phase of the strides fills vectors well enough by itself

(x,) = var("x")


@rule(pat(ops.conv_transpose, layout="nhwc", group=1)(x, const("w"), opt("b")).named("y"), accuracy="reassociating")
def side_by_side(x: Value, w: Value, b: Value | None, y: Value) -> Value | None:
    """conv_transpose(x, w, b) of windows that do not overlap  ->  conv(x, w') + b, its columns moved into the windows

    w' has one 1x1 filter for each filter and place of the window."""
    node, weight, bias = node_of(y), elements(w), array_of(b)
    channels, filters, *kernel = weight.shape
    columns = prod(kernel) * filters
    if not _disjoint(node, kernel) or columns > MOST_COLUMNS or (b is not None and bias is None):
        return None
    rank = len(kernel)
    places = np.moveaxis(weight, (0, 1), (-1, -2)).reshape(columns, channels, *[1] * rank)
    more = [] if bias is None else [constant(np.tile(bias, prod(kernel)))]
    ones, none = (1,) * rank, (0,) * rank
    product = ops.conv(x, constant(np.ascontiguousarray(places)), *more, strides=ones, pads_begin=none, pads_end=none,
                       dilations=ones, group=1, layout="nhwc")
    images, *sizes = x.tensor.shape[:-1]
    apart = ops.reshape(product, shape=(images, *sizes, *kernel, filters))
    order = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    within = ops.transpose(apart, perm=(0, *order, 1 + 2 * rank))
    return ops.reshape(within, shape=y.tensor.shape)


def _disjoint(node: Node, kernel: list[int]) -> bool:
    """Whether every output position belongs to one window, and no window hangs over the border."""
    attrs = node.attrs
    padded = (*attrs["pads_begin"], *attrs["pads_end"], *attrs["output_padding"])
    near = all(k == 1 or d == 1 for k, d in zip(kernel, attrs["dilations"], strict=True))
    return list(attrs["strides"]) == kernel and near and not any(padded)


class DisjointWindows(RewritePass):
    """Transposed convolutions with few columns and windows side by side as products: a filter alone would leave most
    lanes of its vectors empty, in the product and in what is fused behind it."""

    name: ClassVar[str] = "disjoint-windows"
    rules = (side_by_side,)
