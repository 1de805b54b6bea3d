"""Convolutions whose channels do not meet: each has a filter, or a few, of its own."""
from __future__ import annotations

from math import prod

import numpy as np

from lepton.codegen.cuda.templates.depthwise import Depthwise
from lepton.codegen.cuda.words import words
from lepton.codegen.group import Group
from lepton.codegen.kernel import Kernel, packed
from lepton.codegen.llvm.convert import widened
from lepton.codegen.lower.conv_cost import Shape
from lepton.codegen.templates.fused import Bindings, Fused, collapse, outer
from lepton.ir.core import Value
from lepton.ir.dims import ceildiv, product
from lepton.ir.tensor import Array
from lepton.ir.types import DType, TensorType

RUN_BYTES = 16


def is_depthwise(shape: Shape) -> bool:
    return shape.groups > 1 and shape.channels == 1


def depthwise_kernel(group: Group, fused: Fused, shape: Shape, x: Value) -> Kernel:
    """Channels side by side in memory are taken in runs of 16 bytes; else neighbouring threads go along a line."""
    bindings, dtype = Bindings(), x.tensor.dtype
    run = RUN_BYTES // dtype.bytes if shape.x[-1] == 1 else 1
    places = 4 if shape.strides[2] == 1 and run <= 4 else 2   # as registers allow
    rows, views = collapse((shape.images, *shape.out), [v[:-1] for v in shape.views])
    steps = [(*(row or (0,)), v[-1]) for row, v in zip(views, shape.views, strict=True)]
    source = bindings.operand(outer(group, x), x.tensor, shape.x)
    taps = taps_of(shape, dtype)
    lying = bindings.operand(packed(taps), TensorType(dtype, taps.shape), (taps.shape[1], 1))
    epilogue = fused.epilogue(bindings, steps)
    filters, sizes = shape.groups * shape.filters, bindings.sizes
    (images, *rest), flat = sizes((shape.images, *shape.into, *shape.out, *shape.pads)), sizes(rows or (1,))
    body = Depthwise(
        len(bindings.bound), len(bindings.table.dims), widened(fused.result.tensor.dtype), images, tuple(rest[:3]),
        tuple(rest[3:6]), shape.kernel, shape.strides, shape.dilations, tuple(rest[6:]), filters, shape.filters, flat,
        source, lying, epilogue, run, places)
    *outside, wide = shape.out
    tasks = product((shape.images, *outside, ceildiv(wide, places), -(-filters // run)))
    flops = product((2, shape.images, *shape.out, filters, prod(shape.kernel)))
    return Kernel(group.name, body, tuple(bindings.bound), tasks, bindings.table.dims, flops=flops,
                  writes=group.outputs)


def taps_of(shape: Shape, dtype: DType) -> Array:
    """[(d, h, w), filter], as it lies in memory."""
    array = words(np.ascontiguousarray(shape.weights[:, 0].transpose(1, 2, 3, 0)), dtype)
    return array.reshape(-1, shape.weights.shape[0])
